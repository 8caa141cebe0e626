"""Questions with gold evidence: what a set of them holds, and loaders of two published formats.

HotpotQA (arXiv 1809.09600, hotpotqa.github.io): supporting facts are sentences, ten documents a question.
MuSiQue (arXiv 2108.00573): supporting facts are paragraphs, twenty a question. Both are read from the files
that their authors publish, or from a sample of them. Triples that a language model extracted are read from
the file that HippoRAG writes (arXiv 2405.14831), a list of passages with `extracted_triples`.

A chunk here is what the set's gold evidence counts: a sentence of HotpotQA, a paragraph of MuSiQue.
"""

import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minisys.core.checks import check
from minisys.core.files import read_json
from minisys.kgrag.types import Chunk, Triple

PARAGRAPH = ("title", "paragraph_text", "is_supporting")
Fact = tuple[str, int]  # name of a document, number of a sentence in it


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where its sentences stand.

    Attributes:
        name: unique in its set; the title, and a number behind it where two documents have the same title.
        text: the whole text.
        spans: start and end of each sentence in `text`, in characters.
    """

    name: str
    text: str
    spans: tuple[tuple[int, int], ...]

    def sentences(self) -> list[str]:
        return [self.text[start:end] for start, end in self.spans]

    def chunks(self) -> list[Chunk]:
        """A chunk for each sentence that is not empty."""
        return [
            Chunk(self.name, self.text[start:end], start, end, number)
            for number, (start, end) in enumerate(self.spans)
            if end > start
        ]


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the evidence for its answer.

    Attributes:
        id, text: as in the file.
        answers: the answer and its other spellings; empty where the documents do not hold it.
        kind: ``bridge`` or ``comparison`` in HotpotQA, ``2hop``, ``3hop1`` … in MuSiQue.
        facts: the supporting facts, in the file's order.
        triples: the facts as (head, relation, tail), where the set knows them.
        documents: names of the documents that come with the question (the distractor setting).
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str
    facts: tuple[Fact, ...]
    triples: tuple[tuple[str, str, str], ...] = ()
    documents: tuple[str, ...] = ()

    @property
    def answerable(self) -> bool:
        return bool(self.answers)


@dataclass(frozen=True)
class QuestionSet:
    """Documents, questions about them and, where they are known, the triples.

    Attributes:
        triples: `Triple.chunk` counts the chunks in the order of `chunks`.
    """

    name: str
    documents: tuple[Document, ...]
    questions: tuple[Question, ...]
    triples: tuple[Triple, ...] = ()

    def chunks(self) -> list[Chunk]:
        """The sentences of all documents, in order."""
        return list(itertools.chain.from_iterable(document.chunks() for document in self.documents))


def make_document(name: str, sentences: Iterable[str], separator: str = " ") -> Document:
    """Join `sentences` into a document. Blanks around a sentence are outside its span."""
    parts, spans, position = [], [], 0
    for number, sentence in enumerate(sentences):
        if number:
            parts.append(separator)
            position += len(separator)
        parts.append(sentence)
        stripped = sentence.strip()
        start = position + (sentence.find(stripped) if stripped else 0)
        spans.append((start, start + len(stripped)))
        position += len(sentence)
    check(bool(spans), "sentences", f"none for the document {name!r}", "at least one")
    return Document(name, "".join(parts), tuple(spans))


def load_hotpotqa(path: str | os.PathLike, corpus: str | os.PathLike | None = None) -> QuestionSet:
    """Read questions in HotpotQA's format.

    Args:
        path: ``hotpot_*.json``: a list of questions with `_id`, `question`, `answer`, `supporting_facts`,
            `context` and `type`.
        corpus: more documents, a JSON mapping from a title to its sentences.

    The test set has no answers and no supporting facts: it is refused. Supporting facts that name a sentence
    behind their document's end (a few of the published ones do) are left out.

    Raises FileNotFoundError, or ValueError that names the file, the question and what was expected.
    """
    by_title: dict[str, list[str]] = {}
    questions = []
    for place, row in _rows(path, ("_id", "question", "answer", "supporting_facts", "context")):
        for title, sentences in _pairs(row["context"], f"{place}: context", "[title, sentences]"):
            _add(by_title, title, sentences, place)
        names = tuple(title for title, _ in row["context"])
        facts = []
        for title, number in _pairs(row["supporting_facts"], f"{place}: supporting_facts", "[title, number]"):
            known = title in names and isinstance(number, int) and number >= 0
            check(known, f"{place}: supporting_facts", [title, number], "a document of its context")
            if number < len(by_title[title]):
                facts.append((title, number))
        questions.append(
            Question(str(row["_id"]), row["question"], (row["answer"],), row.get("type", "bridge"),
                     tuple(dict.fromkeys(facts)), documents=names)
        )  # fmt: skip
    if corpus is not None:
        held: Any = _read(corpus)
        check(isinstance(held, dict), f"{corpus}", type(held).__name__, "a mapping from titles to sentences")
        for title, sentences in held.items():
            _add(by_title, title, sentences, f"{corpus}")
    documents = tuple(make_document(title, sentences, "") for title, sentences in by_title.items())
    return QuestionSet("hotpotqa", documents, tuple(questions))


def load_musique(path: str | os.PathLike, corpus: str | os.PathLike | None = None) -> QuestionSet:
    """Read questions in MuSiQue's format.

    Args:
        path: ``musique_*.jsonl``, or the same rows as a JSON list: `id`, `question`, `answer`,
            `answer_aliases`, `answerable` and `paragraphs` with `title`, `paragraph_text`, `is_supporting`.
        corpus: more documents, a JSON list of `{"title": …, "text": …}`.

    A paragraph is one document with one span. Paragraphs that several questions share are one document.

    Raises as `load_hotpotqa`.
    """
    names = _Names()
    questions = []
    for place, row in _rows(path, ("id", "question", "answer", "paragraphs")):
        held, facts = [], []
        for paragraph in row["paragraphs"]:
            whole = isinstance(paragraph, dict) and set(PARAGRAPH) <= paragraph.keys()
            check(whole, f"{place}: paragraphs", _short(paragraph), f"the fields {', '.join(PARAGRAPH)}")
            name = names.of(paragraph["title"], paragraph["paragraph_text"])
            held.append(name)
            if paragraph["is_supporting"]:
                facts.append((name, 0))
        answerable = row.get("answerable", True)
        answers = (row["answer"], *row.get("answer_aliases", ())) if answerable else ()
        kind = str(row["id"]).split("__")[0]
        questions.append(
            Question(str(row["id"]), row["question"], tuple(dict.fromkeys(answers)), kind,
                     tuple(dict.fromkeys(facts)), documents=tuple(dict.fromkeys(held)))
        )  # fmt: skip
    if corpus is not None:
        for place, row in _rows(corpus, ("title", "text")):
            names.of(row["title"], row["text"], place)
    return QuestionSet("musique", tuple(names.documents), tuple(questions))


def load_openie(path: str | os.PathLike, questions: QuestionSet) -> tuple[QuestionSet, int]:
    """Read triples that a language model extracted, and put them to the passages of `questions`.

    Args:
        path: JSON ``{"docs": [{"passage": …, "extracted_triples": [[head, relation, tail], …]}, …]}``; the
            passage is the title, a line break and the text.
        questions: a set whose documents are such passages, one chunk each (`load_musique`).

    Returns the set with its triples, and how many rows were no three non-empty strings and were left out:
    language models write those.

    Raises as `load_hotpotqa`, and where no passage of the file is in the set.
    """
    held = _read(path)
    known = isinstance(held, dict) and isinstance(held.get("docs"), list)
    check(known, f"{path}", type(held).__name__, "a mapping with the list docs")
    chunk_of = {}
    for number, chunk in enumerate(questions.chunks()):
        check(chunk.sentence == 0, "questions", f"several sentences in {chunk.document!r}", "passages")
        chunk_of[chunk.text.strip()] = number
    triples, skipped, met = [], 0, 0
    for number, passage in enumerate(held["docs"]):
        whole = isinstance(passage, dict) and {"passage", "extracted_triples"} <= passage.keys()
        check(whole, f"{path}: docs {number}", _short(passage), "passage and extracted_triples")
        chunk = chunk_of.get(passage["passage"].partition("\n")[2].strip())
        if chunk is None:
            continue
        met += 1
        for row in passage["extracted_triples"]:
            if isinstance(row, list) and len(row) == 3 and all(isinstance(x, str) and x.strip() for x in row):
                triples.append(Triple(*(part.strip() for part in row), chunk=chunk))
            else:
                skipped += 1
    check(met > 0, f"{path}", "no passage of the set", "the passages that the questions come from")
    return replace(questions, triples=tuple(triples)), skipped


class _Names:
    """Documents by title and text; a second text under the same title gets a number."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self._name_of: dict[tuple[str, str], str] = {}
        self._count: dict[str, int] = {}

    def of(self, title: str, text: str, place: str = "paragraphs") -> str:
        strings = isinstance(title, str) and isinstance(text, str) and text.strip() != ""
        check(strings, place, _short([title, text]), "a title and a text that is not empty")
        key = (title, text.strip())
        if key not in self._name_of:
            count = self._count[title] = self._count.get(title, 0) + 1
            name = title if count == 1 else f"{title} ({count})"
            self._name_of[key] = name
            self.documents.append(make_document(name, [text]))
        return self._name_of[key]


def _rows(path: str | os.PathLike, fields: tuple[str, ...]) -> list[tuple[str, dict]]:
    """The rows of a JSON list or of a file with one JSON value a line, each with a name for messages."""
    held = _read(path)
    check(isinstance(held, list) and len(held) > 0, f"{path}", _short(held), "a list of rows, not empty")
    rows = []
    for number, row in enumerate(held):
        place = f"{path}: row {number}"
        check(isinstance(row, dict), place, _short(row), f"a mapping with {', '.join(fields)}")
        missing = [field for field in fields if field not in row]
        check(not missing, place, f"no {', '.join(missing)}", f"the fields {', '.join(fields)}")
        rows.append((place, row))
    return rows


def _read(path: str | os.PathLike) -> object:
    if Path(path).suffix != ".jsonl":
        return read_json(path)
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                where = f"line {number} ({error.msg})"
                raise ValueError(f"{path}: got no JSON in {where}, expected a row in each line") from error
    return rows


def _pairs(value: object, place: str, expected: str) -> list[list]:
    whole = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    check(whole, place, _short(value), f"a list of {expected}")
    return value


def _add(by_title: dict[str, list[str]], title: object, sentences: object, place: str) -> None:
    whole = isinstance(sentences, list) and sentences and all(isinstance(x, str) for x in sentences)
    check(isinstance(title, str) and bool(whole), place, _short([title, sentences]), "a title and sentences")
    same = by_title.setdefault(title, sentences) == sentences
    check(same, place, f"another text for the title {title!r}", "one text a title")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} …"
