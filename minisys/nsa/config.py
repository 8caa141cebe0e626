"""The numbers that define native sparse attention: NSAConfig, and how many blocks a length has."""

from dataclasses import dataclass, fields

from minisys.core.checks import check


@dataclass(frozen=True)
class NSAConfig:
    """Settings of native sparse attention, with the defaults of the paper (arXiv 2502.11089, section 4.1).

    All fields are whole numbers. Lengths are in tokens; the paper's letters are in brackets.

    Attributes:
        compress_block: tokens that one compressed key or value summarises (l).
        compress_stride: distance between the starts of neighbouring compressed blocks (d).
            Divides compress_block and select_block.
        select_block: tokens of one selection block (l').
        top_n: selection blocks that a query reads, forced blocks included (n).
        initial_blocks: blocks at the start of the sequence that are always selected.
        local_blocks: blocks that are always selected around the query: its own and those just before.
        window: tokens of the sliding window, the query's own included (w).

    Raises:
        ValueError: a field is no whole number, out of range, or does not divide as required.
    """

    compress_block: int = 32
    compress_stride: int = 16
    select_block: int = 64
    top_n: int = 16
    initial_blocks: int = 1
    local_blocks: int = 2
    window: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            got = getattr(self, field.name)
            least = 0 if field.name == "initial_blocks" else 1
            whole = isinstance(got, int) and not isinstance(got, bool)
            check(whole and got >= least, field.name, repr(got), f"a whole number of at least {least}")
        for name in ("compress_block", "select_block"):
            got = getattr(self, name)
            check(
                got % self.compress_stride == 0,
                name,
                got,
                f"a multiple of compress_stride ({self.compress_stride})",
            )
        forced = self.initial_blocks + self.local_blocks
        check(
            self.top_n >= forced,
            "top_n",
            self.top_n,
            f"at least initial_blocks + local_blocks ({forced}), which it counts",
        )

    def num_compressed(self, t: int) -> int:
        """Number of compressed blocks of a sequence of `t` tokens: those that fit whole, ``tc``."""
        return max(0, (t - self.compress_block) // self.compress_stride + 1)

    def num_selectable(self, t: int) -> int:
        """Number of selection blocks of a sequence of `t` tokens; the last may be cut short."""
        return -(-t // self.select_block)
