"""The data of kgrag_graph: what it stores gives what the package finds, edges cut or not; bad arguments."""

import json
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.embedding import HashingEmbedder, embed_question
from minisys.kgrag.entities import link_triples
from minisys.kgrag.graph import expand_reference, knowledge_graph
from minisys.kgrag.reading import WordSupport, question_words
from minisys.kgrag.retrieve import Retriever
from minisys.kgrag.types import Corpus, Graph
from minisys.kgrag.world import make_world
from minisys.viz.kgrag_graph import (
    BANDS,
    METHODS,
    MOST_HOPS,
    MOST_K,
    QUESTIONS,
    drawn_paths,
    evidence,
    expansion,
    kgrag_graph,
    kgrag_graph_state,
    seeds_of,
    static_picture,
)

NUM_SEEDS = 3


class WordsByHundredths:
    """Reads a text by the support of the question's words, each rounded to hundredths, times its weight."""

    name = "words"

    def __init__(self, embedder):
        self.support = WordSupport(embedder)

    def token_log_likelihoods(self, question, texts):
        words = question_words(question)
        hundredths = np.round(100 * self.support(words, texts))
        return hundredths / 100 * (words.weights * len(words.words))

    def __call__(self, question, texts):
        return self.token_log_likelihoods(question, texts).mean(axis=1)


@pytest.fixture(scope="module")
def embedder():
    return HashingEmbedder(64)


@pytest.fixture(scope="module")
def questions():
    return make_world(0, 100).questions


@pytest.fixture(scope="module")
def corpus(questions, embedder):
    chunks = questions.chunks()
    vectors = embedder([text_to_search(chunk) for chunk in chunks]).astype(np.float16)
    return Corpus(chunks, vectors, link_triples(questions.triples, chunks))


@pytest.fixture(scope="module")
def state(questions, corpus, embedder):
    return kgrag_graph_state(questions, corpus, embedder)


def without(corpus: Corpus, cut: list[int]) -> Corpus:
    """The corpus, its graph rebuilt without some triples."""
    graph = corpus.graph
    kept = [number for number in range(len(graph.relations)) if number not in cut]
    relations = [graph.relations[number] for number in kept]
    arrays = (graph.heads[kept], graph.tails[kept], graph.chunks[kept])
    return replace(corpus, graph=Graph(graph.entities, relations, *arrays, graph.num_chunks))


def direct(corpus, embedder, question, choice):
    """What the package finds without anything of the state."""
    reader = WordsByHundredths(embedder) if choice["method"] == "kg2rag" else None
    retriever = Retriever(without(corpus, choice["cut"]), reranker=reader)
    vector = embed_question(embedder, question.text)
    settings = {"k": choice["k"], "hops": choice["hops"], "num_seeds": NUM_SEEDS, "vector": vector}
    return retriever.retrieve(question.text, choice["method"], **settings)


def named(questions, number):
    return next(question for question in questions.questions if question.id == QUESTIONS[number])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hops", range(MOST_HOPS + 1))
def test_stored_numbers_give_what_the_package_finds(state, questions, corpus, embedder, method, hops):
    for number in range(len(QUESTIONS)):
        choice = {"question": number, "method": method, "hops": hops, "k": MOST_K, "cut": []}
        found, expected = evidence(state, choice), direct(corpus, embedder, named(questions, number), choice)
        assert found.chunks == expected.chunks
        assert found.seeds == expected.seeds
        assert seeds_of(state, number) == list(expected.seeds[:NUM_SEEDS])
        assert found.triples.tolist() == expected.triples.tolist()
        assert [tree.triples for tree in found.trees] == [tree.triples for tree in expected.trees]
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_cut_edges_are_out_of_the_graph(state, questions, corpus, embedder, method):
    choice = {"question": 1, "method": method, "hops": 1, "k": 8, "cut": []}
    whole = evidence(state, choice)
    chunks = corpus.graph.chunks
    cut = [t for t in range(len(chunks)) if chunks[t] in whole.chunks[1:]]
    found = evidence(state, choice | {"cut": cut})
    expected = direct(corpus, embedder, named(questions, 1), choice | {"cut": cut})
    kept = np.delete(np.arange(len(chunks)), cut)
    assert found.chunks == expected.chunks
    assert found.triples.tolist() == kept[expected.triples].tolist()
    assert [list(t.triples) for t in found.trees] == [kept[list(t.triples)].tolist() for t in expected.trees]
    assert not set(found.triples.tolist()) & set(cut)
    assert (found.chunks == whole.chunks) == (method == "dense")


def test_expansion_is_the_references(state, corpus):
    cut = [0, 5, 17, 18, 19]
    knowledge = knowledge_graph(without(corpus, cut).graph)
    kept = np.delete(np.arange(len(corpus.graph.relations)), cut)
    for number in range(len(QUESTIONS)):
        for hops in range(MOST_HOPS + 1):
            choice = {"question": number, "method": "dense", "hops": hops, "k": 2, "cut": cut}
            triples, reached = expansion(state, choice)
            seeds = seeds_of(state, number)
            assert triples == kept[expand_reference(knowledge, seeds, hops)].tolist()
            assert {end for t in triples for end in state["triples"][t][::2]} <= set(reached)


def test_entities_stand_in_the_band_of_their_distance(state):
    edges = nx.Graph((head, tail) for head, _, tail, _ in state["triples"])
    for number, asked in enumerate(state["questions"]):
        seeds = seeds_of(state, number)
        first = {end for head, _, tail, chunk in state["triples"] if chunk in seeds for end in (head, tail)}
        away = nx.multi_source_dijkstra_path_length(edges, first, weight=None)
        bands = list(BANDS.values())
        for entity, (x, y) in enumerate(asked["places"]):
            top, height = bands[min(away.get(entity, MOST_HOPS), MOST_HOPS)]
            assert 0 < x < 1000
            assert top + 20 < y < top + height
        assert len(set(map(tuple, asked["places"]))) == len(state["entities"])


def test_what_is_stored(state, questions, corpus):
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 200_000
    assert [text for _, _, text in state["chunks"]] == [chunk.text for chunk in corpus.chunks]
    for number, asked in enumerate(state["questions"]):
        question = named(questions, number)
        assert asked["text"] == question.text
        facts = [(state["documents"][state["chunks"][c][0]], state["chunks"][c][1]) for c in asked["gold"]]
        assert facts == list(question.facts)
        assert asked["answer"] == question.answers[0]
        assert np.mean(asked["weights"]) == pytest.approx(1)
    head, relation, tail, chunk = state["triples"][7]
    graph = corpus.graph
    assert (head, state["relations"][relation]) == (graph.heads[7], graph.relations[7])
    assert (tail, chunk) == (graph.tails[7], graph.chunks[7])


def test_same_arguments_same_bytes(questions, corpus, embedder):
    html = kgrag_graph(questions, corpus, embedder, ids=QUESTIONS[:1]).html()
    assert html == kgrag_graph(questions, corpus, embedder, ids=QUESTIONS[:1]).html()
    assert html.count("</script") == 3
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")


def test_drawn_paths(state):
    """Every edge is drawn once as what it is, whatever else it is marked as; every entity once."""
    for method in METHODS:
        choice = {"question": 0, "method": method, "hops": 1, "k": 5, "cut": []}
        found, (triples, reached) = evidence(state, choice), expansion(state, choice)
        of_context = [t for t, triple in enumerate(state["triples"]) if triple[3] in found.chunks]
        choice["cut"] = of_context[:1]
        found, (triples, reached) = evidence(state, choice), expansion(state, choice)
        drawn = {kind: d.count("M") for kind, d in drawn_paths(state, choice).items()}
        chunk = [triple[3] for triple in state["triples"]]
        shown = {t for t in range(len(chunk)) if chunk[t] in found.chunks and t not in choice["cut"]}
        assert drawn["context"] == len(shown)
        assert drawn["reached"] + drawn["tree"] == len(set(triples) - shown)
        assert drawn["cut"] == 1
        assert drawn["gold"] == sum(c in state["questions"][0]["gold"] for c in chunk)
        assert (drawn["tree"] > 0) == (method == "kg2rag-paper")
        assert drawn["beyond"] == len(state["entities"]) - len(reached)
        assert drawn["near"] + drawn["seed"] == len(reached)


def test_static_picture(state):
    picture, start = static_picture(state), state["start"]
    asked, found = state["questions"][0], evidence(state, start)
    both = len(set(asked["gold"]) & set(found.chunks))
    assert picture.startswith('<svg class="graph" role="img"')
    assert f"{both} of {len(asked['gold'])} gold sentences are among the {len(found.chunks)}" in picture
    for kind, d in drawn_paths(state, start).items():
        assert f'<path class="{kind}" d="{d}"/>' in picture
    gold = [chunk for _, _, _, chunk in state["triples"] if chunk in asked["gold"]]
    assert picture.count(">★<") == sum(chunk in found.chunks for chunk in gold)
    assert picture.count(">★<") + picture.count(">☆<") == len(gold)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": []}, r"^ids: got \[\], expected ids of the questions"),
        ({"ids": ["world-0031", "nothing"]}, r"^ids: got \['world-0031', 'nothing'\]"),
        ({"num_seeds": 0}, r"^num_seeds: got 0"),
        ({"embedder": HashingEmbedder(32)}, r"^embedder: got dimension 32"),
    ],
)
def test_bad_arguments(questions, corpus, embedder, changes, message, no_runtime_types):
    with pytest.raises(ValueError, match=message):
        kgrag_graph(**{"questions": questions, "corpus": corpus, "embedder": embedder, **changes})


def test_questions_without_evidence_are_refused(questions, corpus, embedder, no_runtime_types):
    missing = next(question for question in questions.questions if not question.facts)
    with pytest.raises(ValueError, match=rf"^ids: got '{missing.id}', facts \[\], expected facts"):
        kgrag_graph(questions, corpus, embedder, ids=[missing.id])
    other = replace(questions.questions[0], facts=(("Nowhere", 0),))
    with pytest.raises(ValueError, match=r"^ids: got .*Nowhere"):
        kgrag_graph(replace(questions, questions=(other,)), corpus, embedder, ids=[other.id])


def test_a_large_corpus_is_refused(questions, corpus, embedder, no_runtime_types):
    many = Corpus(corpus.chunks * 2, np.concatenate([corpus.vectors] * 2), corpus.graph)
    with pytest.raises(ValueError, match=r"^corpus: got 1194 chunks, expected at most 1000"):
        kgrag_graph(questions, many, embedder)


def test_a_method_that_is_not_there(state, no_runtime_types):
    with pytest.raises(ValueError, match=r"^method: got 'bm25'"):
        evidence(state, state["start"] | {"method": "bm25"})
