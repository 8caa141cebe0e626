"""Run the kernels' tests compiled on this machine's GPU: `make test-gpu`.

    python tools/gpu_check.py                  tests/*/test_kernels*.py
    python tools/gpu_check.py -k flash -x      with options of pytest, but not -m

The same tests run in Triton's interpreter under `make test`. They need PyTorch, Triton, NumPy, jaxtyping,
hypothesis, pytest and pytest-timeout, and nothing else of the environment, so a bare GPU machine will do;
pytest-xdist, if there is one, spreads the compiling over cores; tests that take gigabytes of the GPU's memory
(marked `large`) run after the others, one at a time. Passed, failed and skipped are counted apart, and a run
that tested nothing fails.
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


def run_tests(*runs: list[str]) -> bool:
    """Run pytest with each list of arguments and print the counts of all.

    True when tests passed and none failed. One run may find no tests; all may not.
    """
    counts = Counts()
    good = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    ended_well = [pytest.main(arguments, plugins=[counts]) in good for arguments in runs]
    print(counts, flush=True)
    if not counts.passed:
        print("no test passed: nothing was shown to work")
    return all(ended_well) and counts.passed > 0


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
    files = sorted(map(str, ROOT.glob("tests/*/test_kernels*.py")))
    workers = min(8, os.cpu_count() or 1)
    parallel = importlib.util.find_spec("xdist")
    together = ["-p", "xdist", "-n", str(workers)] if parallel else []
    alone = ["-n", "1"] if parallel else []
    # Each worker, and each compiler that torch.compile starts, would otherwise have a thread for every core.
    os.environ.update({"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"})
    # Plugins that happen to be installed may warn, and a warning is an error here.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments = ["-q", "-p", "pytest_timeout", *together, *options, *files]
    return 0 if run_tests([*arguments, "-m", "not large"], [*arguments, "-m", "large", *alone]) else 1


if __name__ == "__main__":
    # This checkout is what is tested, here, in pytest's workers and in processes that tests start.
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.exit(main(sys.argv[1:]))
