"""The notebook tool: it writes, runs and checks small notebooks of its own, and finds each defect."""

import importlib.util
import json
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]

NOTEBOOK = """\
# %% [markdown]
# # A small chapter

# %%
device = "cpu"
total = 1 + 1

# %%
print(total)

# %% tags=["nbval-ignore-output"]
import time
time.time()
"""


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = load_tool("notebooks")


def cell(notebook, start):
    return next(cell for cell in notebook.cells if cell.source.startswith(start))


def output(data=None, **fields):
    return nbformat.v4.new_output("display_data", data=data) if data else nbformat.v4.new_output(**fields)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "01_small.py"
    path.write_text(NOTEBOOK)
    return path


@pytest.fixture
def pair(source):
    """A pair that is in step, with outputs as a run would store them."""
    notebook = notebooks.read_source(source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, one in enumerate(code, start=1):
        one.execution_count = count
    code[1].outputs = [output(output_type="stream", name="stdout", text="2\n")]
    notebook.metadata.minisys_execution = {
        "seconds": 0.1,
        "device": "cpu",
        "versions": {},
        "date": "2026-01-01",
    }
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return source, target


def problems(pair, change=None):
    """What the check says of a pair after `change` was made to its notebook."""
    source, target = pair
    notebook = nbformat.read(target, as_version=4)
    if change:
        change(notebook)
        target.write_text(json.dumps(notebook))  # nbformat.write would mend or refuse what is broken
    return "\n".join(notebooks.check_folder(source.parent))


# --- execute ----------------------------------------------------------------------------------------------


def test_execute_stores_outputs_times_and_versions(source, capsys):
    assert notebooks.main(["execute", "--folder", str(source.parent)]) == 0
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert cell(notebook, "print").outputs[0].text == "2\n"
    assert len(notebook.cells) == 4  # the cell that asks for versions is gone
    record = notebook.metadata.minisys_execution
    assert record["device"] == "cpu"
    assert record["versions"].keys() == {"python", "torch", "triton"}
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 0 < record["seconds"] < 60
    assert "execution" not in cell(notebook, "print").metadata
    assert sorted(path.name for path in source.parent.iterdir()) == ["01_small.ipynb", "01_small.py"]
    assert "3 code cells" in capsys.readouterr().out
    assert notebooks.main(["check", "--folder", str(source.parent)]) == 0

    before = source.with_suffix(".ipynb").read_bytes()
    assert notebooks.main(["execute", "--changed", "--folder", str(source.parent)]) == 0
    assert "up to date" in capsys.readouterr().out
    assert source.with_suffix(".ipynb").read_bytes() == before


def test_a_failing_notebook_leaves_the_old_one(pair, capsys):
    source, target = pair
    before = target.read_bytes()
    source.write_text(NOTEBOOK + "\n# %%\nraise RuntimeError('no luck')\n")
    assert notebooks.main(["execute", "--folder", str(source.parent)]) == 1
    assert "no luck" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_a_path_of_the_machine_is_refused(source, capsys):
    source.write_text("# %%\nimport sys\nprint(sys.prefix)\n")
    assert notebooks.main(["execute", "--folder", str(source.parent)]) == 1
    assert "its outputs name a path of this machine" in capsys.readouterr().err
    assert not source.with_suffix(".ipynb").exists()


def test_changed_sees_the_source_and_the_package(source, monkeypatch, tmp_path):
    root = tmp_path / "root"
    (root / "minisys").mkdir(parents=True)
    (root / "minisys" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(notebooks, "ROOT", root)
    monkeypatch.setattr(notebooks, "INPUTS", ("minisys",))
    first = notebooks.inputs_digest(source)
    (root / "minisys" / "__pycache__").mkdir()
    (root / "minisys" / "__pycache__" / "a.pyc").write_text("")
    assert notebooks.inputs_digest(source) == first
    (root / "minisys" / "a.py").write_text("x = 2\n")
    second = notebooks.inputs_digest(source)
    source.write_text(NOTEBOOK + "\n# %%\n1\n")
    assert len({first, second, notebooks.inputs_digest(source)}) == 3


def test_a_widget_number_is_not_stored():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    both, alone = output(data={**widget, "text/html": "<p>"}), output(data=widget)
    assert [list(one.data) for one in notebooks.lasting([both, alone])] == [["text/html"], list(widget)]


def test_sync_keeps_outputs_of_unchanged_cells(pair):
    source, target = pair
    source.write_text(NOTEBOOK.replace("1 + 1", "2 + 2") + "\n# %%\n7\n")
    assert notebooks.main(["sync", "--folder", str(source.parent)]) == 0
    notebook = nbformat.read(target, as_version=4)
    assert cell(notebook, "print").outputs[0].text == "2\n"
    assert cell(notebook, "device").execution_count is None
    assert "was not executed" in problems(pair)


def test_two_equal_cells_have_ids_of_their_own(source):
    source.write_text("# %%\n1\n\n# %%\n1\n")
    ids = [cell.id for cell in notebooks.read_source(source).cells]
    assert len(set(ids)) == 2
    assert ids == [cell.id for cell in notebooks.read_source(source).cells]


def test_unknown_source_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"got none\.py"):
        notebooks.main(["execute", "none.py", "--folder", str(tmp_path)])


# --- check ------------------------------------------------------------------------------------------------


def test_check_accepts_a_pair_in_step(pair):
    assert problems(pair) == ""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1 + 1", "1 + 2", "cell 2 differs from 01_small.py in its source"),
        ("# # A small", "# # A smaller", "cell 1 differs from 01_small.py in its source"),
        ("# %% [markdown]", "# %%", "in its kind"),
        ("nbval-ignore-output", "nbval-skip", "in its tags"),
        ('# %% tags=["nbval', '# %% mystnb={"image": {"alt": "x"}} tags=["nbval', "in its metadata"),
        ("time.time()\n", "time.time()\n\n# %%\n1\n", "has 4 cells, 01_small.py has 5"),
        ("1 + 1", "1 +", "01_small.py:6: is no valid Python"),
    ],
)
def test_check_finds_a_drifted_source(pair, old, new, expected):
    assert old in NOTEBOOK
    pair[0].write_text(NOTEBOOK.replace(old, new))
    assert expected in problems(pair)


def alone_source(pair):
    pair[1].unlink()


def alone_notebook(pair):
    pair[0].unlink()


def no_json(pair):
    pair[1].write_text(pair[1].read_text()[:100])


def no_notebook(pair):
    pair[1].write_text('{"cells": 3}')


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (alone_source, "01_small.py: has no 01_small.ipynb"),
        (alone_notebook, "01_small.ipynb: has no 01_small.py"),
        (no_json, "01_small.ipynb: cannot be read"),
        (no_notebook, "01_small.ipynb: cannot be read"),
    ],
)
def test_check_finds_a_broken_pair(pair, change, expected):
    change(pair)
    assert expected in "\n".join(notebooks.check_folder(pair[0].parent))
    assert notebooks.main(["check", "--folder", str(pair[0].parent)]) == 1


def test_check_wants_every_cell_run(pair):
    # nbval would run such a cell and compare nothing
    assert '`device = "cpu"` was not executed' in problems(
        pair, lambda notebook: cell(notebook, "device").update(execution_count=None)
    )


def test_check_wants_the_output_of_a_cell_that_shows_something(pair):
    found = problems(pair, lambda notebook: cell(notebook, "print").update(outputs=[]))
    assert found == "01_small.ipynb: the cell `print(total)` shows something and stores no output"


def test_check_wants_one_run_from_the_top(pair):
    found = problems(pair, lambda notebook: cell(notebook, "print").update(execution_count=7))
    assert "was not run from top to bottom" in found


def test_check_wants_the_record_of_the_run(pair):
    assert "how it was executed" in problems(
        pair, lambda notebook: notebook.metadata.pop("minisys_execution")
    )
    assert "how it was executed" in problems(
        pair, lambda notebook: notebook.metadata.update(minisys_execution={"seconds": 1})
    )


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (output(output_type="stream", name="stderr", text="warn"), "text of stderr"),
        (output(output_type="error", ename="KeyError", evalue="", traceback=[]), "the error KeyError"),
        (output(data={"image/png": "aaaa"}), "draws without alt text"),
    ],
)
def test_check_finds_outputs_that_do_not_belong(pair, stored, expected):
    assert expected in problems(pair, lambda notebook: cell(notebook, "print").outputs.append(stored))


def test_check_accepts_a_figure_with_alt_text(pair):
    def change(notebook):
        cell(notebook, "print").outputs.append(output(data={"image/png": "aaaa"}))
        cell(notebook, "print").metadata.mystnb = {"image": {"alt": "two bars"}}

    header = '# %% mystnb={"image": {"alt": "two bars"}}\nprint'
    pair[0].write_text(NOTEBOOK.replace("# %%\nprint", header))
    assert problems(pair, change) == ""


def test_check_finds_a_semicolon_that_nbval_does_not_honour(pair):
    pair[0].write_text(NOTEBOOK.replace("print(total)", "total;"))
    assert notebooks.main(["sync", "--folder", str(pair[0].parent)]) == 0
    found = problems(pair, lambda notebook: cell(notebook, "total;").update(execution_count=2))
    assert "ends in a semicolon" in found


def test_check_wants_tags_rather_than_comments(pair):
    pair[0].write_text(NOTEBOOK.replace("print(total)", "# NBVAL_SKIP\nprint(total)"))
    assert notebooks.main(["sync", "--folder", str(pair[0].parent)]) == 0
    found = problems(pair, lambda notebook: cell(notebook, "# NBVAL").update(execution_count=2))
    assert "steers nbval by a comment" in found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", True),
        ("x == 1", True),
        ("for i in y:\n    print(i)", False),  # nobody knows how often
        ("print(x)\ny = 1", True),
        ("x = 1", False),
        ("draw()", False),
        ("def f():\n    print(1)", False),
        ("%time x", False),
        ("# only a comment", False),
    ],
)
def test_shows_something(code, expected):
    assert notebooks.shows_something(code) is expected
