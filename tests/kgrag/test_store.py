"""The index file: what it refuses, and readers beside a writer."""

import sqlite3
import threading

import numpy as np
import pytest

from minisys.kgrag.store import Entry, Store, digest
from minisys.kgrag.types import Chunk, Triple


def entry(name="a", dim=8, chunks=2, triples=((0, "Ada", "met", "Charles"),)):
    rng = np.random.default_rng(len(name))
    vectors = rng.standard_normal((chunks, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [Chunk(name, f"Text {n}.", 8 * n, 8 * n + 7, n) for n in range(chunks)]
    return Entry(name, digest(name), texts, vectors, [Triple(h, r, t, c) for c, h, r, t in triples])


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "index.sqlite"
    with Store.create(path, embedder="test", dim=8, sentences=1) as store:
        store.add([entry("a"), entry("bb", chunks=3, triples=[])])
        store.finish()
    return path


def test_what_is_written_is_read(index):
    with Store.read(index) as store:
        corpus = store.load()
        assert store.meta["embedder"] == "test"
        assert store.counts() == {"documents": 2, "chunks": 5, "triples": 1}
        assert store.documents() == {"a": digest("a"), "bb": digest("bb")}
    assert corpus.chunks == [*entry("a").chunks, *entry("bb", chunks=3).chunks]
    expected = np.concatenate([entry("a").vectors, entry("bb", chunks=3).vectors]).astype(np.float16)
    np.testing.assert_array_equal(corpus.vectors, expected)
    assert corpus.graph.entities == ["Ada", "Charles"]
    assert corpus.graph.relations == ["met"]
    assert [p.name for p in index.parent.iterdir()] == ["index.sqlite"]  # one file, nothing beside it


def test_the_graph_is_linked_once_and_again_after_a_change(index, monkeypatch):
    with Store.read(index) as store:
        monkeypatch.setattr("minisys.kgrag.store.link_triples", lambda *_: pytest.fail("linked again"))
        assert store.load().graph.num_chunks == 5
    monkeypatch.undo()
    with Store.open(index) as store:
        store.add([entry("ccc", triples=[(1, "Charles", "met", "Ada Byron")])])
        assert store.load().graph.heads.tolist() == [0, 1]


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
def test_a_truncated_file(index, keep):
    content = index.read_bytes()
    index.write_bytes(content[: int(len(content) * keep)])
    short = index.read_bytes()
    for opening in (Store.read, Store.open, lambda path: Store.create(path, embedder="test", dim=8)):
        with pytest.raises(ValueError, match="truncated file"):
            opening(index)
    assert index.read_bytes() == short


def test_a_damaged_page(index):
    content = bytearray(index.read_bytes())
    content[4096:8192] = bytes(range(256)) * 16
    index.write_bytes(content)
    with pytest.raises(ValueError, match="a damaged file"):
        Store.read(index)


def test_foreign_files(tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to hold a header of a hundred bytes" * 3)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE chunk(id)")
    connection.commit()
    connection.close()
    for path, message in [(text, "which is no SQLite file"), (other, "SQLite file of another program")]:
        before = path.read_bytes()
        for opening in (Store.read, Store.open, lambda path: Store.create(path, embedder="test", dim=8)):
            with pytest.raises(ValueError, match=message):
                opening(path)
        assert path.read_bytes() == before
    with pytest.raises(ValueError, match="which is no file"):
        Store.read(tmp_path / "missing.sqlite")
    with pytest.raises(ValueError, match="got the folder"):
        Store.create(tmp_path, embedder="test", dim=8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.sqlite", "text.sqlite"]


def test_another_format_version(index):
    connection = sqlite3.connect(index)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ValueError, match="of format 9, expected format 1"):
        Store.read(index)


def test_an_empty_file_is_a_place_for_an_index_but_none(tmp_path):
    path = tmp_path / "index.sqlite"
    path.touch()
    with pytest.raises(ValueError, match="which is no SQLite file"):
        Store.read(path)
    with Store.create(path, embedder="test", dim=8) as store:
        store.add([entry()])
        store.finish()
    with Store.read(path) as store:
        assert store.load().graph.num_chunks == 2


def bad_vectors(change):
    made = entry("new")
    vectors = made.vectors.copy()
    change(vectors)
    return Entry("new", "", made.chunks, vectors, [])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            entry("new", dim=16),
            r"vectors of 'new' with shape \(2, 16\), expected \(2, 8\): the index has dim 8",
        ),
        (Entry("new", "", [], entry().vectors, []), r"with shape \(2, 8\), expected \(0, 8\)"),
        (bad_vectors(lambda v: v.__imul__(2)), "of length .*unit length"),
        (bad_vectors(lambda v: v.fill(np.nan)), "unit length"),
        (entry("new", triples=[(2, "a", "b", "c")]), "a chunk below 2"),
        (entry("new", triples=[(0, " ", "b", "c")]), "not blank"),
        (entry("new", triples=[(0, "a", "", "c")]), "not blank"),
        (entry(" "), "the name ' '"),
    ],
)
def test_a_bad_document_leaves_the_index_untouched(index, bad, message):
    with Store.open(index) as store:
        before = (store.counts(), store.generation)
        with pytest.raises(ValueError, match=message):
            store.add([entry("good"), bad])
        assert (store.counts(), store.generation) == before


def test_readers_see_the_last_finished_state_while_a_writer_works(index):
    with Store.open(index) as writer, Store.read(index) as reader:
        corpus = reader.load()
        writer._connection.execute("BEGIN IMMEDIATE")
        writer._connection.execute("DELETE FROM document")
        assert reader.load().chunks == corpus.chunks
        writer._connection.execute("COMMIT")
        with pytest.raises(ValueError, match="without a chunk"):
            reader.load()


def test_many_readers_and_a_writer_at_once(index):
    stop, seen, errors = threading.Event(), [], []

    def read():
        while not stop.is_set():
            try:
                with Store.read(index) as store:
                    corpus = store.load()
                seen.append(len(corpus.chunks))
                assert len(corpus.vectors) == corpus.graph.num_chunks == len(corpus.chunks)
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Store.open(index) as store:
        for number in range(15):
            store.add([entry("x" * (number + 5))])
            store.finish()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(seen) <= set(range(5, 36, 2))
    with Store.read(index) as store:
        assert store.counts()["chunks"] == 35


def test_a_reader_cannot_write(index):
    with Store.read(index) as store, pytest.raises(ValueError, match="cannot be written"):
        store.add([entry("new")])


def test_a_full_disk_leaves_the_last_state(index):
    with Store.open(index) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(ValueError, match=r"cannot be written now .*full"):
            store.add([entry("new", chunks=2000)])
        assert store.counts()["documents"] == 2
        store.add([entry("new", chunks=2)])
        assert store.counts()["documents"] == 3
