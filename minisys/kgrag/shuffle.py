"""Shuffled questions: entities change places within their category, in questions, triples and text alike.

A language model may know who directed The Prestige, and then answers without reading. KG²RAG's shuffled
variant (arXiv 2502.06864, section 4) takes that from it: every name stands for another thing of its category,
everywhere, so that only the documents hold the answer. The swap is one permutation of names, so it leaves the
graph as it was, up to names.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from minisys.core.checks import check
from minisys.kgrag.datasets import Document, Question, QuestionSet
from minisys.kgrag.reading import words_of
from minisys.kgrag.types import Triple
from minisys.kgrag.world import World
from minisys.kgrag.world_names import shuffled

_SURNAME = re.compile(r" \w*[A-Z]\w+$")  # “Ada Venn”, not “Haymo of”, where a parser cut a name short
# Labels of spaCy's English models (OntoNotes 5).
LABELS = {
    "PERSON": "person",
    "GPE": "place",
    "LOC": "place",
    "FAC": "place",
    "ORG": "organisation",
    "WORK_OF_ART": "work",
}


@dataclass(frozen=True)
class Named:
    """An entity of some category with its spellings, the full one first."""

    category: str
    names: tuple[str, ...]


def world_entities(world: World) -> list[Named]:
    """The entities of the generated world; organisations and people in categories of their own kind."""
    found = []
    for entity in world.entities.values():
        kind = {"organisation": entity.noun, "person": entity.pronoun}.get(entity.category, "")
        found.append(Named(f"{entity.category} {kind}".strip(), (entity.name, *entity.aliases)))
    return found


def find_entities(questions: QuestionSet, parse: Callable[[list[str]], Iterable]) -> list[Named]:
    """Entities of a set that does not name them, as a parser recognises them.

    Args:
        parse: maps texts to parsed texts with `ents`, each with `text` and `label_`: ``nlp.pipe`` of spaCy.

    A name takes the category that it is given most often. A single word that ends the name of exactly one
    person is that person's surname. Errors of the parser become odd swaps, yet consistent ones.
    """
    texts = [chunk.text for chunk in questions.chunks()] + [question.text for question in questions.questions]
    labels: dict[str, Counter] = defaultdict(Counter)
    for parsed in parse(texts):
        for entity in parsed.ents:
            name = re.sub(r"^(the|The)\s+|['’]s$", "", entity.text.strip())
            if entity.label_ in LABELS and len(name) > 2 and name[0].isupper() and words_of(name):
                labels[name][LABELS[entity.label_]] += 1
    category = {name: counts.most_common(1)[0][0] for name, counts in labels.items()}
    people = [
        name
        for name in category
        if category[name] == "person" and _SURNAME.search(name) and words_of(name.split()[-1])
    ]
    bearers = Counter(name.split()[-1] for name in people)
    surnames = {name.split()[-1]: name for name in people if bearers[name.split()[-1]] == 1}
    aliases = {word for word in surnames if category.get(word, "person") == "person"}
    found = []
    for name in sorted(category):
        if name not in aliases:
            surname = name.split()[-1]
            own = (surname,) if surnames.get(surname) == name and surname in aliases else ()
            found.append(Named(category[name], (name, *own)))
    return found


def swap_entities(questions: QuestionSet, entities: Iterable[Named], seed: int = 0) -> QuestionSet:
    """`questions` with every entity under the name of another one of its category.

    The same seed gives the same swap. Names are found as whole words, the longest first; what is in no
    category keeps its name. Sentences keep their numbers, so gold evidence stays where it is.

    Raises ValueError where no category has two entities, or two entities share a name.
    """
    mapping = _permute(list(entities), seed)
    pattern = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(mapping, key=len, reverse=True)))})(?!\w)"
    )

    def swap(text: str) -> str:
        return pattern.sub(lambda match: mapping[match[0]], text)

    names: dict[str, str] = {}
    for document in questions.documents:
        names[document.name] = _unused(swap(document.name), set(names.values()))
    return QuestionSet(
        f"{questions.name}-shuffled",
        tuple(_swap_document(document, names[document.name], swap) for document in questions.documents),
        tuple(_swap_question(question, names, swap) for question in questions.questions),
        tuple(Triple(swap(t.head), swap(t.relation), swap(t.tail), t.chunk) for t in questions.triples),
    )


def _permute(entities: Sequence[Named], seed: int) -> dict[str, str]:
    """The new name of each name. Within a category a shuffled ring: nobody keeps a name."""
    owners = Counter(name for entity in entities for name in set(entity.names))
    shared = [name for name, count in owners.items() if count > 1]
    check(not shared, "entities", f"{shared[0] if shared else ''!r} twice", "each name for one entity")
    groups: dict[str, list[Named]] = defaultdict(list)
    for entity in entities:
        groups[entity.category].append(entity)
    large = [group for _, group in sorted(groups.items()) if len(group) > 1]
    check(bool(large), "entities", f"{len(entities)}", "a category with two entities at least")
    random, mapping = Random(seed), {}
    for group in large:
        ring = shuffled(random, group)
        for old, new in zip(ring, ring[1:] + ring[:1], strict=True):
            for place, name in enumerate(old.names):
                mapping[name] = new.names[place] if place < len(new.names) else new.names[0]
    return mapping


def _swap_document(document: Document, name: str, swap: Callable[[str], str]) -> Document:
    parts, spans, position, length = [], [], 0, 0
    for start, end in document.spans:
        between, sentence = document.text[position:start], swap(document.text[start:end])
        parts += [between, sentence]
        length += len(between)
        spans.append((length, length + len(sentence)))
        length += len(sentence)
        position = end
    return Document(name, "".join([*parts, document.text[position:]]), tuple(spans))


def _swap_question(question: Question, names: dict[str, str], swap: Callable[[str], str]) -> Question:
    return replace(
        question,
        text=swap(question.text),
        answers=tuple(dict.fromkeys(map(swap, question.answers))),
        facts=tuple((names[document], number) for document, number in question.facts),
        triples=tuple(tuple(map(swap, triple)) for triple in question.triples),
        documents=tuple(names[document] for document in question.documents),
    )


def _unused(name: str, used: set[str]) -> str:
    number = 2
    unused = name
    while unused in used:
        unused, number = f"{name} ({number})", number + 1
    return unused
