"""Retrieval by name on a small corpus with one two-hop question, and refusals."""

import numpy as np
import pytest

from minisys.kgrag.assembly import Tree, fill, triple_string
from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.expansion import GraphIndex
from minisys.kgrag.pagerank import PageRankIndex, start_weights
from minisys.kgrag.paths import entity_rarity
from minisys.kgrag.released import ReleasedIndex, entities_in_question, released_expansion
from minisys.kgrag.retrieve import METHODS, Retriever, retrieve
from minisys.kgrag.types import Chunk, Corpus, Graph

QUESTION = "In which city does the publisher of the Journal of Harbour Studies sit?"
FACTS = [  # document, sentence, triples
    ("Journal of Harbour Studies", "The Journal of Harbour Studies has the publisher Vintner Press.",
     [("Journal of Harbour Studies", "has publisher", "Vintner Press")]),
    ("Vintner Press", "Vintner Press was founded by two printers and is in Oldmere.",
     [("Vintner Press", "is in", "Oldmere"), ("Vintner Press", "was founded by", "two printers")]),
    ("Journal of Rivers", "The Journal of Rivers is the journal of a publisher of journals.",
     [("Journal of Rivers", "is", "journal")]),
    ("Journal of Lakes", "In which city the Journal of Lakes has its publisher is not known.",
     [("Journal of Lakes", "has", "publisher")]),
    ("Oldmere", "Oldmere has a harbour.", [("Oldmere", "has", "harbour")]),
    ("Tides", "Tides come and go.", []),
]  # fmt: skip


def make_corpus() -> Corpus:
    chunks = [Chunk(document, text, 0, len(text), 0) for document, text, _ in FACTS]
    names: dict[str, int] = {}
    rows = [(head, relation, tail, chunk) for chunk, (_, _, triples) in enumerate(FACTS)
            for head, relation, tail in triples]  # fmt: skip
    heads = [names.setdefault(row[0], len(names)) for row in rows]
    tails = [names.setdefault(row[2], len(names)) for row in rows]
    numbers = [np.array(x, np.int32) for x in (heads, tails, [row[3] for row in rows])]
    graph = Graph(list(names), [row[1] for row in rows], *numbers, len(chunks))
    return Corpus(chunks, HashingEmbedder(64)([chunk.text for chunk in chunks]), graph)


class WordReranker:
    """Counts words of the question in the text."""

    name = "words"

    def __call__(self, question: str, texts: list[str]) -> np.ndarray:
        words = set(question.lower().split())
        return np.array([len(words & set(text.lower().split())) for text in texts], np.float32)


class HalfLikelihood(WordReranker):
    """Of two tokens the journal explains the first and the press the second, others a little of both."""

    def token_log_likelihoods(self, question: str, texts: list[str]) -> np.ndarray:
        explained = {"Journal of Harbour": [-1.0, -9.0], "Vintner Press: Vin": [-9.0, -1.0]}
        return np.array([explained.get(text[:18], [-4.9, -4.9]) for text in texts], np.float32)


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return Retriever(make_corpus(), HashingEmbedder(64), WordReranker())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_budget(retriever, method):
    for k in (1, 3, 50):
        evidence = retriever.retrieve(QUESTION, method, k=k, num_seeds=2)
        assert 0 < len(evidence.chunks) <= min(k, len(FACTS))
        assert len(set(evidence.chunks)) == len(evidence.chunks) == len(evidence.scores)
        assert set(evidence.chunks) <= set(evidence.found.tolist())
        assert evidence.chunks == retriever.retrieve(QUESTION, method, k=k, num_seeds=2).chunks


@pytest.mark.parametrize("method", ["kg2rag-paper", "kg2rag-released", "kg2rag", "pagerank"])
def test_the_second_hop_is_found_over_the_graph(retriever, method):
    assert 1 not in retriever.retrieve(QUESTION, "dense", k=1).chunks
    assert {0, 1} <= set(retriever.retrieve(QUESTION, method, k=4, num_seeds=1).found.tolist())


def test_expansion_and_organization_can_be_left_out(retriever):
    def found(**settings):
        return retriever.retrieve(QUESTION, "kg2rag", num_seeds=1, **settings)

    seed = retriever.retrieve(QUESTION, "dense", k=1).chunks[0]
    assert seed == 0
    assert found(expansion=False).chunks == (0,)
    assert found(hops=1).found.tolist() == [0, 1]
    assert found(hops=2).found.tolist() == [0, 1, 4]
    assert found(organization=False).trees == ()
    assert found().trees[0].chunks == (0, 1)


def test_growth_uses_likelihoods_by_token():
    retriever = Retriever(make_corpus(), HashingEmbedder(64), HalfLikelihood())
    alone = retriever.retrieve(QUESTION, "kg2rag", k=2, num_seeds=6, organization=False)
    assert set(alone.chunks) != {0, 1}
    assert set(retriever.retrieve(QUESTION, "kg2rag", k=2, num_seeds=6).chunks) == {0, 1}


def test_growth_may_stop_before_the_budget(retriever):
    reader = Retriever(make_corpus(), HashingEmbedder(64), HalfLikelihood())
    counts = [len(reader.retrieve(QUESTION, k=5, num_seeds=6, stop=s).chunks) for s in (0.0, 0.3, 1.0)]
    assert counts[0] == 5 > counts[1] >= counts[2] >= 1


def test_an_embedding_can_be_given(retriever):
    vector = HashingEmbedder(64)([QUESTION])[0]
    alone = Retriever(make_corpus())
    for method in METHODS:
        if method != "kg2rag-released":  # reads text with the reranker
            assert alone.retrieve(QUESTION, method, vector=vector).chunks
    assert retrieve(make_corpus(), QUESTION, vector=vector, k=2).method == "kg2rag"


def test_a_corpus_without_triples_is_searched_flat():
    corpus = make_corpus()
    nothing = np.zeros(0, np.int32)
    empty = Corpus(corpus.chunks, corpus.vectors, Graph([], [], nothing, nothing, nothing, len(FACTS)))
    retriever = Retriever(empty, HashingEmbedder(64), WordReranker())
    dense = retriever.retrieve(QUESTION, "dense", k=3).chunks
    assert set(retriever.retrieve(QUESTION, "kg2rag", k=3, num_seeds=3).chunks) == set(dense)
    assert (
        retriever.retrieve(QUESTION, "kg2rag-paper").chunks == ()
    )  # the paper has no chunk without a triple
    assert retriever.retrieve(QUESTION, "pagerank", num_seeds=3).chunks


def test_half_precision_vectors_give_the_same():
    corpus = make_corpus()
    half = Corpus(corpus.chunks, corpus.vectors.astype(np.float16), corpus.graph)
    for method in ("dense", "kg2rag"):
        expected = retrieve(corpus, QUESTION, method, embedder=HashingEmbedder(64)).chunks
        assert retrieve(half, QUESTION, method, embedder=HashingEmbedder(64)).chunks == expected


def test_trees_fill_the_budget():
    trees = [Tree((0, 1), (5, 3)), Tree((2,), (3,)), Tree((3, 4), (7, 8, 9))]
    assert fill(trees, 10) == [5, 3, 7, 8, 9]
    assert fill(trees, 3) == [5, 3, 7]
    assert fill(trees, 4, whole=True) == [5, 3]
    assert fill([], 3) == []


def test_triple_strings():
    graph = make_corpus().graph
    assert triple_string(graph, [1, 0]) == (
        "Vintner Press is in Oldmere. Journal of Harbour Studies has publisher Vintner Press."
    )
    assert triple_string(graph, [1, 0], limit=1) == "Vintner Press is in Oldmere."


def start_at(**weights: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the corpus's 6 chunks and 9 entities, by names such as c0 and e3."""
    chunks, entities = np.zeros(6), np.zeros(len(make_corpus().graph.entities))
    for name, weight in weights.items():
        (chunks if name[0] == "c" else entities)[int(name[1:])] = weight
    return chunks, entities


def test_pagerank_favours_where_it_starts():
    walk = PageRankIndex(GraphIndex(make_corpus().graph))
    visits = walk.scores(*start_at(c0=0.8))
    assert visits.argmax() == 0
    assert visits[1] > 0  # over the press
    assert visits[2] == visits[5] == 0
    assert walk.scores(*start_at(c5=3.0)).tolist() == [0, 0, 0, 0, 0, 1]  # no triples: it starts again


def test_pagerank_equals_networkx():
    import networkx as nx

    graph = make_corpus().graph
    walk = nx.Graph()
    walk.add_nodes_from(("chunk", c) for c in range(graph.num_chunks))
    for ends in (graph.heads, graph.tails):
        walk.add_edges_from(
            (("chunk", int(c)), ("entity", int(e))) for c, e in zip(graph.chunks, ends, strict=True)
        )
    visits = PageRankIndex(GraphIndex(graph)).scores(
        *start_at(c0=2, c4=1, c5=1, e3=4), restart=0.3, iterations=80
    )
    start = {("chunk", 0): 2, ("chunk", 4): 1, ("chunk", 5): 1, ("entity", 3): 4}
    expected = nx.pagerank(walk, alpha=0.7, personalization=start, tol=1e-14, max_iter=500)
    np.testing.assert_allclose(visits, [expected["chunk", c] for c in range(6)], atol=1e-9)


def test_pagerank_starts_at_passages_and_at_the_entities_of_the_seeds():
    index = GraphIndex(make_corpus().graph)
    rarity = entity_rarity(index)
    chunks, entities = start_weights(index, rarity, np.array([1, 0, 5]), np.array([0.8, 0.4, -0.2]), 1)
    assert chunks.sum() + entities.sum() == pytest.approx(1)
    assert chunks[1] / chunks[0] == pytest.approx(2**8)
    assert chunks[5] == 0
    weight = dict(zip(make_corpus().graph.entities, entities, strict=True))
    assert {name for name in weight if weight[name]} == {"Vintner Press", "Oldmere", "two printers"}
    assert weight["two printers"] > weight["Vintner Press"] == weight["Oldmere"]  # in one chunk, and in two
    chunks, entities = start_weights(index, rarity, np.array([5]), np.array([-0.1]), 1)
    assert chunks.tolist() == [0, 0, 0, 0, 0, 1]
    assert not entities.any()


@pytest.mark.usefixtures("no_runtime_types")
def test_a_walk_without_a_start_is_refused():
    walk = PageRankIndex(GraphIndex(make_corpus().graph))
    with pytest.raises(ValueError, match="no weight on them nor on entities"):
        walk.scores(*start_at())
    with pytest.raises(ValueError, match="restart: got 1"):
        walk.scores(*start_at(c0=1.0), restart=1)
    with pytest.raises(ValueError, match=r"entities: got shape \(2,\), expected"):
        walk.scores(np.ones(6), np.ones(2))


def test_released_code_expands_through_titles():
    corpus = make_corpus()
    titles, index = ReleasedIndex(corpus), GraphIndex(corpus.graph)
    found, weights = released_expansion(index, titles, np.array([0]), np.array([0.5]))
    assert found.tolist() == [0, 1, 4]  # the press by its title, and Oldmere one step further
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.5])
    names = [corpus.graph.entities[i] for i in entities_in_question(corpus, range(7), QUESTION)]
    assert names == ["Journal of Harbour Studies", "journal"]


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": " "}, "question: got ' '"),
        ({"method": "magic"}, "method: got 'magic'"),
        ({"k": 0}, "k: got 0"),
        ({"num_seeds": 0}, "num_seeds: got 0"),
        ({"pool": -1}, "pool: got -1"),
        ({"hops": 4}, "hops: got 4"),
        ({"stop": 1.5}, "stop: got 1.5"),
        ({"vector": np.ones(3, np.float32)}, r"vector: got shape \(3,\)"),
    ],
)
def test_bad_arguments(retriever, settings, message):
    with pytest.raises(ValueError, match=message):
        retriever.retrieve(**({"question": QUESTION} | settings))


@pytest.mark.usefixtures("no_runtime_types")
def test_a_corpus_that_does_not_fit_is_refused():
    corpus = make_corpus()
    nothing = np.zeros(0, np.int32)
    with pytest.raises(ValueError, match="corpus: got no chunks"):
        Retriever(Corpus([], np.zeros((0, 64), np.float32), Graph([], [], nothing, nothing, nothing, 0)))
    with pytest.raises(ValueError, match=r"corpus\.vectors: got shape"):
        Retriever(Corpus(corpus.chunks, corpus.vectors[:2], corpus.graph))
    with pytest.raises(ValueError, match="embedder: got dimension 32"):
        Retriever(corpus, HashingEmbedder(32))
    with pytest.raises(ValueError, match="vector: got None"):
        Retriever(corpus).retrieve(QUESTION)
