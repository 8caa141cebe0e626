"""The question sets that ``minisys bench kgrag`` measures on, each with its corpus and questions' vectors."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from minisys.core.checks import check
from minisys.kgrag.datasets import QuestionSet, load_hotpotqa, load_musique, load_openie
from minisys.kgrag.types import Chunk, Corpus, Embedder, Triple
from minisys.kgrag.world import load_world, make_world

Parse = Callable[[list[str]], Iterable]  # texts to parsed texts with their entities
DATA = "MINISYS_MULTIHOP"  # environment variable: the folder with HotpotQA's and MuSiQue's files
FILES = {
    "hotpotqa": ("hotpotqa_train.json", "hotpotqa_train_corpus.json"),
    "musique": ("musique_train.json", "musique_train_corpus.json", "musique_train_openie.json"),
}


@dataclass(frozen=True)
class Prepared:
    """A question set ready for retrieval.

    Attributes:
        questions: the set, with its triples.
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


def prepare(questions: QuestionSet, embedder: Embedder, triples_are: str = "given with the set") -> Prepared:
    """Embed and link a set. Triples that it lacks are parsed from its chunks."""
    from minisys.kgrag.chunking import text_to_search
    from minisys.kgrag.embedding import embed_question
    from minisys.kgrag.entities import link_triples

    chunks = questions.chunks()
    if not questions.triples:
        questions, triples_are = (
            replace(questions, triples=tuple(_parse(chunks))),
            "parsed from the sentences",
        )
    vectors = embedder([text_to_search(chunk) for chunk in chunks]).astype(np.float16)
    graph = link_triples(list(questions.triples), chunks)
    asked = {question.id: embed_question(embedder, question.text) for question in questions.questions}
    about = {
        "questions": len(questions.questions),
        "documents": len(questions.documents),
        "chunks": len(chunks),
        "triples": len(questions.triples),
        "entities": len(graph.entities),
        "triples_are": triples_are,
        "embedder": embedder.name,
    }
    return Prepared(questions, Corpus(chunks, vectors, graph), embedder, asked, about)


def prepare_shuffled(prepared: Prepared, parse: Parse | None = None) -> Prepared:
    """The set with entities in each other's places, in questions, triples and text; embedded again.

    parse: as `minisys.kgrag.shuffle.find_entities` takes it; the parser that comes with the extra ``rag``
    unless given.
    """
    from minisys.kgrag.shuffle import find_entities, swap_entities

    entities = find_entities(prepared.questions, parse or _recogniser())
    swapped = swap_entities(prepared.questions, entities)
    found = prepare(swapped, prepared.embedder, prepared.about["triples_are"])
    moved = sum(
        a.text != b.text for a, b in zip(swapped.questions, prepared.questions.questions, strict=True)
    )
    return replace(found, about=found.about | {"names_swapped": len(entities), "questions_changed": moved})


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


def _recogniser() -> Parse:
    import spacy

    from minisys.kgrag.parsing import MODEL

    return spacy.load(MODEL, exclude=["parser", "lemmatizer", "attribute_ruler"]).pipe
