"""Names of the generated world: syllables put together, so that no model has read about who bears them."""

import re
from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
_A = re.compile(r"^A(?= [AEIO])")  # "A Orchard for …" becomes "An Orchard for …"

_GIVEN_STARTS = (
    "Il", "Ves", "Tor", "Ama", "Jor", "Quil", "Ner", "Sav", "Dre", "Ol", "Bren", "Cas", "Ed", "Fen", "Hal",
    "Ise", "Kal", "Lor", "Mir", "Oth", "Per", "Ras", "Sil", "Tam", "Ulm", "Wen", "Yor", "Zel",
)  # fmt: skip
_GIVEN_ENDS = {
    "she": ("venka", "ithra", "unelle", "essane", "aeline", "orwen", "ydra", "amiel", "ivette", "olde"),
    "he": ("varic", "mund", "aldo", "othar", "erik", "ovan", "gald", "ustin", "wick", "andrel"),
}
_FAMILY_STARTS = (
    "Des", "Kor", "Vel", "Tal", "Bram", "Hol", "Mar", "Sten", "Lind", "Orv", "Pell", "Ryn", "Gar", "Fal",
    "Cres", "Dun", "Esk", "Wal", "Zan", "Nor", "Jas", "Ibb", "Thor", "Ulv", "Quen", "Alb", "Sor", "Hez",
)  # fmt: skip
_FAMILY_MIDDLES = ("ten", "va", "mi", "or", "a", "en", "ul", "is", "ock", "ar")
_FAMILY_ENDS = ("ne", "llis", "rath", "quist", "dane", "vey", "sko", "mont", "thal", "ric", "zar", "low")
_PLACE_STARTS = (
    "Dra", "Kor", "Ves", "Ond", "Tal", "Mer", "Quil", "Har", "Bel", "Sto", "Ghel", "Lum", "Ast", "Fenn",
    "Cal", "Rev", "Ul", "Yst", "Zor", "Pra", "Nim", "Jar", "Eth", "Wyr",
)  # fmt: skip
_PLACE_ENDS = {
    "town": ("vesk", "row", "venmere", "elford", "haven", "ingrad", "omar", "aster", "bruck", "osk", "wick"),
    "country": ("evania", "ostria", "ellund", "amark", "undia", "oria"),
    "river": ("essen", "une", "olva", "ith", "arra", "enne"),
}
_STEM_STARTS = (
    "Vel", "Har", "Oss", "Tren", "Lys", "Mor", "Quar", "Bal", "Cor", "Del", "Erm", "Fir", "Gan", "Hest",
    "Isk", "Jun", "Kel", "Lan", "Nev", "Ost", "Pan", "Rud", "Sev", "Tyr", "Umb", "Wes", "Yar", "Zim",
)  # fmt: skip
_STEM_ENDS = (
    "mar",
    "rond",
    "drake",
    "lisse",
    "corvin",
    "dane",
    "thel",
    "brook",
    "vane",
    "quor",
    "zeth",
    "more",
)
_THINGS = (
    "Ledger", "Lantern", "Orchard", "Ferry", "Winter", "Clock", "Harbour", "Mirror", "Garden", "Bell", "Map",
    "Staircase", "Letter", "Kite", "Salt Road", "Island", "Comet", "Beekeeper", "Locksmith", "Tide",
)  # fmt: skip
_TITLES = (
    "The {thing} of {word}", "A {thing} for {word}", "{word} and the {thing}", "The Last {thing} of {word}",
    "The {word} {thing}",
)  # fmt: skip


def pick(random: Random, choices: Sequence[T]) -> T:
    """One of `choices`. All is made of Random.random, the one method whose numbers no version changes."""
    return choices[int(random.random() * len(choices))]


def shuffled(random: Random, items: Sequence[T]) -> list[T]:
    keys = [random.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


class Names:
    """Hands out names, each once: no name is a part of another one."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._used: set[str] = set()

    def _new(self, *parts: Sequence[str]) -> str:
        for _ in range(10_000):
            word = "".join(pick(self._random, choices) for choices in parts)
            if not any(word in other or other in word for other in self._used):
                self._used.add(word)
                return word
        raise AssertionError("the syllables are used up")

    def person(self, pronoun: str) -> tuple[str, str]:
        """Given name and surname; surnames are unique, given names are not."""
        given = pick(self._random, _GIVEN_STARTS) + pick(self._random, _GIVEN_ENDS[pronoun])
        return given, self._new(_FAMILY_STARTS, _FAMILY_MIDDLES, _FAMILY_ENDS)

    def place(self, category: str) -> str:
        return self._new(_PLACE_STARTS, _PLACE_ENDS[category])

    def stem(self) -> str:
        """The invented word in the name of a work or an organisation."""
        return self._new(_STEM_STARTS, _STEM_ENDS)

    def title(self) -> str:
        title = pick(self._random, _TITLES).format(thing=pick(self._random, _THINGS), word=self.stem())
        return _A.sub("An", title)
