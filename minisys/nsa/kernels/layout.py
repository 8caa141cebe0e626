"""Where the kernels' programs find their tokens, keys and blocks: small tables, made once for each layout.

Batch rows and packed sequences are the same thing to a kernel: a list of sequences on one token axis. A tile
is a few neighbouring tokens of one sequence with all query heads of a group, so its rows share their keys:

        row r of a tile  =  token r // group, query head r % group

which fills the matrix units' 128 rows at any group size, and reads keys once for the whole group. Tables are
int32 and grow with the number of tokens, never with its square. Tiles with the most keys come first, so that
the last programs to run are short.
"""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from minisys.nsa.config import NSAConfig


@dataclass(frozen=True)
class Layout:
    """Sequences on one axis of tokens, as a hashable description.

    Attributes:
        bounds: (first token, one past the last) of every sequence, rising, without gaps.
        config: of the attention.
        device: of the tables.
    """

    bounds: tuple[tuple[int, int], ...]
    config: NSAConfig
    device: torch.device

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(end - start for start, end in self.bounds)

    def tiles(self, tokens: int) -> Int[Tensor, "tiles 4"]:
        """Query tiles of up to `tokens` tokens: first token, its position in the sequence, number of tokens,
        first compressed key of the sequence."""
        return _tiles(self, tokens)

    def key_tiles(self, keys: int, *, compressed: bool) -> Int[Tensor, "tiles 5"]:
        """Tiles of up to `keys` keys: first key, its number in the sequence, number of keys, first token of
        the sequence, its length in tokens. A key is a token or, with `compressed`, a compressed block."""
        return _key_tiles(self, keys, compressed)

    def blocks(self) -> Int[Tensor, "blocks 3"]:
        """Selection blocks: first token, its position in the sequence, number of tokens."""
        return _blocks(self)

    def positions(self) -> Int[Tensor, "tokens 2"]:
        """Of every token: its position in the sequence, and the first block of the sequence."""
        return _positions(self)


def _pieces(lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(sequence, offset) of every piece when each length is cut into pieces of `size`."""
    counts = (lengths + size - 1) // size
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    first = torch.cumsum(counts, 0) - counts
    return sequence, (torch.arange(len(sequence)) - first[sequence]) * size


def _sequences(layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start, length, compressed keys, first compressed key of every sequence, on the CPU."""
    bounds = torch.tensor(layout.bounds)
    lengths = bounds[:, 1] - bounds[:, 0]
    config = layout.config
    compressed = ((lengths - config.compress_block) // config.compress_stride + 1).clamp_min(0)
    return bounds[:, 0], lengths, compressed, torch.cumsum(compressed, 0) - compressed


def _table(layout: Layout, *columns: Tensor) -> Tensor:
    return torch.stack(columns, dim=1).to(torch.int32).contiguous().to(layout.device)


@functools.lru_cache(maxsize=16)
def _tiles(layout: Layout, tokens: int) -> Tensor:
    start, lengths, _, first_key = _sequences(layout)
    sequence, position = _pieces(lengths, tokens)
    order = torch.argsort(position, descending=True, stable=True)
    sequence, position = sequence[order], position[order]
    count = (lengths[sequence] - position).clamp_max(tokens)
    return _table(layout, start[sequence] + position, position, count, first_key[sequence])


@functools.lru_cache(maxsize=16)
def _key_tiles(layout: Layout, keys: int, compressed: bool) -> Tensor:
    start, lengths, num_compressed, first_compressed = _sequences(layout)
    amount, first = (num_compressed, first_compressed) if compressed else (lengths, start)
    sequence, number = _pieces(amount, keys)
    order = torch.argsort(number, stable=True)  # the first keys are seen by the most queries
    sequence, number = sequence[order], number[order]
    count = (amount[sequence] - number).clamp_max(keys)
    return _table(layout, first[sequence] + number, number, count, start[sequence], lengths[sequence])


@functools.lru_cache(maxsize=16)
def _blocks(layout: Layout) -> Tensor:
    start, lengths, _, _ = _sequences(layout)
    sequence, position = _pieces(lengths, layout.config.select_block)
    count = (lengths[sequence] - position).clamp_max(layout.config.select_block)
    return _table(layout, start[sequence] + position, position, count)


@functools.lru_cache(maxsize=16)
def _positions(layout: Layout) -> Tensor:
    start, lengths, _, _ = _sequences(layout)
    blocks = (lengths + layout.config.select_block - 1) // layout.config.select_block
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    position = torch.arange(len(sequence)) - (start - start[0])[sequence]
    return _table(layout, position, (torch.cumsum(blocks, 0) - blocks)[sequence])
