"""Ready triples: each goes to the chunk that states it."""

import json

import pytest

from minisys.kgrag.chunking import chunk_document
from minisys.kgrag.extraction import ReadyTriples, extractor_for
from minisys.kgrag.types import Extractor, Triple

CHUNKS = [
    *chunk_document("Ada Lovelace", "Ada Lovelace was born in London. She met Babbage. She wrote notes."),
    *chunk_document("Other", "Nothing is known."),
]


def test_a_passage_s_triples_go_to_their_sentences():
    facts = [
        ("Ada Lovelace", "wrote", "notes"),
        ("Ada Lovelace", "met", "Babbage"),
        ("Ada Lovelace", "is", "a Countess"),
    ]
    ready = ReadyTriples({"Ada Lovelace": facts})
    assert isinstance(ready, Extractor)
    assert ready(CHUNKS, first=10) == [
        Triple("Ada Lovelace", "is", "a Countess", 10),  # stated nowhere: the first chunk
        Triple("Ada Lovelace", "met", "Babbage", 11),
        Triple("Ada Lovelace", "wrote", "notes", 12),
    ]
    assert ready(CHUNKS[3:]) == []
    assert ready([]) == []


def test_a_file_of_triples(tmp_path):
    path = tmp_path / "facts.jsonl"
    row = {"document": "Other", "head": "A", "relation": "is", "tail": "B", "score": 1}
    path.write_text(f"{json.dumps(row)}\n\n")
    ready = extractor_for(str(path))
    assert ready.name == "ready:facts.jsonl"
    assert ready(CHUNKS) == [Triple("A", "is", "B", 3)]
    for bad in [
        "{",
        "[1]",
        '{"document": "x"}',
        json.dumps({**row, "tail": 3}),
        json.dumps({**row, "head": " "}),
    ]:
        path.write_text(f"{json.dumps(row)}\n{bad}\n")
        with pytest.raises(ValueError, match=r"line 2 of .*facts\.jsonl"):
            ReadyTriples.from_file(path)
    with pytest.raises(ValueError, match="which is no file"):
        extractor_for(str(tmp_path / "missing"))


def test_bad_facts_and_no_extractor(no_runtime_types):
    for fact in [("a", "b"), ("a", "b", ""), ("a", 1, "c")]:
        with pytest.raises(ValueError, match="three strings, none blank"):
            ReadyTriples({"d": [fact]})
    assert extractor_for("none")(CHUNKS) == []
