"""A submission's process: loads the submission, calls what it is told to call, sends back what came.

Run as ``python -m minisys.grade.child`` by worker.py, never by hand. Requests come on standard input and
answers go to what was standard output; before any foreign code runs, both are moved out of the way, so that
what a submission prints ends up with the messages on standard error and cannot be taken for an answer.
"""

import importlib
import linecache
import os
import sys
import threading
import traceback
from contextlib import nullcontext, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import NoReturn

from minisys.grade import guard, measure, wire
from minisys.grade.modules import load_module

ROOM_TO_REPORT = 128 << 20  # bytes that the memory limit leaves for the message that it was reached
LARGEST_FILE = 64 << 20
LONGEST_TEXT = 400


class Submission:
    """State of the process: the channel, what the assignment gives, and the submitted function."""

    def __init__(self, requests: BufferedIOBase, answers: BufferedIOBase) -> None:
        self.requests, self.answers = requests, answers
        self.lock = threading.RLock()  # a refusal may come from any thread, and while something is sent
        self.given = None
        self.folder = ""
        self.function = None
        self.noted: set[str] = set()

    def send(self, message: dict) -> None:
        with self.lock:
            wire.write_frame(self.answers, message)

    def refuse(self, what: str) -> NoReturn:
        self.send({"event": "refused", "what": what})
        raise guard.Refused(f"not allowed in an assignment: it {what}")

    def note(self, what: str) -> None:
        if what not in self.noted:
            self.noted.add(what)
            self.send({"event": "noted", "what": what})

    def start(self, request: dict) -> dict:
        """Import what the assignment gives, then limit and guard everything that comes after."""
        for name in request["needs"]:
            importlib.import_module(name)
        package_folder = guard.stand_in(request["package"], request["allowed"], self.refuse)
        if request["given"]:
            self.given = load_module("minisys_given", Path(request["given"]))
        limit(request["memory_mib"], request["cpu_seconds"])
        closed, kept = (list(map(Path, request[name])) for name in ("closed", "kept"))
        guard.install(
            request["package"], package_folder, request["allowed"], closed, kept, self.refuse, self.note
        )
        return {"started": True}

    def load(self, request: dict) -> dict:
        """Import the submitted file under its own name, with its folder first on the path."""
        file = Path(request["file"])
        self.folder = str(file.parent)
        sys.path.insert(0, self.folder)
        linecache.clearcache()
        module = load_module(file.stem, file)
        self.function = getattr(module, request["function"], None)
        if self.function is None:
            return {"problem": {"kind": "no function"}}
        if not callable(self.function):
            return {"problem": {"kind": "no function", "text": type(self.function).__name__}}
        return {"loaded": True}

    def call(self, request: dict) -> dict:
        """Call the submitted function; says as well which tensors it changed in place."""
        arguments = request["arguments"]
        tensors = {name: value for name, value in arguments.items() if wire.is_tensor(value)}
        before = {name: tensor._version for name, tensor in tensors.items()}
        measured: dict = {}
        name = request["measure"]
        with measure.MEASURES[name](arguments) if name else nullcontext(measured) as measured:
            result = self.function(*arguments.values())
        changed = [name for name, tensor in tensors.items() if tensor._version != before[name]]
        return {"result": result, "measured": measured, "changed": changed}

    def problem(self, error: BaseException) -> dict:
        """What went wrong, as {"problem": {kind, text, line, source}}; the line is the submission's own."""
        cause = error
        error = within_kernel(error)
        found = {"kind": kind_of(error), "type": type(error).__name__, "text": text_of(error)}
        if isinstance(error, SyntaxError):
            source = (error.text or "").strip()[:LONGEST_TEXT]
            found |= {"line": error.lineno, "source": source}
            found |= {"file": os.path.basename(error.filename)} if error.filename else {}
        while cause is not None:
            for frame, line in traceback.walk_tb(cause.__traceback__):
                file = frame.f_code.co_filename
                if os.path.dirname(file) == self.folder and not isinstance(error, SyntaxError):
                    source = linecache.getline(file, line).strip()[:LONGEST_TEXT]
                    found |= {"file": os.path.basename(file), "line": line, "source": source}
                    found |= {"function": frame.f_code.co_name}
            cause = cause.__cause__
        return {"problem": found}

    def serve(self) -> None:
        """Answer requests until there are no more."""
        actions = {"start": self.start, "load": self.load, "call": self.call}
        while (request := wire.read_frame(self.requests, self.given)) is not None:
            answer = self.answer(actions[request["do"]], request)
            with suppress(Exception):
                sys.stdout.flush()
            self.send_or_say_why_not(answer)

    def answer(self, action, request: dict) -> dict:
        try:
            return action(request)
        except BaseException as error:  # SystemExit and KeyboardInterrupt included: this is somebody's code
            give_room()
            return self.problem(error)

    def send_or_say_why_not(self, answer: dict) -> None:
        try:
            self.send(answer)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self.send({"problem": {"kind": "returned", "text": str(error)[:LONGEST_TEXT]}})
        except MemoryError:
            give_room()
            self.send({"problem": {"kind": "memory", "text": ""}})


def within_kernel(error: BaseException) -> BaseException:
    """What happened in a kernel: Triton's interpreter wraps it, once for each function that it was in."""
    while type(error).__name__ == "InterpreterError" and error.__cause__ is not None:
        error = error.__cause__
    return error


def kind_of(error: BaseException) -> str:
    """The sort of problem, by which the grader words it."""
    no_memory = "can't allocate memory" in text_of(error) or "Unable to allocate" in text_of(error)
    kinds = [
        (guard.Refused, "refused"),
        (NotImplementedError, "not written"),
        (SyntaxError, "syntax"),
        (ModuleNotFoundError, "missing import"),
        (MemoryError, "memory"),
        (SystemExit, "exit"),
    ]
    return "memory" if no_memory else next((kind for cls, kind in kinds if isinstance(error, cls)), "raised")


def text_of(error: BaseException) -> str:
    """An exception's message, whatever its ``__str__`` does."""
    try:
        return str(error.msg if isinstance(error, SyntaxError) else error)[:LONGEST_TEXT]
    except BaseException:
        return "its message cannot be shown"


def limit(memory_mib: int, cpu_seconds: int) -> None:
    """Limit memory, CPU time and file size from here on, where the system can (POSIX; memory: Linux)."""
    try:
        import resource
    except ImportError:
        return  # Windows
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(usage.ru_utime + usage.ru_stime) + cpu_seconds
    wanted = {"RLIMIT_CPU": (cpu, cpu + 1), "RLIMIT_FSIZE": (LARGEST_FILE,) * 2, "RLIMIT_CORE": (0, 0)}
    with suppress(OSError):  # what PyTorch and Triton have taken already does not count
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + (memory_mib << 20)
        wanted["RLIMIT_AS"] = (size, size + ROOM_TO_REPORT)
    for name, (soft, hard) in wanted.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (soft, hard))


def give_room() -> None:
    """Raise the memory limit to its upper end, so that a message can still be made."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def take_channel() -> tuple[BufferedIOBase, BufferedIOBase]:
    """Standard input and output under other numbers; in their places nothing to read, and standard error."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, answers


def main() -> NoReturn:
    submission = Submission(*take_channel())
    sys.dont_write_bytecode = True
    try:
        submission.serve()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # threads that a submission left running do not keep the process


if __name__ == "__main__":
    main()
