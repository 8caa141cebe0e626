"""Entities change places within their category, everywhere alike."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from minisys.kgrag.datasets import Question, QuestionSet, make_document
from minisys.kgrag.shuffle import Named, find_entities, swap_entities, world_entities
from minisys.kgrag.types import Triple
from minisys.kgrag.world import make_world

SENTENCES = ["Ada Venn was born in Brond.", " Venn's aunt, Ira Sole, left Brond for New Brond (NB)."]


def small():
    document, other = make_document("Ada Venn", SENTENCES, ""), make_document("Brond", ["Brond is a town."])
    question = Question(
        "q", "Where was Ada Venn born?", ("Brond",), "1hop", (("Ada Venn", 0),),
        (("Ada Venn", "was born in", "Brond"),), ("Ada Venn", "Brond"),
    )  # fmt: skip
    triples = (Triple("Ada Venn", "was born in", "Brond", 0), Triple("Ira Sole", "aunt of", "Venn", 1))
    return QuestionSet("small", (document, other), (question,), triples)


ENTITIES = [
    Named("person", ("Ada Venn", "Venn")),
    Named("person", ("Ira Sole", "Sole")),
    Named("place", ("Brond",)),
    Named("place", ("New Brond", "NB")),
    Named("work", ("Low Tide",)),
]


def test_swap_by_hand():
    found = swap_entities(small(), ENTITIES)
    first, second = found.documents
    assert (
        first.text
        == "Ira Sole was born in New Brond. Sole's aunt, Ada Venn, left New Brond for Brond (Brond)."
    )
    assert first.sentences() == [first.text[:31], first.text[32:]]
    assert (first.name, second.name) == ("Ira Sole", "New Brond")
    (question,) = found.questions
    assert question.text == "Where was Ira Sole born?"
    assert question.answers == ("New Brond",)
    assert question.facts == (("Ira Sole", 0),)
    assert question.triples == (("Ira Sole", "was born in", "New Brond"),)
    assert question.documents == ("Ira Sole", "New Brond")
    assert [(t.head, t.tail, t.chunk) for t in found.triples] == [
        ("Ira Sole", "New Brond", 0),
        ("Ada Venn", "Sole", 1),
    ]
    assert found.name == "small-shuffled"


@pytest.fixture(scope="module")
def worlds():
    world = make_world(3, 100)
    return world, swap_entities(world.questions, world_entities(world), seed=1)


def test_nobody_keeps_a_name_and_nothing_else_changes(worlds):
    world, shuffled = worlds
    assert {document.name for document in shuffled.documents} == set(world.entities)
    kept = sum(a.name == b.name for a, b in zip(world.questions.documents, shuffled.documents, strict=True))
    alone = [e for e in world.entities.values() if e.category in ("country", "river")]
    assert kept <= len(alone)
    for old, new in zip(world.questions.documents, shuffled.documents, strict=True):
        assert len(old.spans) == len(new.spans)
        assert world.entities[old.name].category == world.entities[new.name].category


def test_graph_keeps_its_shape(worlds):
    """The swap is one mapping of names: equal before is equal after, and the other way round."""
    world, shuffled = worlds
    mapping, back = {}, {}
    for old, new in zip(world.questions.triples, shuffled.triples, strict=True):
        assert (old.relation, old.chunk) == (new.relation, new.chunk)
        for before, after in ((old.head, new.head), (old.tail, new.tail)):
            assert mapping.setdefault(before, after) == after
            assert back.setdefault(after, before) == before


def test_evidence_still_answers(worlds):
    _, shuffled = worlds
    chunks = shuffled.chunks()
    stated = {(t.head, t.relation, t.tail): chunks[t.chunk] for t in shuffled.triples}
    for question in shuffled.questions:
        for triple in question.triples:
            head, relation, tail = triple
            chunk = stated.get(triple) or stated[tail, relation, head]  # a marriage is stated once
            assert (chunk.document, chunk.sentence) in question.facts
        if question.kind in ("2hop", "3hop"):
            assert question.triples[-1][2] == question.answers[0]


def test_seed_decides(worlds):
    world, shuffled = worlds
    again = swap_entities(world.questions, world_entities(world), seed=1)
    assert again == shuffled
    assert swap_entities(world.questions, world_entities(world), seed=2) != shuffled


def test_entities_that_a_parser_finds():
    def parse(texts):
        for text in texts:
            labels = (("Ada Venn", "PERSON"), ("Venn", "PERSON"), ("the Brond", "GPE"), ("1890", "DATE"),
                      ("Ira Sole's", "PERSON"))  # fmt: skip
            yield SimpleNamespace(
                ents=[
                    SimpleNamespace(text=name, label_=label)
                    for name, label in labels
                    if name.split()[-1] in text
                ]
            )

    cut = replace(small(), questions=(replace(small().questions[0], text="Was Ira of Brond born?"),))

    def cut_short(texts):
        yield from parse(texts[:-1])
        yield SimpleNamespace(ents=[SimpleNamespace(text=x, label_="PERSON") for x in ("Ira of", "Bo She")])

    names = {name for entity in find_entities(cut, cut_short) for name in entity.names}
    assert names >= {"Ira of", "Bo She"}
    assert not names & {"of", "She"}  # what a parser cut short or took too far is no surname
    found = find_entities(small(), parse)
    assert Named("person", ("Ada Venn", "Venn")) in found
    assert Named("place", ("Brond",)) in found
    assert len(found) == 2


def test_bad_input():
    with pytest.raises(ValueError, match="a category with two entities"):
        swap_entities(small(), [ENTITIES[0], ENTITIES[2]])
    with pytest.raises(ValueError, match="'Venn' twice, expected each name for one entity"):
        swap_entities(small(), [*ENTITIES, Named("person", ("Bo Venn", "Venn"))])
