"""Keeps a submission from the solution that it was asked to write, and from starting programs.

Both work through Python's audit hooks, which cannot be removed again: every way to import a module or to read
its source opens a file, and every usual way to start a process raises an event. Reading the solution is
reported before the error is raised, so that a submission that catches it is found out all the same. Starting
a process is an error of the usual kind and a note in the report: some libraries try it and do without.
Whoever wants to get around this can (ctypes, a copy of the source): it is a check against mistakes and
temptation, no security sandbox.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

STARTS = {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn",
    "os.fork", "os.forkpty", "os.kill", "os.killpg",
}  # fmt: skip


class Refused(ImportError):  # noqa: N818
    """The solution was asked for. No OSError, which the import system would take for "not here"."""


class NoProcesses(PermissionError):  # noqa: N818
    """A process was to be started or signalled."""


def stand_in(package: str, allowed: Mapping[str, str], refuse: Callable[[str], None]) -> Path:
    """Put a module in the place of `package` that has the allowed names only; returns the package's folder.

    Its own ``__init__`` would import the whole solution.
    """
    parent, _, last = package.rpartition(".")
    spec = importlib.util.find_spec(package)
    module = ModuleType(package, f"What a submission may import of {package}.")
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__, module.__file__ = spec, spec.origin
    sys.modules[package] = module
    if parent:
        setattr(sys.modules[parent], last, module)
    for name, source in allowed.items():
        setattr(module, name, getattr(importlib.import_module(source), name))

    def missing(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        may = ", ".join(allowed) or "nothing"
        refuse(f"imported {package}.{name}, which holds the solution (allowed from {package}: {may})")

    module.__getattr__ = missing
    return Path(module.__path__[0])


def install(
    package: str, package_folder: Path, allowed: Mapping[str, str], closed: Sequence[Path],
    kept: Sequence[Path], refuse: Callable[[str], None], note: Callable[[str], None],
) -> None:  # fmt: skip
    """From now on, refuse to open the package's other modules and what is in the folders `closed`.

    Folders in `kept` stay open. Starting a process is noted and raises NoProcesses.
    """
    package_folder = os.path.realpath(package_folder)
    closed = [os.path.realpath(folder) for folder in closed]
    open_modules = {package, *allowed.values()}

    def inside(path: str, folder: str) -> bool:
        return path == folder or path.startswith(folder + os.sep)

    def module_of(path: str) -> str:
        names = [
            name for name in os.path.relpath(path, package_folder).split(os.sep) if name != "__pycache__"
        ]
        names[-1] = names[-1].partition(".")[0]  # of a source file, or of its compiled form
        return ".".join([package, *names]).removesuffix(".__init__")

    # Only a submission that lies among closed files needs an exception; one around them must not get it.
    kept = [os.path.realpath(folder) for folder in kept]
    kept = [folder for folder in kept if any(inside(folder, other) for other in [package_folder, *closed])]

    def hook(event: str, arguments: tuple) -> None:
        if event in STARTS:
            note(f"tried to start or signal a process ({event})")
            raise NoProcesses(f"an assignment starts no processes ({event})")
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if any(inside(path, folder) for folder in kept):
            return
        if path.startswith(package_folder + os.sep):
            module = module_of(path)
            if module not in open_modules:
                refuse(f"imported or read {module}, which holds the solution")
        if any(inside(path, folder) for folder in closed):
            refuse(f"read {os.path.basename(path)} among the assignment's own files")

    sys.addaudithook(hook)
