"""One step of decoding: a few new queries against everything a cache holds (arXiv 2502.11089, equation 5).

    o = Σ_c g^c · Attn(q, K^c, V^c)        c in (compressed, selected, window)

The same numbers as the last rows of `nsa_attention` on the whole sequence. What differs is the cost: a step
has no queries to share keys with, so it is as long as its bytes take to read. Per query and key/value head
those are all compressed keys and values, top_n blocks of the selected branch and the window, and this path
gathers just these: (tc + n·l' + w) · (d_qk + d_v) numbers instead of t · (d_qk + d_v).

`append_reference` and `decode_reference` run anywhere and in float64; on a CUDA GPU the kernels of
kernels/decode_append.py and kernels/decode.py do the same, or kernels/decode_short.py does both.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.checks import check, check_choice, check_rank, check_shape
from minisys.nsa.cache import TOKENS, NSACache
from minisys.nsa.compression import BlockCompressor
from minisys.nsa.reference import (
    attention_weights,
    block_overlap,
    masked_softmax,
    top_blocks,
    weighted_values,
)

BACKENDS = ("auto", "reference", "triton")


@torch.no_grad()
def nsa_decode(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    *,
    scale: float | None = None,
    counts: Sequence[int] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "b t hq d_v"]:
    """Attention of the last t tokens of every row to all that the cache holds up to each of them.

    Append the tokens first: a query reads its own key too. Several tokens at once give what one after the
    other would.

    Args:
        q: queries of the tokens that were appended last ``[b, t, hq, d_qk]``, rotated, in the cache's dtype.
        cache: of this layer.
        gates: ``[b, t, hq, 3]``, compressed, selected, window.
        scale: factor on q·k; 1/√d_qk unless set.
        counts: how many of the t tokens each row has, as `NSACache.append` got it.
        backend: ``"auto"``, ``"reference"`` or ``"triton"``. The last wants float32, float16 or bfloat16 on
            a CUDA GPU (or Triton's interpreter) and can be recorded in a CUDA graph.

    Returns:
        ``[b, t, hq, d_v]``; zeros behind the ``counts[row]``-th token.

    Raises:
        ValueError: an argument does not fit, or the cache does not hold what the queries would read.
    """
    return _decode(q, cache, gates, _check_query(q, cache, gates, scale), counts, backend)


@torch.no_grad()
def nsa_step(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    k_raw: Float[Tensor, "b t hk d_qk"],
    v_raw: Float[Tensor, "b t hk d_v"],
    k_slc: Float[Tensor, "b t hk d_qk"],
    v_slc: Float[Tensor, "b t hk d_v"],
    k_win: Float[Tensor, "b t hk d_qk"],
    v_win: Float[Tensor, "b t hk d_v"],
    *,
    start: int | Sequence[int] | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Float[Tensor, "b t hq d_v"]:
    """`NSACache.append` of t tokens a row, and `nsa_decode` of the same tokens.

    On a GPU one token of a few short rows takes one launch instead of two (kernels/decode_short.py). In a
    CUDA graph the lengths are the caller's business, as `NSACache.append` says.

    Args:
        q, gates, scale: as `nsa_decode` takes them.
        k_raw, v_raw, k_slc, v_slc, k_win, v_win, start: as `NSACache.append` takes them.
        backend: as both take it.

    Returns:
        ``[b, t, hq, d_v]``.

    Raises:
        ValueError: an argument does not fit. Nothing was written.
    """
    new = (k_raw, v_raw, k_slc, v_slc, k_win, v_win)
    scale = _check_query(q, cache, gates, scale)
    check_rank("k_raw", k_raw, "b t hk d_qk")
    t = q.shape[1]
    check(k_raw.shape[1] == t, "k_raw", f"{k_raw.shape[1]} tokens", f"{t}, as many as q")
    if t == 1 and append_backend(backend, cache) == "triton":
        from minisys.nsa.kernels.decode import MAX_SHORT_GROUP, is_short

        if is_short(cache) and q.shape[2] <= MAX_SHORT_GROUP * cache.num_kv_heads:
            from minisys.nsa.kernels.decode_short_launch import short_step_triton

            _, ends, recording = cache.check_append(new, None, start)
            out = short_step_triton(q, cache, gates, dict(zip(TOKENS, new, strict=True)), scale)[0]
            if not recording:
                cache._moved(ends)
            return out
    cache.append(*new, start=start, backend=backend)
    return _decode(q, cache, gates, scale, None, backend)


def _decode(
    q: Tensor, cache: NSACache, gates: Tensor, scale: float, counts: Sequence[int] | None, backend: str
) -> Float[Tensor, "b t hq d_v"]:
    """`nsa_decode` of a query that `_check_query` has seen."""
    added = cache.check_queries(q.shape[1], counts)
    if q.shape[1] == 0:
        return q.new_empty(*q.shape[:3], cache.d_v)
    if chosen_backend(backend, cache) == "triton":
        from minisys.nsa.kernels.decode import decode_triton

        return decode_triton(q, cache, gates, scale, None if counts is None else added)[0]
    return decode_reference(q, cache, gates, scale, added)[0]


def _check_query(q: Tensor, cache: NSACache, gates: Tensor, scale: float | None) -> float:
    """Check what is asked of a cache; returns the scale."""
    check_rank("q", q, "b t hq d_qk")
    b, t, hq, d_qk = q.shape
    check_shape("q", q, (cache.batch, t, hq, cache.d_qk), "b t hq d_qk")
    hk = cache.num_kv_heads
    check(hq >= 1 and hq % hk == 0, "q", f"{hq} query heads", f"a multiple of the {hk} key/value heads")
    check_shape("gates", gates, (b, t, hq, 3), "b t hq 3")
    for name, x in (("q", q), ("gates", gates)):
        check(x.dtype == cache.dtype, name, x.dtype, f"{cache.dtype}, the dtype of the cache")
        check(x.device == cache.device, name, x.device, f"{cache.device}, the device of the cache")
    scale = 1 / math.sqrt(d_qk) if scale is None else scale
    check(math.isfinite(scale), "scale", scale, "a finite number")
    return scale


def decode_reference(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    scale: float,
    counts: Sequence[int],
    blocks: Int[Tensor, "b t hk n"] | None = None,
) -> tuple[Float[Tensor, "b t hq d_v"], Int[Tensor, "b t hk n"]]:
    """(output, block numbers) in plain PyTorch; the last ``counts[row]`` tokens of a row are asked for.

    With `blocks` it reads those instead of the most important ones.
    """
    config, longest = cache.config, max(max(cache.row_lengths), 1)
    positions = query_positions(cache, q.shape[1], counts)

    tc = config.num_compressed(longest)
    ends = torch.arange(tc, device=q.device) * config.compress_stride + config.compress_block - 1
    visible = (ends <= positions[..., None])[:, None, None]  # [b, 1, 1, t, tc]
    by_token = lambda x: x[:, :, :tc].transpose(1, 2)
    p_cmp = attention_weights(q, by_token(cache.k_cmp), visible, scale)  # [b, hk, g, t, tc]
    out = gates[..., 0:1] * weighted_values(p_cmp, by_token(cache.v_cmp))

    if blocks is None:
        overlap = block_overlap(longest, config, q.device).to(p_cmp.dtype)
        importance = (p_cmp @ overlap).sum(dim=2).transpose(1, 2)  # equations 9 and 10
        blocks = top_blocks(importance, config, positions)

    inner = torch.arange(config.select_block, device=q.device)
    tokens = (blocks[..., None] * config.select_block + inner).flatten(3)  # [b, t, hk, n·l']
    visible = (tokens >= 0) & (tokens <= positions[..., None, None])
    out += gates[..., 1:2] * _attend_gathered(q, cache.k_slc, cache.v_slc, tokens, visible, scale)

    tokens = positions[..., None] - config.window + 1 + torch.arange(config.window, device=q.device)
    visible = (tokens >= 0)[:, :, None]
    slots = (tokens % cache.k_win.shape[2])[:, :, None].expand(-1, -1, cache.num_kv_heads, -1)
    out += gates[..., 2:3] * _attend_gathered(q, cache.k_win, cache.v_win, slots, visible, scale)
    return out.masked_fill((positions < 0)[..., None, None], 0.0), blocks


def append_reference(cache: NSACache, new: tuple[Tensor, ...], counts: list[int]) -> None:
    """Write the new tokens of every row and the compressed blocks that they complete, in plain PyTorch."""
    config, device = cache.config, cache.device
    held = cache.row_lengths
    pairs = [(row, place) for row, count in enumerate(counts) for place in range(count)]
    if not pairs:
        return
    row, place = torch.tensor(pairs, device=device).unbind(1)
    position = torch.tensor(held, device=device)[row] + place
    for name, x in zip(TOKENS, new, strict=True):
        store = getattr(cache, name)
        store[row, :, position % store.shape[2]] = x[row, place]
    complete = [
        (row, block)
        for row, (length, count) in enumerate(zip(held, counts, strict=True))
        for block in range(config.num_compressed(length), config.num_compressed(length + count))
    ]
    if complete:
        row, block = torch.tensor(complete, device=device).unbind(1)
        tokens = block[:, None] * config.compress_stride + torch.arange(config.compress_block, device=device)
        slots = tokens % cache.k_raw.shape[2]  # [n, l]
        by_head = lambda ring: ring[row[:, None], :, slots].transpose(1, 2)[None]  # [1, n, hk, l, head_dim]
        keys, values = cache.compress_keys(by_head(cache.k_raw)), cache.compress_values(by_head(cache.v_raw))
        cache.k_cmp[row, :, block] = cache._rotated(keys, block)[0]
        cache.v_cmp[row, :, block] = values[0]


def query_positions(cache: NSACache, t: int, counts: Sequence[int]) -> Int[Tensor, "b t"]:
    """Positions of the last ``counts[row]`` tokens of every row; -1 behind them, where nothing is seen."""
    place = torch.arange(t, device=cache.device)
    count = torch.tensor(counts, device=cache.device)[:, None]
    return (cache.lengths[:, None].long() - count + place).masked_fill(place >= count, -1)


def _attend_gathered(
    q: Tensor, k: Tensor, v: Tensor, tokens: Tensor, visible: Tensor, scale: float
) -> Float[Tensor, "b t hq d_v"]:
    """Attention of each query to tokens of its own, ``[b, t, hk, n]``, out of k, v ``[b, hk, stored, …]``."""
    b, t, hk, n = tokens.shape
    index = (
        tokens.clamp(min=0, max=k.shape[2] - 1).transpose(1, 2).reshape(b, hk, t * n, 1)
    )  # hidden ones too
    gather = lambda x: x.gather(2, index.expand(-1, -1, -1, x.shape[3])).unflatten(2, (t, n))
    grouped = q.unflatten(2, (hk, -1))  # [b, t, hk, g, d_qk]
    scores = torch.einsum("btkgd,bktnd->btkgn", grouped, gather(k)) * scale
    weights = masked_softmax(scores, visible[:, :, :, None].expand(scores.shape))
    return torch.einsum("btkgn,bktnd->btkgd", weights, gather(v)).flatten(2, 3)


def chosen_backend(backend: str, cache: NSACache) -> str:
    """`backend`, or what ``"auto"`` stands for: the kernels on a CUDA GPU where they fit.

    Raises:
        ValueError: the kernels were asked for and cannot run on this cache.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "reference" or (backend == "auto" and cache.device.type != "cuda"):
        return "reference"
    try:  # the kernels import Triton, which is not everywhere
        from minisys.nsa.kernels.decode import refusal
    except ImportError as error:
        check(backend == "auto", "backend", f"'triton' ({error})", "'auto' or 'reference'")
        return "reference"
    why = refusal(cache)
    check(why is None or backend == "auto", "backend", "'triton'", f"'auto' or 'reference'; {why}")
    return "triton" if why is None else "reference"


def append_backend(backend: str, cache: NSACache) -> str:
    """`chosen_backend` for `NSACache.append`; the kernel knows no φ but `BlockCompressor`.

    Raises:
        ValueError: the kernel was asked for and cannot run on this cache.
    """
    chosen = chosen_backend(backend, cache)
    known = all(type(phi) is BlockCompressor for phi in (cache.compress_keys, cache.compress_values))
    if chosen == "triton" and not known:
        check(backend == "auto", "backend", "'triton'", "'reference' for a φ that is no BlockCompressor")
        return "reference"
    return chosen
