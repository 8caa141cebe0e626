"""A generated world of people, places, works and organisations, and questions about it with gold evidence.

No model has read about it, so what a model answers comes from the documents. Each document is about one thing
and says what the others do not: a fact stands in exactly one sentence of the corpus, in the document of its
head or of its tail, so that a question of two hops needs a document which it does not name. Sentences use
short names, pronouns and initialisms as prose does, and mention things that no question asks for.

`load_world` makes the same corpus everywhere, from a seed, and checks its SHA-256. What is not natural in it:
templates write the sentences, every fact is stated once, and none contradicts another.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from random import Random

from minisys.core.checks import check
from minisys.kgrag.datasets import Document, Fact, QuestionSet, make_document
from minisys.kgrag.types import Triple
from minisys.kgrag.world_names import Names, pick, shuffled
from minisys.kgrag.world_text import (
    CHATTER,
    CRAFTS,
    FIELDS,
    OPENINGS,
    ORGANISATIONS,
    PAIRS,
    PROFESSIONS,
    RELATIONS,
    WORKS,
)

SHA256 = "a0f388649eca63ea6741cd47f16d1c0ac1aab1fd0d5dc84992d1953d779edca0"
SHARES = {"person": 0.4, "town": 0.16, "country": 0.02, "river": 0.03, "work": 0.21, "organisation": 0.18}
UNSTATED_SHARE = 0.12  # facts that hold but that no document states
BY_TAIL_SHARE = 0.35  # facts stated in their tail's document, where the relation can be


_AN = re.compile(r"\ba(?= [aeio])")  # "a academy" becomes "an academy"


@dataclass(frozen=True)
class Entity:
    """A thing of the world.

    Attributes:
        name: as its document is called.
        category: a key of `SHARES`.
        noun: what it is: ``novelist``, ``academy``, ``opera`` …
        aliases: its other names, the commonest first: a surname, an initialism.
        pronoun: how a sentence goes on about it.
        article: whether its names follow "the" in a sentence.
    """

    name: str
    category: str
    noun: str
    aliases: tuple[str, ...] = ()
    pronoun: str = "it"
    article: bool = False

    def mention(self, name: str | None = None) -> str:
        return ("the " if self.article else "") + (name or self.name)


@dataclass(frozen=True)
class World:
    """The corpus and what is behind it.

    Attributes:
        questions: documents, questions with gold evidence, and the triples that the sentences state.
        entities: by name.
        facts: the tail of each (head, relation), stated or not.
        stated: where a fact stands; a fact that is missing here stands nowhere.
    """

    questions: QuestionSet
    entities: dict[str, Entity]
    facts: dict[tuple[str, str], str]
    stated: dict[tuple[str, str], Fact] = field(default_factory=dict)


@cache
def load_world() -> World:
    """The world that the course uses: 404 documents. Raises RuntimeError where it came out differently."""
    world = make_world()
    got = fingerprint(world.questions)
    if got != SHA256:
        raise RuntimeError(f"the generated world: got SHA-256 {got}, expected {SHA256}")
    return world


def make_world(seed: int = 0, documents: int = 404) -> World:
    """Make a world of about `documents` documents and 0.8 times as many questions.

    Raises ValueError for fewer than 100 documents, which hold too few chains, or more than 600, for which the
    names do not suffice.
    """
    from minisys.kgrag.world_questions import make_questions

    check(100 <= documents <= 600, "documents", documents, "from 100 to 600")
    random = Random(seed)
    names = Names(random)
    entities = _make_entities(random, names, documents)
    facts = _make_facts(random, entities)
    written = _write(random, entities, facts)
    questions = make_questions(random, names, entities, facts, written.stated, round(0.8 * documents))
    found = QuestionSet("world", tuple(written.documents), questions, tuple(written.triples))
    return World(found, {entity.name: entity for entity in entities}, facts, written.stated)


def fingerprint(questions: QuestionSet) -> str:
    """SHA-256 over documents, questions and triples."""
    content = {
        "documents": [[document.name, document.sentences()] for document in questions.documents],
        "questions": [[q.id, q.text, q.answers, q.kind, q.facts, q.triples] for q in questions.questions],
        "triples": [[t.head, t.relation, t.tail, t.chunk] for t in questions.triples],
    }
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _make_entities(random: Random, names: Names, documents: int) -> list[Entity]:
    counts = {category: round(share * documents) for category, share in SHARES.items()}
    entities = []
    for _ in range(counts["person"]):
        pronoun = pick(random, ("she", "he"))
        given, surname = names.person(pronoun)
        entities.append(
            Entity(f"{given} {surname}", "person", pick(random, PROFESSIONS), (surname,), pronoun)
        )
    for category in ("town", "country", "river"):
        for _ in range(counts[category]):
            name = names.place(category)
            aliases = (f"Republic of {name}",) if category == "country" else ()
            entities.append(Entity(name, category, category, aliases, article=category == "river"))
    for _ in range(counts["work"]):
        entities.append(Entity(names.title(), "work", pick(random, tuple(WORKS))))
    taken: set[str] = set()
    while len(taken) < counts["organisation"]:
        noun = tuple(ORGANISATIONS)[len(taken) % len(ORGANISATIONS)]
        name = f"{names.stem()} {pick(random, ORGANISATIONS[noun])} {pick(random, FIELDS)}"
        short = "".join(word[0] for word in name.split() if word[0].isupper())
        short += "" if short not in taken else pick(random, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        if short not in taken:
            taken.add(short)
            entities.append(Entity(name, "organisation", noun, (short,), article=True))
    return entities


def _make_facts(random: Random, entities: list[Entity]) -> dict[tuple[str, str], str]:
    """The tail of each (head, relation); years fit together."""
    of = {
        key: [entity.name for entity in entities if key in (entity.category, entity.noun)]
        for key in (*SHARES, *ORGANISATIONS)
    }
    facts: dict[tuple[str, str], str] = {}
    people = of["person"]
    born = {name: 1780 + round(130 * rank / len(people)) for rank, name in enumerate(people)}
    for rank, name in enumerate(people):
        facts[name, "born_in"] = pick(random, of["town"])
        facts[name, "born_year"] = str(born[name])
        older = [other for other in people[:rank] if born[name] - born[other] >= 15]
        if older and random.random() < 0.6:
            facts[name, "teacher"] = pick(random, older[-60:])
    unmarried = list(people)
    while len(unmarried) > len(people) // 3:
        first = unmarried.pop(0)
        second = unmarried.pop(int(random.random() * min(12, len(unmarried))))
        facts[first, "spouse"], facts[second, "spouse"] = second, first
    founders = shuffled(random, people)
    for name, founder in zip(of["organisation"], founders, strict=False):
        facts[name, "founder"] = founder
        facts[name, "founded_year"] = str(born[founder] + 28 + int(random.random() * 25))
        facts[name, "seat"] = pick(random, of["town"])
    for relation, kind in (("studied_at", "academy"), ("works_for", "institute")):
        oldest = sorted(of[kind], key=lambda name: int(facts[name, "founded_year"]))
        for name in people:
            there = [one for one in oldest if int(facts[one, "founded_year"]) <= born[name] + 18]
            facts[name, relation] = pick(random, there if len(there) > 4 else oldest[:5])
    for name in of["work"]:
        creator, honoured = pick(random, people), pick(random, people)
        facts[name, "creator"] = creator
        facts[name, "made_year"] = str(born[creator] + 22 + int(random.random() * 40))
        facts[name, "publisher"] = pick(random, of["press"])
        if honoured != creator:
            facts[name, "dedicated_to"] = honoured
    for name in of["town"]:
        facts[name, "country"] = pick(random, of["country"])
        facts[name, "river"] = pick(random, of["river"])
        facts[name, "craft"] = pick(random, CRAFTS)
    for name in of["country"]:
        inside = [town for town in of["town"] if facts[town, "country"] == name]
        if inside:
            facts[name, "capital"] = pick(random, inside)
    for name in of["river"]:
        facts[name, "source"] = pick(random, of["country"])
    return facts


@dataclass
class _Written:
    documents: list[Document]
    triples: list[Triple]
    stated: dict[tuple[str, str], Fact]


@dataclass(frozen=True)
class _Planned:
    """A sentence to be written: its template, the names in it, and what it states."""

    template: str
    others: tuple[str, ...]
    states: tuple[tuple[str, str, str], ...]  # head, relation's key or words, tail


def _write(random: Random, entities: list[Entity], facts: dict[tuple[str, str], str]) -> _Written:
    """Write a document for each entity."""
    by_name = {entity.name: entity for entity in entities}
    planned = _plan_facts(random, by_name, facts)
    written = _Written([], [], {})
    chunk = 0
    for entity in entities:
        body = shuffled(random, planned[entity.name] + _plan_chatter(random, entity, entities))
        opening = _Planned(pick(random, OPENINGS[entity.category]), (), ((entity.name, "is a", entity.noun),))
        sentences, before = [], ()
        for number, sentence in enumerate([opening, *body]):
            sentences.append(_fill(random, sentence, entity, by_name, first=number == 0, before=before))
            before = sentence.others
            for head, relation, tail in sentence.states:
                words = RELATIONS[relation].words if relation in RELATIONS else relation
                written.triples.append(Triple(head, words, tail, chunk))
                if relation in RELATIONS:
                    written.stated[head, relation] = (entity.name, number)
                    if relation == "spouse":
                        written.stated[tail, relation] = (entity.name, number)
            chunk += 1
        written.documents.append(make_document(entity.name, sentences))
    return written


def _plan_facts(
    random: Random, by_name: dict[str, Entity], facts: dict[tuple[str, str], str]
) -> dict[str, list[_Planned]]:
    """For each document the sentences that state facts, each fact in the document of one of its ends."""
    planned: dict[str, list[_Planned]] = {name: [] for name in by_name}
    for name in by_name:
        left = {relation: facts[name, relation] for relation in RELATIONS if (name, relation) in facts}
        left = {relation: tail for relation, tail in left.items() if random.random() >= UNSTATED_SHARE}
        if "spouse" in left and name > left["spouse"]:
            del left["spouse"]  # the other one's turn
        for (first, second), templates in PAIRS.items():
            if first in left and second in left and random.random() < 0.4:
                tails = left.pop(first), left.pop(second)
                states = (name, first, tails[0]), (name, second, tails[1])
                planned[name].append(_Planned(pick(random, templates), tails, states))
        for relation, tail in left.items():
            spec = RELATIONS[relation]
            at_tail = bool(spec.by_tail) and random.random() < BY_TAIL_SHARE
            template = pick(random, spec.by_tail if at_tail else spec.by_head)
            document, other = (tail, name) if at_tail else (name, tail)
            planned[document].append(_Planned(template, (other,), ((name, relation, tail),)))
    return planned


def _plan_chatter(random: Random, entity: Entity, entities: list[Entity]) -> list[_Planned]:
    planned = []
    for words, category, templates in shuffled(random, CHATTER[entity.category])[:2]:
        other = pick(random, [one for one in entities if one.category == category and one != entity])
        states = ((entity.name, words, other.name),)
        planned.append(_Planned(pick(random, templates), (other.name,), states))
    return planned


def _fill(
    random: Random,
    sentence: _Planned,
    subject: Entity,
    by_name: dict[str, Entity],
    *,
    first: bool,
    before: tuple[str, ...],
) -> str:
    """The words of a sentence. `before`: what the sentence before it names beside the subject."""
    others = [by_name.get(name) for name in sentence.others]
    words = {key: _mention(random, name, by_name) for key, name in zip("op", sentence.others, strict=False)}
    short = subject.mention() if first else _short_mention(random, subject)
    # a pronoun only where nothing else of its kind stands before it
    people = [by_name[name] for name in before if name in by_name]
    clear = not any((one.category == "person") == (subject.category == "person") for one in people)
    full = short
    if not first and clear and random.random() < 0.3:
        full = subject.pronoun
    work = next((one for one in (subject, *others) if one is not None and one.category == "work"), None)
    if work is not None:
        maker, made, make, form = WORKS[work.noun]
        words |= {"maker": maker, "made": made, "make": make}
        words["form"] = form.format(n=3 + int(random.random() * 30))
    head = by_name[sentence.states[0][0]]
    noun = subject.noun if first else head.noun
    alias = subject.aliases[0] if subject.aliases else subject.name
    number = 3 + int(random.random() * 90)
    text = sentence.template.format(
        S=full, s=short, noun=noun, short=alias, n=number, craft=pick(random, CRAFTS), **words
    )
    return _AN.sub("an", text[0].upper() + text[1:])


def _mention(random: Random, name: str, by_name: dict[str, Entity]) -> str:
    """How a sentence names something that its document is not about."""
    entity = by_name.get(name)
    if entity is None:
        return name  # a year, a product
    chance = {"organisation": 0.35, "person": 0.1, "country": 0.2}.get(entity.category, 0.0)
    if random.random() >= chance:
        return entity.mention()
    alias = entity.aliases[0]
    return f"the {alias}" if entity.article or entity.category == "country" else alias


def _short_mention(random: Random, subject: Entity) -> str:
    chance = random.random()
    if chance < 0.4 and subject.category in ("person", "organisation"):
        return subject.mention(subject.aliases[0])
    if chance < 0.55 and subject.category != "person":
        return f"the {subject.noun}"
    return subject.mention()
