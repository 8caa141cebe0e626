"""Retrieval by name: flat baselines, PageRank, KG²RAG as published, as released, and as improved.

``retrieve(corpus, question, …)`` answers one question; a `Retriever` keeps the indexes for many.

- dense, bm25, hybrid: flat search; hybrid fuses both by reciprocal ranks
- dense+rerank, hybrid+rerank: the first `pool` chunks, ordered by the reranker
- pagerank: walks over chunks and entities that start near the question (`minisys.kgrag.pagerank`)
- pagerank+rerank: its first `pool` chunks, ordered by the reranker
- kg2rag-paper: arXiv 2502.06864: seeds, m hops, maximum spanning trees, triple strings reranked, k chunks
- kg2rag-released: what the released code does (`minisys.kgrag.released` lists the differences)
- kg2rag: the paper's stages with scores that know the path (`minisys.kgrag.paths`)

Ablations of kg2rag and kg2rag-paper: ``expansion=False`` (only the seeds' triples), ``organization=False``
(no trees: all chunks found, best first; in the paper this has no budget, so give a large k), ``hops`` 0 to 3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check, check_choice, check_positive_int
from minisys.kgrag.assembly import Tree, fill, scored, trees_of, triple_string
from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.embedding import embed_question
from minisys.kgrag.evidence import NOTHING, Clock, Evidence
from minisys.kgrag.expansion import GraphIndex, expand
from minisys.kgrag.growth import grow, shared_rarity
from minisys.kgrag.organization import organize
from minisys.kgrag.pagerank import PASSAGES, PageRankIndex, start_weights
from minisys.kgrag.paths import LINK, entity_rarity, link_scores, path_scores
from minisys.kgrag.released import (
    ReleasedIndex,
    by_document,
    released_context,
    released_expansion,
    released_forest,
)
from minisys.kgrag.rerank import CosineReranker
from minisys.kgrag.search import Bm25Index, DenseIndex, best, fuse
from minisys.kgrag.types import Corpus, Embedder, Reranker

FLAT = ("dense", "bm25", "hybrid", "dense+rerank", "hybrid+rerank")
METHODS = (*FLAT, "pagerank", "pagerank+rerank", "kg2rag-paper", "kg2rag-released", "kg2rag")
RERANKER = 0.1  # weight of a reranker's standardised score where it has no likelihoods by token


class Retriever:
    """The indexes over a corpus that its methods share; BM25, PageRank and titles when first used.

    corpus: chunks, vectors and graph; embedder: the one that made the vectors (None: each question comes with
    its vector); reranker: scores texts, see `minisys.kgrag.rerank` (None: cosine, the weakest).

    Raises ValueError for an empty corpus and where numbers of chunks or dimensions do not fit.
    """

    def __init__(
        self, corpus: Corpus, embedder: Embedder | None = None, reranker: Reranker | None = None
    ) -> None:
        count = len(corpus.chunks)
        check(count > 0, "corpus", "no chunks", "at least one")
        shape = corpus.vectors.shape
        check(len(shape) == 2 and shape[0] == count, "corpus.vectors", f"shape {shape}", f"({count}, dim)")
        check(
            corpus.graph.num_chunks == count, "corpus.graph", f"{corpus.graph.num_chunks} chunks", str(count)
        )
        if embedder is not None:
            check(embedder.dim == shape[1], "embedder", f"dimension {embedder.dim} ({embedder.name})",
                  f"{shape[1]}, as the corpus's vectors")  # fmt: skip
        self.corpus, self.embedder, self.reranker = corpus, embedder, reranker
        self.dense = DenseIndex(corpus.vectors)
        self.graph = GraphIndex(corpus.graph)
        self.rarity = entity_rarity(self.graph)
        self._lazy: dict = {}

    def retrieve(
        self,
        question: str,
        method: str = "kg2rag",
        *,
        k: int = 10,
        hops: int = 1,
        num_seeds: int = 10,
        pool: int = 40,
        expansion: bool = True,
        organization: bool = True,
        stop: float = 0.0,
        vector: Float[np.ndarray, " dim"] | None = None,
    ) -> Evidence:
        """Find at most `k` chunks for `question`.

        method: one of METHODS. hops: m of the paper, 0 to 3. num_seeds: chunks that expansion starts from.
        pool: how many chunks a reranker reads. expansion, organization: False leaves that stage out.
        stop: kg2rag with a language model leaves out what gains less than this share of the first gain; a
        longer context has more recall, a shorter one more precision.
        vector: the question's embedding, where it is known already.

        Raises ValueError for a bad argument, an empty question among them.
        """
        check(isinstance(question, str) and bool(question.strip()), "question", repr(question), "some words")
        check_choice("method", method, METHODS)
        for name, value in (("k", k), ("num_seeds", num_seeds), ("pool", pool)):
            check_positive_int(name, value)
        check(0 <= stop <= 1, "stop", stop, "a share in [0, 1]")
        check(isinstance(hops, int) and 0 <= hops <= 3, "hops", repr(hops), "0, 1, 2 or 3")
        clock = Clock()
        with clock("embed"):
            vector = self._vector(question, vector)
        if method in FLAT:
            return self._flat(question, method, k, pool, vector, clock)
        if method in ("pagerank", "pagerank+rerank"):
            return self._pagerank(question, method, k, num_seeds, pool, vector, clock)
        with clock("seeds"):
            seeds, similarities = self.dense.search(vector, num_seeds)
        if method == "kg2rag-released":
            return self._released(question, k, seeds, similarities, clock)
        with clock("expansion"):
            triples = expand(self.graph, seeds, hops) if expansion else self.graph.triples_of_chunks(seeds)
            found = np.union1d(seeds, self.graph.chunks[triples]).astype(np.int64)
        if method == "kg2rag-paper":
            return self._paper(question, k, seeds, found, triples, vector, organization, clock)
        with clock("paths"):
            words = self.words.scores(question)
            words = words[found] / max(float(words.max()), 1e-9)
            links = link_scores(self.graph, self.rarity, seeds, similarities, found)
            scores = path_scores(self._similarities(found, vector), words, links)
            kept, _ = best(scores, max(pool, k))
            candidates = found[kept]
        if not organization:
            with clock("rerank"):
                places, values = best(scores[kept] + self._standardised(question, candidates), k)
            chunks = candidates[places]
            return self._evidence(method, question, chunks, values, clock, seeds, found, triples)
        with clock("rerank"):
            likelihoods, extra = self._read(question, candidates)
        with clock("organization"):
            if likelihoods is None:  # edges to what was chosen help only where what was chosen was read
                places, gains = best(scores[kept] + extra, k)
            else:
                shared = shared_rarity(self.graph, self.rarity, candidates)
                path = LINK * links[kept]
                places, gains = grow(scores[kept] - path, path, shared, k, likelihoods)
                enough = np.logical_and.accumulate(gains >= stop * gains[0])
                places, gains = places[enough], gains[enough]
            chunks = candidates[places]
            trees = self._trees_within(triples, chunks, gains)
        return self._evidence(method, question, chunks, gains, clock, seeds, found, triples, trees)

    def _paper(
        self,
        question: str,
        k: int,
        seeds: np.ndarray,
        found: np.ndarray,
        triples: np.ndarray,
        vector: np.ndarray,
        organization: bool,
        clock: Clock,
    ) -> Evidence:
        method = "kg2rag-paper"
        similarities = self._similarities(found, vector)
        if not organization:
            places, scores = best(similarities, k)
            return self._evidence(method, question, found[places], scores, clock, seeds, found, triples)
        with clock("organization"):
            weights = similarities[np.searchsorted(found, self.graph.chunks[triples])]
            trees = trees_of(self.graph, organize(self.graph, triples, weights))
        with clock("rerank"):
            if self.reranker is not None or self.embedder is not None:
                texts = [triple_string(self.corpus.graph, tree.triples) for tree in trees]
                trees = scored(trees, self._rerank(question, texts, vector))
            chunks = np.array(fill(trees, k), np.int64)
        scores = similarities[np.searchsorted(found, chunks)]
        return self._evidence(method, question, chunks, scores, clock, seeds, found, triples, trees)

    def _read(self, question: str, candidates: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """What the reranker adds: log-likelihoods by token where it has them, else a term for each chunk."""
        by_token = getattr(self.reranker, "token_log_likelihoods", None)
        if by_token is None:
            return None, self._standardised(question, candidates)
        return by_token(question, self.texts(candidates)), np.zeros(len(candidates))

    def _standardised(self, question: str, candidates: np.ndarray) -> np.ndarray:
        """The reranker's scores with mean 0 and a fixed spread; without a reranker 0."""
        if self.reranker is None:
            return np.zeros(len(candidates))
        texts = self.texts(candidates)
        scores = np.asarray(self.reranker(question, texts), np.float64)
        return RERANKER * (scores - scores.mean()) / max(float(scores.std()), 1e-9)

    def _trees_within(self, triples: np.ndarray, chunks: np.ndarray, gains: np.ndarray) -> list[Tree]:
        """Spanning trees over the triples of the chosen chunks alone; a tree scores the sum of its gains."""
        gain = np.zeros(len(self.corpus.chunks))
        gain[chunks] = gains
        inside = np.zeros(len(self.corpus.chunks), bool)
        inside[chunks] = True
        triples = triples[inside[self.graph.chunks[triples]]]
        forest = organize(self.graph, triples, gain[self.graph.chunks[triples]])
        alone = chunks[~np.isin(chunks, self.graph.chunks[forest.triples])]
        trees = trees_of(self.graph, forest, alone)
        return scored(trees, np.array([gain[list(tree.chunks)].sum() for tree in trees]))

    def _vector(self, question: str, vector: np.ndarray | None) -> np.ndarray:
        if vector is None:
            check(self.embedder is not None, "vector", None, "the question's vector, or an embedder")
            vector = embed_question(self.embedder, question)
        dim = self.corpus.vectors.shape[1]
        check(np.shape(vector) == (dim,), "vector", f"shape {np.shape(vector)}", f"({dim},), as the corpus's")
        return np.asarray(vector, np.float32)

    def _flat(
        self, question: str, method: str, k: int, pool: int, vector: np.ndarray, clock: Clock
    ) -> Evidence:
        name, _, rerank = method.partition("+")
        wanted = max(k, pool) if rerank else k
        with clock("search"):
            if name == "dense":
                chunks, scores = self.dense.search(vector, wanted)
            elif name == "bm25":
                chunks, scores = self.words.search(question, wanted)
            else:
                depth = max(100, wanted)
                both = [self.dense.search(vector, depth), self.words.search(question, depth)]
                chunks, scores = fuse(both, wanted)
        if rerank:
            chunks, scores = self._reranked(question, chunks, vector, k, clock)
        return self._evidence(method, question, chunks, scores, clock, chunks, np.sort(chunks))

    def _reranked(
        self, question: str, chunks: np.ndarray, vector: np.ndarray, k: int, clock: Clock
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` of `chunks` after the reranker, and its scores."""
        with clock("rerank"):
            scores = self._rerank(question, self.texts(chunks), vector, chunks)
            places, scores = best(scores, k)
        return chunks[places], scores

    def _pagerank(
        self, question: str, method: str, k: int, num_seeds: int, pool: int, vector: np.ndarray, clock: Clock
    ) -> Evidence:
        walk = self._once("pagerank", lambda: PageRankIndex(self.graph))
        with clock("seeds"):
            near, similarities = self.dense.search(vector, max(PASSAGES, num_seeds))
        with clock("pagerank"):
            start = start_weights(self.graph, self.rarity, near, similarities, num_seeds)
            visits = walk.scores(*start)
            found = np.flatnonzero(visits)
            wanted = k if method == "pagerank" else max(k, pool)
            chunks, scores = best(visits, min(wanted, len(found)))
        if method == "pagerank+rerank":
            chunks, scores = self._reranked(question, chunks, vector, k, clock)
        return self._evidence(method, question, chunks, scores, clock, near[:num_seeds], found)

    def _released(
        self, question: str, k: int, seeds: np.ndarray, similarities: np.ndarray, clock: Clock
    ) -> Evidence:
        titles = self._once("titles", lambda: ReleasedIndex(self.corpus))
        graph = self.graph
        with clock("expansion"):
            found, weights = released_expansion(graph, titles, seeds, similarities)
            triples = graph.triples_of_chunks(found)
        with clock("organization"):
            forest = released_forest(self.corpus, graph, question, found, weights)
            looped = graph.heads[triples] == graph.tails[triples]
            alone = np.setdiff1d(graph.chunks[triples[looped]], graph.chunks[triples[~looped]])
            trees = trees_of(graph, forest, alone)
        with clock("rerank"):
            trees, chunks = released_context(
                trees, found, k, lambda texts: self._rerank(question, texts), self.text
            )
            chunks = by_document(titles, found, chunks)
        weight = dict(zip(found.tolist(), weights.tolist(), strict=True))
        scores = [weight[chunk] for chunk in chunks]
        name = "kg2rag-released"
        return self._evidence(name, question, chunks, scores, clock, seeds, np.sort(found), triples, trees)

    def _similarities(self, chunks: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return np.asarray(self.corpus.vectors[chunks], np.float32) @ vector

    def _rerank(
        self,
        question: str,
        texts: list[str],
        vector: np.ndarray | None = None,
        chunks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Scores of texts; without a reranker their cosine, for whole chunks from the vectors at hand."""
        if not texts:
            return np.zeros(0, np.float32)
        if self.reranker is not None:
            return self.reranker(question, texts)
        if chunks is not None and vector is not None:
            return self._similarities(chunks, vector)
        check(self.embedder is not None, "reranker", None, "a reranker, or an embedder for cosine")
        vector = embed_question(self.embedder, question) if vector is None else vector
        return self._once("cosine", lambda: CosineReranker(self.embedder)).similarities(vector, texts)

    def text(self, chunk: int) -> str:
        """What a reranker reads of a chunk: title and text."""
        return text_to_search(self.corpus.chunks[chunk])

    def texts(self, chunks: Int[np.ndarray, " n"]) -> list[str]:
        return [self.text(chunk) for chunk in chunks.tolist()]

    @property
    def words(self) -> Bm25Index:
        return self._once("words", lambda: Bm25Index([text_to_search(c) for c in self.corpus.chunks]))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._lazy:
            self._lazy[name] = make()
        return self._lazy[name]

    def _evidence(
        self,
        method: str,
        question: str,
        chunks: np.ndarray | list[int],
        scores: np.ndarray | list[float],
        clock: Clock,
        seeds: np.ndarray,
        found: np.ndarray,
        triples: np.ndarray = NOTHING,
        trees: Sequence[Tree] = (),
    ) -> Evidence:
        numbers, values = tuple(map(int, chunks)), tuple(map(float, scores))
        first, spent = tuple(map(int, seeds)), clock.milliseconds
        return Evidence(question, method, numbers, values, first, found, triples, tuple(trees), spent)


def retrieve(
    corpus: Corpus,
    question: str,
    method: str = "kg2rag",
    *,
    embedder: Embedder | None = None,
    reranker: Reranker | None = None,
    **settings: Any,
) -> Evidence:
    """`Retriever.retrieve` for a single question; `settings` are its keyword arguments."""
    return Retriever(corpus, embedder, reranker).retrieve(question, method, **settings)
