"""Building an index on several machines with Ray Data: the same file as `minisys.kgrag.build` writes.

Workers chunk, embed and extract, a batch of documents at a time, each with models of its own; the caller's
process alone writes, in the order of the documents. So whatever holds for an index file holds for this one: a
build that was stopped goes on, with or without Ray.

``ray[data]`` is no dependency: install it beside MiniSys. `ray.init` says which cluster to use; without it
the machine's own cores work. Between processes an entry travels as JSON and an array, never as a pickled
object.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.build import entries_of, write_index
from minisys.kgrag.store import Entry
from minisys.kgrag.types import Chunk, Embedder, Extractor, Triple


def build_index_with_ray(
    path: str | os.PathLike,
    documents: Mapping[str, str],
    make_embedder: Callable[[], Embedder],
    make_extractor: Callable[[], Extractor],
    *,
    workers: int = 2,
    sentences: int = 1,
    batch: int = 32,
    prune: bool = False,
    progress: bool = False,
) -> dict[str, int]:
    """Write `documents` into the index at `path`, read by `workers` processes of a Ray cluster.

    make_embedder, make_extractor: called once by each worker, and once here for their names.

    The other arguments, what is returned and what is raised: as `minisys.kgrag.build.build_index`, and
    ValueError where Ray is not installed.
    """
    check_positive_int("workers", workers)
    check_positive_int("sentences", sentences)
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(f"ray: got {error}, expected an environment with ray[data]") from error
    embedder, extractor = make_embedder(), make_extractor()
    settings = {
        "embedder": embedder.name,
        "dim": embedder.dim,
        "extractor": extractor.name,
        "sentences": sentences,
    }

    def read(parts: list[dict[str, str]]) -> Iterable[list[Entry]]:
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        items = [{"names": list(part), "texts": list(part.values())} for part in parts]
        rows = ray.data.from_items(items).map(
            _Worker,
            fn_constructor_args=(make_embedder, make_extractor, sentences),
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        done = 0
        for row in rows.iter_rows():
            yield _unpacked(row, parts[done], embedder.dim)
            done += 1
        check(done == len(parts), "ray", f"{done} batches back", f"{len(parts)}")

    return write_index(path, documents, settings, read, batch=batch, prune=prune, progress=progress)


class _Worker:
    """A process of the cluster with its models."""

    def __init__(
        self, make_embedder: Callable[[], Embedder], make_extractor: Callable[[], Extractor], sentences: int
    ) -> None:
        self._embedder, self._extractor, self._sentences = make_embedder(), make_extractor(), sentences

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        documents = dict(zip(row["names"], row["texts"], strict=True))
        entries = entries_of(documents, self._embedder, self._extractor, self._sentences)
        vectors = np.concatenate([entry.vectors for entry in entries])
        held = [
            [
                entry.sha256,
                [[c.text, c.start, c.end, c.sentence] for c in entry.chunks],
                [[t.head, t.relation, t.tail, t.chunk] for t in entry.triples],
            ]
            for entry in entries
        ]
        return {"entries": json.dumps(held), "vectors": vectors.astype("<f4").tobytes()}


def _unpacked(row: dict[str, Any], documents: Iterable[str], dim: int) -> list[Entry]:
    """The entries of a batch, from what a worker sent."""
    held = json.loads(row["entries"])
    vectors = np.frombuffer(row["vectors"], "<f4").reshape(-1, dim)
    entries, first = [], 0
    for name, (sha256, chunks, triples) in zip(documents, held, strict=True):
        last = first + len(chunks)
        own = [Chunk(name, *chunk) for chunk in chunks]
        found = [Triple(*triple) for triple in triples]
        entries.append(Entry(name, sha256, own, vectors[first:last], found))
        first = last
    return entries
