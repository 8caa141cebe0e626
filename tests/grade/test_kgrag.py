"""The assignment on retrieval guided by a knowledge graph tells right from wrong."""

import importlib.util

import numpy as np
import pytest

from minisys.core.seeds import generator_for
from minisys.grade import runner
from minisys.grade.assignment import load_topic
from minisys.grade.judge import judge, made, matches
from minisys.grade.modules import load_module
from minisys.grade.selfcheck import edited, self_check
from minisys.grade.worker import Worker

SEED = 20250206
pytestmark = pytest.mark.skipif(importlib.util.find_spec("networkx") is None, reason="needs networkx")

# Another way to the same trees: Prim's algorithm, from each entity that no tree has reached.
PRIM = """
import heapq

def spanning_trees(triples, weights):
    edges = {}
    for triple, weight in zip(triples, weights):
        for near, far in ((triple.head, triple.tail), (triple.tail, triple.head)):
            edges.setdefault(near, []).append((-weight, triple.number, far))
    reached, trees = set(), []
    for root in edges:
        if root in reached:
            continue
        reached.add(root)
        heap, tree = list(edges[root]), []
        heapq.heapify(heap)
        while heap:
            weight, number, far = heapq.heappop(heap)
            if far not in reached:
                reached.add(far)
                tree.append((weight, number))
                for edge in edges[far]:
                    heapq.heappush(heap, edge)
        if tree:
            trees.append((min(tree), sorted(number for _, number in tree)))
    return [tree for _, tree in sorted(trees)]
"""
# A right answer that goes through all triples again for every triple that it keeps.
SLOW = """
def spanning_trees(triples, weights):
    left = sorted(zip(weights, triples), key=lambda pair: (-pair[0], pair[1].number))
    groups = []
    for weight, triple in left:
        if triple.head == triple.tail:
            continue
        at_head = [group for group in groups for other in group if triple.head in (other.head, other.tail)]
        at_tail = [group for group in groups for other in group if triple.tail in (other.head, other.tail)]
        one, other = at_head[0] if at_head else [], at_tail[0] if at_tail else []
        if one is other and one:
            continue
        groups = [group for group in groups if group is not one and group is not other]
        groups.append(one + other + [triple])
    weight_of = {triple.number: (-weight, triple.number) for weight, triple in zip(weights, triples)}
    numbers = [sorted(triple.number for triple in group) for group in groups]
    return sorted(numbers, key=lambda group: min(weight_of[number] for number in group))
"""


@pytest.fixture(scope="module")
def kgrag():
    return load_topic("kgrag")


@pytest.fixture(scope="module")
def parts(kgrag):
    return {part.name: part for part in kgrag.parts}


@pytest.fixture(scope="module")
def wrong(kgrag):
    return load_module("kgrag_wrong", kgrag.folder / "wrong.py").WRONG


def submitted(tmp_path, source):
    (tmp_path / "kgrag_assignment.py").write_text(source, encoding="utf-8")
    return tmp_path


def test_solution_stub_and_wrong_answers(kgrag):
    said = []
    assert self_check(kgrag, SEED, said.append) == []
    assert len([line for line in said if "0 problems" in line]) == 4, said


def test_the_solution_gets_full_points_and_its_costs_are_exact(kgrag):
    report = runner.grade_submission(kgrag, kgrag.folder / "solution", seed=SEED, jobs=2)
    assert (report.score, report.out_of) == (100, 100)
    assert not [note for part in report.parts for note in part.notes]
    costs = {part.name: part.costs for part in report.parts}
    looked_up, found = costs["expansion"]
    assert looked_up["value"] == looked_up["beside"]["each seed and reached entity once"]
    assert found["beside"]["with hops=0"] < found["value"] < found["beside"]["with hops=2"]
    for name in ("trees", "order"):
        assert 3.5 < costs[name][0]["value"] < 5.5
    read, words = costs["context"]
    assert read["value"] == read["beside"]["the budget"] < read["beside"]["all chunks found"]
    assert words["value"] < words["beside"]["in all chunks found"]


def test_every_mistake_makes_a_difference_in_some_case(kgrag):
    """Else it could never be recognised. And a mistake's answer is computed wherever it applies."""
    for part in kgrag.parts:
        cases = part.cases(generator_for(SEED, kgrag.name, part.name))
        expected = [part.expected(**made(case.arguments, kgrag)) for case in cases]
        for mistake in part.mistakes:
            answers = [mistake.answer(**made(case.arguments, kgrag)) for case in cases]
            differs = [not matches(a, e, part.tolerance) for a, e in zip(answers, expected, strict=True)]
            assert any(differs), (part.name, mistake.key)


def test_every_mistake_is_planted(kgrag, wrong):
    planted = {(one.part, one.mistake) for one in wrong}
    for part in kgrag.parts:
        assert {(part.name, mistake.key) for mistake in part.mistakes} <= planted
        assert sum(one.part == part.name for one in wrong) >= len(part.mistakes)


def test_the_right_answers_are_those_of_the_course(kgrag, parts):
    """What the assignment holds right, from networkx, against the arrays that retrieval uses."""
    from minisys.kgrag.expansion import GraphIndex, expand
    from minisys.kgrag.organization import organize

    from_rows = load_module("kgrag_given", kgrag.folder / "given.py").triples
    oracle = load_module("kgrag_oracle", kgrag.folder / "oracle.py")
    for case in parts["expansion"].cases(generator_for(SEED, "expansion")):
        graph = oracle.as_graph(from_rows(case.arguments["in_chunk"].values[0]))
        seeds = [seed for seed in case.arguments["seeds"] if seed < graph.num_chunks]
        triples = expand(GraphIndex(graph), seeds, case.arguments["hops"]).tolist()
        chunks = sorted({*case.arguments["seeds"], *graph.chunks[triples].tolist()})
        assert parts["expansion"].expected(**made(case.arguments, kgrag)) == [triples, chunks]
    for case in parts["trees"].cases(generator_for(SEED, "trees")):
        given = made(case.arguments, kgrag)
        order = sorted(range(len(given["triples"])), key=lambda i: given["triples"][i].number)
        graph = oracle.as_graph(given["triples"])
        weights = np.array([given["weights"][i] for i in order])
        forest = organize(GraphIndex(graph), np.arange(len(order)), weights)
        found = [[given["triples"][order[i]].number for i in forest.tree(n)] for n in range(len(forest))]
        assert parts["trees"].expected(**given) == [sorted(tree) for tree in found]


@pytest.mark.parametrize("source", [PRIM, SLOW], ids=["prim", "slow"])
def test_other_right_answers_pass_and_the_cost_tells_them_apart(kgrag, parts, tmp_path, source):
    result = runner.grade_part(kgrag, parts["trees"], submitted(tmp_path, source), SEED)
    assert (result.status, result.says, result.notes) == ("passed", "", [])
    grows = result.costs[0]["value"]
    assert (3.5 < grows < 5.5) if source is PRIM else (grows > 12)


def test_looking_up_again_shows_in_the_cost(kgrag, parts, tmp_path):
    solution = (kgrag.folder / "solution" / "kgrag_assignment.py").read_text(encoding="utf-8")
    once = "found = {entity: at_entity(entity) for entity in frontier}"
    assert solution.count(once) == 1
    again = solution.replace(once, once.replace("frontier}", "frontier | reached.keys()}"))
    result = runner.grade_part(kgrag, parts["expansion"], submitted(tmp_path, again), SEED)
    assert result.status == "passed"
    assert result.costs[0]["value"] > result.costs[0]["beside"]["each seed and reached entity once"]


def test_a_library_is_found_out_where_it_is_hidden(kgrag, parts, wrong, tmp_path):
    """Its result is right; calling it by another name or out of another file makes no difference."""
    solution = (kgrag.folder / "solution" / "kgrag_assignment.py").read_text(encoding="utf-8")
    (planted,) = [one for one in wrong if (one.part, one.mistake) == ("trees", "ready-made")]
    source = edited(solution, planted).replace("    import networkx\n", "    networkx = load('networkx')\n")
    (tmp_path / "others.py").write_text("from importlib import import_module as load\n", encoding="utf-8")
    folder = submitted(tmp_path, source.replace("from typing", "from others import load\nfrom typing"))
    result = runner.grade_part(kgrag, parts["trees"], folder, SEED)
    assert (result.status, result.points, result.mistake) == ("wrong", 0, "ready-made")


@pytest.mark.parametrize(
    "source",
    [
        "from minisys.kgrag.graph import expand_reference as expand\n",
        "from importlib import import_module\n"
        "try: m = import_module('minisys.kgrag.expansion')\nexcept ImportError: pass\n"
        "def expand(seeds, in_chunk, at_entity, hops): return m.expand(seeds, hops)\n",
        "from minisys.kgrag import expand\n",
    ],
    ids=["import", "importlib", "package"],
)
def test_the_reference_is_not_to_be_had(kgrag, parts, tmp_path, source):
    result = runner.grade_part(kgrag, parts["expansion"], submitted(tmp_path, source), SEED)
    assert (result.status, result.points) == ("refused", 0)
    assert "which holds the solution" in result.says


def test_other_results_than_asked_for_are_wrong_and_shown(kgrag, parts, tmp_path):
    part = parts["expansion"]
    bodies = {
        "return [1, 2]": ("wrong", "[1, 2]"),
        "return None": ("wrong", "None"),
        "return {1}, {2}": ("wrong", "set"),
        "return at_entity(1)[0]": ("raised", "list index out of range"),
    }
    with Worker(kgrag, part, tmp_path) as worker:
        for body, (status, came) in bodies.items():
            submitted(tmp_path, f"def expand(seeds, in_chunk, at_entity, hops):\n    {body}\n")
            result = judge(worker, kgrag, part, str(tmp_path / part.file), SEED)
            assert (result.status, result.came) == (status, came)


def test_a_message_shows_the_graph_and_names_the_mistake(kgrag, parts, wrong, tmp_path):
    solution = (kgrag.folder / "solution" / "kgrag_assignment.py").read_text(encoding="utf-8")
    minimum = next(one for one in wrong if one.mistake == "minimum")
    result = runner.grade_part(
        kgrag, parts["trees"], submitted(tmp_path, edited(solution, minimum)), seed=SEED
    )
    assert "number:head-tail/chunk=weight" in result.tried
    assert result.looks_like.startswith("These are minimum spanning trees")
    assert result.came != result.expected
