"""Write requirements.txt, the exact lock, from the ranges in pyproject.toml.

Run by ``make lock`` with uv installed. torch is pinned without a local version and without
NVIDIA's packages, so that one file serves CPU and GPU builds: pip resolves those from torch's
own metadata. Triton is pinned to the version that this torch asks for.
"""

import argparse
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER = """\
# The exact versions that make and CI install, for Python 3.11 to 3.13.
# Written by `make lock` from the ranges in pyproject.toml; do not edit.
"""
LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
CUDA_ONLY = re.compile(r"^(nvidia-|cuda-|torch==|triton==)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uv_options", nargs="*", help="passed on to `uv pip compile`, after --")
    arguments = parser.parse_args()
    pins = subprocess.run(
        ["uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--extra", "rag",
         "--universal", "--fork-strategy", "fewest", "--python-version", "3.11",
         "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet",
         *arguments.uv_options],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    torch = next(re.match(r"torch==([\d.]+)", line)[1] for line in pins if line.startswith("torch=="))
    triton = next(re.match(r"triton==([\d.]+)", line)[1] for line in pins if line.startswith("triton=="))
    kept = [line for line in pins if not CUDA_ONLY.match(line)]
    kept += [f"torch=={torch}", f"triton=={triton} ; {LINUX_X86}"]
    (ROOT / "requirements.txt").write_text(HEADER + "\n".join(sorted(kept)) + "\n")


if __name__ == "__main__":
    main()
