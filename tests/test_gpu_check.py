"""The GPU check counts passed, failed and skipped apart, and never calls a run without tests a success."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert 1 + 1 == 3\n"
SKIPS = "import pytest\ndef test_skips(): pytest.skip('no time')\n"
BREAKS = "import pytest\n@pytest.fixture\ndef broken(): raise OSError\ndef test_breaks(broken): pass\n"
SKIPS_ALL = "import pytest\npytest.skip('no GPU', allow_module_level=True)\n"
LACKS = "import missing_library\n"


def run(code, tmp_path):
    """Run the tool's Python in a process of its own, without the plugins that make its start slow."""
    environment = {
        "PYTHONPATH": str(ROOT / "tools"),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("tests", "options", "counts", "good"),
    [
        ([PASSES, SKIPS, SKIPS_ALL], [], "1 passed, 0 failed, 2 skipped", True),
        ([PASSES, SKIPS, FAILS, BREAKS], [], "1 passed, 2 failed, 1 skipped", False),
        ([PASSES, SKIPS, FAILS, SKIPS_ALL], ["-p", "xdist", "-n2"], "1 passed, 1 failed, 2 skipped", False),
        ([PASSES, LACKS], [], "0 passed, 1 failed, 0 skipped", False),
        ([SKIPS], [], "0 passed, 0 failed, 1 skipped", False),
        ([], [], "0 passed, 0 failed, 0 skipped", False),
    ],
)
def test_counts(tests, options, counts, good, tmp_path):
    for number, text in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(text)
    arguments = ["-p", "no:cacheprovider", *options, "."]
    done = run(f"import gpu_check; print(gpu_check.run_tests({arguments}))", tmp_path)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert counts in lines
    assert lines[-1] == str(good)
    assert ("no test passed: nothing was shown to work" in lines) == counts.startswith("0 passed")


@pytest.mark.parametrize(
    ("second", "counts", "good"),
    [
        ("fails", "1 passed, 1 failed, 0 skipped", False),
        ("passes", "2 passed, 0 failed, 0 skipped", True),
        ("nothing", "1 passed, 0 failed, 0 skipped", True),
    ],
)
def test_counts_of_two_runs(second, counts, good, tmp_path):
    (tmp_path / "test_both.py").write_text(PASSES + FAILS)
    runs = [["-p", "no:cacheprovider", "-k", name, "."] for name in ("passes", second)]
    done = run(f"import gpu_check; print(gpu_check.run_tests(*{runs}))", tmp_path)
    lines = done.stdout.splitlines()
    assert counts in lines
    assert lines[-1] == str(good)


def test_without_a_gpu_nothing_passes(tmp_path):
    done = run("import sys, gpu_check; sys.exit(gpu_check.main([]))", tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("no CUDA GPU here, so nothing was tested")


def test_the_kernels_tests_are_found():
    assert sorted(path.name for path in ROOT.glob("tests/nsa/test_kernels*.py")) == [
        f"test_kernels{part}.py"
        for part in (
            "",
            "_attention",
            "_band",
            "_decode",
            "_importance",
            "_large",
            "_layout",
            "_op",
            "_selected",
            "_step",
        )
    ]
