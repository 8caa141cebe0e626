"""The assignment on native sparse attention tells right from wrong, and its solution is not to be had."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minisys
from minisys.core.seeds import generator_for
from minisys.grade import runner
from minisys.grade.assignment import load_topic
from minisys.grade.judge import judge, made, matches
from minisys.grade.modules import load_module
from minisys.grade.selfcheck import self_check
from minisys.grade.worker import Worker

SEED = 20250219
TRITON = importlib.util.find_spec("triton") is not None


@pytest.fixture(scope="module")
def nsa():
    return load_topic("nsa")


def test_solution_stub_and_wrong_answers(nsa):
    said = []
    assert self_check(nsa, SEED, said.append) == []
    checked = [line for line in said if "0 problems" in line]
    assert len(checked) == (5 if TRITON else 4), said


def test_the_solution_gets_full_points_and_its_costs_are_exact(nsa):
    report = runner.grade_submission(nsa, nsa.folder / "solution", seed=SEED, jobs=2)
    assert (report.score, report.out_of, report.bonus) == (100, 100, 20 if TRITON else 0)
    costs = {part.name: part.costs[0] for part in report.parts if part.costs}
    assert costs["selection"]["value"] == costs["selection"]["beside"]["as the paper has it"]
    # three branches, hidden or not: 2·(d_qk + d_v)·hq FLOPs for each of 23 + 96 + 96 keys
    assert costs["gating"]["value"] == 2 * 16 * 4 * (23 + 96 + 96)
    if TRITON:
        assert costs["kernel"]["value"] == costs["kernel"]["beside"]["keys and values once a group"]


def test_every_mistake_makes_a_difference_in_some_case(nsa):
    """Else it could never be recognised. And a mistake's answer is computed wherever it applies."""
    for part in nsa.parts:
        cases = part.cases(generator_for(SEED, nsa.name, part.name))
        arguments = [made(case.arguments, nsa) for case in cases]
        expected = [part.expected(**one) for one in arguments]
        for mistake in part.mistakes:
            answers = [mistake.answer(**one) for one in arguments]
            differs = [not matches(a, e, part.tolerance) for a, e in zip(answers, expected, strict=True)]
            assert any(differs), (part.name, mistake.key)


def test_every_mistake_is_planted(nsa):
    wrong = load_module("nsa_wrong", nsa.folder / "wrong.py").WRONG
    planted = {(one.part, one.mistake) for one in wrong}
    for part in nsa.parts:
        assert {(part.name, mistake.key) for mistake in part.mistakes} <= planted


@pytest.mark.parametrize(
    "source",
    [
        "from minisys.nsa.reference import top_blocks as select_blocks\n",
        "from importlib import import_module\n"
        "try: m = import_module('minisys.nsa.reference')\nexcept ImportError: pass\n"
        "def select_blocks(importance, config): return m.top_blocks(importance, config)\n",
        "from minisys.nsa import select_blocks\n",
        "import minisys.nsa.kernels\n",
    ],
    ids=["import", "importlib", "package", "kernels"],
)
def test_the_reference_is_not_to_be_had(nsa, tmp_path, source):
    (tmp_path / "nsa_assignment.py").write_text(source)
    part = next(part for part in nsa.parts if part.name == "selection")
    result = runner.grade_part(nsa, part, tmp_path, SEED)
    assert (result.status, result.points) == ("refused", 0)
    assert "which holds the solution" in result.says


def test_other_results_than_a_tensor_are_named(nsa, tmp_path):
    part = next(part for part in nsa.parts if part.name == "importance")
    bodies = {
        "return [1, 2]": ("A result is no tensor.", "a list"),
        "return p_cmp": ("A result has the wrong shape.", "shape (2, 2, 3, 37, 8)"),
        "return p_cmp.sum().numpy()": ("returned something that is no tensor", "ndarray"),
        "p_cmp.zero_()": ("changed its argument p_cmp in place", "a changed p_cmp"),
    }
    with Worker(nsa, part, tmp_path) as worker:
        for body, (says, came) in bodies.items():
            file = tmp_path / part.file
            file.write_text(f"def block_importance(p_cmp, config):\n    {body}\n")
            result = judge(worker, nsa, part, str(file), SEED)
            assert result.status == "wrong"
            assert says in result.says
            assert came in result.came


def test_an_installed_wheel_finds_the_assignment(nsa, tmp_path):
    package = Path(minisys.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "bench", "viz")
    shutil.copytree(package, tmp_path / "minisys", ignore=ignore)
    shutil.copytree(nsa.folder.parent, tmp_path / "minisys" / "_data" / "assignments", ignore=ignore)
    handout = tmp_path / "minisys" / "_data" / "assignments" / "nsa" / "handout"
    words = [
        sys.executable,
        "-m",
        "minisys.grade",
        "nsa",
        "--submission",
        str(handout),
        "--part",
        "selection",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "select_blocks in nsa_assignment.py still raises NotImplementedError." in done.stdout
