"""Expansion and organization: hand-worked cases, and the fast path against networkx on random graphs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisys.kgrag.expansion import GraphIndex, expand
from minisys.kgrag.graph import expand_reference, knowledge_graph, organize_reference
from minisys.kgrag.organization import organize
from minisys.kgrag.types import Graph


def make_graph(triples: list[tuple[int, int, int]], entities: int, chunks: int) -> Graph:
    columns = np.array(triples, np.int32).reshape(-1, 3)
    return Graph(
        entities=[f"e{i}" for i in range(entities)],
        relations=[f"r{i}" for i in range(len(triples))],
        heads=columns[:, 0].copy(),
        tails=columns[:, 1].copy(),
        chunks=columns[:, 2].copy(),
        num_chunks=chunks,
    )


def trees(graph: Graph, triples, weights) -> list[tuple[list[int], int]]:
    forest = organize(GraphIndex(graph), np.asarray(triples, np.int64), np.asarray(weights, np.float64))
    return [(forest.tree(i).tolist(), int(forest.roots[i])) for i in range(len(forest))]


@st.composite
def specs(draw):
    """Few entities for many triples: self-loops, parallel edges and chunks that say the same are frequent."""
    entities, chunks = draw(st.integers(1, 12)), draw(st.integers(1, 10))
    ends = st.integers(0, entities - 1)
    triples = draw(st.lists(st.tuples(ends, ends, st.integers(0, chunks - 1)), max_size=40))
    if triples and draw(st.booleans()):  # a chunk that repeats another one's triples
        source, copy = triples[0][2], draw(st.integers(0, chunks - 1))
        triples += [(head, tail, copy) for head, tail, chunk in triples if chunk == source]
    return triples, entities, chunks


@settings(max_examples=150, deadline=None)
@given(spec=specs(), data=st.data())
def test_expansion_equals_networkx(spec, data):
    graph = make_graph(*spec)
    seeds = data.draw(st.lists(st.integers(0, graph.num_chunks - 1), max_size=4))
    hops = data.draw(st.integers(0, 4))
    expected = expand_reference(knowledge_graph(graph), seeds, hops)
    assert expand(GraphIndex(graph), seeds, hops).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(spec=specs(), data=st.data())
def test_organization_equals_networkx(spec, data):
    graph = make_graph(*spec)
    # Weights from three values: ties between chunks as well as within them.
    of_chunk = data.draw(
        st.lists(st.sampled_from([-0.25, 0.5, 0.75]), min_size=graph.num_chunks, max_size=graph.num_chunks)
    )
    weights = np.array(of_chunk)[graph.chunks]
    chosen = [i for i in range(len(weights)) if data.draw(st.integers(0, 3))]
    chosen = data.draw(st.permutations(chosen))
    assert trees(graph, chosen, weights[chosen]) == organize_reference(
        graph, chosen, weights[chosen].tolist()
    )


@pytest.mark.parametrize("seed", range(3))
def test_larger_graphs_equal_networkx(seed):
    random = np.random.default_rng(seed)
    entities, chunks, count = 300, 200, 900
    ends = (entities * random.random((count, 2)) ** 3).astype(int)  # hubs
    columns = np.column_stack([ends, random.integers(0, chunks, count)])
    graph = make_graph([tuple(row) for row in columns.tolist()], entities, chunks)
    index, seeds = GraphIndex(graph), random.integers(0, chunks, 5)
    for hops in range(3):
        expanded = expand(index, seeds, hops)
        assert expanded.tolist() == expand_reference(knowledge_graph(graph), seeds.tolist(), hops)
        weights = random.random(chunks).astype(np.float32)[graph.chunks[expanded]]
        assert trees(graph, expanded, weights) == organize_reference(
            graph, expanded.tolist(), weights.tolist()
        )


def test_expansion_by_hand():
    # 0 -a- 1 -b- 2 -c- 3 -d- 4, chunk i states triple i; 5 stands alone.
    graph = make_graph([(0, 1, 0), (1, 2, 1), (2, 3, 2), (3, 4, 3)], entities=6, chunks=5)
    index = GraphIndex(graph)
    assert expand(index, [0], 0).tolist() == [0]
    assert expand(index, [0], 1).tolist() == [0, 1]
    assert expand(index, [3], 1).tolist() == [2, 3]  # against the direction of the triple
    assert expand(index, [0], 3).tolist() == [0, 1, 2, 3]
    assert expand(index, [4], 3).tolist() == []  # a chunk without triples
    assert expand(index, [], 3).tolist() == []


def test_expansion_takes_edges_between_reached_entities():
    # A triangle: from chunk 0 (entities 0, 1) one hop reaches 2 and 3, and the edge between those counts.
    graph = make_graph([(0, 1, 0), (1, 2, 1), (0, 3, 2), (2, 3, 3), (3, 4, 4)], entities=5, chunks=5)
    assert expand(GraphIndex(graph), [0], 1).tolist() == [0, 1, 2, 3]


def test_the_heavier_way_around_a_circle_stays():
    graph = make_graph([(0, 1, 0), (1, 2, 1), (2, 0, 2)], entities=3, chunks=3)
    assert trees(graph, [0, 1, 2], [0.9, 0.1, 0.5]) == [([0, 2], 0)]


def test_order_is_depth_first_and_heavier_first():
    # Root: head of the heaviest triple (1). Its edges: to 0 (0.9), then to 4 (0.3): 0's subtree first.
    graph = make_graph([(1, 0, 0), (0, 2, 1), (0, 3, 2), (1, 4, 3), (7, 8, 4)], entities=9, chunks=5)
    weights = [0.9, 0.1, 0.2, 0.3, 0.8]
    assert trees(graph, [0, 1, 2, 3, 4], weights) == [([0, 2, 1, 3], 1), ([4], 7)]


def test_of_equal_weights_the_lower_number_comes_first():
    graph = make_graph([(0, 1, 0), (1, 0, 1), (0, 1, 2)], entities=2, chunks=3)
    assert trees(graph, [2, 1, 0], [0.5, 0.5, 0.5]) == [([0], 0)]
    assert trees(graph, [2, 1], [0.5, 0.5]) == [([1], 1)]


def test_triples_to_itself_are_in_no_tree():
    graph = make_graph([(0, 0, 0), (1, 1, 1), (1, 2, 1)], entities=3, chunks=2)
    assert trees(graph, [0, 1, 2], [0.9, 0.9, 0.1]) == [([2], 1)]
    assert trees(graph, [0], [0.9]) == []
    assert trees(graph, [], []) == []


def test_deep_trees_need_no_recursion():
    count = 3000
    graph = make_graph([(i, i + 1, i) for i in range(count)], entities=count + 1, chunks=count)
    weights = np.linspace(1, 0, count)
    assert trees(graph, range(count), weights) == [(list(range(count)), 0)]
    assert organize_reference(graph, range(count), weights.tolist()) == [(list(range(count)), 0)]


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(
    ("seeds", "hops", "message"),
    [([5], 1, "seeds"), ([-1], 1, "seeds"), ([0], -1, "hops: got -1"), ([0], 1.5, "hops: got 1.5")],
)
def test_bad_arguments_of_expand(seeds, hops, message):
    index = GraphIndex(make_graph([(0, 1, 0)], entities=2, chunks=5))
    with pytest.raises(ValueError, match=message):
        expand(index, seeds, hops)


@pytest.mark.usefixtures("no_runtime_types")
def test_bad_arguments_of_organize():
    index = GraphIndex(make_graph([(0, 1, 0), (0, 1, 0)], entities=2, chunks=1))
    with pytest.raises(ValueError, match="weights: got a NaN"):
        organize(index, np.array([0, 1]), np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="weights: got shape"):
        organize(index, np.array([0, 1]), np.array([0.5]))


@pytest.mark.parametrize(
    ("triples", "field"), [([(0, 2, 0)], "tails"), ([(-1, 1, 0)], "heads"), ([(0, 1, 1)], "chunks")]
)
def test_a_graph_that_points_outside_is_refused(triples, field):
    with pytest.raises(ValueError, match=f"graph.{field}: got"):
        GraphIndex(make_graph(triples, entities=2, chunks=1))
