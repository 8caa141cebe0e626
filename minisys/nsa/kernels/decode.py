"""A decoding step on the GPU: how the work is cut, scratch memory, and the launch (decode_step.py).

Appending the new tokens is a launch before it (decode_append.py). Grids depend on the batch, the heads and
the cache's capacity, never on lengths, so both can be recorded in a CUDA graph and replayed while rows grow.
Run a step once before recording it, so that everything is compiled and counters exist.

On GPUs that know programmatic dependent launches (Hopper and later) a launch gets ready while the one before
it ends, and waits for its end on the GPU.

Several new tokens of a row are so many queries with lengths of their own over the same row of the cache.

Scratch memory of a step, in numbers of 4 bytes: for each (query, query head) a numerator of d_v for every
part, and one for every selection block; with 64 heads and 65,536 tokens 0.5 MiB for each row of the batch.
"""

import functools
from collections.abc import Sequence

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from minisys.nsa.cache import NSACache
from minisys.nsa.kernels.decode_choose import choice_options, numbers_of_keys
from minisys.nsa.kernels.decode_step import step_kernel
from minisys.nsa.kernels.importance import LANES
from minisys.nsa.kernels.tiles import (
    DTYPES,
    INTERPRETED,
    LOG2_E,
    MAX_HEAD_DIM,
    launch_options,
    padded,
    positive_scale,
)

MAX_PER_BLOCK = 64  # compressed keys that begin in a selection block: a tile holds whole blocks
MAX_SPLITS = 32


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
    """Into how many programs the compressed keys, the window and the chosen blocks of a pair are cut, and how
    many pairs choose while the next ones read (measured on one H100: benchmarks/nsa_decode_log.md).

    Enough that every processor has work; but each part costs a numerator that is written and read again.
    Pieces of the compressed keys are of one size, in tiles, when a row is full.
    """
    wanted = max(1, 4 * processors // pairs)
    splits = min(wanted, most_tiles, MAX_SPLITS)
    splits = triton.cdiv(most_tiles, triton.cdiv(most_tiles, splits))
    return {
        "SPLITS": splits,
        "WINDOW_PARTS": 2 if wanted >= 8 else 1,
        "CHOSEN_PARTS": max(1, triton.cdiv(free, 2 if wanted >= 8 else 4)),
        "WAVE": max(1, min(pairs, 2 * processors // splits)),
    }


@functools.cache
def processors_of(device: torch.device) -> int:
    return 4 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


def decode_triton(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    scale: float,
    counts: Sequence[int] | None,
    **cuts: int,
) -> tuple[Float[Tensor, "b t hq d_v"], Tensor]:
    """(out, keys) of a step; arguments are checked by `nsa_decode`.

    `chosen_blocks` makes numbers of the keys ``[b, t, hk, n - forced or more]``. `cuts` replaces some of the
    numbers of `cut`, for measurements, and options of the launch.
    """
    b, t, hq, d_qk = q.shape
    hk, d_v, config, device = cache.num_kv_heads, cache.d_v, cache.config, cache.device
    pairs, group = b * t * hk, hq // hk
    q, scale = positive_scale(q.contiguous(), scale)
    per_block = config.select_block // config.compress_stride
    keys, extra = scan_keys(cache), _extra(cache)
    tile_blocks = keys // triton.next_power_of_2(per_block)
    tiles = max(1, triton.cdiv(config.num_compressed(cache.capacity), tile_blocks * per_block))
    forced = config.initial_blocks + config.local_blocks
    free = config.top_n - forced
    listed = triton.next_power_of_2(max(1, free))
    blocks = config.num_selectable(cache.capacity)
    choice = choice_options(blocks, tile_blocks)
    chunks = triton.cdiv(blocks, choice["WARPS"] * choice["INNER"] * LANES.value)
    cuts = cut(pairs, tiles, free, processors_of(device)) | cuts
    splits, window_parts, chosen_parts = (cuts[x] for x in ("SPLITS", "WINDOW_PARTS", "CHOSEN_PARTS"))
    programs = triton.cdiv(pairs, cuts["WAVE"]) * cuts["WAVE"] * (splits + window_parts + 3 + chosen_parts)
    parts = splits + window_parts + 1 + chosen_parts

    empty = lambda *size, dtype=torch.float32: torch.empty(size, dtype=dtype, device=device)
    out, chosen = empty(b, t, hq, d_v, dtype=q.dtype), empty(b, t, hk, listed, dtype=torch.int64)
    partial, stats = empty(pairs, parts, group, d_v), empty(pairs, parts, 2, group)
    tile_max, credits = empty(pairs, group, tiles), empty(pairs, group, tiles, tile_blocks)
    spills, base = empty(pairs, group, tiles, max(1, extra)), empty(pairs, group, d_v)
    carried = empty(pairs, tiles, max(1, extra))
    lists = empty(pairs, chunks, choice["WARPS"], listed, dtype=torch.int64)
    device_counts = cache.lengths if counts is None else cache.lengths.new_tensor(counts)
    options = launch_options(device) | {
        "num_warps": 4, "num_stages": 1 if cache.dtype == torch.float32 else 3
    }  # fmt: skip
    with torch.cuda.device_of(q):  # Triton launches on the current device
        step_kernel[(programs,)](
            q, cache.k_cmp, cache.v_cmp, cache.k_slc, cache.v_slc, cache.k_win, cache.v_win,
            gates.contiguous(), cache.lengths, device_counts, partial, stats, tile_max, credits, spills,
            carried, lists, chosen, base, out, cache.counter("step", 4 * pairs), scale * LOG2_E, pairs, t, hk,
            cache.capacity, cache.k_cmp.shape[2], tiles,
            D_QK=d_qk, D_V=d_v, D_QK_PADDED=padded(d_qk), D_V_PADDED=padded(d_v), GROUP=group,
            ROWS=padded(group), HAS_COUNTS=counts is not None, SPAN=config.compress_block,
            STRIDE=config.compress_stride, SELECT_BLOCK=config.select_block, INITIAL=config.initial_blocks,
            LOCAL=config.local_blocks, FREE=free, WINDOW=config.window, RING=cache.k_win.shape[2], KEYS=keys,
            PER_BLOCK=triton.next_power_of_2(per_block), TILE_BLOCKS=tile_blocks, EXTRA=extra,
            OVERLAPS=padded(tile_blocks + extra), SPLITS_PADDED=triton.next_power_of_2(splits),
            MOST_CHUNKS=chunks, N_PADDED=listed,
            LISTED=triton.next_power_of_2(max(1, forced, triton.cdiv(free, chosen_parts))),
            **choice, **{**options, **cuts},
        )  # fmt: skip
    return out, chosen


def chosen_blocks(keys: Tensor, cache: NSACache) -> Int[Tensor, "b t hk free"]:
    """int32 numbers of the blocks that a step chose beside the forced ones, by falling importance.

    -1 where there are fewer. `keys` is what `decode_triton` returns with the output.
    """
    config = cache.config
    free = config.top_n - config.initial_blocks - config.local_blocks
    return numbers_of_keys(keys[..., :free])
