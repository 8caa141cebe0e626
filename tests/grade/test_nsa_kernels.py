"""The assignment on kernels of the selected branch tells right from wrong, and counts what kernels load."""

import importlib.util

import pytest
import torch

from minisys.core.seeds import generator_for
from minisys.grade import runner
from minisys.grade.assignment import load_topic
from minisys.grade.judge import made, matches
from minisys.grade.modules import load_module
from minisys.grade.selfcheck import self_check

SEED = 20250219
TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not TRITON, reason="needs Triton")


@pytest.fixture(scope="module")
def topic():
    return load_topic("nsa_kernels")


def grade(topic, folder, name):
    part = next(part for part in topic.parts if part.name == name)
    return runner.grade_part(topic, part, folder, SEED)


def test_solution_stub_and_wrong_answers(topic):
    said = []
    assert self_check(topic, SEED, said.append) == []
    assert len([line for line in said if "0 problems" in line]) == (4 if TRITON else 1), said


def test_every_mistake_makes_a_difference_in_some_case_and_is_planted(topic):
    wrong = load_module("nsa_kernels_wrong", topic.folder / "wrong.py").WRONG
    planted = {(one.part, one.mistake) for one in wrong}
    for part in topic.parts:
        cases = part.cases(generator_for(SEED, topic.name, part.name))
        arguments = [made(case.arguments, topic) for case in cases]
        expected = [part.expected(**one) for one in arguments]
        for mistake in part.mistakes:
            answers = [mistake.answer(**one) for one in arguments]
            differs = [not matches(a, e, part.tolerance) for a, e in zip(answers, expected, strict=True)]
            assert any(differs), (part.name, mistake.key)
            assert (part.name, mistake.key) in planted


def test_merged_lists_cost_what_a_count_by_hand_gives(topic):
    result = grade(topic, topic.folder / "solution", "lists")
    assert result.points == 20
    indices = load_selection(topic)
    for cost, tokens in zip(result.costs, (8, 16), strict=True):
        tiles = [set(tile.flatten().tolist()) - {-1} for tile in indices.split(tokens)]
        assert cost["value"] == sum(map(len, tiles)) / len(indices)
        assert cost["beside"]["alone"] == int((indices >= 0).sum()) / len(indices)


def load_selection(topic):
    parts = load_module("nsa_kernels_parts", topic.folder / "parts.py", package=True)
    return parts.real_selection(**parts.REAL)[3]


@needs_triton
def test_the_packed_kernel_loads_what_its_tiles_need_and_larger_tiles_load_less(topic):
    result = grade(topic, topic.folder / "solution", "packed")
    assert result.points == 30, result
    loads, products = result.costs[::2], result.costs[1::2]
    # A tile of one token needs its visible keys; a larger one loads its own blocks up to its last token.
    assert loads[0]["value"] == loads[0]["beside"]["what a tile cannot do without"]
    assert loads[0]["value"] > 4 * loads[1]["value"] > 4 * loads[2]["value"]
    useful = {cost["beside"]["of rows that see the key"] for cost in products}
    assert len(useful) == 1  # whatever the tile
    assert all(cost["value"] > useful.copy().pop() for cost in products)
    # 2·(32 + 32) FLOPs for 16 rows and 16 keys of every block that one token reads
    indices = load_selection(topic)
    assert products[0]["value"] == 2 * 64 * 16 * 16 * int((indices >= 0).sum()) / len(indices)


@needs_triton
def test_what_a_kernel_reads_from_a_copy_is_not_what_the_part_asks_for(topic, tmp_path):
    source = (topic.folder / "solution" / "selected_kernels.py").read_text()
    launch = "selected_kernel[(t * hk,)](\n        q, k, v,"
    assert source.count(launch) == 1
    (tmp_path / "selected_kernels.py").write_text(
        source.replace(launch, launch.replace("q, k, v,", "q, k.clone(), v,"))
    )
    result = grade(topic, tmp_path, "selected")
    assert (result.status, result.mistake) == ("wrong", "no-kernel")


@needs_triton
def test_an_access_outside_of_the_tensors_names_tensor_and_line(topic, tmp_path):
    source = (topic.folder / "solution" / "selected_kernels.py").read_text()
    edited = source.replace("in_tile = (member < TOKENS) & (own < t)", "in_tile = member < TOKENS")
    (tmp_path / "selected_kernels.py").write_text(edited)
    result = grade(topic, tmp_path, "packed")
    assert result.status == "raised"
    assert result.says.startswith("IndexError was raised in line ")
    assert "rows_q = tl.load(" in result.says
    assert "after the end of q" in result.came


@pytest.mark.parametrize(
    "source",
    [
        "from minisys.nsa.kernels.lists import merged_lists as merge_lists\n",
        "from minisys.nsa import NSAConfig\n",
    ],
    ids=["kernels", "package"],
)
def test_nothing_of_the_package_is_to_be_had(topic, tmp_path, source):
    (tmp_path / "merged_lists.py").write_text(source)
    result = grade(topic, tmp_path, "lists")
    assert (result.status, result.points) == ("refused", 0)


def test_the_counts_beside_the_cost_are_those_of_plain_loops(topic):
    selections = load_module("nsa_kernels_selections", topic.folder / "selections.py", package=True)
    generator = torch.Generator().manual_seed(SEED)
    t, hk, n, block, tokens, g, d_qk, d_v = 11, 2, 3, 4, 3, 2, 8, 6
    indices = selections.draw_blocks(generator, t, hk, n, block)
    pairs = {
        (head, token, key)
        for head in range(hk)
        for token in range(t)
        for key in range(token + 1)
        if key // block in indices[token, head].tolist()
    }
    shared = {(head, token // tokens, key) for head, token, key in pairs}
    steps = selections.code_steps(selections.merged(indices, tokens), tokens, block, t)
    need = selections.least(steps, tokens, g, d_qk, d_v)
    assert need == {
        "k": 4 * d_qk * len(shared), "v": 4 * d_v * len(shared), "flops": 2 * (d_qk + d_v) * g * len(pairs),
    }  # fmt: skip
