"""How fast an index is built from vectors and triples that are at hand, and how much memory it takes to ask.

Memory is the most that a process of its own has had in RAM: one that opens the file, loads everything and
asks questions whose vectors are given; and another that embeds its questions too, as `minisys rag ask` does.
Both have PyTorch imported.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import minisys
from minisys.bench.kgrag_speed import measure_queries
from minisys.core.checks import check
from minisys.kgrag.store import Entry, Store, digest
from minisys.kgrag.types import Corpus, Triple

BATCH = 32  # documents a transaction, as `minisys.kgrag.build.build_index` writes them
QUERIES = 50


def measure_index(corpus: Corpus, *, embedders: tuple[str | None, ...] = (None, "all-MiniLM-L6-v2")) -> dict:
    """Build an index file of `corpus` in a temporary folder, then load it and ask, in other processes.

    Returns chunks a second of the whole build (documents, linking, folding the log into the file), the file's
    megabytes, and for each embedder (None: vectors are given) what `ask` measures.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        entries = _entries(corpus)
        begun = time.perf_counter()
        with Store.create(path, embedder="none", dim=corpus.vectors.shape[1]) as store:
            for first in range(0, len(entries), BATCH):
                store.add(entries[first : first + BATCH])
            written = time.perf_counter()
            store.finish()
            ended = time.perf_counter()
            counts = store.counts()
        measured: dict = counts | {
            "build_chunks_per_s": counts["chunks"] / (ended - begun),
            "write_s": written - begun,
            "link_and_finish_s": ended - written,
            "file_mb": path.stat().st_size / 1e6,
        }
        for name in embedders:
            measured["embedder " + name if name else "vectors given"] = _in_a_process(path, name)
    return measured


def ask(path: Path, embedder: str | None = None, queries: int = QUERIES) -> dict:
    """Load an index, ask `queries` questions, and say how long that took and the most memory it had."""
    begun = time.perf_counter()
    with Store.read(path) as store:
        corpus = store.load()
    loaded = time.perf_counter() - begun
    if embedder is not None:
        from minisys.kgrag.embedding import embed_question, embedder_for

        model = embedder_for(embedder)
        for number in range(5):
            embed_question(model, corpus.chunks[number].text)
    asked = measure_queries(corpus, "kg2rag", queries)
    return {"load_s": loaded, "median_ms": asked["median_ms"], "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory that this process has had in RAM, in units of 10⁶ bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes elsewhere
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def _entries(corpus: Corpus) -> list[Entry]:
    """A document's chunks stand together in `corpus`."""
    graph, starts = corpus.graph, []
    for number, chunk in enumerate(corpus.chunks):
        if not number or chunk.document != corpus.chunks[number - 1].document:
            starts.append(number)
    place = np.repeat(starts, np.diff([*starts, len(corpus.chunks)]))  # of each chunk, its document's first
    triples: dict[int, list[Triple]] = {start: [] for start in starts}
    for triple, chunk in enumerate(graph.chunks.tolist()):
        head, tail = graph.entities[graph.heads[triple]], graph.entities[graph.tails[triple]]
        start = int(place[chunk])
        triples[start].append(Triple(head, graph.relations[triple], tail, chunk - start))
    entries = []
    for start, end in zip(starts, [*starts[1:], len(corpus.chunks)], strict=True):
        chunks = corpus.chunks[start:end]
        text = "\n".join(chunk.text for chunk in chunks)
        entries.append(
            Entry(chunks[0].document, digest(text), chunks, corpus.vectors[start:end], triples[start])
        )
    return entries


def _in_a_process(path: Path, embedder: str | None) -> dict:
    package = str(Path(minisys.__file__).resolve().parents[1])
    searched = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", __name__, str(path), *([embedder] if embedder else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": searched})
    check(done.returncode == 0, "index", done.stderr.strip().splitlines()[-1:], "a process that loads it")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(ask(Path(sys.argv[1]), *sys.argv[2:3])))
