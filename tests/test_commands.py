"""The driver of the checks, the installer and the Makefile: what they print, and when they fail."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_tool("check")


# --- the driver of the checks -----------------------------------------------------------------------------


def run_driver(monkeypatch, *steps, arguments=()):
    monkeypatch.setattr(check, "STEPS", list(steps))
    monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
    return check.main()


def good() -> bool:
    """what passes"""
    return True


def bad() -> bool:
    """what fails"""
    return False


def absent() -> bool:
    """what cannot run"""
    raise check.StepSkipped("no such machine")


def test_every_step_runs_and_any_failure_counts(monkeypatch, capsys):
    assert run_driver(monkeypatch, bad, good, absent) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 1 failed, 1 skipped"
    assert any(line.startswith("== good: passed in 0.0 s") for line in lines)
    assert any(line.split()[:2] == ["absent", "skipped"] and "no such machine" in line for line in lines)


def test_chosen_steps_only(monkeypatch, capsys):
    assert run_driver(monkeypatch, bad, good, absent, arguments=["good"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"
    with pytest.raises(SystemExit):
        run_driver(monkeypatch, good, arguments=["god"])
    assert "got god, expected some of good" in capsys.readouterr().err


def test_browser_step_without_chromium(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(check, "IN_CI", False)
    with pytest.raises(check.StepSkipped, match="no Chromium found"):
        check.browser()
    monkeypatch.setattr(check, "IN_CI", True)
    assert check.browser() is False


def test_a_command_that_does_not_exist_fails_its_step(capfd):
    assert check.run("/nowhere/jb", "build") is False
    assert check.run(sys.executable, "-c", "raise SystemExit(3)") is False
    assert check.run(
        sys.executable, "-c", "import os; assert os.environ['OMP_NUM_THREADS'] == '1'", threads=1
    )


# --- the installer ----------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """The installer on a repository of its own, with pip replaced by a record of what it was asked."""
    module = load_tool("install")
    for name in ("requirements.txt", "requirements-models.txt", "pyproject.toml"):
        (tmp_path / name).write_text(f"{name} 1\n")
    venv = tmp_path / ".venv"
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", venv)
    monkeypatch.setattr(module, "VENV_PYTHON", venv / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", venv / "minisys-installed")
    monkeypatch.setattr(module, "UNDERWAY", venv / "minisys-installing")
    module.asked, module.made, module.code = [], [], 0

    def pip_install(arguments):
        assert module.UNDERWAY.exists()
        assert not module.STAMP.exists()
        module.asked.append(arguments[0])
        return module.code

    def make_venv(command, check):
        module.made.append(command)
        venv.mkdir(exist_ok=True)
        for left in venv.iterdir():
            left.unlink()

    monkeypatch.setattr(module, "pip_install", pip_install)
    monkeypatch.setattr(module, "venv_version", lambda: "3.12" if venv.is_dir() else None)
    monkeypatch.setattr(module.subprocess, "run", make_venv)
    return module


def test_install_runs_once_for_each_lock(install):
    assert install.main() == 0
    assert install.main() == 0
    assert install.asked == ["-r", "--no-deps", "--no-deps"]
    (install.ROOT / "requirements.txt").write_text("another\n")
    assert install.main() == 0
    assert install.asked == ["-r", "--no-deps", "--no-deps"] * 2
    assert len(install.made) == 1


def test_install_that_failed_is_tried_again(install, capsys):
    install.code = 1
    assert install.main() == 1
    assert "pip failed" in capsys.readouterr().out
    install.code = 0
    assert install.main() == 0
    assert install.asked == ["-r", "-r", "--no-deps", "--no-deps"]
    assert len(install.made) == 1


def test_install_that_was_killed_starts_over(install, capsys):
    install.code = -9
    assert install.main() == 1
    install.code = 0
    assert install.main() == 0
    assert "interrupted" in capsys.readouterr().out
    assert len(install.made) == 2
    assert install.main() == 0
    assert install.asked == ["-r", "-r", "--no-deps", "--no-deps"]


def test_install_says_which_python_it_found(install, monkeypatch, capsys):
    monkeypatch.setattr(install, "SUPPORTED", ["3.9"])
    assert install.main() == 1
    found = capsys.readouterr().out
    assert f"Found Python {sys.version.split()[0]} at {sys.executable}; MiniSys needs one of 3.9." in found
    assert not install.made


# --- the makefile -----------------------------------------------------------------------------------------


def make(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_make_lists_its_targets():
    listed = {line.split()[1] for line in make().stdout.splitlines()}
    assert listed >= {"book", "test", "lab", "read", "notebooks", "lint", "lock", "clean"}


def test_make_names_a_missing_python():
    done = make("install", "PYTHON=python-of-nobody")
    assert done.returncode != 0
    assert "No python-of-nobody found; MiniSys needs Python 3.11" in done.stdout
