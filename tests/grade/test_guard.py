"""A submission that goes to the solution is found out, however it gets there."""

import sysconfig
from pathlib import Path

import pytest

from minisys.grade import runner

FOLDER = Path(sysconfig.get_path("stdlib"), "wsgiref")
DOUBLE = "\ndef double(n): return 2 * n\n"


@pytest.mark.parametrize(
    "source",
    [
        "import wsgiref.headers",
        "from wsgiref import headers",
        "from wsgiref import simple_server",
        "from wsgiref import anything",
        "import wsgiref\nwsgiref.validate",
        "__import__('wsgiref.headers')",
        "import importlib\nimportlib.import_module('wsgiref.headers')",
        "import importlib, sys\ndel sys.meta_path[:-1]\nimportlib.import_module('wsgiref.headers')",
        f"import runpy\nrunpy.run_path({str(FOLDER / 'headers.py')!r})",
        f"exec(open({str(FOLDER / 'headers.py')!r}).read())",
        f"import os\nos.open({str(FOLDER / 'headers.py')!r}, os.O_RDONLY)",
        f"from pathlib import Path\nPath({str(FOLDER / 'headers.py')!r}).read_text()",
        "try:\n    import wsgiref.headers\nexcept BaseException:\n    pass",
    ],
)  # fmt: skip
def test_every_way_to_the_solution_is_refused(grade_double, source):
    result = grade_double(source + DOUBLE)
    assert (result.status, result.points) == ("refused", 0)
    assert "holds the solution" in result.says
    assert "wsgiref." in result.says


def test_at_the_time_of_the_call_too(grade_double):
    result = grade_double("def double(n):\n    import wsgiref.headers\n    return 2 * n\n")
    assert result.status == "refused"
    assert "wsgiref.headers" in result.says


def test_a_link_does_not_help(grade_double, submit):
    folder = submit("")
    (folder / "mine.py").symlink_to(FOLDER / "headers.py")
    assert grade_double("import mine" + DOUBLE).status == "refused"


def test_the_assignments_own_files_are_closed(grade_double, toy):
    result = grade_double(f"open({str(toy.folder / 'solution' / 'toy_assignment.py')!r})" + DOUBLE)
    assert result.status == "refused"
    assert "toy_assignment.py among the assignment's own files" in result.says


def test_a_submission_around_them_does_not_open_them(toy, submit):
    """As in a copy of the whole course with the student's file at its root."""
    folder = submit(f"open({str(toy.folder / 'parts.py')!r})" + DOUBLE, name=".")
    assert toy.folder.is_relative_to(folder)
    assert runner.grade_part(toy, toy.parts[0], folder, 1).status == "refused"


def test_a_submission_among_them_can_read_itself(toy):
    assert runner.grade_part(toy, toy.parts[0], toy.folder / "solution", 1).status == "passed"


@pytest.mark.parametrize(
    "source",
    ["from wsgiref import FileWrapper", "import wsgiref\nwsgiref.FileWrapper", "import wsgiref.util"],
)
def test_what_is_allowed_can_be_imported(grade_double, source):
    assert grade_double(source + DOUBLE).status == "passed"
