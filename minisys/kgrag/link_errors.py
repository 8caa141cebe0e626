"""How often entity linking is wrong, on pairs of mentions with a label.

The pairs that come with the package were written for it, many on purpose as hard ones (homonyms, families,
one short form for two names), and the rules were improved on them afterwards. So the rate is no estimate for
other text: easy names are rarer here than there, and some of these the rules have met.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minisys.core.checks import check
from minisys.core.files import read_json
from minisys.kgrag.entities import Mention, link_mentions


@dataclass(frozen=True)
class LinkErrors:
    """How often linking is wrong on labelled pairs; `wrong` lists the pairs."""

    same: int
    different: int
    missed: int
    merged: int
    wrong: list[tuple[Mention, Mention, bool]]

    @property
    def rate(self) -> float:
        """Share of all pairs that are linked though different, or not linked though the same."""
        return (self.missed + self.merged) / (self.same + self.different)


def link_errors(pairs: Sequence[tuple[Mention, Mention, bool]], texts: Mapping[str, str]) -> LinkErrors:
    """Link all mentions of labelled pairs at once, as one corpus, and count what is wrong.

    Args:
        pairs: two mentions, and whether they mean the same entity.
        texts: the documents of the mentions.
    """
    check(len(pairs) > 0, "pairs", "none", "at least one")
    mentions = [mention for first, second, _ in pairs for mention in (first, second)]
    numbers, _ = link_mentions(mentions, texts)
    linked = numbers[0::2] == numbers[1::2]
    labels = np.array([label for *_, label in pairs], bool)
    wrong = [pair for pair, ok in zip(pairs, linked == labels, strict=True) if not ok]
    same = int(labels.sum())
    return LinkErrors(
        same, len(pairs) - same, int((labels & ~linked).sum()), int((~labels & linked).sum()), wrong
    )


def labelled_pairs() -> tuple[list[tuple[Mention, Mention, bool]], dict[str, str]]:
    """Labelled pairs of mentions, and their documents, written for this package."""
    held = read_json(Path(__file__).with_name("entity_pairs.json"))
    return [((a, b), (c, d), same) for a, b, c, d, same in held["pairs"]], held["documents"]
