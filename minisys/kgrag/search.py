"""Flat search over chunks: dense, by words (BM25), and both fused.

Every search returns ``(chunks, scores)``, the best first; equal scores go to the lower chunk number, so that
a result does not depend on the machine. Dense search is exact up to 10⁵ chunks, one matrix product a
question; beyond, an inverted file of FAISS reads a part of the vectors, kept in half precision.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check, check_positive_int

EXACT_UP_TO = 100_000

# Chunk numbers, int32, and their scores, of one length.
Ranking = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]


class DenseIndex:
    """Cosine similarity of a question with every chunk.

    Args:
        vectors: of unit length, float16 or float32 ``[chunks, dim]``.
        exact_up_to: more chunks than this are searched approximately.
        probes: share of the inverted lists that an approximate search reads.

    An exact index keeps a float32 copy: 1.5 kB a chunk at dim 384. An approximate one keeps float16.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "chunks dim"],
        *,
        exact_up_to: int = EXACT_UP_TO,
        probes: float = 0.1,
    ):
        check(
            vectors.ndim == 2 and len(vectors) > 0, "vectors", f"shape {vectors.shape}", "[chunks > 0, dim]"
        )
        check(0 < probes <= 1, "probes", probes, "a share in (0, 1]")
        self.num_chunks, self.dim = vectors.shape
        self.exact = self.num_chunks <= exact_up_to
        if self.exact:
            self._vectors = np.ascontiguousarray(vectors, np.float32)
        else:
            self._lists = _inverted_lists(vectors, probes)

    def search(self, question: Float[np.ndarray, " dim"], k: int) -> Ranking:
        """The `k` chunks (or all, if there are fewer) nearest to the vector of a question.

        An approximate search may return fewer. Raises ValueError for a vector of another dimension.
        """
        check_positive_int("k", k)
        check(
            question.shape == (self.dim,), "question", f"shape {question.shape}", f"({self.dim},), as indexed"
        )
        question = np.asarray(question, np.float32)
        k = min(k, self.num_chunks)
        if self.exact:
            return best(self._vectors @ question, k)
        scores, chunks = self._lists.search(question[None], k)
        found = chunks[0] >= 0
        chunks, scores = chunks[0][found], scores[0][found]
        order = np.lexsort((chunks, -scores))
        return chunks[order].astype(np.int32), scores[order]


class Bm25Index:
    """BM25 over words (bm25s, Lucene's variant, English stop words left out).

    Args:
        texts: one a chunk, as from `minisys.kgrag.chunking.text_to_search`.
    """

    def __init__(self, texts: Sequence[str]):
        import bm25s

        check(len(texts) > 0, "texts", "none", "at least one")
        self.num_chunks = len(texts)
        self._tokenize = partial(bm25s.tokenize, stopwords="english", show_progress=False)
        tokens = self._tokenize(list(texts))
        self._index = bm25s.BM25(method="lucene") if any(tokens.ids) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def search(self, question: str, k: int) -> Ranking:
        """The best `k` chunks that share a word with the question; none share one: an empty ranking."""
        check_positive_int("k", k)
        check(isinstance(question, str) and bool(question.strip()), "question", repr(question), "a question")
        scores = self.scores(question)
        return best(scores, min(k, int(np.count_nonzero(scores > 0))))

    def scores(self, question: str) -> Float[np.ndarray, " chunks"]:
        """BM25 of every chunk, float32 ``[chunks]``; 0 where no word is shared."""
        words = self._tokenize([question], return_ids=False)[0]
        known = self._index.get_tokens_ids(words) if self._index is not None else []
        return self._index.get_scores(known) if known else np.zeros(self.num_chunks, np.float32)


def best(scores: Float[np.ndarray, " n"], k: int) -> Ranking:
    """The `k` largest scores and their places, largest first; equal ones by place."""
    k = min(k, len(scores))
    if k == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > threshold)
    equal = np.flatnonzero(scores == threshold)[: k - len(above)]
    chosen = np.concatenate([above, equal])
    order = np.lexsort((chosen, -scores[chosen]))
    chosen = chosen[order]
    return chosen.astype(np.int32), scores[chosen].astype(np.float32)


def fuse(rankings: Sequence[Ranking], k: int, *, constant: float = 60.0) -> Ranking:
    """Reciprocal rank fusion: a chunk scores Σ 1 / (constant + rank) over the rankings with it, ranks from 1.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009, with its constant of 60.
    """
    check_positive_int("k", k)
    check(constant >= 0, "constant", constant, "0 or more")
    check(len(rankings) > 0, "rankings", "none", "at least one")
    gains = [1.0 / (constant + 1 + np.arange(len(chunks))) for chunks, _ in rankings]
    names, where = np.unique(np.concatenate([chunks for chunks, _ in rankings]), return_inverse=True)
    sums = np.bincount(where, weights=np.concatenate(gains), minlength=len(names))
    places, scores = best(sums.astype(np.float64), k)  # bincount of nothing counts in integers
    return names[places].astype(np.int32), scores


def _inverted_lists(vectors: np.ndarray, probes: float) -> Any:  # a faiss.Index
    """FAISS: about 2 √n lists of float16 vectors under an exact coarse quantizer, trained on a sample."""
    import faiss

    count, dim = vectors.shape
    lists = max(1, min(round(2 * math.sqrt(count)), count // 39))
    index: Any = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).permutation(count)[: 39 * lists]
    index.cp.seed, index.cp.niter = 0, 6
    index.train(vectors[np.sort(sample)].astype(np.float32))
    for start in range(0, count, 16384):  # in blocks: a float32 copy of everything would double the memory
        index.add(vectors[start : start + 16384].astype(np.float32))
    index.nprobe = max(1, round(probes * lists))
    return index
