"""The grader's side of a submission's process: start it, talk to it, end it with everything it started.

What holds: wall-clock time, CPU time, file size, capped output and the end of the whole process group on
Linux and macOS; memory and stray processes on Linux only. On Windows: time, output, and the process tree as
far as ``taskkill`` finds it. No security sandbox: the process has the rights of the user who grades.
"""

import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from minisys.grade import wire
from minisys.grade.assignment import Part, Topic

START_SECONDS = 120  # importing PyTorch from a cold disk on a busy machine
KEPT_OUTPUT = 2000  # bytes
MARK = "MINISYS_GRADE_PROCESS"  # environment variable by which stray processes are found
PASSED_ON = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LANG",
    "LC_ALL", "SYSTEMROOT", "PATHEXT", "COMSPEC",
)  # fmt: skip


class Ended(Exception):  # noqa: N818
    """The submission's process is gone or has been ended; `status` as in judge.py, `says` in words."""

    def __init__(self, status: str, says: str) -> None:
        super().__init__(says)
        self.status, self.says = status, says


class Worker:
    """One process, for one part of one submission. Use with ``with``; at the end nothing of it is left."""

    def __init__(self, topic: Topic, part: Part, submission: Path) -> None:
        self.part = part
        self.seconds_left = part.seconds
        self.notes: list[str] = []
        self.printed = bytearray()
        self.printed_bytes = 0
        self.left_behind = 0
        self.timed_out = False
        self.answers: queue.Queue = queue.Queue(maxsize=16)
        self.mark = secrets.token_hex(16)
        self.scratch = tempfile.TemporaryDirectory(prefix="minisys-grade-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "minisys.grade.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.scratch.name,
            env=self._environment(),
            start_new_session=True,
        )
        readers = (self._read_answers, self._read_output)
        self.readers = [threading.Thread(target=reader, daemon=True) for reader in readers]
        for thread in self.readers:
            thread.start()
        self.start_request = {
            "do": "start",
            "package": topic.package,
            "allowed": dict(topic.allowed),
            "given": str(topic.folder.resolve() / "given.py") if topic.given else None,
            "needs": list(part.needs),
            "memory_mib": part.memory_mib,
            "cpu_seconds": int(part.seconds) + 5,
            "closed": [str(topic.folder.resolve())],
            "kept": [str(submission.resolve())],
        }

    def __enter__(self) -> "Worker":
        try:
            answer = self._exchange(self.start_request, START_SECONDS)
            why = "" if "started" in answer else str(answer.get("problem"))
        except Ended as end:
            why = end.says
        except BaseException:
            self.close()
            raise
        if why:
            self.close()
            printed = bytes(self.printed).decode("utf-8", "replace")
            raise Ended("error", f"The grader's process did not start: {why} {printed}".strip())
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, part: Part) -> None:
        """Give another part its time, in the same process; only where nothing foreign runs."""
        self.part, self.seconds_left = part, part.seconds

    def ask(self, request: dict) -> dict:
        """Send a request and return the answer. Raises Ended where none comes within the part's time."""
        started = time.monotonic()
        try:
            return self._exchange(request, self.seconds_left)
        finally:
            self.seconds_left = max(0.0, self.seconds_left - (time.monotonic() - started))

    def close(self) -> None:
        """End the process and all that it started."""
        with suppress(OSError):
            self.process.stdin.close()
        self.left_behind = len(set(self._marked()) - {self.process.pid})
        self._kill()
        for _ in range(100):  # what escaped the group; again, as it may be starting others meanwhile
            strays = self._marked()
            if not strays:
                break
            for pid in strays:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for thread in self.readers:  # both see the end of their pipes now
            thread.join(timeout=2)
        self.scratch.cleanup()

    def _environment(self) -> dict[str, str]:
        """A small one: nothing of the user's secrets, no GPU, one thread, and Triton's interpreter."""
        root = str(Path(__file__).resolve().parents[2])
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        search = [root, *filter(None, [kept.get("PYTHONPATH")])]
        own = dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "TRITON_CACHE_DIR"), self.scratch.name)
        return kept | own | {
            "PYTHONPATH": os.pathsep.join(search),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TRITON_INTERPRET": "1",
            MARK: self.mark,
        }  # fmt: skip

    def _exchange(self, request: dict, seconds: float) -> dict:
        # The timer ends the process, and with it a write that nobody reads. Where a process that left the
        # group still holds the pipe, its end is not seen, so that the wait looks at the process as well.
        timer = threading.Timer(seconds, self._time_out)
        timer.start()
        try:
            with suppress(OSError):  # a process that has ended: the answer says so
                wire.write_frame(self.process.stdin, request)
            while "event" in (answer := self._next_answer()):
                if answer["event"] == "refused":
                    raise Ended("refused", f"Not allowed here: the submission {answer.get('what')}.")
                self.notes.append(f"It {answer.get('what')}.")
            return answer
        finally:
            timer.cancel()

    def _next_answer(self) -> dict:
        """What the process sent next. Raises Ended where it is gone."""
        gone = False
        while True:
            try:
                answer = self.answers.get(timeout=0.2)
            except queue.Empty:
                if gone:
                    raise self._how_it_ended(None) from None
                gone = self.process.poll() is not None  # and once more, for what is still on its way
                continue
            if not isinstance(answer, dict):
                raise self._how_it_ended(answer)
            return answer

    def _time_out(self) -> None:
        self.timed_out = True
        self._kill()

    def _how_it_ended(self, broken: wire.BrokenFrame | None) -> Ended:
        """The reason in words; the process is gone afterwards."""
        code = None
        if not self.timed_out:
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=1)
        self._kill()
        limit = f"{self.part.seconds:g} s"
        if self.timed_out or code == -getattr(signal, "SIGXCPU", 0):
            return Ended("time", f"Not done within the time limit of {limit}; the process was ended.")
        if broken is not None or code is None:
            why = broken or "it was closed"
            return Ended("ended", f"The submission wrote to or closed the grader's own channel ({why}).")
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", often for lack of memory" if name == "SIGKILL" else ""
            return Ended("ended", f"The process was ended by the signal {name}{hint}.")
        return Ended(
            "ended", f"The submission ended its own process with exit status {code}, as os._exit does."
        )

    def _kill(self) -> None:
        if os.name == "posix":
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            command = ["taskkill", "/F", "/T", "/PID", str(self.process.pid)]
            subprocess.run(command, capture_output=True, check=False)
        with suppress(OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(timeout=5)

    def _marked(self) -> list[int]:
        """Living processes with our mark in their environment, wherever they are (Linux)."""
        mark = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                dead = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
                if not dead and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def _read_answers(self) -> None:
        """Frames into the queue; at the end None, or what was no frame."""
        last = None
        with self.process.stdout as stream:
            try:
                while (frame := wire.read_frame(stream)) is not None:
                    self.answers.put(frame)
            except wire.BrokenFrame as error:
                last = error
            self.answers.put(last)

    def _read_output(self) -> None:
        """Keep the start of what is printed, count the rest."""
        with self.process.stderr as stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self.printed_bytes += len(chunk)
                self.printed += chunk[: KEPT_OUTPUT - len(self.printed)]
