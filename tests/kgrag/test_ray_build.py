"""Ray builds the file that the plain build writes. Skipped where ray[data] is not installed."""

import sqlite3

import numpy as np
import pytest

from minisys.kgrag.build import build_index
from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.extraction import ReadyTriples
from minisys.kgrag.ray_build import _unpacked, _Worker, build_index_with_ray
from minisys.kgrag.store import Store

DOCUMENTS = {
    f"page {i}": f"Ada Venn {i} lives in Brond. She has {i} boats.\n\nBrond is old." for i in range(11)
}
DOCUMENTS |= {"blank": " ", "odd": "“<|im_end|>” \u0007 stands here. No\x00 more."}
FACTS = {"page 3": [("She", "has", "3 boats")]}


def make_embedder():
    return HashingEmbedder(32)


def make_extractor():
    return ReadyTriples(FACTS)


def contents(path):
    """Every row of every table but the cache, with the whole vectors."""
    with sqlite3.connect(path) as connection:
        tables = ("meta", "document", "chunk", "triple")
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables}


def test_entries_survive_the_way_between_processes():
    worker = _Worker(make_embedder, make_extractor, 1)
    row = worker({"names": list(DOCUMENTS), "texts": list(DOCUMENTS.values())})
    assert set(map(type, row.values())) == {str, bytes}
    for entry, (name, text) in zip(_unpacked(row, DOCUMENTS, 32), DOCUMENTS.items(), strict=True):
        assert entry.name == name
        assert len(entry.vectors) == len(entry.chunks)
        assert [text[c.start : c.end] for c in entry.chunks] == [c.text for c in entry.chunks]
        again = make_embedder()([text_to_search(chunk) for chunk in entry.chunks])
        np.testing.assert_array_equal(entry.vectors, again)
        expected = [(head, tail, 1) for head, _, tail in FACTS.get(name, ())]
        assert [(t.head, t.tail, t.chunk) for t in entry.triples] == expected


@pytest.mark.usefixtures("no_runtime_types")
def test_no_workers(tmp_path):
    with pytest.raises(ValueError, match="workers: got 0"):
        build_index_with_ray(tmp_path / "x.sqlite", DOCUMENTS, make_embedder, make_extractor, workers=0)


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    with pytest.raises(ValueError, match=r"expected an environment with ray\[data\]"):
        build_index_with_ray(tmp_path / "x.sqlite", DOCUMENTS, make_embedder, make_extractor)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_same_file_as_the_plain_build(tmp_path):
    ray = pytest.importorskip("ray", reason="ray[data] is not installed")
    plain, spread = tmp_path / "plain.sqlite", tmp_path / "spread.sqlite"
    build_index(plain, DOCUMENTS, make_embedder(), make_extractor(), batch=3)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        first = dict(list(DOCUMENTS.items())[:4])
        build_index_with_ray(spread, first, make_embedder, make_extractor, batch=3)
        counts = build_index_with_ray(spread, DOCUMENTS, make_embedder, make_extractor, batch=3)  # goes on
    finally:
        ray.shutdown()
    assert counts["documents"] == len(DOCUMENTS)
    assert contents(spread)["chunk"] == contents(plain)["chunk"]
    assert contents(spread)["triple"] == contents(plain)["triple"]
    with Store.read(plain) as one, Store.read(spread) as two:
        assert one.documents() == two.documents()
