"""Loaders of published formats, on small files in those formats."""

import json

import pytest

from minisys.kgrag.datasets import load_hotpotqa, load_musique, load_openie, make_document

HOTPOT = {
    "_id": "5a77",
    "question": "Who taught the painter of Low Tide?",
    "answer": "Ada Venn",
    "supporting_facts": [["Low Tide", 0], ["Ira Sole", 1], ["Ira Sole", 1]],
    "context": [
        ["Low Tide", ["Low Tide was painted by Ira Sole.", " It hangs in Brond."]],
        ["Ira Sole", ["Ira Sole was a painter.", " He was taught by Ada Venn.", "  "]],
    ],
    "type": "bridge",
    "level": "hard",
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Where was the founder of Brond Press born?",
    "answer": "Tessal",
    "answer_aliases": ["Tessal Town", "Tessal"],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Brond Press", "paragraph_text": "It was founded by Ira.", "is_supporting": True},
        {"idx": 1, "title": "Ira", "paragraph_text": "Ira was born in Tessal.", "is_supporting": True},
        {"idx": 2, "title": "Ira", "paragraph_text": "Ira is a river.", "is_supporting": False},
    ],
}


def write(folder, name, value):
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_document_keeps_spans_of_its_sentences():
    document = make_document("Low Tide", ["One.", " Two. ", "", "Three."], "")
    assert document.sentences() == ["One.", "Two.", "", "Three."]
    chunks = document.chunks()
    assert [chunk.sentence for chunk in chunks] == [0, 1, 3]  # an empty sentence keeps its number
    assert all(document.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)


def test_hotpotqa(tmp_path):
    path = write(tmp_path, "hotpot.json", [HOTPOT])
    corpus = write(tmp_path, "corpus.json", {"Ada Venn": ["Ada Venn was a teacher."]})
    found = load_hotpotqa(path, corpus)
    assert [document.name for document in found.documents] == ["Low Tide", "Ira Sole", "Ada Venn"]
    (question,) = found.questions
    assert question.facts == (("Low Tide", 0), ("Ira Sole", 1))
    assert (question.answers, question.kind, question.documents) == (
        ("Ada Venn",),
        "bridge",
        ("Low Tide", "Ira Sole"),
    )
    text = {(chunk.document, chunk.sentence): chunk.text for chunk in found.chunks()}
    assert [text[fact] for fact in question.facts] == [
        "Low Tide was painted by Ira Sole.",
        "He was taught by Ada Venn.",
    ]


def test_hotpotqa_leaves_out_facts_behind_the_end(tmp_path):
    row = HOTPOT | {"supporting_facts": [["Low Tide", 0], ["Low Tide", 7]]}
    (question,) = load_hotpotqa(write(tmp_path, "hotpot.json", [row])).questions
    assert question.facts == (("Low Tide", 0),)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_musique(tmp_path, suffix):
    unanswerable = MUSIQUE | {"id": "3hop1__4", "answerable": False}
    path = tmp_path / f"musique.{suffix}"
    rows = [json.dumps(row) for row in (MUSIQUE, unanswerable)]
    path.write_text("\n".join(rows) if suffix == "jsonl" else f"[{','.join(rows)}]", encoding="utf-8")
    corpus = write(tmp_path, "corpus.json", [{"title": "Ira", "text": "Ira is a river."},
                                              {"title": "Brond", "text": "A town."}])  # fmt: skip
    found = load_musique(path, corpus)
    assert [document.name for document in found.documents] == ["Brond Press", "Ira", "Ira (2)", "Brond"]
    first, second = found.questions
    assert first.answers == ("Tessal", "Tessal Town")
    assert first.facts == (("Brond Press", 0), ("Ira", 0))
    assert (first.kind, second.kind) == ("2hop", "3hop1")
    assert first.answerable
    assert not second.answerable


def test_openie_triples_come_to_their_passages(tmp_path):
    found = load_musique(write(tmp_path, "musique.json", [MUSIQUE]))
    rows = [["Ira", "was born in", " Tessal "], ["Ira", "born"], ["", "is", "x"]]
    docs = [
        {"passage": "Elsewhere\nAnother text.", "extracted_triples": [["a", "b", "c"]]},
        {"passage": "Ira\nIra was born in Tessal.", "extracted_triples": rows},
    ]
    found, skipped = load_openie(write(tmp_path, "openie.json", {"docs": docs}), found)
    assert skipped == 2
    (triple,) = found.triples
    assert (triple.head, triple.relation, triple.tail, triple.chunk) == ("Ira", "was born in", "Tessal", 1)
    assert found.chunks()[triple.chunk].text == "Ira was born in Tessal."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a list of rows, not empty"),
        ({"data": []}, "a list of rows"),
        (["text"], "row 0: got 'text', expected a mapping"),
        ([{"_id": "1", "question": "?"}], "row 0: got no answer, supporting_facts, context"),
        ([HOTPOT | {"supporting_facts": [["Elsewhere", 0]]}], "a document of its context"),
        ([HOTPOT | {"supporting_facts": [["Low Tide", "0"]]}], "a document of its context"),
        ([HOTPOT | {"context": [["Low Tide", "text"]]}], "a title and sentences"),
        ([HOTPOT | {"context": {"title": []}}], r"a list of \[title, sentences\]"),
        ([HOTPOT, HOTPOT | {"context": [["Low Tide", ["Other."]]]}], "one text a title"),
    ],
)
def test_bad_hotpotqa(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load_hotpotqa(write(tmp_path, "hotpot.json", rows))


@pytest.mark.parametrize(
    ("paragraphs", "message"),
    [([{"title": "Ira"}], "paragraph_text"), (["Ira"], "got 'Ira'"),
     ([{"title": "Ira", "paragraph_text": " ", "is_supporting": True}], "a text that is not empty")],
)  # fmt: skip
def test_bad_musique(tmp_path, paragraphs, message):
    with pytest.raises(ValueError, match=message):
        load_musique(write(tmp_path, "musique.json", [MUSIQUE | {"paragraphs": paragraphs}]))


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "musique.jsonl"
    path.write_text('{"id": 1}\n{"id": \n')
    with pytest.raises(ValueError, match="no JSON in line 2"):
        load_musique(path)
    with pytest.raises(FileNotFoundError):
        load_hotpotqa(tmp_path / "none.json")
    found = load_musique(write(tmp_path, "musique.json", [MUSIQUE]))
    with pytest.raises(ValueError, match="a mapping with the list docs"):
        load_openie(write(tmp_path, "openie.json", []), found)
    with pytest.raises(ValueError, match="no passage of the set"):
        load_openie(write(tmp_path, "openie.json", {"docs": []}), found)
    hotpot = load_hotpotqa(write(tmp_path, "hotpot.json", [HOTPOT]))
    with pytest.raises(ValueError, match="several sentences in 'Low Tide', expected passages"):
        load_openie(write(tmp_path, "openie.json", {"docs": []}), hotpot)
