"""What the assignment gives to a submission, and how it counts what a call costs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from minisys.grade import measure
from minisys.nsa.config import NSAConfig

STORES = ("k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win")


def config(**fields):
    """Settings of native sparse attention."""
    return NSAConfig(**fields)


class Phi:
    """φ with fixed `weights` ``[l, head_dim, head_dim]``; counts the blocks that it was given."""

    def __init__(self, weights):
        self.weights, self.blocks = weights, 0

    def __call__(self, blocks):
        block, head_dim, _ = self.weights.shape
        if blocks.ndim < 2 or tuple(blocks.shape[-2:]) != (block, head_dim):
            raise ValueError(
                f"phi: got blocks of shape {tuple(blocks.shape)}, "
                f"expected [..., l, head_dim] with l = {block} and head_dim = {head_dim}"
            )
        self.blocks += blocks.numel() // (block * head_dim)
        return torch.tanh(torch.einsum("...ld,lde->...e", blocks, self.weights))


def phi(weights):
    """As in the handout."""
    return Phi(weights)


def rotate(base):
    """Turns keys ``[..., head_dim]`` to a position, element i with element i + head_dim / 2."""

    def turn(keys, position):
        head_dim = keys.shape[-1]
        exponents = torch.arange(0, head_dim, 2, dtype=keys.dtype) / head_dim
        angles = position * base**-exponents
        first, second = keys.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    return turn


class Cache:
    """Six stores that can be read by slot; counts the numbers that were read from each."""

    def __init__(self, stored, lengths, settings):
        self._stored = dict(zip(STORES, stored, strict=True))
        self.lengths, self.config = list(lengths), settings
        self.num_kv_heads = stored[0].shape[1]
        self.read_from = Counter()

    def slots(self, name):
        return self._stored[name].shape[2]

    def read(self, name, slots):
        stored = self._stored[name]
        b, hk, size, width = stored.shape
        if slots.ndim != 3 or tuple(slots.shape[:2]) != (b, hk):
            raise ValueError(f"slots: got shape {tuple(slots.shape)}, expected [b, hk, n] with {b} and {hk}")
        if slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) < size:
            low, high = int(slots.min()), int(slots.max())
            raise IndexError(f"read {name}: got slots {low} to {high}, expected 0 to {size - 1}")
        self.read_from[name] += slots.numel() * width
        return stored.gather(2, slots[..., None].expand(-1, -1, -1, width))


def cache(stored, lengths, fields):
    """As in the handout."""
    return Cache(stored, lengths, NSAConfig(**fields))


class Journal:
    """A cache that is one ring of whole numbers, and what comes of each event."""

    def __init__(self, batch, capacity, window, max_append):
        self.batch, self.capacity, self.window, self.max_append = batch, capacity, window, max_append
        self.lengths, self.least, self.ring = [0] * batch, [0] * batch, None

    def play(self, events, ring_size, append, truncate):
        """``[event, b, 3 + window - 1 + max_append]``, for each event and row:

        whether it raised ValueError, the row's length, the ring's slots, and the tokens that are read next,
        right aligned: by all tokens of an append, else by the one token that comes. -1 where there is none.
        """
        self.lengths, self.least = [0] * self.batch, [0] * self.batch
        self.ring = torch.full((self.batch, int(ring_size(self.window, self.max_append))), -1)
        played = []
        for what, *arguments in events:
            counts = [0] * self.batch
            try:
                if what == "append":
                    tokens, given, start = arguments
                    append(self, torch.tensor(tokens), list(given), list(start))
                    counts = given
                else:
                    truncate(self, list(arguments[0]))
                raised = 0
            except ValueError:
                raised = 1
            played.append([self.state(row, raised, counts[row]) for row in range(self.batch)])
        return torch.tensor(played)

    def state(self, row, raised, count):
        length, slots, width = self.lengths[row], self.ring.shape[1], self.window - 1 + self.max_append
        first = max(0, length - count - self.window + 1)
        read = [int(self.ring[row, position % slots]) for position in range(first, length)][-width:]
        return [raised, length, slots, *[-1] * (width - len(read)), *read]


def journal(**sizes):
    """As in the handout."""
    return Journal(**sizes)


@contextmanager
def work(arguments: Mapping[str, object]) -> Iterator[dict[str, int]]:
    """Blocks that φ was given, and numbers read from each store of the cache."""
    counted = {}
    try:
        yield counted
    finally:
        for value in arguments.values():
            counted["blocks"] = counted.get("blocks", 0) + getattr(value, "blocks", 0)
            counted |= {f"read {name}": n for name, n in getattr(value, "read_from", {}).items()}


measure.MEASURES["work"] = work
