"""Documents to an index: chunk, embed, extract, write; a build that was stopped goes on where it was.

Each batch of documents is one transaction. Run again, a build skips documents that the index holds with the
same text, and writes the others; so adding documents and building are the same call.
"""

import os
from collections.abc import Callable, Iterable, Mapping

from tqdm.auto import tqdm

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.chunking import chunk_document, text_to_search
from minisys.kgrag.store import Entry, Store, digest
from minisys.kgrag.types import Embedder, Extractor, Triple


def build_index(
    path: str | os.PathLike,
    documents: Mapping[str, str],
    embedder: Embedder,
    extractor: Extractor,
    *,
    sentences: int = 1,
    batch: int = 32,
    prune: bool = False,
    progress: bool = False,
) -> dict[str, int]:
    """Write `documents` into the index at `path`, which is made if there is none.

    Args:
        path: the index file.
        documents: name to text. One that the index holds with another text is replaced.
        embedder, extractor: see `minisys.kgrag.types`; the index remembers their names and takes no others
            later.
        sentences: sentences a chunk.
        batch: documents a transaction.
        prune: delete documents of the index that `documents` lacks.
        progress: show a bar.

    Returns:
        how many documents, chunks and triples the index holds.

    Raises ValueError, before anything is written, for no document, none with text, and an index whose
    embedder, dimension, extractor or chunk size differs.
    """
    check_positive_int("sentences", sentences)

    def read(parts: list[dict[str, str]]) -> Iterable[list[Entry]]:
        return (entries_of(part, embedder, extractor, sentences) for part in parts)

    settings = {
        "embedder": embedder.name,
        "dim": embedder.dim,
        "extractor": extractor.name,
        "sentences": sentences,
    }
    return write_index(path, documents, settings, read, batch=batch, prune=prune, progress=progress)


def write_index(
    path: str | os.PathLike,
    documents: Mapping[str, str],
    settings: dict,
    read: Callable[[list[dict[str, str]]], Iterable[list[Entry]]],
    *,
    batch: int = 32,
    prune: bool = False,
    progress: bool = False,
) -> dict[str, int]:
    """Write what the index lacks, batch by batch: what all ways to build have in common.

    settings: what the index shall remember, as `Store.create` takes it.
    read: batches of documents to the entries of each, in the same order; called once, and read as it goes.

    The other arguments, what is returned and what is raised: as `build_index`.
    """
    check_positive_int("batch", batch)
    check(len(documents) > 0, "documents", "none", "at least one")
    for name, text in documents.items():
        check(isinstance(name, str) and bool(name.strip()), "documents", f"the name {name!r}", "a name")
        check(isinstance(text, str), "documents", f"{type(text).__name__} for {name!r}", "its text as str")
    check(any(text.strip() for text in documents.values()), "documents", "blank texts only", "some text")
    with Store.create(path, **settings) as store:
        held = store.documents()
        todo = [name for name, text in documents.items() if held.get(name) != digest(text)]
        parts = [
            {name: documents[name] for name in todo[start : start + batch]}
            for start in range(0, len(todo), batch)
        ]
        with tqdm(
            total=len(documents), initial=len(documents) - len(todo), unit="document", disable=not progress
        ) as bar:
            for entries in read(parts) if parts else ():
                store.add(entries)
                bar.update(len(entries))
        if prune:
            store.delete(name for name in held if name not in documents)
        store.finish()
        return store.counts()


def delete_documents(path: str | os.PathLike, names: Iterable[str]) -> dict[str, int]:
    """Delete documents from an index, and say what it holds now. Raises ValueError if one is not there."""
    with Store.open(path) as store:
        store.delete(names)
        store.finish()
        return store.counts()


def entries_of(
    documents: dict[str, str], embedder: Embedder, extractor: Extractor, sentences: int
) -> list[Entry]:
    """Chunk, embed and extract: what a batch of documents becomes in the index."""
    chunks = {name: chunk_document(name, text, sentences=sentences) for name, text in documents.items()}
    flat = [chunk for own in chunks.values() for chunk in own]
    vectors = embedder([text_to_search(chunk) for chunk in flat])
    of_chunk: list[list[Triple]] = [[] for _ in flat]
    for triple in extractor(flat):
        check(0 <= triple.chunk < len(flat), "extractor", triple, f"a chunk number below {len(flat)}")
        of_chunk[triple.chunk].append(triple)
    entries, first = [], 0
    for name, own in chunks.items():
        last = first + len(own)
        triples = [
            Triple(triple.head, triple.relation, triple.tail, place)
            for place, found in enumerate(of_chunk[first:last])
            for triple in found
        ]
        entries.append(Entry(name, digest(documents[name]), own, vectors[first:last], triples))
        first = last
    return entries
