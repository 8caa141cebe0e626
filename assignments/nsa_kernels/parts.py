"""The assignment on kernels of the selected branch: its parts, what they are asked, and what they cost.

All inputs are drawn anew from the seed, in float32, small enough for Triton's interpreter, where a step of a
kernel takes milliseconds. Bytes and FLOPs are counted there, while the submitted kernel runs: loads by the
address they go to, masked ones not at all.
"""

import torch

from minisys.grade.assignment import Case, Cost, Part

from .mistakes_kernels import LOADS_AGAIN, NO_DOT, NO_KERNEL, PACKED, SELECTED, packed, selected
from .mistakes_lists import LISTS
from .mistakes_step import STEP, tiled_exactly
from .selections import KEY_BYTES, code_steps, draw_blocks, least, list_steps, merged, real_selection

TITLE = "The selected branch in Triton"
PACKAGE = "minisys.nsa"
ALLOWED = {}
REAL = {"t": 128, "block": 16, "top_n": 4}  # the selection that costs are counted over


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def between(generator, low, high):
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def padded(size):
    """The side of a tile that holds `size`."""
    return max(16, 1 << (size - 1).bit_length())


def loads_and_products(measured, arguments, need, most):
    """Which mistake a right result hides: `need` from `least`, `most` keys and values of a head loaded."""
    v = arguments["v"]
    output_bytes = arguments["q"].shape[:-1].numel() * (v.shape[-1] + 1) * KEY_BYTES
    loaded = {name: measured.get(f"loaded_bytes {name}", 0) for name in "kv"}
    if any(loaded[name] < need[name] for name in "kv") or measured.get("stored_bytes", 0) < output_bytes:
        return NO_KERNEL
    if measured.get("dot_flops", 0) < need["flops"]:
        return NO_DOT
    again = any(loaded[name] > most * arguments[name].shape[-1] * KEY_BYTES for name in "kv")
    return LOADS_AGAIN if again else None


# --- part 1 -----------------------------------------------------------------------------------------------


def step_cases(generator):
    sizes = [  # rows, keys, d_qk, d_v, scale, largest score in units of a standard normal
        (16, 48, 16, 16, 0.5, 1.0, "three full tiles"),
        (5, 37, 12, 7, 0.3, 1.0, "a last tile that is not full"),
        (7, 40, 8, 16, 0.5, 40.0, "scores beyond ±100"),
        (between(generator, 3, 20), between(generator, 20, 60), 16, 8, 0.7, 1.0, "drawn sizes"),
    ]
    cases = []
    for rows, keys, d_qk, d_v, scale, size, what in sizes:
        # Eighths, so that products and their sums are exact and float32 hides no mistake.
        q, k = ((normal(generator, n, d_qk) * 8 * size**0.5).round() / 8 for n in (rows, keys))
        if size > 1:  # the first row: 128 in the first tile, all -128 in the second
            q[0], k[0], k[16:32] = 4.0, 8.0, -8.0
        visible = torch.rand(rows, keys, generator=generator) < 0.6
        visible[0] = True
        visible[1, :16] = False
        visible[2] = False
        label = f"{rows} rows, {keys} keys, d_qk={d_qk}, d_v={d_v}, scale={scale}: {what}"
        arguments = {"q": q, "k": k, "v": normal(generator, keys, d_v), "visible": visible, "scale": scale}
        cases.append(Case(label, arguments))
    return cases


def step_inspect(measured, arguments):
    q, k, v = (arguments[name] for name in "qkv")
    need = {"k": k.numel() * KEY_BYTES, "v": v.numel() * KEY_BYTES}
    need["flops"] = 2 * (q.shape[1] + v.shape[1]) * q.shape[0] * k.shape[0]
    return loads_and_products(measured, arguments, need, most=k.shape[0])


# --- parts 2 and 4 ----------------------------------------------------------------------------------------


def tensors(generator, t, hq, hk, d_qk, d_v):
    return {
        "q": normal(generator, t, hq, d_qk),
        "k": normal(generator, t, hk, d_qk) * 2,
        "v": normal(generator, t, hk, d_v),
    }


def selected_cases(generator):
    sizes = [  # t, hq, hk, d_qk, d_v, l', n, scale
        (7, 4, 2, 8, 6, 4, 3, 0.3),
        (8, 3, 1, 5, 8, 3, 4, 0.3),
        (10, 1, 1, 16, 16, 8, 2, 0.2),
        (between(generator, 17, 19), 5, 1, 4, 4, 16, 2, 0.4),
    ]
    names = ("t", "hq", "hk", "d_qk", "d_v", "select_block", "n", "scale")
    cases = []
    for t, hq, hk, d_qk, d_v, block, n, scale in sizes:
        arguments = tensors(generator, t, hq, hk, d_qk, d_v)
        arguments["block_indices"] = draw_blocks(generator, t, hk, n, block)
        arguments |= {"select_block": block, "scale": scale}
        size = (t, hq, hk, d_qk, d_v, block, n, scale)
        label = ", ".join(f"{name}={value}" for name, value in zip(names, size, strict=True))
        cases.append(Case(label, arguments))
    return cases


def shape_of(arguments):
    """g, d_qk, d_v"""
    q, k, v = (arguments[name] for name in "qkv")
    return q.shape[1] // k.shape[1], q.shape[2], v.shape[2]


def selected_inspect(measured, arguments):
    indices, block = arguments["block_indices"], arguments["select_block"]
    need = least(list_steps(indices, block, len(indices)), 1, *shape_of(arguments))
    return loads_and_products(measured, arguments, need, int((indices >= 0).sum()) * padded(block))


def packed_cases(generator):
    sizes = [  # t, hq, hk, d_qk, d_v, l', n, tokens, scale
        (9, 4, 2, 8, 6, 4, 3, 4, 0.3),
        (7, 3, 1, 5, 8, 3, 3, 2, 0.3),
        (37, 1, 1, 16, 16, 16, 2, 8, 0.2),
        (5, 10, 2, 4, 4, 2, 2, 8, 0.4),
        (between(generator, 16, 19), 4, 1, 8, 4, 4, 3, 3, 0.3),
    ]
    names = ("t", "hq", "hk", "d_qk", "d_v", "select_block", "n", "tokens", "scale")
    cases = []
    for t, hq, hk, d_qk, d_v, block, n, tokens, scale in sizes:
        arguments = tensors(generator, t, hq, hk, d_qk, d_v)
        arguments["codes"] = merged(draw_blocks(generator, t, hk, n, block), tokens)
        arguments |= {"tokens": tokens, "select_block": block, "scale": scale}
        size = (t, hq, hk, d_qk, d_v, block, n, tokens, scale)
        label = ", ".join(f"{name}={value}" for name, value in zip(names, size, strict=True))
        cases.append(Case(label, arguments))
    return cases


def packed_need(arguments):
    codes, tokens, block = (arguments[name] for name in ("codes", "tokens", "select_block"))
    steps = code_steps(codes, tokens, block, len(arguments["q"]))
    return least(steps, tokens, *shape_of(arguments))


def packed_inspect(measured, arguments):
    most = int((arguments["codes"] >= 0).sum()) * padded(arguments["select_block"])
    return loads_and_products(measured, arguments, packed_need(arguments), most)


def packed_cost(ask, generator, given):
    """Bytes of keys and values, and FLOPs, that the kernel really took, for tiles of 1, 8 and 16 tokens."""
    q, k, v, indices = real_selection(**REAL)
    t, costs = len(q), []
    for tokens in (1, 8, 16):
        arguments = {"q": q, "k": k, "v": v, "codes": merged(indices, tokens), "tokens": tokens}
        arguments |= {"select_block": REAL["block"], "scale": q.shape[-1] ** -0.5}
        _, measured = ask(arguments, measure="tiles")
        need = packed_need(arguments)
        loaded = sum(measured.get(f"loaded_bytes {name}", 0) for name in "kv")
        name = f"a real selection, {t} queries, tiles of {tokens} tokens:"
        beside = {"what a tile cannot do without": (need["k"] + need["v"]) / t}
        costs.append(Cost(f"keys and values loaded, {name}", loaded / t, "bytes a query", beside))
        beside = {"of rows that see the key": need["flops"] / t}
        costs.append(Cost(f"products, {name}", measured.get("dot_flops", 0) / t, "FLOPs a query", beside))
    return costs


# --- part 3 -----------------------------------------------------------------------------------------------


def list_cases(generator):
    sizes = [  # t, hk, n, l', tokens
        (12, 2, 3, 2, 4),
        (23, 1, 5, 2, 8),
        (17, 3, 4, 1, 2),
        (3, 1, 2, 1, 8),
        (between(generator, 20, 40), 2, 4, 3, 3),
    ]
    cases = []
    for t, hk, n, block, tokens in sizes:
        label = f"t={t}, hk={hk}, n={n}, blocks of {block} tokens, tiles of {tokens}"
        indices = draw_blocks(generator, t, hk, n, block)
        cases.append(Case(label, {"block_indices": indices, "tokens": tokens}))
    return cases


def list_cost(ask, generator, given):
    """How many blocks are read if the tokens of a tile read theirs together."""
    indices = real_selection(**REAL)[3]
    t, alone = len(indices), int((indices >= 0).sum())
    costs = []
    for tokens in (8, 16):
        codes, _ = ask({"block_indices": indices, "tokens": tokens})
        what = f"a real selection, {t} queries, tiles of {tokens} tokens:"
        costs.append(Cost(what, int((codes >= 0).sum()) / t, "blocks a query", {"alone": alone / t}))
    return costs


KERNELS = {
    "file": "selected_kernels.py",
    "tolerance": 2e-5,
    "needs": ("torch", "triton"),
    "measure": "tiles",
    "seconds": 60.0,
    "memory_mib": 2048,
}
PARTS = [
    Part(
        name="step",
        title="1. One step of the online softmax",
        points=20,
        minutes=45,
        function="tiled_attention",
        cases=step_cases,
        expected=tiled_exactly,
        axes="row d_v+lse",
        mistakes=STEP,
        inspect=step_inspect,
        **KERNELS,
    ),
    Part(
        name="selected",
        title="2. The selected branch, a token a program",
        points=30,
        minutes=90,
        function="selected_attention",
        cases=selected_cases,
        expected=selected,
        axes="t hq d_v+lse",
        mistakes=SELECTED,
        inspect=selected_inspect,
        **KERNELS,
    ),
    Part(
        name="lists",
        title="3. One list for several tokens",
        points=20,
        minutes=45,
        file="merged_lists.py",
        function="merge_lists",
        cases=list_cases,
        expected=merged,
        axes="tile hk place",
        mistakes=LISTS,
        needs=("torch",),
        cost=list_cost,
    ),
    Part(
        name="packed",
        title="4. The packed kernel",
        points=30,
        minutes=120,
        function="packed_attention",
        cases=packed_cases,
        expected=packed,
        axes="t hq d_v+lse",
        mistakes=PACKED,
        inspect=packed_inspect,
        cost=packed_cost,
        **KERNELS,
    ),
]
