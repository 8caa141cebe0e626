"""Search: the best first, ties by number, approximate close to exact."""

import numpy as np
import pytest

from minisys.kgrag.search import Bm25Index, DenseIndex, best, fuse


def unit(rng, count, dim=32):
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_best_orders_by_score_then_by_place():
    scores = np.array([1.0, 3.0, 3.0, 2.0, 3.0])
    for k, expected in [(1, [1]), (2, [1, 2]), (4, [1, 2, 4, 3]), (9, [1, 2, 4, 3, 0])]:
        chunks, values = best(scores, k)
        assert chunks.tolist() == expected
        assert values.tolist() == scores[expected].tolist()
        assert (chunks.dtype, values.dtype) == (np.int32, np.float32)
    assert best(np.zeros(3), 0)[0].size == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exact_search_is_a_sort(dtype):
    rng = np.random.default_rng(0)
    vectors, question = unit(rng, 300).astype(dtype), unit(rng, 1)[0]
    chunks, scores = DenseIndex(vectors).search(question, 20)
    cosine = vectors.astype(np.float32) @ question
    assert chunks.tolist() == sorted(range(300), key=lambda i: (-cosine[i], i))[:20]
    np.testing.assert_array_equal(scores, cosine[chunks])
    assert len(DenseIndex(vectors).search(question, 1000)[0]) == 300


def test_approximate_search_finds_nearly_the_same():
    rng = np.random.default_rng(1)
    centres = unit(rng, 60)
    vectors = np.repeat(centres, 50, axis=0) + 0.05 * rng.standard_normal((3000, 32)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    exact, lists = DenseIndex(vectors), DenseIndex(vectors, exact_up_to=1000)
    assert exact.exact
    assert not lists.exact
    shared = []
    for centre in centres:
        expected, (chunks, scores) = exact.search(centre, 10)[0], lists.search(centre, 10)
        shared.append(len(set(expected.tolist()) & set(chunks.tolist())) / 10)
        np.testing.assert_allclose(scores, vectors[chunks].astype(np.float32) @ centre, atol=2e-3)
        assert np.all(np.diff(scores) <= 0)
    assert np.mean(shared) > 0.9


def test_bm25_counts_words():
    index = Bm25Index(["the cat sat", "a dog and a cat", "the dog barked at the dog", "nothing here"])
    chunks, scores = index.search("Dogs? A DOG barked!", 3)
    assert chunks.tolist() == [2, 1]
    assert scores[0] > scores[1] > 0
    assert index.search("zebra", 3)[0].size == 0
    assert index.search("the", 3)[0].size == 0  # a stop word
    same = Bm25Index(["cat one", "cat two", "cat six"]).search("cat", 2)
    assert same[0].tolist() == [0, 1]


def test_bm25_without_words():
    index = Bm25Index(["the", "", "..."])
    assert index.search("cat", 2)[0].size == 0
    assert index.scores("cat").tolist() == [0, 0, 0]


def test_fusion_by_hand():
    first = (np.array([5, 3, 9], np.int32), np.array([0.9, 0.8, 0.1], np.float32))
    second = (np.array([3, 7], np.int32), np.array([12.0, 3.0], np.float32))
    chunks, scores = fuse([first, second], 3)
    assert chunks.tolist() == [3, 5, 7]
    np.testing.assert_allclose(scores, [1 / 62 + 1 / 61, 1 / 61, 1 / 62], rtol=1e-6)
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert fuse([nothing, second], 5)[0].tolist() == [3, 7]
    assert fuse([nothing], 5)[0].size == 0


def test_bad_input(no_runtime_types):
    rng = np.random.default_rng(2)
    index = DenseIndex(unit(rng, 5))
    with pytest.raises(ValueError, match=r"question: got shape \(16,\), expected \(32,\), as indexed"):
        index.search(np.zeros(16, np.float32), 3)
    with pytest.raises(ValueError, match="k: got 0"):
        index.search(np.zeros(32, np.float32), 0)
    with pytest.raises(ValueError, match="vectors: got shape"):
        DenseIndex(np.zeros((0, 32), np.float32))
    with pytest.raises(ValueError, match="probes"):
        DenseIndex(unit(rng, 5), probes=0)
    with pytest.raises(ValueError, match="texts: got none"):
        Bm25Index([])
    with pytest.raises(ValueError, match="question: got ' '"):
        Bm25Index(["cat"]).search(" ", 3)
    with pytest.raises(ValueError, match="rankings: got none"):
        fuse([], 3)
