"""A question on a knowledge graph: the data of the explorable `kgrag_graph`, and its picture before scripts.

Three methods of `minisys.kgrag.retrieve` answer the same questions: flat (dense), the paper's spanning trees
(arXiv 2502.06864, sections 3.2 and 3.3), and growth of a context (`minisys.kgrag.growth`). Stored is what
needs a model: similarities of all chunks to each question, and how well their words cover its words.
Expansion, trees, growth and scores are the page's own work, so that the reader can cut edges; `evidence` says
what the package finds for the same choice, and tests hold the page to it.

Two things are smaller than in the package. Expansion starts from 3 seeds, as 10 would reach almost half of a
small corpus in one hop. And no language model reads: trees come by their heaviest edge, and growth takes the
coverage of words by embeddings (`minisys.kgrag.reading.WordSupport`) where it would take likelihoods.

Cost: one embedding a chunk was paid by the caller; each word of the corpus is embedded here. JSON: some 85
bytes a chunk, and 25 more for each question; 122 kB for 597 chunks and five questions.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from minisys.core.checks import check, check_choice, check_positive_int
from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.datasets import Question, QuestionSet
from minisys.kgrag.embedding import embed_question
from minisys.kgrag.evidence import Evidence
from minisys.kgrag.expansion import GraphIndex, expand, reached_entities
from minisys.kgrag.growth import EDGE
from minisys.kgrag.paths import LINK, path_scores
from minisys.kgrag.reading import WordSupport, question_words
from minisys.kgrag.retrieve import Retriever
from minisys.kgrag.search import best
from minisys.kgrag.types import Chunk, Corpus, Embedder, Graph
from minisys.viz.explorable import Explorable

METHODS = ("dense", "kg2rag-paper", "kg2rag")
"""What the reader can choose, as `minisys.kgrag.retrieve` names them."""

QUESTIONS = ("world-0031", "world-0017", "world-0040", "world-0049", "world-0050")
"""Of ``make_world(0, 100)``: two of 2 hops, two of 3, a comparison. On each the methods differ."""

KINDS = {"2hop": "2 hops", "3hop": "3 hops", "comparison": "Comparison"}
MOST_K, POOL, MOST_HOPS, MOST_CHUNKS = 12, 40, 3, 1000


def kgrag_graph(
    questions: QuestionSet,
    corpus: Corpus,
    embedder: Embedder,
    *,
    ids: Sequence[str] = QUESTIONS,
    num_seeds: int = 3,
) -> Explorable:
    """Explorable: raise the hops and see the graph grow, raise k and see trees fill the context, cut an edge.

    Args:
        questions: a set with gold evidence, such as ``make_world(0, 100).questions``.
        corpus: its chunks with vectors and a linked graph, at most 1,000 chunks.
        embedder: the one that made the vectors.
        ids: the questions that the reader can choose from.
        num_seeds: chunks that expansion starts from.

    Raises:
        ValueError: an argument does not fit.
    """
    state = kgrag_graph_state(questions, corpus, embedder, ids=ids, num_seeds=num_seeds)
    return Explorable(
        "kgrag_graph",
        state,
        title="A question on the graph",
        description=(
            "Entities in layers by their distance from the seeds, the sentences most similar to the "
            "question. Raise m and expansion reaches further; raise k and the context fills; cut an edge, in "
            "the picture or in the list below it, and the evidence changes."
        ),
        static_svg=static_picture(state),
    )


def kgrag_graph_state(
    questions: QuestionSet,
    corpus: Corpus,
    embedder: Embedder,
    *,
    ids: Sequence[str] = QUESTIONS,
    num_seeds: int = 3,
) -> dict[str, Any]:
    """The JSON of the explorable; arguments and errors as in `kgrag_graph`.

    Each of ``state["questions"]`` holds, base64 of little-endian numbers, ``similarities`` and ``own``
    (float32 ``[chunks]``: cosine, and cosine plus BM25 as `minisys.kgrag.paths` adds them) and ``coverage``
    (bytes ``[chunks, words]``: support of each word in hundredths), and where each entity is drawn.
    """
    check_positive_int("num_seeds", num_seeds)
    count = len(corpus.chunks)
    check(
        count <= MOST_CHUNKS, "corpus", f"{count} chunks", f"at most {MOST_CHUNKS}, or the page grows large"
    )
    retriever, support = Retriever(corpus, embedder), WordSupport(embedder)
    known = {question.id: question for question in questions.questions}
    check(bool(ids) and set(ids) <= set(known), "ids", list(ids), "ids of the questions")
    asked = [_question(known[each], retriever, embedder, support, num_seeds) for each in ids]
    graph = corpus.graph
    documents = list(dict.fromkeys(chunk.document for chunk in corpus.chunks))
    relations = list(dict.fromkeys(graph.relations))
    ends = zip(
        graph.heads.tolist(), graph.relations, graph.tails.tolist(), graph.chunks.tolist(), strict=True
    )
    return {
        "bands": [[name, top + HEADING] for name, (top, _) in BANDS.items()],
        "chunks": [[documents.index(c.document), c.sentence, c.text] for c in corpus.chunks],
        "documents": documents,
        "entities": list(graph.entities),
        "factors": {"edge": EDGE, "link": LINK},
        "height": HEIGHT,
        "most_hops": MOST_HOPS,
        "most_k": MOST_K,
        "num_seeds": num_seeds,
        "pool": POOL,
        "questions": asked,
        "relations": relations,
        "start": {"question": 0, "method": "kg2rag-paper", "hops": 1, "k": 6, "cut": []},
        "triples": [[head, relations.index(words), tail, chunk] for head, words, tail, chunk in ends],
    }


def evidence(state: dict[str, Any], choice: dict[str, Any]) -> Evidence:
    """What `minisys.kgrag` finds for what the reader chose.

    choice: ``question`` (its place in the state), ``method``, ``hops``, ``k``, and ``cut``: numbers of the
        triples that the graph is without. Triples of the result have their numbers in the whole graph.
    """
    check_choice("method", choice["method"], METHODS)
    asked = state["questions"][choice["question"]]
    corpus, kept = _stored_corpus(state, choice["cut"])
    coverage = _Coverage(corpus, _unpack(asked["coverage"], np.uint8), np.array(asked["weights"]))
    retriever = Retriever(corpus, reranker=coverage if choice["method"] == "kg2rag" else None)
    vector = np.zeros(len(state["questions"]), np.float32)
    vector[choice["question"]] = 1
    found = retriever.retrieve(
        asked["text"], choice["method"], k=choice["k"], hops=choice["hops"], num_seeds=state["num_seeds"],
        pool=state["pool"], vector=vector,
    )  # fmt: skip
    trees = tuple(type(t)(tuple(kept[list(t.triples)].tolist()), t.chunks, t.score) for t in found.trees)
    return Evidence(found.question, found.method, found.chunks, found.scores, found.seeds, found.found,
                    kept[found.triples], trees)  # fmt: skip


def expansion(state: dict[str, Any], choice: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The triples that expansion finds for a choice, and the entities it reaches; whatever the method."""
    corpus, kept = _stored_corpus(state, choice["cut"])
    index = GraphIndex(corpus.graph)
    seeds = seeds_of(state, choice["question"])
    reached = reached_entities(index, index.triples_of_chunks(seeds), choice["hops"])
    return kept[expand(index, seeds, choice["hops"])].tolist(), np.flatnonzero(reached).tolist()


def seeds_of(state: dict[str, Any], question: int) -> list[int]:
    """The chunks that expansion starts from, the most similar first."""
    similarities = _unpack(state["questions"][question]["similarities"], np.float32)
    return best(similarities, state["num_seeds"])[0].tolist()


class _Coverage:
    """Reads as a language model would for `minisys.kgrag.growth`: a number for each text and question word.

    Each number is a word's support by the text times the word's weight, so that their mean over the words is
    the weighted mean support.
    """

    name = "word coverage"

    def __init__(
        self, corpus: Corpus, support: UInt8[np.ndarray, " n"], weights: Float[np.ndarray, " words"]
    ) -> None:
        rows = support.reshape(len(corpus.chunks), len(weights)) / 100 * weights
        texts = [text_to_search(chunk) for chunk in corpus.chunks]
        self._rows = dict(zip(texts, rows, strict=True))

    def token_log_likelihoods(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, "texts words"]:
        return np.stack([self._rows[text] for text in texts])

    def __call__(self, question: str, texts: list[str]) -> Float[np.ndarray, " texts"]:
        return self.token_log_likelihoods(question, texts).mean(axis=1).astype(np.float32)


def _question(
    question: Question, retriever: Retriever, embedder: Embedder, support: WordSupport, num_seeds: int
) -> dict[str, Any]:
    """One of ``state["questions"]``."""
    chunks = retriever.corpus.chunks
    number = {(chunk.document, chunk.sentence): place for place, chunk in enumerate(chunks)}
    usable = bool(question.facts) and all(fact in number for fact in question.facts)
    check(
        usable, "ids", f"{question.id!r}, facts {list(question.facts)}", "facts that are chunks of the corpus"
    )
    vector = embed_question(embedder, question.text)
    similarities = np.asarray(retriever.corpus.vectors, np.float32) @ vector
    bm25 = retriever.words.scores(question.text)
    own = path_scores(similarities, bm25 / max(float(bm25.max()), 1e-9), np.zeros(len(chunks)))
    words = question_words(question.text)
    check(bool(words.words), "ids", f"{question.id!r}, {question.text!r}", "a question with words of its own")
    covered = support(words, [text_to_search(chunk) for chunk in chunks])
    seeds, _ = retriever.dense.search(vector, num_seeds)
    return {
        "answer": ", ".join(question.answers[:1]),
        "coverage": _pack(np.round(100 * covered), np.uint8),
        "gold": [number[fact] for fact in question.facts],
        "kind": KINDS.get(question.kind, question.kind),
        "own": _pack(own, np.float32),
        "places": _places(retriever.graph, seeds),
        "similarities": _pack(similarities, np.float32),
        "text": question.text,
        "weights": (words.weights * len(words.words)).tolist(),
    }


def _stored_corpus(state: dict[str, Any], cut: Iterable[int]) -> tuple[Corpus, Int[np.ndarray, " kept"]]:
    """The corpus of a state without the triples `cut`, and the numbers of those that stay.

    Its vectors have a component for each question, the similarity: the product with a unit vector is what was
    stored, to the last bit.
    """
    kept = np.setdiff1d(np.arange(len(state["triples"])), np.array(sorted(cut), np.int64))
    heads, relations, tails, chunks = np.array(state["triples"], np.int32).reshape(-1, 4)[kept].T.copy()
    texts = state["chunks"]
    words = [state["relations"][relation] for relation in relations.tolist()]
    graph = Graph(state["entities"], words, heads, tails, chunks, len(texts))
    vectors = np.stack([_unpack(each["similarities"], np.float32) for each in state["questions"]], axis=1)
    documents = state["documents"]
    held = [Chunk(documents[of], text, 0, len(text), sentence) for of, sentence, text in texts]
    return Corpus(held, vectors, graph), kept


def _pack(values: np.ndarray, dtype: type) -> str:
    return base64.b64encode(np.asarray(values).astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _unpack(text: str, dtype: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<"))


# The picture. One unit across is a thousandth of the width, down a pixel.
BANDS = {"seeds": (0, 78), "1 hop": (78, 112), "2 hops": (190, 132), "3 and more": (322, 66)}  # top, height
HEIGHT = 392
HEADING = 14  # baseline of a band's heading, below the band's top


def _layers(index: GraphIndex, seeds: Int[np.ndarray, " seeds"]) -> Int[np.ndarray, " entities"]:
    """Hops from the seeds' entities to each entity; one more than the most hops for what is farther."""
    layers = np.full(index.num_entities, MOST_HOPS + 1)
    triples = index.triples_of_chunks(seeds)
    for hops in reversed(range(MOST_HOPS + 1)):
        layers[reached_entities(index, triples, hops)] = hops
    return layers


def _places(index: GraphIndex, seeds: Int[np.ndarray, " seeds"]) -> list[list[int]]:
    """Where each entity is drawn: in its layer's band, below its neighbours of the layers before."""
    layers = _layers(index, seeds)
    order = index.triples_of_chunks(seeds)
    first = list(dict.fromkeys(np.stack([index.heads[order], index.tails[order]], 1).ravel().tolist()))
    x = np.zeros(index.num_entities)
    places = [[0, 0]] * index.num_entities
    for layer, (top, height) in enumerate(BANDS.values()):
        if layer:
            inside = np.flatnonzero(np.minimum(layers, MOST_HOPS) == layer).tolist()
            means = {entity: _mean_above(index, entity, layers, x) for entity in inside}
            inside.sort(key=lambda entity: (means[entity], entity))
        else:
            inside = first
        for place, entity in enumerate(inside):
            x[entity] = 1000 * (place + 0.5) / len(inside)
            down = (0.618034 * place + 0.2) % 1  # the golden ratio: neighbours stand at different heights
            places[entity] = [round(x[entity]), round(top + 28 + (height - 36) * down)]
    return places


def _mean_above(
    index: GraphIndex, entity: int, layers: Int[np.ndarray, " entities"], x: Float[np.ndarray, " entities"]
) -> float:
    triples = index.triples_of_entities(np.array([entity]))
    ends = np.concatenate([index.heads[triples], index.tails[triples]])
    above = ends[layers[ends] < layers[entity]]
    return float(x[above].mean()) if len(above) else 500.0


def drawn_paths(state: dict[str, Any], choice: dict[str, Any]) -> dict[str, str]:
    """The ``d`` of each path of the picture: edges and nodes by what they are."""
    asked, found = state["questions"][choice["question"]], evidence(state, choice)
    triples, reached = expansion(state, choice)
    cut, context, gold = set(choice["cut"]), set(found.chunks), set(asked["gold"])
    numbers = range(len(state["triples"]))
    chunk = [triple[3] for triple in state["triples"]]
    chosen = [t for t in numbers if chunk[t] in context and t not in cut]
    tree = {t for tree in found.trees for t in tree.triples} - set(chosen)
    near, named = set(reached), {end for t in chosen for end in state["triples"][t][::2]}
    seeds = seeds_of(state, choice["question"])
    first = {end for t in numbers if chunk[t] in seeds and t not in cut for end in state["triples"][t][::2]}
    places = asked["places"]

    def edges(which: Iterable[int]) -> str:
        ends = ((places[state["triples"][t][0]], places[state["triples"][t][2]]) for t in which)
        return "".join(f"M{x1} {y1}L{x2} {y2}" for (x1, y1), (x2, y2) in ends)

    def dots(which: Iterable[int]) -> str:
        return "".join("M{} {}h0".format(*places[entity]) for entity in sorted(which))

    return {
        "gold": edges(t for t in numbers if chunk[t] in gold),
        "reached": edges(t for t in triples if t not in tree and chunk[t] not in context),
        "tree": edges(sorted(tree)),
        "context": edges(chosen),
        "cut": edges(sorted(cut)),
        "beyond": dots(set(range(len(places))) - near),
        "near": dots(near - first),
        "named": dots(named - first),
        "seed": dots(first),
    }


def static_picture(state: dict[str, Any]) -> str:
    """The graph that the page starts with, as SVG, for before scripts run."""
    choice = state["start"]
    asked, found = state["questions"][choice["question"]], evidence(state, choice)
    triples, _ = expansion(state, choice)
    both = len(set(asked["gold"]) & set(found.chunks))
    hops = f"{choice['hops']} hop{'s' * (choice['hops'] != 1)}"
    title = (
        f"{asked['text']} {state['num_seeds']} seeds, {len(triples)} facts within {hops}; {both} of "
        f"{len(asked['gold'])} gold sentences are among the {len(found.chunks)} of the context"
    )
    paths = "".join(f'<path class="{kind}" d="{d}"/>' for kind, d in drawn_paths(state, choice).items())
    headings = "".join(f'<text class="muted" y="{y}">{name}</text>' for name, y in state["bands"])
    stars = [triple for triple in state["triples"] if triple[3] in asked["gold"]]
    labels = []
    for head, _, tail, chunk in stars:
        (x1, y1), (x2, y2) = asked["places"][head], asked["places"][tail]
        star = "★" if chunk in found.chunks else "☆"
        labels.append(
            f'<text x="{(x1 + x2) / 20:g}%" y="{(y1 + y2) / 2 + 4:g}" text-anchor="middle">{star}</text>'
        )
    for entity in dict.fromkeys(end for triple in stars for end in triple[::2]):
        x, y = asked["places"][entity]
        anchor = "start" if x < 300 else "end" if x > 700 else "middle"
        name = escape(state["entities"][entity])
        labels.append(f'<text class="label" x="{x / 10:g}%" y="{y - 8}" text-anchor="{anchor}">{name}</text>')
    return (
        f'<svg class="graph" role="img" width="100%" height="{HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>"
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true">{paths}</svg>{headings}{"".join(labels)}</svg>'
    )
