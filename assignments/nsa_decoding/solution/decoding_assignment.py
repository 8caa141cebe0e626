"""Decoding with native sparse attention: the cache and one step, in five parts. README.md says how it is
graded.

Letters as in the course: b batch (rows), t tokens, hq query heads, hk key/value heads, g = hq // hk query
heads in a group, tc compressed blocks. Query heads j·g … j·g + g - 1 use key/value head j. Tokens, positions
and blocks count from 0. `config` has the fields compress_block (l), compress_stride (d), select_block (l'),
top_n, initial_blocks, local_blocks and window (w); see `minisys.nsa.NSAConfig`.

A cache keeps its tokens head-major, ``[b, hk, slots, head_dim]``. In a ring of `size` slots the token at
position p lies in slot p mod size. Rows have lengths of their own: ``lengths[row]`` tokens, at positions 0 to
``lengths[row]`` - 1. Behind a row's end there may be anything, for example tokens of drafts that were
refused.

Everything must run in the dtype it is given (float64 in the tests), and must leave tensors it is given as
they are. Loops over rows are fine.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int

from minisys.nsa import NSAConfig


def write_ring(
    ring: Float[torch.Tensor, "b hk size head_dim"],
    lengths: Sequence[int],
    new: Float[torch.Tensor, "b t hk head_dim"],
    counts: Sequence[int],
) -> Float[torch.Tensor, "b hk size head_dim"]:
    """Part 1: the ring after each row got its first ``counts[row]`` tokens of `new`, behind those it held.

    Row r held ``lengths[r]`` tokens, of which the ring has the last ones. What `new` has behind a row's count
    is padding and goes nowhere. More tokens than slots may come; then the last ones stay.
    """
    # BEGIN SOLUTION
    ring, size = ring.clone(), ring.shape[2]
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        for place in range(count):
            slot = (length + place) % size
            ring[row, :, slot] = new[row, place]
    return ring
    # END SOLUTION


def compress_new(
    raw: Float[torch.Tensor, "b hk size head_dim"],
    compressed: Float[torch.Tensor, "b hk tc head_dim"],
    before: Sequence[int],
    after: Sequence[int],
    phi: Callable[[torch.Tensor], torch.Tensor],
    rotate: Callable[[torch.Tensor, int], torch.Tensor],
    config: NSAConfig,
) -> Float[torch.Tensor, "b hk tc head_dim"]:
    """Part 2: the compressed keys after row r grew from ``before[r]`` to ``after[r]`` tokens (equation 7).

    Block i is made of the compress_block tokens from i·compress_stride on, and is there as soon as its last
    token is. Compute the blocks that the new tokens completed, none of them twice and none that was there
    before, and leave the other places of `compressed` as they are. What stands in the place of a block that
    was not there before is to be replaced: it may be left from a draft.

    `raw` is the ring with the keys before φ, the new ones included; it still holds all tokens of these
    blocks. ``phi(blocks)`` maps ``[..., l, head_dim]`` to ``[..., head_dim]``, the tokens of a block in
    order. ``rotate(keys, position)`` turns keys ``[..., head_dim]`` to a position; a compressed key gets that
    of the last token of its block.
    """
    # BEGIN SOLUTION
    compressed, size = compressed.clone(), raw.shape[2]
    length, stride = config.compress_block, config.compress_stride

    def whole(tokens):
        return max(0, (tokens - length) // stride + 1)

    for row, (held, now) in enumerate(zip(before, after, strict=True)):
        for block in range(whole(held), whole(now)):
            tokens = block * stride + torch.arange(length)
            key = phi(raw[row, :, tokens % size])
            end = block * stride + length - 1
            compressed[row, :, block] = rotate(key, end)
    return compressed
    # END SOLUTION


def decode_step(
    q: Float[torch.Tensor, "b hq d_qk"],
    cache: object,
    gates: Float[torch.Tensor, "b hq 3"],
    scale: float,
) -> Float[torch.Tensor, "b hq d_v"]:
    """Part 3: the output of native sparse attention for the last token of every row (equation 5).

    The query of row r stands at position ``lengths[r]`` - 1; its own token is in the cache already. It
    attends

    * to the compressed blocks that end at or before it (gate 0);
    * to the tokens, up to itself, of top_n selection blocks (gate 1): the first initial_blocks, the last
      local_blocks up to its own block, and the most important others up to its own. The importance of a block
      is what the compressed probabilities of this query credit it with: each of the l / d pieces of a
      compressed block credits the selection block that it lies in, summed over the query heads of the group
      (equations 8 to 12);
    * to the last `window` tokens, itself included (gate 2).

    Scores are scale · q·k. A branch in which a query sees nothing contributes exactly zero.

    `cache` has ``lengths`` (a list), ``config``, ``num_kv_heads``, ``slots(name)``, which says how many slots
    a store has, and ``read(name, slots)``, which gives what lies in the slots ``[b, hk, n]`` as ``[b, hk, n,
    head_dim]``. The stores are ``"k_cmp"``, ``"v_cmp"`` (a slot a compressed block), ``"k_slc"``, ``"v_slc"``
    (a slot a token) and the rings ``"k_win"``, ``"v_win"``. What you read is counted; read each key and value
    once for all heads of a group, and of the selected branch the chosen blocks only.
    """
    # BEGIN SOLUTION
    config, hk = cache.config, cache.num_kv_heads
    position = torch.tensor(cache.lengths)[:, None, None] - 1  # [b, 1, 1]
    grouped = q.unflatten(1, (hk, -1))  # [b, hk, g, d_qk]
    longest = max(cache.lengths)

    def attend(branch, slots, visible):
        """Probabilities ``[b, hk, g, n]`` and output ``[b, hq, d_v]`` of the tokens in `slots`."""
        slots, visible = (x.expand(len(q), hk, -1) for x in (slots, visible))
        keys, values = cache.read(f"k_{branch}", slots), cache.read(f"v_{branch}", slots)
        scores = scale * torch.einsum("bkgd,bknd->bkgn", grouped, keys)
        hidden = ~visible[:, :, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        weights = weights.masked_fill(hidden, 0.0)  # a row that sees nothing is NaN until here
        return weights, torch.einsum("bkgn,bknd->bkgd", weights, values).flatten(1, 2)

    count = max(0, (longest - config.compress_block) // config.compress_stride + 1)
    block = torch.arange(count)
    ends = block * config.compress_stride + config.compress_block - 1
    p_cmp, compressed = attend("cmp", block, ends <= position)

    group = p_cmp.sum(dim=2)  # [b, hk, tc]
    importance = group.new_zeros(len(q), hk, -(-longest // config.select_block))
    for piece in range(config.compress_block // config.compress_stride):
        owner = (block + piece) * config.compress_stride // config.select_block
        importance.index_add_(2, owner, group)

    own = position // config.select_block
    number = torch.arange(importance.shape[2])
    forced = (number < config.initial_blocks) | (number > own - config.local_blocks)
    score = importance.masked_fill(forced, float("inf")).masked_fill(number > own, float("-inf"))
    chosen = score.sort(dim=-1, descending=True, stable=True).indices[..., : config.top_n]

    inner = torch.arange(config.select_block)
    tokens = (chosen[..., None] * config.select_block + inner).flatten(2)
    _, selected = attend("slc", tokens.clamp(max=cache.slots("k_slc") - 1), tokens <= position)

    tokens = position - config.window + 1 + torch.arange(config.window)
    _, window = attend("win", tokens % cache.slots("k_win"), tokens >= 0)
    return gates[..., 0:1] * compressed + gates[..., 1:2] * selected + gates[..., 2:3] * window
    # END SOLUTION


def ring_size(window: int, max_append: int) -> int:
    """Part 4: the fewest slots with which a ring never lacks a token that somebody may still ask for.

    Up to `max_append` tokens are appended at once, and only then their queries read: each the last `window`
    tokens, its own included. And after the longest such append all its tokens may be taken back.
    """
    # BEGIN SOLUTION
    return window + max_append - 1
    # END SOLUTION


def append(cache: object, new: Int[torch.Tensor, "b t"], counts: Sequence[int], start: Sequence[int]) -> None:
    """Part 4: give row r of `cache` the first ``counts[r]`` tokens of ``new[r]``, or raise ValueError.

    In this part a token is a whole number, and the cache is one ring. `cache` has ``batch``, ``capacity``,
    ``window``, ``max_append``, ``ring`` (int64 ``[b, size]``), ``lengths`` (a list) and ``least`` (a list of
    zeros at first), which is yours to use. Write into ``cache.ring``, and keep ``cache.lengths`` right.

    It raises ValueError, **and leaves everything as it was**, where

    * `new` has more than max_append tokens a row;
    * `counts` is not one number a row, from 0 to t;
    * `start`, where the caller takes the first new token of each row to stand, is not where the row ends;
    * a row would hold more than `capacity` tokens.
    """
    # BEGIN SOLUTION
    t = new.shape[1]
    ends = [length + count for length, count in zip(cache.lengths, counts, strict=False)]
    if t > cache.max_append:
        raise ValueError(f"new: got {t} tokens, expected at most {cache.max_append}")
    if len(counts) != cache.batch or not all(0 <= count <= t for count in counts):
        raise ValueError(f"counts: got {counts}, expected {cache.batch} numbers from 0 to {t}")
    if list(start) != cache.lengths:
        raise ValueError(f"start: got {start}, expected {cache.lengths}")
    if max(ends) > cache.capacity:
        raise ValueError(f"counts: got {counts}, expected room for them up to {cache.capacity}")
    for row, count in enumerate(counts):
        for place in range(count):
            cache.ring[row, (cache.lengths[row] + place) % cache.ring.shape[1]] = new[row, place]
        cache.least[row] = max(cache.least[row], ends[row] - cache.max_append)
    cache.lengths = ends
    # END SOLUTION


def truncate(cache: object, lengths: Sequence[int]) -> None:
    """Part 4: forget the tokens of row r from position ``lengths[r]`` on, or raise ValueError.

    It raises ValueError, **and leaves everything as it was**, where `lengths` is not one number a row, where
    one is negative or more than the row holds, and where the ring no longer has the `window` - 1 tokens
    before it that the next token's query will read. A row may always be emptied: then there is nothing to
    read.
    """
    # BEGIN SOLUTION
    if len(lengths) != cache.batch:
        raise ValueError(f"lengths: got {len(lengths)} numbers, expected {cache.batch}")
    for keep, held, least in zip(lengths, cache.lengths, cache.least, strict=True):
        if not 0 <= keep <= held:
            raise ValueError(f"lengths: got {keep}, expected 0 to {held}")
        if 0 < keep < least:
            raise ValueError(f"lengths: got {keep}, expected 0 or at least {least}")
    cache.lengths = list(lengths)
    cache.least = [least if keep else 0 for keep, least in zip(lengths, cache.least, strict=True)]
    # END SOLUTION


def replay(cache: object, events: Sequence[Sequence]) -> Int[torch.Tensor, "event b n"]:
    """Part 4, given: leave it as it is. It plays `events` with your three functions and says what came of
    each."""
    return cache.play(events, ring_size, append, truncate)


def step_bytes(
    lengths: Sequence[int], config: NSAConfig, d_qk: int, d_v: int, hk: int, element_bytes: int
) -> dict[str, int]:
    """Part 5: bytes that one decoding step moves, summed over the rows.

    ``lengths[r]`` are the tokens of row r, the step's own included. Keys have d_qk numbers and values d_v,
    for each of hk heads, of `element_bytes` bytes each. Return a dict with

    * compressed, selected, window: keys and values read. Read is what the query sees, once for a group: whole
      compressed blocks; of top_n selection blocks, or as many as there are, the tokens up to the query, whose
      own block is always one of them; the last `window` tokens, or as many as there are;
    * append: the new token's keys and values, written for the raw ring, the selected branch and the window;
    * compression: in rows where the new token completes a compressed block, the compress_block raw keys and
      values that φ reads, and the one that it writes; φ's weights are not counted;
    * nsa: all of these together;
    * dense: what dense attention moves: all tokens read, and the new one written.
    """
    # BEGIN SOLUTION
    token = (d_qk + d_v) * hk * element_bytes
    moved = dict.fromkeys(("compressed", "selected", "window", "append", "compression"), 0)
    for length in lengths:
        past = length - config.compress_block
        completes = past >= 0 and past % config.compress_stride == 0
        blocks = min(config.top_n, -(-length // config.select_block))
        own = (length - 1) % config.select_block + 1
        moved["compressed"] += token * max(0, past // config.compress_stride + 1)
        moved["selected"] += token * ((blocks - 1) * config.select_block + own)
        moved["window"] += token * min(config.window, length)
        moved["append"] += token * 3
        moved["compression"] += token * (config.compress_block + 1) * completes
    return moved | {"nsa": sum(moved.values()), "dense": token * sum(length + 1 for length in lengths)}
    # END SOLUTION
