"""A decoding step in kernels: how the work is cut, scratch memory, and the two launches.

1. decode_scan.py: compressed keys, window and forced blocks, and the choice of the other blocks;
2. decode_finish.py: the chosen blocks, and the sum of the branches.

Appending the new tokens is a launch before them (decode_append.py). Grids depend on the batch, the heads and
the cache's capacity, never on lengths, so all three can be recorded in a CUDA graph and replayed while rows
grow. Run a step once before recording it, so that everything is compiled and counters exist.

Several new tokens of a row are so many queries with lengths of their own over the same row of the cache.

Scratch memory of a step, in numbers of 4 bytes: for each (query, query head) a numerator of d_v for every
part, and one for every selection block; with 64 heads and 65,536 tokens 0.5 MiB for each row of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from minisys.nsa.cache import NSACache
from minisys.nsa.kernels.decode_finish import finish_kernel
from minisys.nsa.kernels.decode_scan import scan_kernel
from minisys.nsa.kernels.tiles import DTYPES, INTERPRETED, LOG2_E, MAX_HEAD_DIM, padded, positive_scale

MAX_PER_BLOCK = 64  # compressed keys that begin in a selection block: a tile holds whole blocks
MAX_SPLITS = 32
MAX_CHOICE = 2048  # selection blocks among which the choice looks together


def refusal(cache: NSACache) -> str | None:
    """Why the kernels cannot decode from `cache`, or None."""
    config = cache.config
    per_block = triton.next_power_of_2(config.select_block // config.compress_stride)
    if cache.device.type != "cuda" and not INTERPRETED:
        return "Triton needs a CUDA GPU, or TRITON_INTERPRET=1 in the environment before it is imported"
    if cache.dtype not in DTYPES:
        return f"the kernels take {', '.join(map(str, DTYPES))}, not {cache.dtype}"
    if max(cache.d_qk, cache.d_v) > MAX_HEAD_DIM:
        return f"the kernels take heads of at most {MAX_HEAD_DIM}"
    if per_block > MAX_PER_BLOCK or _extra(cache) > max(1, scan_keys(cache) // per_block):
        return f"the kernels take blocks of at most {MAX_PER_BLOCK} strides"
    return None


def _extra(cache: NSACache) -> int:
    """Selection blocks behind its own that a compressed block reaches into."""
    config = cache.config
    reach = config.compress_block // config.compress_stride - 1
    return triton.cdiv(reach, config.select_block // config.compress_stride)


def scan_keys(cache: NSACache) -> int:
    """Keys of a tile."""
    per_block = triton.next_power_of_2(cache.config.select_block // cache.config.compress_stride)
    return max(per_block, 32 if cache.dtype == torch.float32 else 64)


def cut(pairs: int, most_tiles: int, free: int, processors: int) -> dict[str, int]:
    """Into how many programs the compressed keys, the window and the chosen blocks of a pair are cut.

    Enough that every processor has work; but each part costs a numerator that is written and read again.
    Pieces of the compressed keys are of one size, in tiles, when a row is full.
    """
    wanted = triton.cdiv(2 * processors, pairs)
    splits = max(1, min(wanted, most_tiles, MAX_SPLITS))
    return {
        "SPLITS": triton.cdiv(most_tiles, triton.cdiv(most_tiles, splits)),
        "WINDOW_PARTS": max(1, min(4, wanted // 4)),
        "CHOSEN_PARTS": max(1, min(free, max(4, wanted // 2))),
    }


def processors_of(device: torch.device) -> int:
    return 4 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


@dataclass(frozen=True)
class Step:
    """A step that is cut and has its scratch memory: `scan`, then `finish`, which writes `out`.

    Attributes:
        out: ``[b, t, hq, d_v]``.
        chosen: int32 ``[b, t, hk, n - forced]``, the blocks beside the forced ones by falling importance, -1
            where there are fewer.
        scan, finish: launch one kernel each.
    """

    out: Tensor
    chosen: Tensor
    scan: Callable[[], None]
    finish: Callable[[], None]


def decode_triton(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    scale: float,
    counts: Sequence[int] | None,
    **cuts: int,
) -> tuple[Float[Tensor, "b t hq d_v"], Int[Tensor, "b t hk free"]]:
    """`Step.out` and `Step.chosen`; arguments are checked by `nsa_decode`."""
    step = prepare_step(q, cache, gates, scale, counts, **cuts)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        step.scan()
        step.finish()
    return step.out, step.chosen


def prepare_step(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    scale: float,
    counts: Sequence[int] | None,
    **cuts: int,
) -> Step:
    """Cut the work and allocate. `cuts` replaces some of the numbers of `cut`, for measurements."""
    b, t, hq, d_qk = q.shape
    hk, d_v, config, device = cache.num_kv_heads, cache.d_v, cache.config, cache.device
    pairs, group = b * t * hk, hq // hk
    q, scale = positive_scale(q.contiguous(), scale)
    per_block = config.select_block // config.compress_stride
    keys, extra = scan_keys(cache), _extra(cache)
    tile_blocks = keys // triton.next_power_of_2(per_block)
    tiles = max(1, triton.cdiv(config.num_compressed(cache.capacity), tile_blocks * per_block))
    looked_at = min(triton.next_power_of_2(tiles), max(1, MAX_CHOICE // tile_blocks))
    forced = config.initial_blocks + config.local_blocks
    free = config.top_n - forced
    cuts = cut(pairs, tiles, free, processors_of(device)) | cuts
    splits, window_parts, chosen_parts = (cuts[x] for x in ("SPLITS", "WINDOW_PARTS", "CHOSEN_PARTS"))
    parts = splits + window_parts + 1 + chosen_parts

    empty = lambda *size, dtype=torch.float32: torch.empty(size, dtype=dtype, device=device)
    out = empty(b, t, hq, d_v, dtype=q.dtype)
    partial, stats = empty(pairs, parts, group, d_v), empty(pairs, parts, 2, group)
    tile_max, credits = empty(pairs, group, tiles), empty(pairs, group, tiles, tile_blocks)
    spills, base = empty(pairs, group, tiles, max(1, extra)), empty(pairs, group, d_v)
    chosen = empty(b, t, hk, free, dtype=torch.int32)
    arrivals = [cache.counter(name, pairs) for name in ("scan", "finish")]
    device_counts = cache.lengths if counts is None else cache.lengths.new_tensor(counts)
    gates = gates.contiguous()
    common = {
        "D_QK": d_qk, "D_V": d_v, "D_QK_PADDED": padded(d_qk), "D_V_PADDED": padded(d_v), "GROUP": group,
        "ROWS": padded(group), "HAS_COUNTS": counts is not None, "SELECT_BLOCK": config.select_block,
        "KEYS": keys, "SPLITS": splits, "SPLITS_PADDED": triton.next_power_of_2(splits),
        "WINDOW_PARTS": window_parts, "PARTS": parts, "num_warps": 4,
        "num_stages": 1 if cache.dtype == torch.float32 else 3,
    }  # fmt: skip
    scan = lambda: scan_kernel[(pairs, splits + window_parts + 1)](
        q, cache.k_cmp, cache.v_cmp, cache.k_slc, cache.v_slc, cache.k_win, cache.v_win, cache.lengths,
        device_counts, partial, stats, tile_max, credits, spills, chosen, arrivals[0],
        scale * LOG2_E, t, hk, cache.capacity, cache.k_cmp.shape[2], tiles,
        SPAN=config.compress_block, STRIDE=config.compress_stride, TOP_N=config.top_n,
        INITIAL=config.initial_blocks, LOCAL=config.local_blocks, WINDOW=config.window,
        RING=cache.k_win.shape[2], PER_BLOCK=triton.next_power_of_2(per_block), TILE_BLOCKS=tile_blocks,
        EXTRA=extra, OVERLAPS=padded(tile_blocks + extra), HEADS=min(2, group), TILES=looked_at,
        N_PADDED=triton.next_power_of_2(max(1, free)), MERGE=tiles > looked_at, **common,
    )  # fmt: skip
    finish = lambda: finish_kernel[(pairs, 1 + chosen_parts)](
        q, cache.k_slc, cache.v_slc, gates, cache.lengths, device_counts, partial, stats,
        chosen, base, out, arrivals[1], scale * LOG2_E, t, hk, cache.capacity,
        FREE=free, FORCED=forced, WINDOW_PADDED=triton.next_power_of_2(window_parts),
        CHOSEN_PARTS=chosen_parts, SELECTED_PADDED=triton.next_power_of_2(chosen_parts + 1), **common,
    )  # fmt: skip
    return Step(out, chosen, scan, finish)
