"""Run the kernels' tests compiled on this machine's GPU: `make test-gpu`.

    python tools/gpu_check.py                  tests/*/test_kernels*.py
    python tools/gpu_check.py -k flash -x      with options of pytest

The same tests run in Triton's interpreter under `make test`. They need PyTorch, Triton, NumPy, jaxtyping,
hypothesis, pytest and pytest-timeout, and nothing else of the environment, so a bare GPU machine will do;
pytest-xdist, if there is one, spreads the compiling over cores. Passed, failed and skipped are counted apart,
and a run that tested nothing fails.
"""

import importlib.util
import os
import platform
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Counts:
    """Counts test results as pytest reports them, in this process or from its workers."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.passed and report.when == "call"
        self.failed += report.failed
        self.skipped += report.skipped

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed += report.failed
        self.skipped += report.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def run_tests(arguments: list[str]) -> bool:
    """Run pytest and print the counts; true when tests passed and none failed."""
    counts = Counts()
    status = pytest.main(arguments, plugins=[counts])
    print(counts, flush=True)
    if not counts.passed:
        print("no test passed: nothing was shown to work")
    return status == pytest.ExitCode.OK and counts.passed > 0


def main(options: list[str]) -> int:
    import torch

    if not torch.cuda.is_available():
        print("no CUDA GPU here, so nothing was tested; `make test` runs the kernels in Triton's interpreter")
        return 1
    if os.environ.pop("TRITON_INTERPRET", None):
        print("TRITON_INTERPRET is left out: these tests compile")
    import triton

    print(
        f"{torch.cuda.get_device_name()}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, Triton {triton.__version__}",
        flush=True,
    )
    files = sorted(ROOT.glob("tests/*/test_kernels*.py"), key=lambda path: ("large" not in path.name, path))
    workers = min(8, os.cpu_count() or 1)
    parallel = (
        ["-p", "xdist", "-n", str(workers), "--dist", "loadgroup"]
        if importlib.util.find_spec("xdist")
        else []
    )
    # Each worker, and each compiler that torch.compile starts, would otherwise have a thread for every core.
    os.environ.update({"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"})
    # Plugins that happen to be installed may warn, and a warning is an error here.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return 0 if run_tests(["-q", "-p", "pytest_timeout", *parallel, *options, *map(str, files)]) else 1


if __name__ == "__main__":
    # This checkout is what is tested, here, in pytest's workers and in processes that tests start.
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.exit(main(sys.argv[1:]))
