"""What the assignment gives to a submission, and how it counts what a call costs."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from minisys.grade import measure

READY_MADE = ("networkx", "scipy")  # they have the trees and the walks, and the course installs them


class Triple(NamedTuple):
    """As in the handout."""

    number: int
    head: str
    relation: str
    tail: str
    chunk: int


class Page(NamedTuple):
    """As in the handout."""

    title: str
    text: str


class LookUp:
    """A function that looks things up in an index, and counts how many it hands out.

    `everything` is the index: what each key has.
    """

    def __init__(self, everything: dict) -> None:
        self.everything = everything
        self.handed_out = 0

    def __call__(self, key):
        found = list(self.everything.get(key, ()))
        self.handed_out += len(found)
        return found


class ReadPage(LookUp):
    """The same with one page to a chunk. Raises KeyError for a chunk that is none."""

    def __call__(self, key):
        self.handed_out += 1
        return self.everything[key]


def triples(rows):
    """Rows as triples."""
    return [Triple(*row) for row in rows]


def in_chunk(rows):
    """Looks up the triples of a chunk."""
    index: dict[int, list[Triple]] = {}
    for triple in triples(rows):
        index.setdefault(triple.chunk, []).append(triple)
    return LookUp(index)


def at_entity(rows):
    """Looks up the triples that have an entity at either end; one to itself once."""
    index: dict[str, list[Triple]] = {}
    for triple in triples(rows):
        for end in dict.fromkeys((triple.head, triple.tail)):
            index.setdefault(end, []).append(triple)
    return LookUp(index)


def read(rows):
    """Reads the chunk of a number: ``rows[number]`` is its title and text."""
    return ReadPage({number: Page(*row) for number, row in enumerate(rows)})


@contextmanager
def work(arguments: Mapping[str, object]) -> Iterator[dict[str, int]]:
    """What one call does.

    ``lines``: lines of Python that ran, whoever wrote them, without the look-ups given here; ``handed_out``:
    what these handed out; ``ready_made``: calls inside of a library that has the algorithm.
    """
    counted = {"lines": 0, "handed_out": 0, "ready_made": 0}

    def line(frame, event, argument):
        counted["lines"] += event == "line"
        return line

    def call(frame, event, argument):
        name = frame.f_globals.get("__name__", "")
        counted["ready_made"] += name.partition(".")[0] in READY_MADE
        return None if name in (__name__, "contextlib") else line

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield counted
    finally:
        sys.settrace(before)
        counted["handed_out"] = sum(getattr(value, "handed_out", 0) for value in arguments.values())


measure.MEASURES["work"] = work
