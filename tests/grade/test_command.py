"""The command: reports, files, exit status, and one clear line for bad input."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from minisys.cli import app
from minisys.core import paths
from minisys.grade import report, runner
from minisys.grade.command import main

RIGHT = "def double(n): return 2 * n\ndef negate(n): return -n\n"
HALF = "def double(n): return n * n\ndef negate(n): return -n\n"


def run(*words):
    return main(list(map(str, words)))


def rows_of(table):
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def test_full_score_is_status_0(toy, submit, capsys):
    assert run("toy", "--submission", submit(RIGHT), "--seed", 7) == 0
    shown = capsys.readouterr().out
    for text in ("toy: submission (seed 7)", "3/3", "2/2", "0/1 bonus", "Score 5 of 5, bonus 0 of 2."):
        assert text in shown, text
    assert "double: cost: additions 2 a number (least 1)" in shown
    assert "extra: toy_extra.py is not there." in shown
    assert "rare: It needs a_module_that_nobody_has, which is not installed here." in shown


def test_a_mistake_is_shown_in_words(toy, submit, capsys):
    assert run("toy", "--submission", submit(HALF), "--seed", 7) == 1
    shown = capsys.readouterr().out
    assert "double: A result is wrong. 2 of 3 cases fail." in shown
    first = next(line for line in shown.splitlines() if "tried" in line)
    assert "(seed 7)" in first
    assert "looks like  You square the number." in shown
    assert "Score 2 of 5" in shown


def test_the_edge_of_a_case_is_said_where_no_mistake_fits(toy, submit):
    result = runner.grade_part(toy, toy.parts[0], submit("def double(n): return 2 * n or 1\n"), seed=1)
    assert (result.cases_right, result.mistake, result.looks_like) == (2, "", "Nothing doubled is nothing.")
    assert (result.came, result.expected) == ("1", "0")


def test_json_holds_the_report(toy, submit, tmp_path):
    out = tmp_path / "deep" / "report.json"
    assert run("toy", "--submission", submit(HALF), "--seed", 7, "--json", out) == 1
    written = json.loads(out.read_text())
    assert written["schema"] == runner.SCHEMA
    assert {name: written[name] for name in ("topic", "submission", "seed", "score", "out_of", "full")} == {
        "topic": "toy", "submission": "submission", "seed": 7, "score": 2, "out_of": 5, "full": False,
    }  # fmt: skip
    double, negate, extra, rare = written["parts"]
    assert (double["status"], double["mistake"], double["points"]) == ("wrong", "square", 0)
    assert (negate["status"], negate["cases_right"]) == ("passed", 3)
    assert (extra["status"], rare["status"]) == ("missing", "skipped")


def test_one_part_alone(toy, submit, capsys):
    assert run("toy", "--submission", submit(HALF), "--part", "negate") == 0
    assert "Score 2 of 2." in capsys.readouterr().out


def test_a_seed_repeats_a_run_and_another_asks_for_something_else(toy, submit):
    folder = submit("def double(n): return -1\n")
    tried = [runner.grade_part(toy, toy.parts[0], folder, seed).tried for seed in (5, 5, 6)]
    assert tried[0] == tried[1] != tried[2]


def test_a_class_is_graded_and_what_is_no_folder_is_skipped(toy, submit, tmp_path, capsys):
    (tmp_path / "class").mkdir()
    submit(RIGHT, "class/anna")
    submit(HALF, "class/bela")
    submit("import sys; sys.exit()", "class/cleo")
    submit(RIGHT, "class/dora", file="dora_123_toy_assignment.py")
    (tmp_path / "class" / "empty").mkdir()
    (tmp_path / "class" / "notes.txt").write_text("no folder")
    (tmp_path / "class" / "gone").symlink_to(tmp_path / "nowhere")
    out, table = tmp_path / "class.json", tmp_path / "class.csv"
    words = ("toy", "--all", tmp_path / "class", "--csv", table, "--json", out, "--jobs", 3, "--seed", 4)
    assert run(*words) == 1
    rows = rows_of(table)
    assert [(row["submission"], row["score"], row["double"], row["double_result"]) for row in rows] == [
        ("anna", "5", "3", "passed"), ("bela", "2", "0", "wrong"), ("cleo", "0", "0", "raised"),
        ("dora", "5", "3", "passed"), ("empty", "0", "0", "missing"),
    ]  # fmt: skip
    assert rows[1]["problem"] == "double: You square the number."
    assert {row["seed"] for row in rows} == {"4"}
    written = json.loads(out.read_text())
    assert written["skipped"] == ["gone", "notes.txt"]
    assert [one["submission"] for one in written["submissions"]] == ["anna", "bela", "cleo", "dora", "empty"]
    assert "dora_123_toy_assignment.py was taken for toy_assignment.py." in str(written["submissions"][3])
    shown = capsys.readouterr()
    assert "toy: 5 submissions (seed 4)" in shown.out
    assert "raised" in shown.out
    assert "notes.txt: skipped, as it is no folder" in shown.err
    assert "anna: Score 5 of 5" in shown.err


def test_a_class_with_full_scores_is_status_0(toy, submit, tmp_path):
    (tmp_path / "class").mkdir()
    submit(RIGHT, "class/anna")
    assert run("toy", "--all", tmp_path / "class") == 0


def test_text_of_a_submission_is_made_harmless(toy, submit, tmp_path, capsys):
    source = "def double(n):\n    print('\\x1b[2J[bold]')\n    raise ValueError('=\\x1b[31m\\udc80[red]')\n"
    (tmp_path / "class").mkdir()
    submit(source, "class/=cmd()")
    out, table = tmp_path / "r.json", tmp_path / "r.csv"
    assert run("toy", "--all", tmp_path / "class", "--json", out, "--csv", table) == 1
    row = rows_of(table)[0]
    assert row["submission"] == "'=cmd()"
    assert run("toy", "--submission", tmp_path / "class" / "=cmd()", "--json", out) == 1
    shown = capsys.readouterr().out
    for text in (shown, out.read_text(encoding="utf-8"), table.read_text(encoding="utf-8")):
        assert "\x1b" not in text
    assert "[red]" in shown
    assert "[bold]" in shown


def test_without_rich_the_table_is_plain(toy, submit, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.box", None)
    assert run("toy", "--submission", submit(RIGHT), "--seed", 7) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy: submission (seed 7)"
    assert lines[1].split() == ["part", "result", "points"]
    assert lines[2].split() == ["double", "Twice", "a", "number", "passed", "3/3"]


def test_the_topics_are_listed(toy, capsys):
    assert run() == 0
    assert capsys.readouterr().out == "toy\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nsb"], "topic: got 'nsb', expected one of toy"),
        (["../toy"], "topic: got '../toy', expected one of toy"),
        (["toy"], "arguments: got none of them, expected one of --submission, --all, --make-stub, "),
        (["toy", "--all", "x", "--self-check"], "arguments: got --all and --self-check, expected one of"),
        (["toy", "--submission", "nowhere"], "submission: got no folder nowhere, expected a folder"),
        (["toy", "--submission", "FILE"], "submission: got no folder "),
        (["toy", "--submission", "EMPTY"], "which holds nothing, expected toy_assignment.py or toy_extra.py"),
        (["toy", "--all", "nowhere"], "all: got no folder nowhere, expected a folder with a folder for each"),
        (["toy", "--all", "EMPTY"], "without a folder in it, expected a folder for each submission"),
        (["toy", "--submission", "RIGHT", "--json", "EMPTY"], "json: got the folder "),
        (["toy", "--submission", "RIGHT", "--csv", "EMPTY"], "csv: got the folder "),
        (["toy", "--submission", "RIGHT", "--json", "FILE/x.json"], "json: got "),
        (["toy", "--submission", "RIGHT", "--json", "a", "--csv", "a"], "csv: got a, expected another"),
        (["toy", "--submission", "RIGHT", "--part", "dubble"], "part: got 'dubble', expected one of double"),
        (["toy", "--submission", "RIGHT", "--jobs", "0"], "jobs: got 0, expected at least 1"),
        (["toy", "--submission", "RIGHT", "--seed", "-1"], "seed: got -1, expected a whole number"),
        (["toy", "--submission", "RIGHT", "--seconds", "0"], "seconds: got 0.0, expected a positive number"),
        (["toy", "--submission", "RIGHT", "--memory", "-3"], "memory: got -3, expected a positive number"),
        (["toy", "--make-stub", "FILE"], "make-stub: got the file "),
        (["toy", "--seconds", "soon"], "argument --seconds: invalid float value: 'soon'"),
        (["toy", "--faster"], "unrecognized arguments: --faster"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(toy, submit, tmp_path, capsys, monkeypatch, words, message):
    places = {"EMPTY": tmp_path / "empty", "FILE": tmp_path / "file", "RIGHT": submit(RIGHT)}
    places["EMPTY"].mkdir()
    places["FILE"].write_text("a file")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("minisys: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_where_nothing_can_be_written_is_named_before_grading(toy, submit, capsys, monkeypatch):
    monkeypatch.setattr(report.os, "access", lambda path, mode: False)
    assert run("toy", "--submission", submit(RIGHT), "--json", "report.json") == 2
    assert capsys.readouterr().err == (
        "minisys: json: got report.json, where nothing can be written, expected another place\n"
    )


def test_a_folder_that_cannot_be_read_is_named(toy, submit, capsys, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", "class")

    monkeypatch.setattr(runner, "grade_class", refused)
    assert run("toy", "--all", submit(RIGHT).parent) == 2
    message = "minisys: class: got Permission denied, expected to read or write there\n"
    assert capsys.readouterr().err == message


def test_a_missing_folder_of_assignments_is_named(toy, capsys):
    shutil.rmtree(toy.folder.parent)
    assert main(["toy"]) == 2
    assert capsys.readouterr().err == (
        f"minisys: assignments: got no folder {toy.folder.parent}, expected the folder of the assignments\n"
    )


def test_several_files_that_could_be_meant_are_not_guessed_at(toy, submit, capsys):
    folder = submit(RIGHT, file="a_toy_assignment.py")
    submit(RIGHT, file="b_toy_assignment.py")
    assert run("toy", "--submission", folder) == 2
    assert runner.find_file(folder, "toy_assignment.py") == (
        None, "toy_assignment.py is not there, and 2 files have names like it.",
    )  # fmt: skip


def test_the_command_line_calls_it(toy, submit):
    done = CliRunner().invoke(app, ["grade", "toy", "--submission", str(submit(HALF))])
    assert done.exit_code == 1
    assert "Score 2 of 5" in done.stdout
    done = CliRunner().invoke(app, ["grade", "nsb"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "minisys: topic: got 'nsb', expected one of toy\n"


def test_it_runs_without_the_command_lines_libraries(tmp_path):
    code = "import sys\nfor name in ('typer', 'rich', 'yaml'): sys.modules[name] = None\n"
    code += "from minisys.grade.command import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "nsa", "--submission", str(tmp_path)]
    done = subprocess.run(command, cwd=paths.checkout(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected nsa_assignment.py or nsa_kernel.py" in done.stderr


def test_an_unwritable_report_leaves_the_old_one(toy, submit, tmp_path, monkeypatch):
    out = tmp_path / "report.json"
    out.write_text("old")

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("minisys.core.files.sync", full)
    folder = submit(RIGHT)
    result = runner.grade_submission(toy, folder, seed=1, jobs=1, parts=toy.parts[:1])
    with pytest.raises(OSError, match="no space left"):
        report.write_reports(out, [result])
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.glob("report*")] == ["report.json"]
