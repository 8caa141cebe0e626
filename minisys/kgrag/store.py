"""The index: chunks, vectors and triples in one SQLite file.

A document is written in one transaction with everything that belongs to it, so that the file always holds
whole documents, whenever the machine stops. Readers see the last finished transaction while a writer works
(write-ahead log). Vectors are float16 blobs; linked entities are kept beside the triples and renewed after a
change.

    document(id, name, sha256)    chunk(id, document, text, start, end, sentence, vector)
    triple(id, chunk, head, relation, tail)    meta(key, value)    cache(name, generation, value)

Costs: 2·dim bytes a vector on disk and in memory. Left out: compression, several writers at once (they take
turns).
"""

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from minisys.core.checks import check
from minisys.kgrag.entities import link_triples
from minisys.kgrag.sqlite_file import (
    check_file,
    check_owner,
    connect,
    is_blank,
    snapshot,
    stamp,
    tidy,
    transaction,
    write_ahead,
)
from minisys.kgrag.types import Chunk, Corpus, Graph, Triple

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE document(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL);
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document ON DELETE CASCADE,
    text TEXT NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, sentence INTEGER NOT NULL, vector BLOB
    NOT NULL);
CREATE TABLE triple(
    id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL REFERENCES chunk ON DELETE CASCADE,
    head TEXT NOT NULL, relation TEXT NOT NULL, tail TEXT NOT NULL);
CREATE TABLE cache(name TEXT PRIMARY KEY, generation INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX chunk_of_document ON chunk(document);
CREATE INDEX triple_of_chunk ON triple(chunk);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as the index stores it.

    Attributes:
        name: its name, unique in the index.
        sha256: of its text, as hexadecimal digits; tells a changed document.
        chunks: its chunks, in order; may be empty.
        vectors: of unit length, float16 or float32 ``[chunks, dim]``.
        triples: their `chunk` counts within this document, from 0.
    """

    name: str
    sha256: str
    chunks: Sequence[Chunk]
    vectors: Float[np.ndarray, "chunks dim"]
    triples: Sequence[Triple]


def digest(text: str) -> str:
    """SHA-256 of a document's text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Store:
    """An open index file, from `Store.create`, `open` or `read`; close it, or use it in a with block."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._connection, self.path = connection, path
        self.meta: dict = {key: json.loads(value) for key, value in self._all("SELECT key, value FROM meta")}
        self.dim: int = self.meta["dim"]

    @classmethod
    def create(cls, path: str | os.PathLike, *, embedder: str, dim: int, **settings: object) -> "Store":
        """Open the index at `path` for writing; make it if there is none.

        Args:
            embedder, dim: the name of the model behind the vectors, and their dimension.
            settings: further JSON values that all documents must share, such as ``extractor="parse"``.

        Raises ValueError, and changes nothing, for a file that is no index, a broken one, or an index with
        other settings.
        """
        path = Path(path)
        check(dim >= 1, "dim", dim, "1 or more")
        check(not path.is_dir(), "path", f"the folder {path}", "a file")
        fresh = not path.exists() or path.stat().st_size == 0
        if not fresh:
            check_file(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = connect(path, "rwc" if fresh else "rw")
        wanted = {"embedder": embedder, "dim": dim, **settings}
        try:
            if is_blank(connection):
                write_ahead(connection)
                with transaction(connection) as run:
                    if is_blank(connection):  # no other writer came first
                        for statement in _SCHEMA.split(";"):
                            run(statement)
                        stamp(connection)
                        rows = {**wanted, "generation": 0, "complete": False}
                        for key, value in rows.items():
                            run("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))
            check_owner(connection, path)
            store = cls(connection, path)
            for key, value in wanted.items():
                found = store.meta.get(key)
                check(found == value, key, repr(value), f"{found!r}, as in the index {path}")
            write_ahead(connection)
        except BaseException:
            connection.close()
            raise
        return store

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Store":
        """Open an existing index for adding and deleting. Raises ValueError as `create` does."""
        return cls._existing(path, "rw")

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Store":
        """Open an existing index for reading only; any number of readers, also while a writer works."""
        return cls._existing(path, "ro")

    @classmethod
    def _existing(cls, path: str | os.PathLike, mode: str) -> "Store":
        path = Path(path)
        check(path.is_file(), "path", f"{path}, which is no file", "an index (minisys rag index makes one)")
        check_file(path)
        connection = connect(path, mode)
        try:
            check_owner(connection, path)
            if mode == "rw":
                write_ahead(connection)
            return cls(connection, path)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def complete(self) -> bool:
        """Whether the first build came to its end."""
        return json.loads(self._one("SELECT value FROM meta WHERE key = 'complete'"))

    @property
    def generation(self) -> int:
        """Counts the changes of the content."""
        return json.loads(self._one("SELECT value FROM meta WHERE key = 'generation'"))

    def counts(self) -> dict[str, int]:
        """How many documents, chunks and triples there are."""
        tables = ("document", "chunk", "triple")
        return {f"{table}s": self._one(f"SELECT count(*) FROM {table}") for table in tables}

    def documents(self) -> dict[str, str]:
        """The name and SHA-256 of every document, in the order in which they were written."""
        return dict(self._all("SELECT name, sha256 FROM document ORDER BY id"))

    def add(self, entries: Iterable[Entry]) -> None:
        """Write documents in one transaction: all or none. A document of the same name is replaced.

        Raises ValueError, and changes nothing, for vectors of another dimension or number than the chunks,
        vectors not of unit length, and triples with a blank name or relation or of a chunk that is not there.
        """
        entries = list(entries)
        for entry in entries:
            _check_entry(entry, self.dim)
        with transaction(self._connection) as run:
            for entry in entries:
                run("DELETE FROM document WHERE name = ?", (entry.name,))
                document = run(
                    "INSERT INTO document(name, sha256) VALUES (?, ?)", (entry.name, entry.sha256)
                ).lastrowid
                vectors = np.ascontiguousarray(entry.vectors, "<f2")
                numbers = []
                for c, vector in zip(entry.chunks, vectors, strict=True):
                    row = (document, c.text, c.start, c.end, c.sentence, vector.tobytes())
                    numbers.append(run("INSERT INTO chunk VALUES (NULL, ?, ?, ?, ?, ?, ?)", row).lastrowid)
                for t in entry.triples:
                    run(
                        "INSERT INTO triple VALUES (NULL, ?, ?, ?, ?)",
                        (numbers[t.chunk], t.head, t.relation, t.tail),
                    )
            self._changed(run)

    def delete(self, names: Iterable[str]) -> None:
        """Delete documents in one transaction. Raises ValueError, and deletes none, if one is not there."""
        names = list(names)
        with transaction(self._connection) as run:
            for name in names:
                found = run("DELETE FROM document WHERE name = ?", (name,)).rowcount
                check(found == 1, "names", repr(name), "the name of a document in the index")
            self._changed(run)

    def finish(self) -> None:
        """Mark the first build as complete, link the entities and fold the log into the file."""
        with transaction(self._connection) as run:
            run("UPDATE meta SET value = 'true' WHERE key = 'complete'")
        self.graph()
        tidy(self._connection)

    def load(self) -> Corpus:
        """Read everything that retrieval needs, from one moment; vectors as float16.

        Raises ValueError for a build that was interrupted, an index without a chunk, and a vector of another
        length.
        """
        with snapshot(self._connection):
            documents = self._one("SELECT count(*) FROM document")
            what = f"the unfinished index {self.path} ({documents} documents)"
            check(
                self.complete, "path", what, "a finished one; the same build again goes on where it stopped"
            )
            count = self._one("SELECT count(*) FROM chunk")
            check(count > 0, "path", f"{self.path} without a chunk", "an index with a document that has text")
            vectors = np.empty((count, self.dim), np.float16)
            chunks = []
            names: dict[int, str] = dict(self._all("SELECT id, name FROM document"))
            rows = self._all("SELECT document, text, start, end, sentence, vector FROM chunk ORDER BY id")
            for number, (document, text, start, end, sentence, vector) in enumerate(rows):
                if len(vector) != 2 * self.dim:
                    check(False, "path", f"a vector of {len(vector)} bytes in {self.path}", f"{2 * self.dim}")
                vectors[number] = np.frombuffer(vector, "<f2")
                chunks.append(Chunk(names[document], text, start, end, sentence))
            return Corpus(chunks, vectors, self.graph(chunks))

    def graph(self, chunks: list[Chunk] | None = None) -> Graph:
        """The linked graph: kept from the last time if nothing has changed since, else linked now."""
        generation = self.generation
        found = self._connection.execute(
            "SELECT value FROM cache WHERE name = 'graph' AND generation = ?", (generation,)
        ).fetchone()
        if found:
            return _unpack(found[0])
        if chunks is None:
            query = (
                "SELECT name, text, start, end, sentence FROM chunk JOIN document ON document.id = document"
            )
            chunks = [Chunk(*row) for row in self._all(f"{query} ORDER BY chunk.id")]
        places = {
            number: place for place, (number,) in enumerate(self._all("SELECT id FROM chunk ORDER BY id"))
        }
        rows = self._all("SELECT head, relation, tail, chunk FROM triple ORDER BY id")
        triples = [Triple(head, relation, tail, places[chunk]) for head, relation, tail, chunk in rows]
        graph = link_triples(triples, chunks)
        if not self._one("PRAGMA query_only") and not self._connection.in_transaction:
            with transaction(self._connection) as run:
                if self.generation == generation:  # no other writer came in between
                    run("INSERT OR REPLACE INTO cache VALUES ('graph', ?, ?)", (generation, _pack(graph)))
        return graph

    def _changed(self, run: Callable) -> None:
        run("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")
        run("DELETE FROM cache")

    def _all(self, query: str) -> Iterator[tuple]:
        return self._connection.execute(query)

    def _one(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]


def _check_entry(entry: Entry, dim: int) -> None:
    where = f"of {entry.name!r}"
    check(bool(entry.name.strip()), "entries", f"the name {entry.name!r}", "a name")
    shape = np.shape(entry.vectors)
    expected = (len(entry.chunks), dim)
    check(
        shape == expected,
        "entries",
        f"vectors {where} with shape {shape}",
        f"{expected}: the index has dim {dim}",
    )
    lengths = np.linalg.norm(np.asarray(entry.vectors, np.float32), axis=1)
    if not np.all(np.abs(lengths - 1) < 0.01):  # also for NaN
        check(False, "entries", f"vectors {where} of length {lengths[:3]}", "unit length")
    for t in entry.triples:
        check(
            0 <= t.chunk < len(entry.chunks), "entries", f"{t} {where}", f"a chunk below {len(entry.chunks)}"
        )
        full = bool(t.head.strip() and t.relation.strip() and t.tail.strip())
        check(full, "entries", f"{t} {where}", "a head, a relation and a tail that are not blank")


def _pack(graph: Graph) -> bytes:
    """A graph as NumPy's archive, without pickled objects."""
    words = json.dumps([graph.entities, graph.relations], ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream = io.BytesIO()
    arrays = {"heads": graph.heads, "tails": graph.tails, "chunks": graph.chunks}
    np.savez(stream, words=np.frombuffer(words, np.uint8), num_chunks=graph.num_chunks, **arrays)
    return stream.getvalue()


def _unpack(packed: bytes) -> Graph:
    with np.load(io.BytesIO(packed), allow_pickle=False) as found:
        entities, relations = json.loads(found["words"].tobytes().decode("utf-8", "surrogatepass"))
        arrays = (found["heads"], found["tails"], found["chunks"])
        one_each: dict[str, str] = {}
        relations = [one_each.setdefault(relation, relation) for relation in relations]  # thousands are equal
        return Graph(entities, relations, *arrays, int(found["num_chunks"]))
