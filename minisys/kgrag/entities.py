"""Entity linking: which mentions mean the same thing, so that triples of different chunks meet.

Names with one key (`minisys.kgrag.names`) meet everywhere. Other links need evidence from the corpus:

* a definition, “National Aeronautics and Space Administration (NASA)”, found as by Schwartz and Hearst (PSB
  2003); everywhere if all documents define the short form alike, else within each document;
* capitals that are the initials of exactly one longer name in the corpus;
* initials and middle names: “J. R. R. Tolkien”, “John F. Kennedy”, where exactly one full name fits;
* a title before a surname that one person of the corpus has: “Professor Einstein”;
* within a document: a surname or a first name that fits exactly one person there and does not follow “in” or
  “at”; a title before a name (“President Lincoln”); “Paris” beside “Paris, France”; “Inception” beside
  “Inception (film)”.

A link that is not certain is not made: two entities that should meet cost a hop, two that should not join
everything around them. Left out: linking by meaning (“the French capital”), and misspellings.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from minisys.core.checks import check
from minisys.kgrag.names import GIVEN_NAMES, fold, is_initialism, normalise, words_of
from minisys.kgrag.types import Chunk, Graph, Triple

Mention = tuple[str, str]  # document, name as written there

_PARTICLES = words_of("de da di del della van von der den bin ibn al el la le du dos")
_SMALL = words_of("of the and for in on at to a an de la le du und für et &")
_RANKS = words_of("""
    mr mrs ms dr prof professor doctor sir dame rev reverend president king queen prince princess lord
    lady general colonel major captain admiral senator governor pope emperor empress chancellor judge
    justice father saint minister secretary mayor duke count bishop archbishop cardinal sergeant
    lieutenant
""")
_STYLES = words_of("saint prince princess king queen lord lady duke father emperor empress pope mayor count")
# Words that make a capitalised name no person's.
_NOT_A_PERSON = words_of("""
    university college school academy institute hospital church cathedral abbey river creek lake sea ocean
    bay pond falls island islands mountain mountains mount pass cave valley hill hills beach park forest
    reservoir garden gardens cemetery zoo county city town village township district region province state
    states country republic kingdom empire union street road avenue bridge station central airport airways
    port railway company corporation incorporated limited cars group bank records studios pictures films
    entertainment press times party league club cup tour association society federation committee council
    commission agency connection foundation department ministry court army navy force forces museum
    library gallery theatre theater award awards prize war battle treaty act north south east west
    northern southern eastern western new great greater grand downtown colonial united national
    international royal american british french german african americans film album song band series
    season show game festival christmas high house castle palace tower centre center square building
    extension applications colony sultanate saint fort san santa los las mission market pizza gmina living
""")
_LEGAL_FORMS = words_of("incorporated corporation company limited plc llc gmbh ag sa group")
_DEFINITION = re.compile(r"\(\s*([A-Z][A-Za-z&.\-]{1,9})(?:[;,][^()]*)?\)")
_PLACE_BEFORE = r"\b(?:in|at|near|into|across|throughout|within|outside|around)\s+{}\b"
_PRONOUN = re.compile(r"\b(?:[Hh]e|[Ss]he|[Hh]is|[Hh]er|him)\b")
_COMMA = re.compile(r"([^,()]+), ([A-Z][^,() ]*(?: [A-Z][^,() ]*)?)")
_PARENTHESIS = re.compile(r"(.+?) \(([^()]+)\)")


def link_triples(triples: Sequence[Triple], chunks: Sequence[Chunk]) -> Graph:
    """Link the entities of all triples and number them, in the order in which they first appear.

    An entity is called by its most frequent full spelling. Raises ValueError for a blank head or tail, and
    for a chunk number out of range.
    """
    for triple in triples:
        check(0 <= triple.chunk < len(chunks), "triples", triple, f"a chunk number below {len(chunks)}")
    texts = defaultdict(list)
    for chunk in chunks:
        texts[chunk.document].append(chunk.text)
    documents = {document: " ".join(parts) for document, parts in texts.items()}
    mentions = [(chunks[t.chunk].document, name) for t in triples for name in (t.head, t.tail)]
    numbers, entities = link_mentions(mentions, documents)
    return Graph(
        entities=entities,
        relations=[triple.relation for triple in triples],
        heads=numbers[0::2].copy(),
        tails=numbers[1::2].copy(),
        chunks=np.array([triple.chunk for triple in triples], np.int32),
        num_chunks=len(chunks),
    )


def link_mentions(
    mentions: Sequence[Mention], texts: Mapping[str, str]
) -> tuple[Int[np.ndarray, " mentions"], list[str]]:
    """An entity number for each mention, int32, and a name for each entity.

    Args:
        mentions: ``(document, name)``, as written.
        texts: the text of each document, where definitions are looked for; documents may be missing.
    """
    links = _Links(mentions)
    links.by_short_form(texts)
    links.by_full_name()
    links.within_documents(texts)
    roots = [links.find(links.node(*mention)) for mention in links.mentions]
    numbers = {root: number for number, root in enumerate(dict.fromkeys(roots))}
    spellings = [Counter() for _ in numbers]
    for root, (_, name) in zip(roots, mentions, strict=True):
        spellings[numbers[root]][name.strip()] += 1
    entities = [max(found, key=lambda name, n=found: _fullness(name, n[name])) for found in spellings]
    return np.array([numbers[root] for root in roots], np.int32), entities


def definitions(text: str) -> list[tuple[str, str]]:
    """Pairs (short, long) that `text` defines: “the World Health Organization (WHO)” gives (WHO, World …)."""
    found = []
    for match in _DEFINITION.finditer(text):
        short = match[1].rstrip(".-")
        if sum(char.isupper() for char in short) < 2:
            continue
        letters = re.sub(r"[^a-z0-9]", "", short.lower())
        before = text[max(0, match.start() - 160) : match.start()].rstrip()
        words = list(re.finditer(r"\S+", before))[-len(letters) - 5 :]  # a longer name defines nothing
        start = _definition_start(before, letters)
        if start is not None and words and start >= words[0].start():
            long = before[start:]
            if not re.search(r"[.;:()]\s", long) and " " in long and normalise(long) != normalise(short):
                found.append((short, long))
    return found


def _definition_start(before: str, letters: str) -> int | None:
    """Match the letters backwards through `before`; the first one must begin a word."""
    place = len(before)
    for index in range(len(letters) - 1, -1, -1):
        place -= 1
        while place >= 0 and not (
            before[place].lower() == letters[index]
            and (index or place == 0 or not before[place - 1].isalnum())
        ):
            place -= 1
        if place < 0:
            return None
    return place


class _Links:
    """Union-find over keys; a key may mean something of its own within one document."""

    def __init__(self, mentions: Iterable[Mention]):
        self.keys: dict[str, dict[str, str]] = {}  # document: {key: one spelling}
        self.spelling: dict[str, str] = {}
        self._parent: dict[object, object] = {}
        self._scoped: set[tuple[str, str]] = set()
        self.mentions = []
        for document, name in mentions:
            key = normalise(name)
            check(bool(key), "triples", f"the name {name!r}", "a name")
            self.keys.setdefault(document, {}).setdefault(key, name)
            self.spelling.setdefault(key, name)
            self.mentions.append((document, key))

    def node(self, document: str, key: str) -> object:
        return (document, key) if (document, key) in self._scoped else key

    def find(self, node: object) -> object:
        root = node
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while node != root:  # shorten the path
            self._parent[node], node = root, self._parent.get(node, node)
        return root

    def join(self, key: object, full: object) -> None:
        """`full` stays the root, so that an entity is known by its fuller key."""
        key, full = self.find(key), self.find(full)
        if key != full:
            self._parent[key] = full

    def join_within(self, document: str, key: str, full: str) -> None:
        """Link a key in one document only. A key that already has a meaning there keeps it."""
        if (document, key) not in self._scoped and self.find(key) != self.find(full):
            self._scoped.add((document, key))
            self.join((document, key), full)

    def by_short_form(self, texts: Mapping[str, str]) -> None:
        """Initialisms: everywhere if only one name fits, within documents that give one of several names."""
        full = self._by_letters()
        defined: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for document in self.keys:
            for short, long in definitions(texts.get(document, "")):
                defined[normalise(short)][normalise(long)].append(document)
        several = set()
        for key in [*self.spelling, *(short for short in defined if short not in self.spelling)]:
            longs = defined.get(key) or (full.get(key, {}) if key.isupper() and len(key) > 2 else {})
            if longs and len({self.find(long) for long in [*longs, *full.get(key, ())]}) == 1:
                self.join(key, next(iter(longs)))
                continue
            for long in longs if key in defined else ():
                for document in defined[key][long]:
                    self.join_within(document, key, long)
            several.update([key] if longs else [])
        for document, keys in self.keys.items() if several else ():
            for key in several & keys.keys():
                here = {self.find(long) for long in full.get(key, set()) & keys.keys()}
                if len(here) == 1:
                    self.join_within(document, key, here.pop())
        for key, name in self.spelling.items():
            if len(key) > 3 and key.isalpha() and name.istitle() and key.upper() in self.spelling:
                self.join(key, key.upper())  # “Nasa” beside “NASA”

    def _by_letters(self) -> dict[str, set[str]]:
        """Capitalised names of several words, no person's, by their initials with and without small words."""
        found = defaultdict(set)
        for key, name in self.spelling.items():
            words = re.findall(r"[\w&]+", name)
            content = [word for word in words if word.lower() not in _SMALL]
            if len(content) < 2 or not all(word[0].isupper() for word in content):
                continue
            if fold(content[0]) in GIVEN_NAMES or any(word.lower() in _PARTICLES for word in words):
                continue
            for some in (content, words):
                found["".join(word[0] for word in some).upper()].add(key)
        return found

    def by_full_name(self) -> None:
        """“J. R. R. Tolkien” and “John F. Kennedy”: initials that exactly one full name fits."""
        by_ends, by_initials = defaultdict(set), defaultdict(set)
        for key, name in self.spelling.items():
            if _is_person(name, key):
                words = key.split(" ")
                by_ends[words[0], words[-1]].add(key)
                by_initials["".join(word[0] for word in words[:-1]), words[-1]].add(key)
        for (initials, _), keys in by_initials.items():
            short = {key for key in keys if all(len(word) == 1 for word in key.split(" ")[:-1])}
            if len(initials) > 1 and len(short) == 1 and len(keys) == 2:
                (initial,), (full,) = short, keys - short
                self.join(initial, full)
        for keys in by_ends.values():
            middles = {key for key in keys if len(key.split(" ")) > 2}
            plain = keys - middles
            letters = {tuple(word[0] for word in key.split(" ")[1:-1]) for key in middles}
            if len(letters) != 1 or not any(
                len(word) == 1 for key in middles for word in key.split(" ")[1:-1]
            ):
                continue
            full = max(middles, key=lambda key: (len(key), key))
            for key in [*plain, *middles]:
                self.join(key, full)

    def within_documents(self, texts: Mapping[str, str]) -> None:
        everywhere = defaultdict(set)  # surnames of people with a first name that is known
        for key, name in self.spelling.items():
            parts = _person_parts(name, key, said=False)
            for part in parts - {key.split(" ")[0]}:
                everywhere[part].add(self.find(key))
        for document, keys in self.keys.items():
            text = texts.get(document, "")
            said = bool(_PRONOUN.search(text))
            title = _PARENTHESIS.sub(r"\1", document)
            people, by_part = set(), defaultdict(set)
            for key, name in [*keys.items(), (normalise(title), title)]:
                parts = _person_parts(name, key, said)
                people.update([self.find(key)] if parts else [])
                for part in parts:
                    by_part[part].add(self.find(key))
            wholes = _wholes(document, keys)
            for key, name in keys.items():
                rank, rest = _without_rank(name, key)
                found = by_part.get(rest, set()) or people & {self.find(rest)}
                if (
                    not found
                    and " " not in rest
                    and rank
                    and name.split()[0].rstrip(".").lower() not in _STYLES
                ):
                    found = everywhere.get(rest, set())
                found = found - {self.find(key)}
                if key in wholes and not any(_without_rank(keys.get(w, w), w)[0] for w in wholes[key]):
                    found = wholes[key]  # “Paris, France” explains “Paris” better than a person of that name
                elif len(found) != 1 or key in _RANKS or not (rank or self._alone(name, text)):
                    found = wholes.get(key, set())
                if len(found) == 1:
                    self.join_within(document, key, next(iter(found)))

    @staticmethod
    def _alone(name: str, text: str) -> bool:
        """A capitalised single word that the document does not use as a place."""
        word = name.strip().removesuffix("'s").removesuffix("’s")
        surname = word.split(" ")[-1]
        if not surname[:1].isupper() or any(part not in _PARTICLES for part in word.split(" ")[:-1]):
            return False
        return not re.search(_PLACE_BEFORE.format(re.escape(word)), text)


def _wholes(document: str, keys: Mapping[str, str]) -> dict[str, set[str]]:
    """Short keys of names that a document also gives in full: “Paris, France”, “Apple Inc.”, “Queen Anne”."""
    found = defaultdict(set)
    for key, name in [*keys.items(), (normalise(document), document)]:
        match = ("," in name or "(" in name) and (_COMMA.fullmatch(name) or _PARENTHESIS.fullmatch(name))
        if match and normalise(match[1]) != key:
            found[normalise(match[1])].add(key)
        first, _, last = key.rpartition(" ")
        if first and last in _LEGAL_FORMS:
            found[first].add(key)
        rank, rest = _without_rank(name, key)
        if rank and " " not in rest and rest in keys:
            found[rest].add(key)
    return found


def _without_rank(name: str, key: str) -> tuple[bool, str]:
    """Whether titles stand before a name, and the key of the rest."""
    words = name.split()
    count = 0
    while count < len(words) - 1 and words[count].rstrip(".").lower() in _RANKS and words[count][0].isupper():
        count += 1
    return (True, normalise(" ".join(words[count:]))) if count else (False, key)


def _is_person(name: str, key: str) -> bool:
    """Whether a name has the form of a person's: two to five capitalised words, none that says otherwise."""
    words, plain = name.replace(".", ". ").split(), key.split(" ")
    if (
        not 2 <= len(words) <= 5
        or not 2 <= len(plain) <= 6
        or any(char in ",(0123456789" for char in name + key)
    ):
        return False
    if not words[0][0].isupper() or not all(word[0].isupper() or word in _PARTICLES for word in words):
        return False
    return not any(word in _NOT_A_PERSON or word in _RANKS or word in _SMALL - _PARTICLES for word in plain)


def _person_parts(name: str, key: str, said: bool) -> set[str]:
    """Keys of the first name and the surname, if `name` is a person's; `said`: the text has “he” or “she”."""
    given = key.split(" ")[0] in GIVEN_NAMES
    if not (given or said) or not _is_person(name, key):
        return set()
    words = name.split()
    place = len(words) - 1
    while place > 1 and words[place - 1] in _PARTICLES:
        place -= 1
    surname = " ".join(words[place:])
    return {normalise(surname)} | ({normalise(words[0])} if given else set())


def _fullness(name: str, count: int) -> tuple:
    return (not is_initialism(name), len(fold(name).split()) > 1, count, len(name), name)
