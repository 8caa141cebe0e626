"""How fast a question is answered at the size of the paper's corpus, and how much faster than networkx.

The corpus is made up, with the counts of arXiv 2502.06864 (66,581 documents, 211,356 triples, 98,226
entities): document i is about entity i, the other ends of triples follow a power law, so that hubs exist, and
vectors are random with the questions near some of them. A document is one chunk, or as many as asked for.
Relevance means nothing here; sizes do.
"""

import statistics
import time

import numpy as np

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.expansion import GraphIndex, expand
from minisys.kgrag.graph import expand_reference, knowledge_graph, organize_reference
from minisys.kgrag.organization import organize
from minisys.kgrag.retrieve import Retriever
from minisys.kgrag.types import Chunk, Corpus, Graph

DOCUMENTS, TRIPLES, ENTITIES = 66_581, 211_356, 98_226


def synthetic_graph(
    documents: int = DOCUMENTS,
    triples: int = TRIPLES,
    entities: int = ENTITIES,
    seed: int = 0,
    sentences: int = 1,
) -> Graph:
    """Triples of documents about entities, tails drawn by rank^-0.8; `sentences` chunks a document."""
    check(0 < documents <= entities, "documents", documents, f"1 to {entities}, the entities")
    check_positive_int("sentences", sentences)
    random = np.random.default_rng(seed)
    own = random.random(triples) < 0.75  # the document's own entity; else any
    heads = np.where(own, random.integers(0, documents, triples), random.integers(0, entities, triples))
    chunks = np.where(heads < documents, heads, random.integers(0, documents, triples))
    popularity = np.arange(1, entities + 1) ** -0.8
    tails = random.permutation(entities)[random.choice(entities, triples, p=popularity / popularity.sum())]
    names = [f"entity{i}" for i in range(entities)]
    if sentences > 1:
        chunks = chunks * sentences + random.integers(0, sentences, triples)
    heads, tails, chunks = (array.astype(np.int32) for array in (heads, tails, chunks))
    return Graph(names, ["knows"] * triples, heads, tails, chunks, documents * sentences)


def synthetic_corpus(
    documents: int = DOCUMENTS,
    triples: int = TRIPLES,
    entities: int = ENTITIES,
    dim: int = 384,
    seed: int = 0,
    sentences: int = 1,
) -> Corpus:
    """The graph with about 20 words for each chunk and float16 vectors."""
    graph = synthetic_graph(documents, triples, entities, seed, sentences)
    random, count = np.random.default_rng(seed + 1), graph.num_chunks
    words = random.integers(0, 20_000, (count, 20)) * random.random((count, 20))
    texts = [" ".join(f"w{word}" for word in row) for row in words.astype(int).tolist()]
    chunks = [
        Chunk(f"entity{i // sentences}", text, 0, len(text), i % sentences) for i, text in enumerate(texts)
    ]
    vectors = np.empty((count, dim), np.float16)
    for first in range(0, count, 8192):  # in blocks: float64 of everything would take four times the memory
        block = random.standard_normal((min(8192, count - first), dim)).astype(np.float32)
        vectors[first : first + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return Corpus(chunks, vectors, graph)


def measure_queries(corpus: Corpus, method: str = "kg2rag", queries: int = 50, seed: int = 0) -> dict:
    """Milliseconds of a question, embedded already and without a language model: median, p90, stages."""
    retriever = Retriever(corpus)
    random = np.random.default_rng(seed)
    totals: list[float] = []
    stages: dict[str, list[float]] = {}
    for turn in range(queries + 3):  # the first ones load and index
        target = int(random.integers(len(corpus.chunks)))
        vector = corpus.vectors[target].astype(np.float32)
        question = " ".join(corpus.chunks[target].text.split()[:8])
        begun = time.perf_counter()
        evidence = retriever.retrieve(question, method, vector=vector)
        spent = 1e3 * (time.perf_counter() - begun)
        if turn < 3:
            continue
        totals.append(spent)
        for stage, milliseconds in evidence.milliseconds.items():
            stages.setdefault(stage, []).append(milliseconds)
    return {
        "median_ms": statistics.median(totals),
        "p90_ms": float(np.quantile(totals, 0.9)),
        "stages_ms": {stage: statistics.median(values) for stage, values in stages.items()},
    }


def measure_against_networkx(graph: Graph, queries: int = 5, hops: int = 1, seed: int = 0) -> dict:
    """Expansion and organization of the same seeds by both. Raises AssertionError where results differ."""
    index, knowledge = GraphIndex(graph), knowledge_graph(graph)
    random = np.random.default_rng(seed)
    fast, slow, sizes = [], [], []
    for turn in range(queries + 1):
        seeds = random.choice(graph.num_chunks, 10, replace=False)
        of_chunk = random.random(graph.num_chunks)
        begun = time.perf_counter()
        triples = expand(index, seeds, hops)
        forest = organize(index, triples, of_chunk[graph.chunks[triples]])
        between = time.perf_counter()
        expected = expand_reference(knowledge, seeds.tolist(), hops)
        weights = of_chunk[graph.chunks[expected]].tolist()
        trees = organize_reference(graph, expected, weights)
        ended = time.perf_counter()
        assert triples.tolist() == expected
        found = [(forest.tree(i).tolist(), int(forest.roots[i])) for i in range(len(forest))]
        assert found == trees
        if turn:  # the first one loads scipy
            fast.append(between - begun)
            slow.append(ended - between)
            sizes.append(len(expected))
    return {
        "fast_ms": 1e3 * statistics.median(fast),
        "networkx_ms": 1e3 * statistics.median(slow),
        "speedup": statistics.median(s / f for s, f in zip(slow, fast, strict=True)),
        "triples": int(statistics.median(sizes)),
    }
