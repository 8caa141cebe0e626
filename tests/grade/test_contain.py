"""What a submission can do to itself is contained, and reported in words. No PyTorch in its process here."""

import sys
import time
from dataclasses import replace

import pytest

from minisys.grade import runner

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


def double(body):
    """A submission whose `double` has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"def double(n):\n{lines}\n"


def test_a_right_answer_passes(grade_double):
    result = grade_double(double("return n + n"))
    assert (result.status, result.points, result.cases_right, result.cases) == ("passed", 3, 3, 3)
    assert result.costs == [{"what": "additions", "value": 2.0, "unit": "a number", "beside": {"least": 1}}]
    assert (result.printed, result.notes) == ("", [])


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        (double("return 1 // 0"), "raised", ["ZeroDivisionError", "line 2 of toy_assignment.py: return"]),
        ("import no_such_library\n", "raised", ["import failed in line 1", "'no_such_library'"]),
        ("def double(n)\n    return n\n", "raised", ["cannot read it", "line 1 of toy_assignment.py: def"]),
        ("import sys\nsys.exit(0)\n", "raised", ["sys.exit(0) in line 2"]),
        (double("raise KeyboardInterrupt"), "raised", ["KeyboardInterrupt"]),
        (double("return double(n)"), "raised", ["RecursionError"]),
        (double("return input()"), "raised", ["EOFError"]),
        (double("raise NotImplementedError"), "not written", ["double in toy_assignment.py still raises"]),
        ("def dubble(n):\n    return 2 * n\n", "missing", ["defines no function double"]),
        ("double = 4\n", "missing", ["double is a int there"]),
        (double("return object()"), "wrong", ["returned something that is no tensor", "object"]),
        (double("import os\nos._exit(0)"), "ended", ["ended its own process with exit status 0"]),
        ("import os\nos._exit(3)\n", "ended", ["exit status 3"]),
        (double("return 'x' * (70 << 20)"), "wrong", ["too large", "more than the 64 MiB"]),
        (double("a = []\na.append(a)\nreturn a"), "wrong", ["recursion"]),
        (double("class E(Exception):\n    __str__ = None\nraise E"), "raised", ["cannot be shown"]),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(grade_double, source, status, words):
    result = grade_double(source)
    assert (result.status, result.points) == (status, 0)
    for word in words:
        assert word in f"{result.says} {result.came}", word


@POSIX
def test_a_crash_is_named(grade_double):
    result = grade_double(double("import ctypes\nreturn ctypes.string_at(0)"))
    assert result.status == "ended"
    assert "signal SIGSEGV" in result.says


@pytest.mark.parametrize(
    "source",
    [
        double("while True: pass"),
        "while True: pass\n",
        double("import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"),
        "import signal\nfor s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\n"
        + double("while True: pass"),
    ],
)
def test_a_loop_meets_the_time_limit(grade_double, source):
    start = time.monotonic()
    result = grade_double(source, seconds=0.5)
    assert time.monotonic() - start < 20
    assert result.status == "time"
    assert "time limit of 0.5 s" in result.says


def test_the_time_of_all_cases_is_counted(grade_double):
    result = grade_double(double("import time\ntime.sleep(0.4)\nreturn 2 * n"), seconds=1.0)
    assert result.status == "time"


def test_a_flood_of_output_is_cut(grade_double):
    result = grade_double(double("for _ in range(20000): print('spam' * 250)\nreturn 2 * n"))
    assert result.status == "passed"
    assert result.printed_bytes == 4 * 20000 * 1001  # three cases and the cost
    assert len(result.printed) <= 2000


def test_an_endless_flood_ends_with_the_time(grade_double):
    result = grade_double(double("while True: print('spam' * 100)"), seconds=0.5)
    assert result.status == "time"
    assert result.printed_bytes > len(result.printed) > 0


def test_printing_an_answer_does_not_fake_one(grade_double):
    body = "import os\nframe = b'{\"result\": 42}'\n"
    body += "for number in (1, 2): os.write(number, frame)\nprint(frame)\nreturn 0"
    result = grade_double(double(body))
    assert (result.status, result.cases_right) == ("wrong", 1)


def test_writing_to_the_graders_channel_is_found_out(grade_double):
    body = "import os\nfor number in range(3, 20):\n    try: os.write(number, b'x' * 100)\n"
    result = grade_double(double(body + "    except OSError: pass\nreturn 2 * n"))
    assert result.status == "ended"
    assert "grader's own channel" in result.says


def test_closing_the_graders_channel_is_found_out(grade_double):
    result = grade_double(double("import os\nos.closerange(3, 100)\nreturn 2 * n"))
    assert result.status == "ended"


@LINUX
@pytest.mark.parametrize(
    "body",
    [
        "return bytearray(4 << 30)",
        "a = []\nwhile True: a.append(bytearray(1 << 20))",
        "return [0] * (1 << 34)",
    ],
)
def test_memory_is_limited(grade_double, body):
    result = grade_double(double(body), memory_mib=128)
    assert result.status == "memory"
    assert "128 MiB" in result.says
    assert "line" in result.says


@LINUX
def test_a_large_file_is_cut_off(grade_double):
    body = (
        "with open('large', 'wb') as file:\n    for _ in range(100): file.write(bytes(1 << 20))\nreturn 2 * n"
    )
    result = grade_double(double(body))
    assert result.status == "raised"
    assert "OSError" in result.says


@POSIX
@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "os.system('true')",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 9)",
    ],
)
def test_starting_a_process_raises_and_is_noted(grade_double, start):
    result = grade_double("import os, subprocess\n" + double(f"{start}\nreturn 2 * n"))
    assert result.status == "raised"
    assert "NoProcesses" in result.says
    assert [note for note in result.notes if "tried to start or signal a process" in note]


def test_a_library_that_does_without_a_process_goes_on(grade_double):
    body = "import subprocess\ntry: subprocess.run(['true'])\nexcept OSError: pass\nreturn 2 * n"
    result = grade_double(double(body))
    assert (result.status, result.points) == ("passed", 3)
    assert result.notes == ["It tried to start or signal a process (subprocess.Popen)."]


# Python's hooks do not see a fork through the C library.
FORK = "import ctypes, os, time\nlibc = ctypes.CDLL(None)\n"


@LINUX
def test_a_child_that_gets_through_ends_with_the_group(grade_double):
    result = grade_double(FORK + double("if libc.fork() == 0:\n    time.sleep(600)\nreturn 2 * n"))
    assert result.status == "passed"
    assert result.notes == ["It left 4 processes running, now ended."]


@LINUX
def test_a_child_that_leaves_the_group_ends_too(grade_double):
    body = "if libc.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1)\nreturn 2 * n"
    result = grade_double(FORK + double(body))
    assert result.status == "passed"
    assert result.notes == ["It left 4 processes running, now ended."]


@LINUX
def test_a_child_that_holds_the_channel_does_not_hold_the_grader(grade_double):
    body = "if libc.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1)\nos._exit(0)"
    start = time.monotonic()
    result = grade_double(FORK + double(body), seconds=1.0)
    assert result.status in ("ended", "time")
    assert time.monotonic() - start < 20


def test_a_thread_left_running_does_not_hold_the_grader(grade_double):
    body = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nreturn 2 * n"
    start = time.monotonic()
    assert grade_double(double(body)).status == "passed"
    assert time.monotonic() - start < 60


def test_the_environment_and_the_folder_are_clean(grade_double, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    body = "import os\nassert 'MY_SECRET' not in os.environ\nassert os.listdir() == [], os.listdir()\n"
    body += "open('left.txt', 'w').close()\nos.unlink('left.txt')\nreturn 2 * n"
    assert grade_double(double(body)).status == "passed"
    assert sorted(path.name for path in (tmp_path / "submission").rglob("*")) == ["toy_assignment.py"]


def test_helpers_beside_the_file_are_found(grade_double, submit):
    submit("def twice(n): return 2 * n\n", file="helpers.py")
    assert grade_double("from helpers import twice as double\n").status == "passed"


@pytest.mark.parametrize("late", ["while True: pass", "return 'x'", "raise ValueError('late')"])
def test_a_cost_that_cannot_be_had_takes_no_points(grade_double, late):
    """The cost is asked with n = 5, which no case has."""
    result = grade_double(double(f"if n == 5:\n    {late}\nreturn 2 * n"), seconds=1.0)
    assert (result.status, result.points, result.costs) == ("passed", 3, [])
    assert result.notes[0].startswith("No cost figure: ")


def test_a_mistake_in_a_helper_is_placed_there(grade_double, submit):
    submit("x = 1\ndef twice(n) return n\n", file="helpers.py")
    result = grade_double("from helpers import twice as double\n")
    assert "in line 2 of helpers.py: def twice(n) return n" in result.says


def test_a_process_that_does_not_start_is_no_fault_of_the_submission(toy, submit):
    topic = replace(toy, package="no_such_package")
    result = runner.grade_part(topic, topic.parts[0], submit(double("return 2 * n")), seed=1)
    assert result.status == "error"
    assert result.says.startswith("The grader's process did not start: ")
    assert "NoneType" in result.says


def test_what_goes_wrong_in_the_grader_is_a_result_too(toy, submit, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(runner, "judge", broken)
    result = runner.grade_part(toy, toy.parts[0], submit(double("return 2 * n")), seed=1)
    assert (result.status, result.says) == ("error", "The grader failed with RuntimeError: out of ideas")
