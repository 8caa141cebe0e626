"""What retrieval found for a question, and how long each stage took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from minisys.kgrag.assembly import Tree

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found for a question, and how.

    Attributes:
        question, method: as asked.
        chunks: chunk numbers in the order of the context, each once.
        scores: one for each of `chunks`; its meaning depends on the method, larger is better.
        seeds: chunk numbers that flat search gave, the best first.
        found: all chunk numbers that expansion reached, seeds included, ascending.
        triples: triple numbers of the graph that was organized.
        trees: its trees, the best first.
        milliseconds: time of each stage.
    """

    question: str
    method: str
    chunks: tuple[int, ...]
    scores: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    found: Int[np.ndarray, " found"] = field(default_factory=lambda: NOTHING)
    triples: Int[np.ndarray, " triples"] = field(default_factory=lambda: NOTHING)
    trees: tuple[Tree, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)


class Clock:
    """Milliseconds of each named stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + 1e3 * (time.perf_counter() - begun)
