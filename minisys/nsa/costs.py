"""What attention reads and computes: tokens, FLOPs and bytes, for NSA and for dense attention.

Counts are exact for the given length, not asymptotic: blocks that are not complete yet, and the part of
the query's own block that lies after it, are not counted. A multiply-add is 2 FLOPs; softmax, norms and
projections outside attention are left out on both sides. Positions count from 0.
"""

from dataclasses import dataclass

from minisys.core.checks import check
from minisys.nsa.config import NSAConfig


@dataclass(frozen=True)
class TokensRead:
    """Keys that one query attends to, by branch. A compressed key counts as one."""

    compressed: int
    selected: int
    window: int

    @property
    def total(self) -> int:
        return self.compressed + self.selected + self.window


def tokens_read(position: int, config: NSAConfig) -> TokensRead:
    """Keys that the query at `position` attends to in each branch; dense attention reads position + 1.

    Raises:
        ValueError: `position` is negative.
    """
    check(position >= 0, "position", position, "at least 0")
    t = position + 1
    blocks = min(config.top_n, config.num_selectable(t))
    own = position % config.select_block + 1  # the own block is always selected, up to the query
    return TokensRead(
        compressed=config.num_compressed(t),
        selected=(blocks - 1) * config.select_block + own,
        window=min(config.window, t),
    )


def query_flops(position: int, config: NSAConfig, *, d_qk: int, d_v: int, hq: int) -> dict[str, int]:
    """FLOPs of one query at `position`, all `hq` heads: scores and weighted values.

    Returns:
        compressed, selected, window, nsa (their sum) and dense.
    """
    each = 2 * (d_qk + d_v) * hq
    read = tokens_read(position, config)
    return {
        "compressed": each * read.compressed,
        "selected": each * read.selected,
        "window": each * read.window,
        "nsa": each * read.total,
        "dense": each * (position + 1),
    }


def query_bytes(
    position: int, config: NSAConfig, *, d_qk: int, d_v: int, hk: int, element_bytes: int = 2
) -> dict[str, int]:
    """Bytes of keys and values that one decoding step at `position` must read, all `hk` heads.

    Returns:
        compressed, selected, window, nsa (their sum) and dense. 2-byte elements unless set.
    """
    each = (d_qk + d_v) * hk * element_bytes
    read = tokens_read(position, config)
    return {
        "compressed": each * read.compressed,
        "selected": each * read.selected,
        "window": each * read.window,
        "nsa": each * read.total,
        "dense": each * (position + 1),
    }


def step_bytes(
    t: int,
    config: NSAConfig,
    *,
    d_qk: int,
    d_v: int,
    hk: int,
    batch: int = 1,
    element_bytes: int = 2,
) -> dict[str, float]:
    """Bytes of one decoding step with a cache of `t` tokens a row, the new one included, all `batch` rows.

    Returns:
        By name. ``compressed``, ``selected`` and ``window`` are keys and values read, ``append`` the new
        token's, written for every branch and kept for φ. ``compression`` is φ's weights (hidden width
        2·head_dim), the raw block and its result, shared by the compress_stride steps of which one completes
        a block. ``nsa`` is their sum; ``dense`` counts keys and values read and the new ones written.
    """
    read = query_bytes(t - 1, config, d_qk=d_qk, d_v=d_v, hk=hk, element_bytes=element_bytes)
    token = (d_qk + d_v) * hk * element_bytes
    weights = sum(2 * d * (config.compress_block * d + d) for d in (d_qk, d_v)) * element_bytes
    found = {name: float(batch * read[name]) for name in ("compressed", "selected", "window")}
    found["append"] = float(batch * 3 * token)
    block = batch * (config.compress_block + 1) * token
    found["compression"] = (weights + block) / config.compress_stride
    found["nsa"] = sum(found.values())
    found["dense"] = float(batch * (read["dense"] + token))
    return found


def cache_bytes(
    t: int, config: NSAConfig, *, d_qk: int, d_v: int, hk: int, element_bytes: int = 2
) -> dict[str, int]:
    """Bytes that one row of `t` tokens keeps of one layer.

    Returns:
        compressed, selected, window, raw (the last block's tokens before φ), nsa (their sum), and dense.
    """
    token = (d_qk + d_v) * hk * element_bytes
    found = {
        "compressed": token * config.num_compressed(t),
        "selected": token * t,
        "window": token * min(t, config.window),
        "raw": token * min(t, config.compress_block),
    }
    return found | {"nsa": sum(found.values()), "dense": token * t}


def sequence_flops(t: int, config: NSAConfig, *, d_qk: int, d_v: int, hq: int) -> dict[str, int]:
    """FLOPs of a causal forward pass over `t` tokens: `query_flops` summed over all positions."""
    total = dict.fromkeys(("compressed", "selected", "window", "nsa", "dense"), 0)
    for position in range(t):
        for name, flops in query_flops(position, config, d_qk=d_qk, d_v=d_v, hq=hq).items():
            total[name] += flops
    return total


def compression_flops(t: int, config: NSAConfig, *, d_qk: int, d_v: int, hk: int) -> int:
    """FLOPs of φ over `t` tokens, keys and values, with its default hidden width of 2·head_dim."""
    one_block = sum(2 * (config.compress_block * d) * (2 * d) + 2 * (2 * d) * d for d in (d_qk, d_v))
    return config.num_compressed(t) * hk * one_block
