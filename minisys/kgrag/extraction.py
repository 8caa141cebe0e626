"""Extractors by name, and triples that somebody has extracted already.

Three ways lead to triples, all called as `minisys.kgrag.types.Extractor`: a parse
(`minisys.kgrag.parsing`, offline, the default), a language model (`minisys.kgrag.prompting`), and a file of
ready triples, here.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from minisys.core.checks import check
from minisys.kgrag.chunking import title_of
from minisys.kgrag.names import normalise
from minisys.kgrag.types import Chunk, Extractor, Triple

Fact = tuple[str, str, str]


def extractor_for(name: str = "parse") -> Extractor:
    """The extractor of that name: ``parse``, ``none`` (no triples), or a file of ready triples."""
    if name == "parse":
        from minisys.kgrag.parsing import ParseExtractor

        return ParseExtractor()
    return ReadyTriples({}, name="none") if name == "none" else ReadyTriples.from_file(name)


class ReadyTriples:
    """Gives each chunk the triples of its document that it states.

    A triple of a document goes to the chunk that shares most words with its head and tail, then with its
    relation, then to the first such chunk; so passage-level triples serve sentence chunks.

    Args:
        facts: document to its (head, relation, tail) triples; a document without any is fine.
        name: what an index remembers the extractor by.

    Raises ValueError for a triple that is no three strings with something in them.
    """

    def __init__(self, facts: Mapping[str, Iterable[Fact]], *, name: str = "ready"):
        self.name = name
        self._facts = {
            document: [_checked(fact, document) for fact in own] for document, own in facts.items()
        }

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "ReadyTriples":
        """Read JSON lines: ``{"document": …, "head": …, "relation": …, "tail": …}``, other fields are
        ignored.

        Raises ValueError with the number of the line that is wrong.
        """
        path = Path(path)
        check(path.is_file(), "path", f"{path}, which is no file", "a file of triples, JSON lines")
        facts: dict[str, list[Fact]] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                fact = tuple(row[field] for field in ("head", "relation", "tail"))
                facts.setdefault(row["document"], []).append(_checked(fact, row["document"]))
            except (ValueError, KeyError, TypeError) as error:
                what = f"path: got line {number} of {path} ({error}), "
                raise ValueError(
                    what + "expected an object with document, head, relation and tail"
                ) from error
        return cls(facts, name=f"ready:{path.name}")

    def __call__(self, chunks: list[Chunk], first: int = 0) -> list[Triple]:
        places: dict[str, list[int]] = {}
        for place, chunk in enumerate(chunks):
            places.setdefault(chunk.document, []).append(place)
        found = []
        for document, own in places.items():
            words = {place: _words(chunks[place].text) for place in own}
            title = _words(title_of(document))
            for head, relation, tail in self._facts.get(document, ()):
                # The title is what every sentence speaks of; it tells no chunk from another.
                names = (_words(head) | _words(tail)) - title
                linked = _words(relation)
                scores = {place: (len(names & words[place]), len(linked & words[place])) for place in own}
                place = max(own, key=lambda p, scores=scores: (*scores[p], -p))
                found.append(Triple(head, relation, tail, first + place))
        return sorted(found, key=lambda triple: triple.chunk)


def _words(text: str) -> set[str]:
    return set(normalise(text).lower().split(" ")) - {""}


def _checked(fact: Iterable[str], document: str) -> Fact:
    fact = tuple(fact)
    good = len(fact) == 3 and all(isinstance(part, str) and part.strip() for part in fact)
    check(
        good,
        "facts",
        f"{fact!r} for {document!r}",
        "three strings, none blank",
    )
    return fact
