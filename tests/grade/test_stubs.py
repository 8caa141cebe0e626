"""Handouts from solutions."""

import pytest

from minisys.grade.selfcheck import edited, self_check
from minisys.grade.stubs import handout, readme, stub, write_handout

SOLUTION = '''import math

# BEGIN SOLUTION
def helper(x):
    return x
# END SOLUTION


def area(r):
    """The area of a circle."""
    # BEGIN SOLUTION
    return math.pi * helper(r) ** 2
    # END SOLUTION
'''
STUB = '''import math

# Your own helpers go here.


def area(r):
    """The area of a circle."""
    raise NotImplementedError
'''


def test_what_is_between_the_markers_is_taken_out():
    assert stub(SOLUTION, "area.py") == STUB


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "# BEGIN SOLUTION\n",
            "area.py: got # BEGIN SOLUTION in line 1, expected an # END SOLUTION after it",
        ),
        (
            "\n# END SOLUTION\n",
            "area.py: got # END SOLUTION in line 2, expected a # BEGIN SOLUTION before it",
        ),
        ("# BEGIN SOLUTION\n# BEGIN SOLUTION\n", "line 2, expected the # END SOLUTION of line 1 before it"),
    ],
)
def test_markers_that_do_not_pair_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        stub(source, "area.py")


def test_the_readme_lists_the_parts(toy):
    text = readme(toy)
    assert "| Twice a number | `double` | `toy_assignment.py` | 3 | 1 |" in text
    assert "| A bonus | `triple` | `toy_extra.py` | 1 (bonus) | 1 |" in text
    assert "| Together, without the bonus | | | 5 | 2 |" in text


def test_a_handout_is_written_whole(toy, tmp_path):
    out = tmp_path / "new" / "out"
    written = write_handout(toy, out)
    assert sorted(path.name for path in written) == ["README.md", "toy_assignment.py", "toy_extra.py"]
    for name, text in handout(toy).items():
        assert (out / name).read_text(encoding="utf-8") == text
    assert "return" not in (out / "toy_assignment.py").read_text(encoding="utf-8")
    assert write_handout(toy, out) == written  # the same again is no harm


def test_work_is_not_overwritten(toy, tmp_path):
    mine = tmp_path / "toy_extra.py"
    mine.write_text("def triple(n): return 3 * n\n")
    with pytest.raises(ValueError, match=r"make-stub: got .*toy_extra.py, which is another"):
        write_handout(toy, tmp_path)
    assert not (tmp_path / "README.md").exists()
    assert "return 3" in mine.read_text()
    write_handout(toy, tmp_path, replace=True)
    assert "NotImplementedError" in mine.read_text()


def test_a_folder_in_the_way_of_a_file_is_reported(toy, tmp_path):
    (tmp_path / "toy_extra.py").mkdir()
    with pytest.raises(ValueError, match="make-stub: got the folder"):
        write_handout(toy, tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_the_self_check_tells_what_is_not_sound(toy):
    """The toy plants too few wrong answers and has no handout; those are its only problems."""
    said = []
    problems = self_check(toy, 1, said.append)
    assert [problem.partition(":")[0] for problem in problems] == [
        "README.md", "handout/README.md", "handout/toy_assignment.py", "handout/toy_extra.py",
        "negate", "extra", "rare",
    ]  # fmt: skip
    assert "double: solution, stub and 3 wrong answers: 0 problems" in said
    assert "rare: skipped, as a_module_that_nobody_has is not installed" in said


def test_writing_the_assignments_own_handout_mends_it(toy):
    write_handout(toy, toy.folder / "handout", replace=True)
    assert not [problem for problem in self_check(toy, 1) if "step" in problem]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("n * n", "2 * n", "double: the wrong answer with 'square' passes"),
        ("n * n", "n - 1", "double: the wrong answer with 'square' gives 'no known mistake'"),
        ("n * n", "n", "double: the wrong answer with 'square' gives 'same'"),
        (
            "helper(n, n)",
            "helper(n)",
            "wrong.py: double square: got 0 times 'helper(n)', expected exactly once",
        ),
    ],
)
def test_a_wrong_answer_that_is_not_recognised_is_a_problem(toy, old, new, problem):
    path = toy.folder / "wrong.py"
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    assert any(found.startswith(problem) for found in self_check(toy, 1)), self_check(toy, 1)


@pytest.mark.parametrize("broken", ["return helper(n, n)", "return -n"])
def test_a_solution_that_fails_is_a_problem(toy, broken):
    path = toy.folder / "solution" / "toy_assignment.py"
    path.write_text(path.read_text().replace(broken, "return 1"))
    part = "double" if "helper" in broken else "negate"
    assert any(
        found.startswith(f"{part}: the solution fails: A result is wrong") for found in self_check(toy, 1)
    )


def test_a_stub_that_passes_is_a_problem(toy):
    path = toy.folder / "solution" / "toy_extra.py"
    path.write_text("def triple(n):\n    return 3 * n\n")
    assert "extra: the stub is passed, expected not written" in self_check(toy, 1)


def test_an_edit_must_apply_once(toy):
    from minisys.grade.assignment import Wrong

    with pytest.raises(ValueError, match="got 2 times 'a', expected exactly once"):
        edited("a a", Wrong("double", "x", [("a", "b")]))
