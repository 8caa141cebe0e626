"""A decoding step on the GPU: how the work is cut, scratch memory, and the launch (decode_step.py).

Appending the new tokens is a launch before it (decode_append.py), or the same one where a few rows are short
(decode_short.py). Grids depend on the batch, the heads and
the cache's capacity, never on lengths, so both can be recorded in a CUDA graph and replayed while rows grow.
Run a step once before recording it, so that everything is compiled and counters exist.

On GPUs that know programmatic dependent launches (Hopper and later) a launch gets ready while the one before
it runs, and waits for its end on the GPU.

Several new tokens of a row are so many queries with lengths of their own over the same row of the cache.

Scratch memory of a step, in numbers of 4 bytes: for each (query, query head) a numerator of d_v for every
part, and one for every selection block; with 64 heads and 65,536 tokens 0.5 MiB for each row of a batch of 64
and, cut into more parts, 0.8 of 8 and 1.6 of one. In small batches also a weight for every compressed key,
another 0.5 MiB.
"""

import functools
from collections.abc import Sequence

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.checks import check
from minisys.nsa.cache import NSACache
from minisys.nsa.kernels.decode_choose import chunk_of
from minisys.nsa.kernels.decode_step import step_kernel
from minisys.nsa.kernels.tiles import (
    DTYPES,
    INTERPRETED,
    LOG2_E,
    MAX_HEAD_DIM,
    dependent_launch,
    padded,
    positive_scale,
    power_of_two,
)

MAX_PER_BLOCK = 64  # compressed keys that begin in a selection block: a tile holds whole blocks
MAX_SPLITS = 32
# of the kernel for short rows
MAX_SHORT_TILES = 16
MAX_SHORT_HEAD = 128
MAX_SHORT_GROUP = 32


def refusal(cache: NSACache) -> str | None:
    """Why the kernels cannot decode from `cache`, or None."""
    config = cache.config
    per_block = power_of_two(config.select_block // config.compress_stride)
    if cache.device.type != "cuda" and not INTERPRETED:
        return "Triton needs a CUDA GPU, or TRITON_INTERPRET=1 in the environment before it is imported"
    if cache.dtype not in DTYPES:
        return f"the kernels take {', '.join(map(str, DTYPES))}, not {cache.dtype}"
    if max(cache.d_qk, cache.d_v) > MAX_HEAD_DIM:
        return f"the kernels take heads of at most {MAX_HEAD_DIM}"
    if per_block > MAX_PER_BLOCK or extra_blocks(cache) > max(1, scan_keys(cache) // per_block):
        return f"the kernels take blocks of at most {MAX_PER_BLOCK} strides"
    return None


def extra_blocks(cache: NSACache) -> int:
    """Selection blocks behind its own that a compressed block reaches into."""
    config = cache.config
    reach = config.compress_block // config.compress_stride - 1
    return triton.cdiv(reach, config.select_block // config.compress_stride)


def scan_keys(cache: NSACache) -> int:
    """Keys of a tile."""
    per_block = power_of_two(cache.config.select_block // cache.config.compress_stride)
    return max(per_block, 32 if cache.dtype == torch.float32 else 64)


def cut(pairs: int, most_tiles: int, chunks: int, free: int, processors: int) -> dict[str, int]:
    """Into how many programs compressed keys, window, choice and chosen blocks of a pair are cut, and how
    many pairs choose while the next ones read (measured on one H100: benchmarks/nsa_decode_log.md).

    Enough that every processor has work; but each part costs a numerator that is written and read again.
    Pieces of the compressed keys are of one size, in tiles, when a row is full.
    """
    wanted = max(1, 4 * processors // pairs)
    splits = min(max(2, wanted // 2), most_tiles, MAX_SPLITS)
    splits = triton.cdiv(most_tiles, triton.cdiv(most_tiles, splits))
    wave = max(1, min(pairs, 2 * processors // splits))
    one_group = wave == pairs
    # With one chunk and one group, everyone who reads chosen blocks chooses.
    choices = 0 if one_group and chunks == 1 else max(1, min(chunks, wanted // 4))
    return {
        "SPLITS": splits,
        "WINDOW_PARTS": 2 if wanted >= 8 else 1,
        "CHOICES": choices,
        "CHOSEN_PARTS": max(1, triton.cdiv(free, 3 if wanted >= 8 else 5)),
        "WAVE": wave,
        "KEYS_FIRST": one_group,
    }


def short_cut(cache: NSACache) -> dict[str, int]:
    """How a pair of `short_step_kernel` is cut into programs, and how many numbers of a head a slice has.

    Measured on one H100 at 8,192 tokens and batch 1 (benchmarks/nsa_decode_log.md).
    """
    config = cache.config
    per_block = power_of_two(config.select_block // config.compress_stride)
    tile_blocks = scan_keys(cache) // per_block
    return {
        "TILES": chunk_of(config.num_selectable(cache.capacity), tile_blocks) // tile_blocks,
        "WINDOW_PARTS": 4,
        "CHOSEN_PARTS": max(1, config.top_n - config.initial_blocks - config.local_blocks),
        "SLICE": 16,
    }


def short_programs(cache: NSACache, cuts: dict[str, int]) -> int:
    """Programs of `short_step_kernel` besides φ's."""
    parts = cuts["TILES"] + cuts["WINDOW_PARTS"] + 1 + cuts["CHOSEN_PARTS"]
    return cache.batch * cache.num_kv_heads * (parts + triton.cdiv(cache.d_v, cuts["SLICE"]))


def can_be_short(cache: NSACache) -> bool:
    """Whether `short_step_kernel` can do a step of `cache`: one chunk of blocks a row, tiles are boxes."""
    config = cache.config
    per_block = config.select_block // config.compress_stride
    tile_blocks = scan_keys(cache) // power_of_two(per_block)
    tiles = short_cut(cache)["TILES"]
    one_chunk = tiles <= MAX_SHORT_TILES and config.num_selectable(cache.capacity) <= tiles * tile_blocks
    sizes = (cache.d_qk, cache.d_v)
    boxes = all(size <= MAX_SHORT_HEAD and size * cache.dtype.itemsize % 16 == 0 for size in sizes)
    return one_chunk and boxes and per_block == power_of_two(per_block)


def is_short(cache: NSACache) -> bool:
    """Whether `short_step_kernel` is the one to do it: it can, and a GPU has room for all of its programs."""
    most = 3 * processors_of(cache.device)
    return can_be_short(cache) and short_programs(cache, short_cut(cache)) <= most


def short_lengths(cache: NSACache) -> Tensor | None:
    """The lengths that programs of `short_step_kernel` count, ``[programs, b]``; None if it is not used."""
    if not is_short(cache):
        return None
    return cache.length_copies("step", short_programs(cache, short_cut(cache)))


@functools.cache
def processors_of(device: torch.device) -> int:
    return 4 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


def step_arguments(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    scale: float,
    counts: Sequence[int] | None,
    **cuts: int,
) -> tuple[int, dict]:
    """Number of programs and arguments of `step_kernel`, by name. Allocates ``out`` and ``chosen``."""
    b, t, hq, d_qk = q.shape
    hk, d_v, config, device = cache.num_kv_heads, cache.d_v, cache.config, cache.device
    pairs, group = b * t * hk, hq // hk
    q, scale = positive_scale(q.contiguous(), scale)
    per_block = config.select_block // config.compress_stride
    keys, extra = scan_keys(cache), extra_blocks(cache)
    tile_blocks = keys // power_of_two(per_block)
    tiles = max(1, triton.cdiv(config.num_compressed(cache.capacity), tile_blocks * per_block))
    forced = config.initial_blocks + config.local_blocks
    free = config.top_n - forced
    blocks = config.num_selectable(cache.capacity)
    chunk = chunk_of(blocks, tile_blocks)
    chunks = triton.cdiv(blocks, chunk)
    cuts = cut(pairs, tiles, chunks, free, processors_of(device)) | cuts
    check(cuts["CHOICES"] > 0 or chunks == 1, "CHOICES", 0, f"1 or more, for {chunks} chunks")
    splits, window_parts, choices, chosen_parts, wave = (
        cuts[name] for name in ("SPLITS", "WINDOW_PARTS", "CHOICES", "CHOSEN_PARTS", "WAVE")
    )
    slots = pairs if cuts["KEYS_FIRST"] else triton.cdiv(pairs, wave) * wave
    programs = slots * (splits + window_parts + 1 + choices + 1 + chosen_parts)
    parts = splits + window_parts + 1 + chosen_parts

    empty = lambda *size, dtype=torch.float32: torch.empty(size, dtype=dtype, device=device)
    arguments = {
        "q": q, "gates": gates.contiguous(), "lengths": cache.lengths,
        "counts": cache.lengths if counts is None else cache.lengths.new_tensor(counts),
        **{name: getattr(cache, name) for name in ("k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win")},
        "out": empty(b, t, hq, d_v, dtype=q.dtype), "chosen": empty(b, t, hk, free, dtype=torch.int32),
        "partial": empty(pairs, parts, group, d_v), "stats": empty(pairs, parts, 2, group),
        "tile_max": empty(pairs, group, tiles), "credits": empty(pairs, group, tiles, tile_blocks),
        "spills": empty(pairs, group, tiles, max(1, extra)), "base": empty(pairs, group, d_v),
        "kept": empty(pairs if cuts["KEYS_FIRST"] else 0, tiles, group, keys, dtype=q.dtype),
        "bits": empty(pairs, max(chunks, chosen_parts), chunk, dtype=torch.int32),
        "lists": empty(pairs, 2, chunks, free, dtype=torch.int32),
        "counters": cache.counter("step", 4 * pairs),
        "scale_log2": scale * LOG2_E, "pairs": pairs, "t": t,
        "hk": hk, "capacity": cache.capacity, "cmp_capacity": cache.k_cmp.shape[2], "tiles": tiles,
        "most_chunks": chunks,
        "D_QK": d_qk, "D_V": d_v, "D_QK_PADDED": padded(d_qk), "D_V_PADDED": padded(d_v), "GROUP": group,
        "ROWS": padded(group), "HAS_COUNTS": counts is not None, "SPAN": config.compress_block,
        "STRIDE": config.compress_stride, "SELECT_BLOCK": config.select_block,
        "INITIAL": config.initial_blocks, "LOCAL": config.local_blocks, "FREE": free,
        "WINDOW": config.window, "RING": cache.k_win.shape[2], "KEYS": keys,
        "PER_BLOCK": power_of_two(per_block), "TILE_BLOCKS": tile_blocks, "EXTRA": extra,
        "OVERLAPS": padded(tile_blocks + extra),
        "CHUNK": chunk, "MERGED": max(64, min(256, power_of_two(chunks * free))),
        "SLOTS": max(32, power_of_two(free)),
        "LISTED": power_of_two(max(1, forced, triton.cdiv(free, chosen_parts))),
    }  # fmt: skip
    return programs, arguments | _options(cache, cuts["KEYS_FIRST"]) | cuts


def _options(cache: NSACache, keys_first: bool) -> dict[str, int | bool]:
    """Warps, registers of a thread, and how many tiles of each loop are under way, the one in use included.

    Of heads of 128 in 16 bits three programs fit on a Hopper multiprocessor: all pieces of a group and their
    choices run at once. What is under way makes every other read wait, so values are fewer than keys.
    """
    depths = {"num_stages": 3, "KEY_DEPTH": 4 if keys_first else 3, "VALUE_DEPTH": 3}
    if cache.dtype == torch.float32:
        depths = dict.fromkeys(depths, 1)
    return {"num_warps": 4, "maxnreg": 168} | depths | dependent_launch(cache.device)


def decode_triton(
    q: Float[Tensor, "b t hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b t hq 3"],
    scale: float,
    counts: Sequence[int] | None,
    **cuts: int,
) -> tuple[Float[Tensor, "b t hq d_v"], Int[Tensor, "b t hk free"]]:
    """Output of a step, and the blocks that it chose beside the forced ones.

    The latter int32, by falling importance, -1 where there are fewer. Arguments are checked by `nsa_decode`.
    `cuts` replaces some of the numbers of `cut`, for measurements, and options of the launch.

    Raises:
        ValueError: no `CHOICES`, but a row is more than one chunk.
    """
    programs, arguments = step_arguments(q, cache, gates, scale, counts, **cuts)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        step_kernel[(programs,)](**arguments)
    return arguments["out"], arguments["chosen"]
