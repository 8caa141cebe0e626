"""New tokens into the cache, and φ of the blocks that they complete, in one launch (equation 7).

Two kinds of programs. One a row stores the row's new keys and values of all branches where they belong. The
others are φ's (decode_compress.py): each looks whether any row completes a block. Where none does, which with
a stride of 16 is the case in 15 of 16 steps of a batch of equal lengths, they end at once, and φ's weights
(2 MiB for keys and 2 MiB for values with heads of 128) are not read. Else they compute the completing blocks,
tile by tile.

In one launch nobody may change what another program still reads. So a block's newest tokens are taken from
the input and not from the ring, where they are being stored; and every program counts the lengths of the rows
in a copy of its own.

Layout as in cache.py; the new tokens are ``[b, t, hk, head_dim]``, contiguous.
"""

from collections.abc import Sequence
from typing import cast, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from minisys.core.checks import check
from minisys.nsa.cache import NSACache
from minisys.nsa.compression import BlockCompressor
from minisys.nsa.kernels.decode import short_lengths
from minisys.nsa.kernels.decode_compress import complete_blocks, phi_options, phi_scratch
from minisys.nsa.kernels.tiles import dependent_launch, padded, power_of_two


@triton.jit
@no_type_check
def load_token(new, row, token, t, hk, D: tl.constexpr, D_PADDED: tl.constexpr, HEADS: tl.constexpr):
    """One token of all heads, [HEADS, D_PADDED], from ``[b, t, hk, D]``."""
    head = tl.arange(0, HEADS)[:, None]
    dims = tl.arange(0, D_PADDED)[None, :]
    return tl.load(new + ((row * t + token) * hk + head) * D + dims, mask=(head < hk) & (dims < D))


@triton.jit
@no_type_check
def store_token(x, store, row, hk, position, size, D: tl.constexpr, D_PADDED: tl.constexpr,
                HEADS: tl.constexpr):  # fmt: skip
    """That token into a ring, or a row, of `size` tokens."""
    head = tl.arange(0, HEADS)[:, None]
    dims = tl.arange(0, D_PADDED)[None, :]
    target = store + (row.to(tl.int64) * hk * size + position % size) * D
    tl.store(target + head.to(tl.int64) * size * D + dims, x, mask=(head < hk) & (dims < D))


@triton.jit
@no_type_check
def append_kernel(
    new_k_raw, new_v_raw, new_k_slc, new_v_slc, new_k_win, new_v_win,
    k_raw, v_raw, k_slc, v_slc, k_win, v_win, k_cmp, v_cmp,
    k_places, k_first_weight, k_first_bias, k_second_weight, k_second_bias,
    v_places, v_first_weight, v_first_bias, v_second_weight, v_second_bias,
    turns, partial, arrivals, lengths, program_lengths, counts, step_lengths,
    b, t, hk, capacity, window_size, raw_size, cmp_size, most, m_tiles, v_partial, v_arrivals,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    K_HIDDEN: tl.constexpr, V_HIDDEN: tl.constexpr, ROTATE: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, HAS_COUNTS: tl.constexpr, HEADS: tl.constexpr, BATCH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIECES: tl.constexpr,
    M_PROGRAMS: tl.constexpr, STEP_COPIES: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    if DEPENDENT:  # the launch before ends, and only then the next gets ready: what waits takes room
        gdc_wait()
        gdc_launch_dependents()
    program = tl.program_id(0)
    if program < b:
        length = tl.load(lengths + program)
        added = t
        if HAS_COUNTS:
            added = tl.load(counts + program)
        for token in range(added):
            at = length + token
            # All loads first: they are under way together.
            new_1 = load_token(new_k_raw, program, token, t, hk, D_QK, D_QK_PADDED, HEADS)
            new_2 = load_token(new_v_raw, program, token, t, hk, D_V, D_V_PADDED, HEADS)
            new_3 = load_token(new_k_slc, program, token, t, hk, D_QK, D_QK_PADDED, HEADS)
            new_4 = load_token(new_v_slc, program, token, t, hk, D_V, D_V_PADDED, HEADS)
            new_5 = load_token(new_k_win, program, token, t, hk, D_QK, D_QK_PADDED, HEADS)
            new_6 = load_token(new_v_win, program, token, t, hk, D_V, D_V_PADDED, HEADS)
            store_token(new_1, k_raw, program, hk, at, raw_size, D_QK, D_QK_PADDED, HEADS)
            store_token(new_2, v_raw, program, hk, at, raw_size, D_V, D_V_PADDED, HEADS)
            store_token(new_3, k_slc, program, hk, at, capacity, D_QK, D_QK_PADDED, HEADS)
            store_token(new_4, v_slc, program, hk, at, capacity, D_V, D_V_PADDED, HEADS)
            store_token(new_5, k_win, program, hk, at, window_size, D_QK, D_QK_PADDED, HEADS)
            store_token(new_6, v_win, program, hk, at, window_size, D_V, D_V_PADDED, HEADS)
        tl.debug_barrier()  # every warp has read the length
        tl.store(lengths + program, length + added)
        if STEP_COPIES > 0:
            copy = tl.arange(0, triton.next_power_of_2(STEP_COPIES))
            tl.store(step_lengths + copy * b + program, length + added, mask=copy < STEP_COPIES)
    else:
        complete_blocks(
            new_k_raw, new_v_raw, k_raw, v_raw, k_cmp, v_cmp,
            k_places, k_first_weight, k_first_bias, k_second_weight, k_second_bias,
            v_places, v_first_weight, v_first_bias, v_second_weight, v_second_bias,
            turns, partial, arrivals, program_lengths, counts, arrivals, 0, program - b,
            b, t, hk, raw_size, cmp_size, most, m_tiles, v_partial, v_arrivals,
            D_QK, D_V, D_QK_PADDED, D_V_PADDED, K_HIDDEN, V_HIDDEN, ROTATE, SPAN, STRIDE, HAS_COUNTS, BATCH,
            ROWS, COLUMNS, PIECES, M_PROGRAMS, False,
        )  # fmt: skip


def phi_arguments(cache: NSACache, t: int) -> tuple[int, dict]:
    """Number of φ's programs where t tokens are appended, and arguments of `complete_blocks`, by name.

    Raises:
        ValueError: φ's weights have another dtype than the cache, or lie elsewhere.
    """
    config, b, hk = cache.config, cache.batch, cache.num_kv_heads
    phis = cast(tuple[BlockCompressor, BlockCompressor], (cache.compress_keys, cache.compress_values))
    for name, phi in zip(("compress_keys", "compress_values"), phis, strict=True):
        w = phi.first.weight
        same = w.dtype == cache.dtype and w.device == cache.device
        check(same, name, f"{w.dtype} on {w.device}", f"{cache.dtype} on {cache.device}, as the cache")
    most = triton.cdiv(t, config.compress_stride)
    options = phi_options(config.compress_block, b * hk, cache.dtype)
    m_tiles = triton.cdiv(b * most * hk, options["ROWS"])
    hidden = [phi.first.out_features for phi in phis]
    # As many whatever t is: each counts the lengths in its own copy, which a recorded graph relies on.
    m_programs = triton.cdiv(b * hk, options["ROWS"])
    programs = m_programs * options["PIECES"] * sum(triton.cdiv(h, options["COLUMNS"]) for h in hidden)
    wanted = [phi_scratch(h, d, options) for h, d in zip(hidden, (cache.d_qk, cache.d_v), strict=True)]
    numbers, counters = ([m_tiles * x for x in of_both] for of_both in zip(*wanted, strict=True))
    arguments = {
        "turns": cache.turns(),
        "partial": torch.empty(sum(numbers), dtype=torch.float32, device=cache.device),
        "arrivals": cache.counter("append", sum(counters)),
        "program_lengths": cache.length_copies("phi", programs), "most": most, "m_tiles": m_tiles,
        "v_partial": numbers[0], "v_arrivals": counters[0], "K_HIDDEN": hidden[0], "V_HIDDEN": hidden[1],
        "ROTATE": cache.rotary_base is not None, "BATCH": power_of_two(b), "M_PROGRAMS": m_programs,
    }  # fmt: skip
    for name, phi in zip("kv", phis, strict=True):
        weights = {
            "places": phi.positions, "first_weight": phi.first.weight, "first_bias": phi.first.bias,
            "second_weight": phi.second.weight, "second_bias": phi.second.bias,
        }  # fmt: skip
        arguments |= {f"{name}_{key}": x.detach().contiguous() for key, x in weights.items()}
    return programs, arguments | options


def append_triton(cache: NSACache, new: dict[str, Tensor], counts: Sequence[int] | None) -> None:
    """Store `new` tokens, checked by the cache, and the compressed blocks that they complete.

    Raises:
        ValueError: φ's weights have another dtype than the cache, or lie elsewhere.
    """
    b, t = new["k_raw"].shape[:2]
    if t == 0:
        return
    config = cache.config
    programs, arguments = phi_arguments(cache, t)
    copies = short_lengths(cache)
    with torch.cuda.device_of(cache.lengths):  # Triton launches on the current device
        append_kernel[(b + programs,)](
            **{f"new_{name}": x.contiguous() for name, x in new.items()},
            **{name: getattr(cache, name) for name in (*new, "k_cmp", "v_cmp", "lengths")},
            **arguments,
            counts=cache.lengths if counts is None else cache.lengths.new_tensor(counts),
            step_lengths=cache.lengths if copies is None else copies, b=b, t=t, hk=cache.num_kv_heads,
            capacity=cache.capacity, window_size=cache.k_win.shape[2], raw_size=cache.k_raw.shape[2],
            cmp_size=cache.k_cmp.shape[2],
            D_QK=cache.d_qk, D_V=cache.d_v, D_QK_PADDED=padded(cache.d_qk), D_V_PADDED=padded(cache.d_v),
            SPAN=config.compress_block, STRIDE=config.compress_stride, HAS_COUNTS=counts is not None,
            HEADS=power_of_two(cache.num_kv_heads), STEP_COPIES=0 if copies is None else len(copies),
            **dependent_launch(cache.device),
        )  # fmt: skip
