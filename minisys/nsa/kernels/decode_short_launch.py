"""Launch of `short_step_kernel`: append and attend in one (decode_short.py)."""

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from minisys.nsa.cache import NSACache
from minisys.nsa.kernels.decode import extra_blocks, scan_keys, short_cut, short_programs
from minisys.nsa.kernels.decode_append import phi_arguments
from minisys.nsa.kernels.decode_short import short_step_kernel
from minisys.nsa.kernels.tiles import LOG2_E, boxes, dependent_launch, padded, positive_scale, power_of_two

BOXES = ("k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win")


def short_step_triton(
    q: Float[Tensor, "b 1 hq d_qk"],
    cache: NSACache,
    gates: Float[Tensor, "b 1 hq 3"],
    new: dict[str, Tensor],
    scale: float,
    **cuts: int,
) -> tuple[Float[Tensor, "b 1 hq d_v"], Int[Tensor, "b 1 hk free"]]:
    """Store one `new` token of every row and attend to it: output, and chosen blocks as `decode_triton`.

    Arguments are checked by `nsa_step`. What programs hand over is kept with the cache: with 64 query heads
    of 128 numbers and 8,192 tokens 1.8 MB for every row of the batch.

    `cuts` replaces some of the numbers of `short_cut`, for measurements, and options of the launch.
    """
    b, _, hq, d_qk = q.shape
    hk, d_v, config, device = cache.num_kv_heads, cache.d_v, cache.config, cache.device
    pairs, group = b * hk, hq // hk
    q, scale = positive_scale(q.contiguous(), scale)
    keys, extra = scan_keys(cache), extra_blocks(cache)
    per_block = power_of_two(config.select_block // config.compress_stride)
    tile_blocks = keys // per_block
    free = config.top_n - config.initial_blocks - config.local_blocks
    cuts = short_cut(cache) | {"DEPTH": 1 if cache.dtype == torch.float32 else 3} | cuts
    programs, tiles, chosen_parts = short_programs(cache, cuts), cuts["TILES"], cuts["CHOSEN_PARTS"]
    parts = tiles + cuts["WINDOW_PARTS"] + 1 + chosen_parts
    phi_programs, phi = phi_arguments(cache, 1)
    renamed = {"partial": "phi_partial", "arrivals": "phi_arrivals", "program_lengths": "phi_lengths",
               "ROWS": "PHI_ROWS"}  # fmt: skip
    phi = {renamed.get(name, name): x for name, x in phi.items() if name != "most"}
    # Kept between launches, for every cut its own: stamps and counters have to fit together.
    cut = " ".join(str(cuts[name]) for name in ("TILES", "WINDOW_PARTS", "CHOSEN_PARTS", "SLICE"))
    kept = lambda name, *kind: cache.counter(f"{name} {hq} {cut}", *kind)
    out = torch.empty(b, 1, hq, d_v, dtype=q.dtype, device=device)
    chosen = torch.empty(b, 1, hk, free, dtype=torch.int32, device=device)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        short_step_kernel[(phi_programs + programs,)](
            q=q, gates=gates.contiguous(), **{f"new_{name}": x.contiguous() for name, x in new.items()},
            **{name: getattr(cache, name) for name in (*new, "k_cmp", "v_cmp", "lengths")}, **phi,
            **{f"{name}_box": boxes(getattr(cache, name).flatten(0, 1), 1, keys) for name in BOXES},
            own_lengths=cache.length_copies("step", programs), done=kept("done", 2 * pairs),
            counters=kept("counters", 3 * pairs),
            stamps=kept("stamps", phi_programs + programs, torch.int32, 1),
            statistics=kept("statistics", pairs * parts * 2 * group, torch.int64),
            credits=kept("credits", pairs * group * tiles * tile_blocks, torch.int64),
            spills=kept("spills", pairs * group * tiles * max(1, extra), torch.int64),
            numerators=kept("numerators", pairs * parts * group * d_v, torch.int64),
            bits=torch.empty(pairs * chosen_parts * tiles * tile_blocks, dtype=torch.int32, device=device),
            chosen=chosen, out=out, scale_log2=scale * LOG2_E, b=b, hk=hk, capacity=cache.capacity,
            raw_size=cache.k_raw.shape[2], cmp_size=cache.k_cmp.shape[2], phi_programs=phi_programs,
            D_QK=d_qk, D_V=d_v, D_QK_PADDED=padded(d_qk), D_V_PADDED=padded(d_v), GROUP=group,
            ROWS=padded(group), SPAN=config.compress_block, STRIDE=config.compress_stride,
            SELECT_BLOCK=config.select_block, INITIAL=config.initial_blocks, LOCAL=config.local_blocks,
            FREE=free, WINDOW=config.window, RING=cache.k_win.shape[2], KEYS=keys,
            TILE_BLOCKS=tile_blocks, EXTRA=extra, OVERLAPS=padded(tile_blocks + extra),
            SLOTS=max(32, power_of_two(free)),
            LISTED=power_of_two(max(1, triton.cdiv(free, chosen_parts))),
            **cuts, **dependent_launch(device),
        )  # fmt: skip
    return out, chosen
