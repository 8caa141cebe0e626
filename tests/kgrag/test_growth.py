"""Scores along paths and growth of a context, by hand and against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisys.kgrag.expansion import GraphIndex
from minisys.kgrag.growth import EDGE, grow, shared_rarity
from minisys.kgrag.paths import entity_rarity, link_scores, path_scores
from minisys.kgrag.types import Graph


def make_graph(triples: list[tuple[int, int, int]], entities: int, chunks: int) -> Graph:
    columns = np.array(triples, np.int32).reshape(-1, 3)
    names, relations = [f"e{i}" for i in range(entities)], ["r"] * len(triples)
    return Graph(names, relations, *(column.copy() for column in columns.T), chunks)


def entities_of(graph: Graph, chunk: int) -> set[int]:
    rows = zip(graph.heads.tolist(), graph.tails.tolist(), graph.chunks.tolist(), strict=True)
    return {end for head, tail, owner in rows if owner == chunk for end in (head, tail)}


TRIPLES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 5)), max_size=20)


def test_rarity_by_hand():
    # Entity 0 is in chunks 0, 1, 2 and 3, entity 1 in chunk 0 alone (twice), entity 5 nowhere.
    graph = make_graph([(0, 1, 0), (1, 0, 0), (0, 2, 1), (0, 3, 2), (0, 4, 3)], entities=6, chunks=4)
    rarity = entity_rarity(GraphIndex(graph))
    np.testing.assert_allclose(rarity, [0, 1, 1, 1, 1, 1])
    graph = make_graph([(0, 1, 0), (0, 2, 1)], entities=3, chunks=16)
    np.testing.assert_allclose(entity_rarity(GraphIndex(graph))[0], 1 - math.log(2) / math.log(16))


@settings(max_examples=100, deadline=None)
@given(triples=TRIPLES, data=st.data())
def test_links_equal_their_formula(triples, data):
    graph = make_graph(triples, entities=8, chunks=6)
    index = GraphIndex(graph)
    rarity = entity_rarity(index)
    seeds = data.draw(st.lists(st.integers(0, 5), unique=True, max_size=4))
    similarities = np.array([0.9, 0.5, 0.5, -0.1])[: len(seeds)]
    chunks = data.draw(st.lists(st.integers(0, 5), unique=True, max_size=6))
    expected = [
        max(
            [
                max(similarity, 0) * rarity[entity]
                for seed, similarity in zip(seeds, similarities, strict=True)
                if seed != chunk
                for entity in entities_of(graph, seed) & entities_of(graph, chunk)
            ],
            default=0,
        )
        for chunk in chunks
    ]
    found = link_scores(index, rarity, np.array(seeds, np.int64), similarities, np.array(chunks, np.int64))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(triples=TRIPLES)
def test_shared_rarity_equals_its_definition(triples):
    graph = make_graph(triples, entities=8, chunks=6)
    index = GraphIndex(graph)
    rarity, chunks = entity_rarity(index), np.array([4, 0, 5, 2])
    expected = [
        [
            max((rarity[e] for e in entities_of(graph, a) & entities_of(graph, b)), default=0) * (a != b)
            for b in chunks
        ]
        for a in chunks
    ]
    np.testing.assert_allclose(shared_rarity(index, rarity, chunks), expected, rtol=1e-12)


def test_a_linked_chunk_beats_a_similar_one():
    scores = path_scores(np.array([0.5, 0.6]), np.array([0.0, 0.0]), np.array([0.9, 0.0]))
    np.testing.assert_allclose(scores, [0.77, 0.6])


def test_growth_follows_the_edge_to_what_was_chosen():
    base, none = np.array([0.9, 0.5, 0.6]), np.zeros(3)
    assert grow(base, none, np.zeros((3, 3)), 3)[0].tolist() == [0, 2, 1]
    shared = np.zeros((3, 3))
    shared[0, 1] = shared[1, 0] = 1.0  # 1 is a neighbour of 0
    places, gains = grow(base, none, shared, 3)
    assert places.tolist() == [0, 1, 2]
    np.testing.assert_allclose(gains, [0.9, 0.5 + EDGE, 0.6])


def test_growth_prefers_what_explains_the_rest_of_the_question():
    # 0 and 1 explain the first token, 2 the second one; by their means the order is 0, 1, 2.
    likelihoods = np.array([[-1.0, -9.0], [-1.5, -9.0], [-9.0, -2.0]])
    none = np.zeros(3)
    assert np.argsort(-likelihoods.mean(axis=1)).tolist() == [0, 1, 2]
    places, gains = grow(none, none, np.zeros((3, 3)), 3, likelihoods)
    assert places.tolist() == [0, 2, 1]
    np.testing.assert_allclose(gains, [4.0, 3.5, 0.0])


def test_growth_takes_the_earlier_of_equals_and_stops():
    ones, nothing = np.ones(4), np.zeros(4)
    assert grow(ones, nothing, np.zeros((4, 4)), 2)[0].tolist() == [0, 1]
    assert grow(ones, nothing, np.zeros((4, 4)), 9)[0].tolist() == [0, 1, 2, 3]
    assert grow(np.zeros(0), np.zeros(0), np.zeros((0, 0)), 3)[0].tolist() == []


@pytest.mark.usefixtures("no_runtime_types")
def test_bad_arguments_of_growth():
    ones, square = np.ones(2), np.zeros((2, 2))
    with pytest.raises(ValueError, match="k: got 0"):
        grow(ones, ones, square, 0)
    with pytest.raises(ValueError, match="links: got shape"):
        grow(ones, np.ones(3), square, 1)
    with pytest.raises(ValueError, match="shared: got shape"):
        grow(ones, ones, np.zeros((3, 3)), 1)
    with pytest.raises(ValueError, match="log_likelihoods: got shape"):
        grow(ones, ones, square, 1, np.zeros((2, 0)))
