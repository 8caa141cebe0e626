"""Questions about the generated world: chains of one to three facts, comparisons, and some with no answer."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from minisys.kgrag.datasets import Fact, Question
from minisys.kgrag.world_names import Names, pick
from minisys.kgrag.world_text import EARLIER, RELATIONS, SAME, UNSTATED, WORKS, Relation

if TYPE_CHECKING:
    from minisys.kgrag.world import Entity

# Unanswerable: no document states the last fact, none knows the name, or none states any fact of that kind.
KINDS = {
    "1hop": 0.12,
    "2hop": 0.32,
    "3hop": 0.18,
    "comparison": 0.16,
    "missing": 0.08,
    "unknown": 0.07,
    "unstated": 0.07,
}
STARTS = ("work",) * 7 + ("organisation",) * 5 + ("person",) * 5 + ("town", "town", "river")
Key = tuple[str, str]  # head, relation


def make_questions(
    random: Random,
    names: Names,
    entities: list["Entity"],
    facts: dict[Key, str],
    stated: dict[Key, Fact],
    count: int,
) -> tuple[Question, ...]:
    """About `count` questions of the kinds of `KINDS`, no two alike."""
    maker = _Maker(random, names, entities, facts, stated)
    made: dict[str, Question] = {}
    for kind, share in KINDS.items():
        wanted = len(made) + round(share * count)
        for _ in range(200 * count):
            if len(made) >= wanted:
                break
            question = maker.make(kind)
            if question is not None:
                made.setdefault(question.text, question)
    return tuple(
        Question(f"world-{number:04d}", q.text, q.answers, q.kind, q.facts, q.triples)
        for number, q in enumerate(made.values())
    )


class _Maker:
    def __init__(
        self,
        random: Random,
        names: Names,
        entities: list["Entity"],
        facts: dict[Key, str],
        stated: dict[Key, Fact],
    ) -> None:
        self.random, self.names, self.facts, self.stated = random, names, facts, stated
        self.by_name = {entity.name: entity for entity in entities}
        self.of = {
            category: [entity.name for entity in entities if entity.category == category]
            for category in dict.fromkeys(entity.category for entity in entities)
        }

    def make(self, kind: str) -> Question | None:
        """A question of `kind`, or None where the draw did not lead to one."""
        if kind.endswith("hop"):
            return self._chain(int(kind[0]), kind)
        makers = {
            "comparison": self._comparison,
            "missing": self._missing,
            "unknown": self._unknown,
            "unstated": self._unstated,
        }
        return makers[kind]()

    def _chain(self, hops: int, kind: str) -> Question | None:
        drawn = self._draw(hops)
        if drawn is None:
            return None
        text, keys = drawn
        sentences = dict.fromkeys(self.stated.get(key) for key in keys)
        if None in sentences or len(sentences) < hops:
            return None
        if hops > 1 and len({document for document, _ in sentences}) == 1:
            return None
        answer = self.facts[keys[-1]]
        if answer in text:
            return None
        return Question("", text, self._spellings(answer), kind, tuple(sentences), self._triples(keys))

    def _draw(self, hops: int) -> tuple[str, list[Key]] | None:
        """A chain of `hops` facts from a random start, stated or not, and the question for its end."""
        name = pick(self.random, self.of[pick(self.random, STARTS)])
        phrase, keys, met = self._named(name), [], {name}
        for hop in range(hops):
            last = hop == hops - 1
            usable = self._relations(
                name, lambda relation, last=last: relation.ask if last else relation.phrase
            )
            if not usable:
                return None
            relation = pick(self.random, usable)
            spec = RELATIONS[relation]
            template = pick(self.random, spec.ask if last else spec.phrase)
            phrase = self._fill(template, name, x=phrase)
            keys.append((name, relation))
            name = self.facts[name, relation]
            if name in met:
                return None
            met.add(name)
        return phrase, keys

    def _relations(self, name: str, usable: Callable[[Relation], tuple[str, ...]]) -> list[str]:
        return [key for key, spec in RELATIONS.items() if (name, key) in self.facts and usable(spec)]

    def _comparison(self) -> Question | None:
        by_year = self.random.random() < 0.5
        relation, template = pick(self.random, EARLIER if by_year else SAME)
        heads = [head for head, key in self.stated if key == relation]
        first = pick(self.random, heads)
        value = self.facts[first, relation]
        same = not by_year and self.random.random() < 0.5
        others = [head for head in heads if head != first and (self.facts[head, relation] == value) == same]
        if not others:
            return None
        second = pick(self.random, others)
        keys = [(first, relation), (second, relation)]
        phrases = [self._named(first), self._named(second)]
        bridge = self._bridge_to(first) if self.random.random() < 0.5 else None
        if bridge is not None:
            keys.insert(0, bridge)
            phrases[0] = self._fill(pick(self.random, RELATIONS[bridge[1]].phrase), bridge[0],
                                    x=self._named(bridge[0]))  # fmt: skip
        text = template.format(x=phrases[0], y=phrases[1])
        if by_year:
            earlier = min((first, second), key=lambda name: int(self.facts[name, relation]))
            answers = self._spellings(earlier)
        else:
            answers = ("yes" if same else "no",)
        sentences = tuple(dict.fromkeys(self.stated[key] for key in keys))
        return Question("", text, answers, "comparison", sentences, self._triples(keys))

    def _bridge_to(self, name: str) -> Key | None:
        """A stated fact whose tail is `name`, so that a question need not name it."""
        usable = [key for key in self.stated if self.facts[key] == name and RELATIONS[key[1]].phrase]
        return pick(self.random, usable) if usable else None

    def _missing(self) -> Question | None:
        """A chain whose last fact no document states, although others of its kind are stated."""
        drawn = self._draw(pick(self.random, (1, 2, 2)))
        if (
            drawn is None
            or drawn[1][-1] in self.stated
            or any(key not in self.stated for key in drawn[1][:-1])
        ):
            return None
        return Question("", drawn[0], (), "missing", ())

    def _unknown(self) -> Question | None:
        """A chain from something that the corpus does not know, with a name of the same make."""
        drawn = self._draw(pick(self.random, (1, 2, 2)))
        if drawn is None:
            return None
        text, start = drawn[0], self.by_name[drawn[1][0][0]]
        other = {
            "person": lambda: " ".join(self.names.person(start.pronoun)),
            "work": self.names.title,
            "organisation": lambda: " ".join([self.names.stem(), *start.name.split()[1:]]),
        }.get(start.category, lambda: self.names.place(start.category))()
        for name in (start.name, *start.aliases):
            if name in text:
                return Question("", text.replace(name, other), (), "unknown", ())
        return None

    def _unstated(self) -> Question:
        """A relation of which the corpus says nothing at all."""
        category, template = pick(self.random, UNSTATED)
        name = pick(self.random, self.of[category])
        bridge = self._bridge_to(name)
        phrase = self._named(name)
        if bridge is not None:
            phrase = self._fill(pick(self.random, RELATIONS[bridge[1]].phrase), bridge[0],
                                x=self._named(bridge[0]))  # fmt: skip
        return Question("", template.format(x=phrase), (), "unstated", ())

    def _named(self, name: str) -> str:
        entity = self.by_name[name]
        if entity.category == "organisation" and self.random.random() < 0.4:
            return entity.mention(entity.aliases[0])
        return entity.mention()

    def _fill(self, template: str, head: str, x: str) -> str:
        entity = self.by_name[head]
        maker, _, make, _ = WORKS.get(entity.noun, ("", "", "", ""))
        return template.format(x=x, maker=maker, make=make)

    def _spellings(self, name: str) -> tuple[str, ...]:
        entity = self.by_name.get(name)
        return (name,) if entity is None else (name, *entity.aliases)

    def _triples(self, keys: list[Key]) -> tuple[tuple[str, str, str], ...]:
        return tuple((head, RELATIONS[key].words, self.facts[head, key]) for head, key in keys)
