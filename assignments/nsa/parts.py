"""The assignment on native sparse attention: its parts, what they are asked, and what a right answer costs.

All inputs are drawn anew from the seed, in float64, with sizes that divide nothing; the kernel's are float32.
"""

import torch

from minisys.grade.assignment import Case, Cost, Part
from minisys.grade.wire import Given
from minisys.nsa import NSAConfig, compress
from minisys.nsa.costs import query_bytes, sequence_flops, tokens_read
from minisys.nsa.reference import block_importance, compressed_mask, masked_softmax, nsa_reference, top_blocks

from .mistakes_attention import GATING, KERNEL, NO_KERNEL, selected
from .mistakes_blocks import COMPRESSION, IMPORTANCE, SELECTION

TITLE = "Native sparse attention"
PACKAGE = "minisys.nsa"
ALLOWED = {"NSAConfig": "minisys.nsa.config"}
ELEMENT_BYTES = 2  # bfloat16, as a GPU would hold keys and values


def settings(compress_block, compress_stride, select_block, top_n=4, initial=1, local=2, window=8):
    """The fields of a configuration by short names."""
    return {
        "compress_block": compress_block,
        "compress_stride": compress_stride,
        "select_block": select_block,
        "top_n": top_n,
        "initial_blocks": initial,
        "local_blocks": local,
        "window": window,
    }


def given_config(fields):
    return Given("config", fields=fields)


def normal(generator, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=dtype)


def between(generator, low, high):
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


# --- compression ------------------------------------------------------------------------------------------


def compression_cases(generator):
    sizes = [  # b, t, h, head_dim, l, d
        (2, 37, 3, 5, 8, 4, ""),
        (1, 33, 1, 7, 12, 3, ""),
        (1, 50, 2, 4, 6, 6, ""),
        (2, 8, 2, 3, 8, 2, "A sequence of exactly one block has one compressed block."),
        (
            2,
            7,
            2,
            3,
            8,
            4,
            "A sequence shorter than a block has no compressed block: return a tensor with tc = 0.",
        ),
        (1, between(generator, 41, 60), 2, 6, 8, 2, ""),
    ]
    cases = []
    for b, t, h, head_dim, length, stride, edge in sizes:
        arguments = {
            "x": normal(generator, b, t, h, head_dim),
            "phi": Given(
                "phi", (normal(generator, length, head_dim, head_dim) / (length * head_dim) ** 0.5,)
            ),
            "config": given_config(settings(length, stride, stride)),
        }
        label = f"x {[b, t, h, head_dim]}, compress_block={length}, compress_stride={stride}"
        cases.append(Case(label, arguments, edge))
    return cases


# --- block importance -------------------------------------------------------------------------------------


def importance_cases(generator):
    sizes = [  # b, hk, g, t, l, d, l'
        (2, 2, 3, 37, 8, 4, 16, ""),
        (1, 1, 4, 61, 12, 3, 6, ""),
        (1, 3, 1, 40, 4, 4, 8, ""),
        (1, 2, 2, 29, 16, 4, 4, ""),
        (1, 2, 2, 5, 8, 4, 4, "Where there is no compressed block yet, all importances are 0."),
        (1, 2, 2, between(generator, 50, 70), 8, 2, 6, ""),
    ]
    cases = []
    for b, hk, g, t, length, stride, block, edge in sizes:
        fields = settings(length, stride, block)
        mask = compressed_mask(t, NSAConfig(**fields))
        p_cmp = masked_softmax(2 * normal(generator, b, hk, g, t, mask.shape[1]), mask)
        label = f"p_cmp {[b, hk, g, t, mask.shape[1]]}, compress_block={length}, compress_stride={stride}, "
        label += f"select_block={block}"
        cases.append(Case(label, {"p_cmp": p_cmp, "config": given_config(fields)}, edge))
    return cases


# --- selection --------------------------------------------------------------------------------------------


def selection_cases(generator):
    sizes = [  # b, t, hk, l', n, initial, local, ties
        (2, 61, 2, 4, 6, 1, 2, False),
        (1, 83, 1, 6, 5, 2, 1, False),
        (1, 40, 3, 4, 5, 1, 2, True),
        (1, 45, 2, 5, 4, 0, 1, True),
        (1, 21, 1, 8, 9, 1, 3, False),
        (1, between(generator, 50, 90), 2, 4, 5, 1, 1, True),
    ]
    cases = []
    for b, t, hk, block, top_n, initial, local, ties in sizes:
        fields = settings(block, block, block, top_n, initial, local)
        importance = torch.rand(b, t, hk, -(-t // block), generator=generator, dtype=torch.float64)
        if ties:
            importance = (importance * 4).floor() / 4
        label = (
            f"importance {list(importance.shape)}{' with many ties' if ties else ''}, select_block={block}, "
        )
        label += f"top_n={top_n}, initial_blocks={initial}, local_blocks={local}"
        cases.append(Case(label, {"importance": importance, "config": given_config(fields)}))
    return cases


def importance_row(arguments, index):
    row = arguments["importance"][index]
    return "importance there: [" + ", ".join(f"{value:.3g}" for value in row.tolist()) + "]"


def selection_cost(ask, generator, given):
    """Bytes of keys and values that a query of the whole reads, by the blocks that came back."""
    t, hk, head_dim = 256, 2, 64
    fields = settings(16, 8, 16, top_n=4, initial=1, local=2, window=32)
    config = NSAConfig(**fields)
    importance = torch.rand(1, t, hk, config.num_selectable(t), generator=generator, dtype=torch.float64)
    chosen, _ = ask({"importance": importance, "config": given_config(fields)})
    ends = (chosen + 1) * config.select_block
    query = torch.arange(t)[:, None, None]
    tokens = (torch.minimum(ends, query + 1) - chosen * config.select_block).where(chosen >= 0, 0)
    others = sum(read.compressed + read.window for read in (tokens_read(i, config) for i in range(t)))
    each = 2 * head_dim * ELEMENT_BYTES  # a key and a value of one head
    ours = [
        query_bytes(i, config, d_qk=head_dim, d_v=head_dim, hk=hk, element_bytes=ELEMENT_BYTES)
        for i in range(t)
    ]
    beside = {name: sum(one[name] for one in ours) / t for name in ("nsa", "dense")}
    what = f"keys and values read, over {t} queries with {hk} heads of {head_dim} in 2-byte numbers,"
    value = each * (int(tokens.sum()) + hk * others) / t
    return [
        Cost(what, value, "bytes a query", {"as the paper has it": beside["nsa"], "dense": beside["dense"]})
    ]


# --- gating -----------------------------------------------------------------------------------------------


def some_blocks(generator, b, t, hk, n, block):
    """For every query and group up to n distinct blocks at or before its own, ascending, -1 at the end."""
    own = torch.arange(t) // block
    score = torch.rand(b, t, hk, -(-t // block), generator=generator)
    score = score.masked_fill(torch.arange(score.shape[-1]) > own[:, None, None], 2.0)
    order = torch.nn.functional.pad(score.argsort(dim=-1)[..., :n], (0, max(0, n - score.shape[-1])))
    keep = torch.minimum(own[:, None] + 1, torch.randint(0, n + 1, (b, t, hk), generator=generator))
    none = score.shape[-1]
    order = order.masked_fill(torch.arange(n) >= keep[..., None], none).sort(dim=-1).values
    return order.masked_fill(order == none, -1)


def branch_tensors(generator, b, t, hq, hk, d_qk, d_v, fields):
    """All arguments of the gated output but the scale."""
    config = NSAConfig(**fields)
    tc = config.num_compressed(t)
    return {
        "q": normal(generator, b, t, hq, d_qk),
        "k_cmp": normal(generator, b, tc, hk, d_qk),
        "v_cmp": normal(generator, b, tc, hk, d_v),
        "k_slc": normal(generator, b, t, hk, d_qk),
        "v_slc": normal(generator, b, t, hk, d_v),
        "k_win": normal(generator, b, t, hk, d_qk),
        "v_win": normal(generator, b, t, hk, d_v),
        "gates": torch.sigmoid(normal(generator, b, t, hq, 3)),
        "block_indices": some_blocks(generator, b, t, hk, config.top_n, config.select_block),
        "config": given_config(fields),
    }


def gating_cases(generator):
    drawn = between(generator, 30, 45)
    sizes = [  # b, t, hq, hk, d_qk, d_v, l, d, l', n, w, scale
        (2, 37, 4, 2, 6, 5, 8, 4, 8, 3, 7, None, ""),
        (1, 45, 6, 2, 4, 3, 8, 2, 6, 4, 16, 0.3, ""),
        (1, 33, 3, 3, 8, 8, 12, 3, 6, 3, 1, None, "With window=1 a query sees itself alone in that branch."),
        (2, 29, 6, 1, 5, 4, 4, 4, 8, 3, 100, 1.7, ""),
        (1, 5, 4, 2, 4, 4, 8, 4, 4, 3, 3, None, "Here no compressed block fits: k_cmp has tc = 0."),
        (1, drawn, 4, 2, 4, 6, 6, 3, 6, 4, 9, 0.8, ""),
    ]
    cases = []
    for b, t, hq, hk, d_qk, d_v, length, stride, block, n, window, scale, edge in sizes:
        fields = settings(length, stride, block, n, initial=0, local=1, window=window)
        arguments = branch_tensors(generator, b, t, hq, hk, d_qk, d_v, fields)
        arguments["scale"] = d_qk**-0.5 if scale is None else scale
        label = (
            f"q {[b, t, hq, d_qk]}, hk={hk}, d_v={d_v}, compress_block={length}, compress_stride={stride}, "
        )
        label += f"select_block={block}, window={window}, scale={arguments['scale']:.3g}"
        cases.append(Case(label, arguments, edge))
    return cases


def gating_expected(q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates, block_indices, config, scale):
    branches = (q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates)
    return nsa_reference(*branches, config, scale, block_indices)


def gating_cost(ask, generator, given):
    """FLOPs of the matrix products that the submission does, a query."""
    t, hq, hk, head_dim = 96, 4, 1, 8
    fields = settings(8, 4, 8, top_n=3, initial=1, local=1, window=8)
    arguments = branch_tensors(generator, 1, t, hq, hk, head_dim, head_dim, fields)
    importance = torch.rand(1, t, hk, -(-t // 8), generator=generator, dtype=torch.float64)
    arguments["block_indices"] = top_blocks(importance, NSAConfig(**fields))
    arguments["scale"] = head_dim**-0.5
    _, measured = ask(arguments, measure="flops")
    least = sequence_flops(t, NSAConfig(**fields), d_qk=head_dim, d_v=head_dim, hq=hq)
    beside = {"what NSA must read": least["nsa"] / t, "dense causal attention": least["dense"] / t}
    what = f"matrix products over {t} queries of {hq} heads of {head_dim}:"
    return [Cost(what, int(measured.get("flops", 0)) / t, "FLOPs a query", beside)]


# --- the kernel -------------------------------------------------------------------------------------------


def kernel_arguments(generator, b, t, hq, hk, d_qk, d_v, block, n, scale):
    single = {"dtype": torch.float32}
    return {
        "q": normal(generator, b, t, hq, d_qk, **single),
        "k_slc": normal(generator, b, t, hk, d_qk, **single),
        "v_slc": normal(generator, b, t, hk, d_v, **single),
        "block_indices": some_blocks(generator, b, t, hk, n, block),
        "config": given_config(settings(block, block, block, n, initial=0, local=1)),
        "scale": scale,
    }


def kernel_cases(generator):
    sizes = [  # b, t, hq, hk, d_qk, d_v, l', n, scale
        (1, 11, 4, 2, 8, 6, 4, 3, 0.5),
        (2, 7, 3, 1, 5, 8, 3, 2, 1.3),
        (1, 10, 2, 2, 4, 4, 3, 3, 0.7),
    ]
    names = ("b", "t", "hq", "hk", "d_qk", "d_v", "select_block", "n", "scale")
    return [
        Case(
            ", ".join(f"{name}={value}" for name, value in zip(names, size, strict=True)),
            kernel_arguments(generator, *size),
        )
        for size in sizes
    ]


def ran_as_kernel(measured, arguments):
    """NO_KERNEL unless a kernel loaded something and stored at least the whole output."""
    b, t, hq = arguments["q"].shape[:3]
    output_bytes = b * t * hq * arguments["v_slc"].shape[-1] * 4
    ran = measured.get("loaded_bytes", 0) > 0 and measured.get("stored_bytes", 0) >= output_bytes
    return None if ran else NO_KERNEL


def kernel_cost(ask, generator, given):
    """Bytes that tile loads move, against one load of every visible key and value for a group or a head."""
    t, hq, hk, head_dim, block = 16, 4, 1, 8, 4
    arguments = kernel_arguments(generator, 1, t, hq, hk, head_dim, head_dim, block, 3, 0.35)
    _, measured = ask(arguments, measure="tiles")
    indices = arguments["block_indices"]
    query = torch.arange(t)[:, None, None]
    tokens = (torch.minimum((indices + 1) * block, query + 1) - indices * block).where(indices >= 0, 0).sum()
    each = 2 * head_dim * 4
    once = int(tokens) * each + t * hq * head_dim * 4 + indices.numel() * indices.element_size()
    by_head = once + (hq // hk - 1) * int(tokens) * each
    what = f"tile loads over {t} queries of {hq} heads of {head_dim}, selected branch:"
    beside = {"keys and values once a group": once / t, "once a head": by_head / t}
    return [Cost(what, int(measured.get("loaded_bytes", 0)) / t, "bytes a query", beside)]


PARTS = [
    Part(
        name="compression",
        title="Compression of blocks",
        points=20,
        minutes=30,
        file="nsa_assignment.py",
        function="compress",
        cases=compression_cases,
        expected=lambda x, phi, config: compress(x, phi, config=config),
        axes="b tc h head_dim",
        mistakes=COMPRESSION,
    ),
    Part(
        name="importance",
        title="Importance of blocks",
        points=25,
        minutes=45,
        file="nsa_assignment.py",
        function="block_importance",
        cases=importance_cases,
        expected=block_importance,
        axes="b t hk ts",
        mistakes=IMPORTANCE,
    ),
    Part(
        name="selection",
        title="Selection of blocks",
        points=25,
        minutes=60,
        file="nsa_assignment.py",
        function="select_blocks",
        cases=selection_cases,
        expected=top_blocks,
        axes="b t hk top_n",
        mistakes=SELECTION,
        show=importance_row,
        cost=selection_cost,
    ),
    Part(
        name="gating",
        title="Three branches and their gates",
        points=30,
        minutes=75,
        file="nsa_assignment.py",
        function="gated_output",
        cases=gating_cases,
        expected=gating_expected,
        axes="b t hq d_v",
        mistakes=GATING,
        cost=gating_cost,
    ),
    Part(
        name="kernel",
        title="The selected branch as a Triton kernel",
        points=20,
        minutes=180,
        file="nsa_kernel.py",
        function="selected_attention",
        cases=kernel_cases,
        expected=selected,
        axes="b t hq d_v",
        mistakes=KERNEL,
        tolerance=1e-5,
        bonus=True,
        needs=("triton",),
        measure="tiles",
        inspect=ran_as_kernel,
        cost=kernel_cost,
        seconds=60.0,
        memory_mib=2048,
    ),
]
