"""The question sets that ``minisys bench kgrag`` measures on, each with its corpus and questions' vectors."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from minisys.core.checks import check
from minisys.kgrag.datasets import QuestionSet, load_hotpotqa, load_musique, load_openie
from minisys.kgrag.types import Chunk, Corpus, Embedder, Triple
from minisys.kgrag.world import load_world, make_world

DATA = "MINISYS_MULTIHOP"  # environment variable: the folder with HotpotQA's and MuSiQue's files
FILES = {
    "hotpotqa": ("hotpotqa_train.json", "hotpotqa_train_corpus.json"),
    "musique": ("musique_train.json", "musique_train_corpus.json", "musique_train_openie.json"),
}


@dataclass(frozen=True)
class Prepared:
    """A question set ready for retrieval.

    Attributes:
        questions: the set.
        corpus: its chunks with vectors and a linked graph.
        embedder: made its vectors.
        vectors: the embedding of each question, by its id.
        about: sizes and where the triples come from, for the result file.
    """

    questions: QuestionSet
    corpus: Corpus
    embedder: Embedder
    vectors: dict[str, np.ndarray]
    about: dict


def data_folder(given: Path | None = None) -> Path | None:
    """Folder of the public files: `given`, else what the environment variable says; None for neither.

    Raises ValueError where it lacks a file.
    """
    named = given or os.environ.get(DATA)
    if not named:
        return None
    folder = Path(named)
    missing = [name for names in FILES.values() for name in names if not (folder / name).is_file()]
    check(not missing, "data", f"{folder} without {', '.join(missing)}", "a folder with the public files")
    return folder


def question_sets(folder: Path | None, *, quick: bool) -> dict[str, QuestionSet]:
    """The sets by name: the generated world, and HotpotQA and MuSiQue where their files are."""
    world = make_world(0, 100) if quick else load_world()
    sets = {"world": world.questions}
    if folder is None:
        return sets
    hotpot, musique = FILES["hotpotqa"], FILES["musique"]
    sets["hotpotqa"] = load_hotpotqa(folder / hotpot[0], folder / hotpot[1])
    passages = load_musique(folder / musique[0], folder / musique[1])
    sets["musique"], _ = load_openie(folder / musique[2], passages)
    if quick:
        sets = {name: replace(held, questions=held.questions[:25]) for name, held in sets.items()}
    return sets


def prepare(questions: QuestionSet, embedder: Embedder) -> Prepared:
    """Embed and link a set. Triples that it lacks are parsed from its chunks."""
    from minisys.kgrag.chunking import text_to_search
    from minisys.kgrag.embedding import embed_question
    from minisys.kgrag.entities import link_triples

    chunks = questions.chunks()
    triples, source = list(questions.triples), "given with the set"
    if not triples:
        triples, source = _parse(chunks), "parsed from the sentences"
    vectors = embedder([text_to_search(chunk) for chunk in chunks]).astype(np.float16)
    graph = link_triples(triples, chunks)
    asked = {question.id: embed_question(embedder, question.text) for question in questions.questions}
    about = {
        "questions": len(questions.questions),
        "documents": len(questions.documents),
        "chunks": len(chunks),
        "triples": len(triples),
        "entities": len(graph.entities),
        "triples_are": source,
        "embedder": embedder.name,
    }
    return Prepared(questions, Corpus(chunks, vectors, graph), embedder, asked, about)


def drop_triples(corpus: Corpus, share: float, seed: int = 0) -> Corpus:
    """The corpus without a random `share` of its triples, as the paper tries (arXiv 2502.06864)."""
    check(0 <= share < 1, "share", share, "from 0 to below 1")
    graph, random = corpus.graph, Random(seed)
    kept = np.array([random.random() >= share for _ in graph.relations], dtype=bool)
    fewer = replace(
        graph,
        relations=[words for words, keep in zip(graph.relations, kept, strict=True) if keep],
        heads=graph.heads[kept],
        tails=graph.tails[kept],
        chunks=graph.chunks[kept],
    )
    return replace(corpus, graph=fewer)


def _parse(chunks: list[Chunk]) -> list[Triple]:
    from minisys.kgrag.parsing import ParseExtractor

    return ParseExtractor()(chunks)
