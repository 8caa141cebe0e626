"""The ranges, the lock and the conda environment agree; the wheel is whole; the bare package imports."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import minisys
from minisys.bench import results
from minisys.core import paths

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"pytorch": "torch"}

# What a bare GPU machine lacks.
OPTIONAL = ("triton", "anywidget", "matplotlib", "jsonschema", "typer", "rich", "yaml")
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def ranges(*lists):
    """{name: specifier} of requirement lists, without our own extras."""
    parsed = [Requirement(line) for lines in lists for line in lines]
    return {canonicalize_name(one.name): one.specifier for one in parsed if one.name != "minisys"}


def project_ranges():
    return ranges(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())


def environment_ranges():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    from_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    names_and_ranges = [entry for entry in listed if isinstance(entry, str)]
    found = ranges(names_and_ranges, [entry for entry in from_pip if not entry.startswith("-e")])
    return {CONDA_NAMES.get(name, name): specifier for name, specifier in found.items()}, from_pip


def run(code, *, directory, path=None):
    """Run Python elsewhere, so that neither the checkout nor an installed copy is what it imports."""
    environment = {"PYTHONPATH": str(path), "PATH": "", "OMP_NUM_THREADS": "1"} if path else {"PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_conda_environment_has_the_ranges_of_the_project():
    found, _ = environment_ranges()
    assert found.pop("python") == Requirement(f"python{PROJECT['requires-python']}").specifier
    found.pop("pip")
    assert found == project_ranges()


def test_conda_environment_installs_minisys_itself():
    _, from_pip = environment_ranges()
    assert "-e ." in from_pip


def test_lock_pins_every_dependency_inside_its_range():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    exact = {canonicalize_name(pin.name): re.fullmatch(r"==([^*]+)", str(pin.specifier)) for pin in pins}
    assert [name for name, pin in exact.items() if pin is None] == []
    for name, specifier in project_ranges().items():
        assert specifier.contains(exact[name][1]), f"{name} {exact[name][1]} is outside {specifier}"


def test_installer_accepts_the_pythons_of_the_project():
    text = (ROOT / "tools" / "install.py").read_text(encoding="utf-8")
    accepted = re.findall(r'"(3\.\d+)"', re.search(r"^SUPPORTED = .*$", text, re.MULTILINE)[0])
    specifier = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert accepted == [f"3.{minor}" for minor in range(30) if specifier.contains(f"3.{minor}")]


def test_citation_and_changelog():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_between_the_repositorys_documents_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (ROOT / link).exists()] == []


# --- the wheel --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_holds_every_file_of_the_package(wheel):
    package = Path(minisys.__file__).parent
    wanted = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    wanted = {path for path in wanted if "__pycache__" not in path.parts and path.suffix != ".partial"}
    assert {path.suffix for path in wanted} >= {".py", ".json", ".js", ".css", ".safetensors"}
    have = {path.relative_to(wheel / "minisys") for path in (wheel / "minisys").rglob("*") if path.is_file()}
    assert wanted - have == set()
    assert {path.parts[0] for path in have - wanted} == {"_data"}


def test_wheel_holds_the_ledger_and_the_results(wheel):
    data = wheel / "minisys" / "_data"
    assert (data / "claims.yml").read_bytes() == paths.claims_file().read_bytes()
    assert sorted(path.stem for path in (data / "results").glob("*.json")) == results.names()


def test_wheel_holds_nothing_else(wheel):
    others = {path.name for path in wheel.iterdir()} - {"minisys"}
    assert others == {f"minisys-{PROJECT['version']}.dist-info"}
    (info,) = wheel.glob("*.dist-info")
    assert (info / "licenses" / "LICENSE").is_file()
    assert "minisys = minisys.cli:app" in (info / "entry_points.txt").read_text()


def test_wheel_works_away_from_the_checkout(wheel, tmp_path):
    code = """
import minisys, minisys.claims, minisys.nsa
from minisys.bench import results
from minisys.nsa.small import load_small
print(minisys.__file__, minisys.__version__)
print(len(minisys.claims.load()), len(results.names()))
load_small()
"""
    first, second = run(code, directory=tmp_path, path=wheel).splitlines()
    assert first == f"{wheel / 'minisys' / '__init__.py'} {PROJECT['version']}"
    rows = yaml.safe_load(paths.claims_file().read_text(encoding="utf-8"))["claims"]
    assert second == f"{len(rows)} {len(results.names())}"


# --- a machine with PyTorch and little else ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["minisys", "minisys.core", "minisys.nsa", "minisys.viz"])
def test_imports_without_optional_libraries(name, tmp_path):
    code = BLOCKER.format(blocked=OPTIONAL) + f"import {name}\nprint({name}.__name__)"
    assert run(code, directory=tmp_path, path=ROOT).strip() == name


def test_every_module_of_core_and_nsa_imports_without_optional_libraries(tmp_path):
    code = BLOCKER.format(blocked=OPTIONAL) + (
        "import importlib, pkgutil, minisys.core, minisys.nsa\n"
        "for package in (minisys.core, minisys.nsa):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        if module.name != 'minisys.nsa.kernels':  # what needs Triton stands there\n"
        "            importlib.import_module(module.name)\n"
        "            print(module.name)\n"
    )
    assert "minisys.nsa.reference" in run(code, directory=tmp_path, path=ROOT).split()


def test_the_blocker_blocks(tmp_path):
    code = BLOCKER.format(blocked=OPTIONAL) + (
        "try:\n    import yaml.loader\nexcept ModuleNotFoundError:\n    print('blocked')\n"
    )
    assert run(code, directory=tmp_path).strip() == "blocked"
