"""Building and asking an index of a made-up corpus: what is counted, and that it can be too much."""

import numpy as np
import pytest

from minisys.bench import kgrag_index
from minisys.bench.kgrag_index import ask, measure_index, peak_mb
from minisys.bench.kgrag_speed import synthetic_corpus, synthetic_graph
from minisys.kgrag.store import Store

pytest.importorskip("bm25s")


def test_several_chunks_a_document():
    one, four = (synthetic_graph(50, 400, 60, seed=1, sentences=n) for n in (1, 4))
    assert four.num_chunks == 200
    assert np.array_equal(four.chunks // 4, one.chunks)
    assert set((four.chunks % 4).tolist()) == {0, 1, 2, 3}
    corpus = synthetic_corpus(50, 400, 60, dim=8, sentences=4)
    assert [(c.document, c.sentence) for c in corpus.chunks[3:6]] == [
        ("entity0", 3),
        ("entity1", 0),
        ("entity1", 1),
    ]
    np.testing.assert_allclose(np.linalg.norm(corpus.vectors.astype(np.float32), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("sentences", [1, 3])
def test_the_index_holds_the_corpus(tmp_path, monkeypatch, sentences):
    corpus = synthetic_corpus(40, 200, 60, dim=8, sentences=sentences)
    loaded = []

    def load(path, embedder):
        with Store.read(path) as store:
            loaded.append(store.load())
        return {"peak_mb": 1.0}

    monkeypatch.setattr(kgrag_index, "_in_a_process", load)
    measured = measure_index(corpus, embedders=(None, "some-model"))
    assert (measured["documents"], measured["chunks"], measured["triples"]) == (40, 40 * sentences, 200)
    assert measured["build_chunks_per_s"] > 300
    assert {"vectors given", "embedder some-model"} <= set(measured)
    held = loaded[0]
    assert [chunk.text for chunk in held.chunks] == [chunk.text for chunk in corpus.chunks]
    np.testing.assert_array_equal(held.vectors, corpus.vectors)

    def facts(graph):
        ends = zip(graph.heads, graph.tails, graph.chunks, strict=True)
        return sorted((graph.entities[h], graph.entities[t], int(c)) for h, t, c in ends)

    assert facts(held.graph) == facts(corpus.graph)


def test_another_process_asks(tmp_path):
    """Its peak is its own: what this process allocates is not in it."""
    ballast = np.ones(200_000_000, np.uint8)
    corpus = synthetic_corpus(60, 200, 80, dim=8)
    measured = measure_index(corpus, embedders=(None,))["vectors given"]
    assert 0 < measured["median_ms"] < 1e4
    assert 50 < measured["peak_mb"] < peak_mb()
    assert peak_mb() > ballast.nbytes / 1e6


def test_a_process_that_fails_is_told(tmp_path):
    with pytest.raises(ValueError, match="index: got"):
        kgrag_index._in_a_process(tmp_path / "missing.sqlite", None)
    with pytest.raises(ValueError, match="which is no file"):
        ask(tmp_path / "missing.sqlite")
