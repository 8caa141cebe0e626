"""The assignment on decoding: its parts, and what they are asked.

Inputs are drawn anew from the seed, in float64, with sizes that divide nothing and rows of different lengths.
Behind the end of a row there are other numbers, as after drafts that were refused.
"""

import torch

from minisys.grade.assignment import Case, Cost, Part
from minisys.grade.wire import Given
from minisys.nsa import NSACache, NSAConfig
from minisys.nsa.costs import query_bytes
from minisys.nsa.decoding import decode_reference

from .mistakes_cache import BYTES, CACHE, played, step_bytes
from .mistakes_ring import COMPRESSION, RING, TOO_OFTEN, compress, write
from .mistakes_step import NOT_READ, READS_AGAIN, READS_ALL, STEP
from .scripts import between, cache_cases, event_named

TITLE = "Decoding with native sparse attention"
PACKAGE = "minisys.nsa"
ALLOWED = {"NSAConfig": "minisys.nsa.config"}
ELEMENT_BYTES = 2  # bfloat16, as a GPU would hold keys and values
BASE = 100.0


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


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- part 1: the ring -------------------------------------------------------------------------------------


def ring_cases(generator):
    drawn = between(generator, 20, 60)
    sizes = [  # hk, head_dim, size, lengths, counts
        (2, 3, 7, [0, 0], [3, 3], 3, ""),
        (1, 2, 5, [5, 3, 12], [1, 1, 1], 1, ""),
        (2, 3, 6, [4, 16, 0], [3, 1, 2], 3, ""),
        (3, 2, 4, [12, 2], [2, 0], 2, "A row may get no token at all."),
        (2, 4, 5, [3, 8], [9, 7], 9, "More tokens come than there are slots; the last ones stay."),
        (2, 3, 9, [drawn, drawn - 7], [4, 6], 6, ""),
    ]
    cases = []
    for hk, head_dim, size, lengths, counts, t, edge in sizes:
        arguments = {
            "ring": normal(generator, len(lengths), hk, size, head_dim),
            "lengths": lengths,
            "new": normal(generator, len(lengths), t, hk, head_dim),
            "counts": counts,
        }
        cases.append(Case(f"a ring of {size} slots, lengths {lengths}, counts {counts}", arguments, edge))
    return cases


# --- part 2: incremental compression ----------------------------------------------------------------------


def compression_cases(generator):
    drawn = between(generator, 40, 70)
    sizes = [  # hk, head_dim, l, d, max_append, before, after
        (2, 4, 8, 4, 1, [11, 15], [12, 16], ""),
        (1, 2, 4, 2, 3, [0, 2, 4], [3, 4, 5], ""),
        (2, 4, 6, 2, 7, [9, 20, 5], [16, 22, 6], "Several new tokens may complete several blocks."),
        (1, 6, 5, 5, 4, [9, 12], [11, 16], ""),
        (2, 2, 12, 3, 5, [8, 30, 17], [11, 31, 17], "Where no block is completed, nothing changes."),
        (2, 4, 8, 2, 6, [drawn, drawn - 9], [drawn + 3, drawn - 3], ""),
    ]
    cases = []
    for hk, head_dim, length, stride, max_append, before, after, edge in sizes:
        arguments = compression_arguments(
            generator, hk, head_dim, settings(length, stride, stride), max_append, before, after
        )
        label = f"compress_block={length}, compress_stride={stride}, {arguments['raw'].shape[2]} slots, "
        cases.append(Case(label + f"tokens before {before}, after {after}", arguments, edge))
    return cases


def compression_arguments(generator, hk, head_dim, fields, max_append, before, after):
    b, length = len(before), fields["compress_block"]
    blocks = NSAConfig(**fields).num_compressed(max(after)) + 2
    weights = normal(generator, length, head_dim, head_dim) / (length * head_dim) ** 0.5
    return {
        "raw": normal(generator, b, hk, length + max_append - 1, head_dim),
        "compressed": normal(generator, b, hk, blocks, head_dim),
        "before": before,
        "after": after,
        "phi": Given("phi", (2 * weights,)),
        "rotate": Given("rotate", (BASE,)),
        "config": Given("config", fields=fields),
    }


def completed(before, after, config):
    """Blocks that the new tokens of all rows complete."""
    rows = zip(before, after, strict=True)
    return sum(config.num_compressed(now) - config.num_compressed(held) for held, now in rows)


def phi_inspect(measured, arguments):
    config = NSAConfig(**arguments["config"].fields)
    need = completed(arguments["before"], arguments["after"], config) * arguments["raw"].shape[1]
    return TOO_OFTEN if measured.get("blocks", 0) > need else None


def phi_cost(ask, generator, given):
    """Blocks that φ works on while a row grows token by token, against doing all blocks anew in each step."""
    fields, first, last = settings(32, 16, 16), 200, 264
    config = NSAConfig(**fields)
    blocks = anew = 0
    for length in range(first, last):
        arguments = compression_arguments(generator, 1, 2, fields, 1, [length], [length + 1])
        blocks += ask(arguments, measure="work")[1].get("blocks", 0)
        anew += config.num_compressed(length + 1)
    steps = last - first
    beside = {"one each stride": 1 / config.compress_stride, "all blocks in each step": anew / steps}
    return [Cost(f"blocks that φ worked on, over {steps} steps:", blocks / steps, "a step", beside)]


# --- part 3: one step -------------------------------------------------------------------------------------


def step_arguments(generator, lengths, hq, hk, d_qk, d_v, fields, scale, max_append, newest=0.0):
    """A filled cache. newest: how strongly the first head of each group looks at its newest compressed
    block."""
    config, b = NSAConfig(**fields), len(lengths)
    capacity = max(lengths) + 1
    slots = {
        "cmp": config.num_compressed(capacity) + 3,
        "slc": capacity + 2,
        "win": config.window + max_append - 1,
    }
    stored = []
    for tokens in slots.values():
        stored += [normal(generator, b, hk, tokens, d_qk), normal(generator, b, hk, tokens, d_v)]
    q = 2 * normal(generator, b, hq, d_qk)
    if newest:
        for row, length in enumerate(lengths):
            block = config.num_compressed(length) - 1
            heads = q[row, :: hq // hk]
            stored[0][row, :, block] = newest * heads / (scale * heads.pow(2).sum(dim=-1, keepdim=True))
    return {
        "q": q,
        "cache": Given("cache", (stored, lengths, fields)),
        "gates": torch.sigmoid(normal(generator, b, hq, 3)),
        "scale": scale,
    }


def step_cases(generator):
    drawn = between(generator, 60, 90)
    sizes = [  # lengths, hq, hk, d_qk, d_v, (l, d, l', n, initial, local, w), scale, max_append
        ([41, 57], 4, 2, 6, 5, (8, 4, 8, 4, 1, 1, 7), 0.4, 1, ""),
        ([64, 39, 88], 6, 2, 4, 3, (8, 2, 6, 5, 1, 2, 10), 0.5, 5, ""),
        ([1, 7, 20], 4, 2, 5, 4, (8, 4, 8, 4, 1, 2, 6), 0.7, 3, "A row may see no compressed block yet."),
        (
            [32, 45, 24],
            6,
            3,
            8,
            8,
            (12, 3, 6, 3, 0, 1, 1),
            0.35,
            4,
            "With window=1 a query sees itself alone.",
        ),
        ([12, 50], 4, 1, 4, 6, (4, 4, 4, 5, 2, 1, 100), 0.6, 2, ""),
        ([drawn, 33], 4, 2, 4, 4, (6, 3, 6, 4, 1, 1, 9), 0.5, 6, ""),
    ]
    cases = []
    for lengths, hq, hk, d_qk, d_v, chosen, scale, max_append, edge in sizes:
        arguments = step_arguments(
            generator, lengths, hq, hk, d_qk, d_v, settings(*chosen), scale, max_append
        )
        cases.append(Case(step_label(lengths, hq, hk, chosen, max_append), arguments, edge))
    lengths, chosen = [56, 80, 68], (8, 4, 8, 4, 1, 1, 9)
    arguments = step_arguments(generator, lengths, 4, 2, 6, 5, settings(*chosen), 0.5, 3, newest=9.0)
    label = (
        step_label(lengths, 4, 2, chosen, 3) + "; one head of each group looks at its newest compressed block"
    )
    return [*cases, Case(label, arguments)]


def step_label(lengths, hq, hk, chosen, max_append):
    names = ("compress_block", "compress_stride", "select_block", "top_n", "initial_blocks", "local_blocks")
    fields = ", ".join(f"{name}={value}" for name, value in zip(names, chosen[:-1], strict=True))
    rings = f"window={chosen[-1]} in {chosen[-1] + max_append - 1} slots"
    return f"lengths {lengths}, hq={hq}, hk={hk}, {fields}, {rings}"


def decoded(q, cache, gates, scale):
    """The package's own step, over a cache of its own with the same contents."""
    config, stored = cache.config, cache._stored
    b, hk, _, d_qk = stored["k_cmp"].shape
    phi = lambda blocks: blocks.mean(-2)
    own = NSACache(
        b, max(cache.lengths), hk, d_qk, stored["v_cmp"].shape[-1], config=config, compress_keys=phi,
        compress_values=phi, max_append=stored["k_win"].shape[2] - config.window + 1, dtype=q.dtype,
    )  # fmt: skip
    for name in stored:
        held = getattr(own, name)
        held.copy_(stored[name][:, :, : held.shape[2]])
    own._set_lengths(cache.lengths)
    return decode_reference(q[:, None], own, gates[:, None], scale, [1] * b)[0][:, 0]


def step_needs(arguments):
    """Numbers of keys that a step reads in each branch, at least, and at most where it fills up
    generously."""
    stored, lengths, fields = arguments["cache"].values
    config = NSAConfig(**fields)
    b, hk, blocks, d_qk = stored[0].shape
    each = hk * d_qk
    at_most = {
        "k_cmp": b * each * blocks,
        "k_slc": b * each * (config.top_n + 1) * config.select_block,
        "k_win": b * each * max(config.window + 1, stored[4].shape[2]),
    }
    at_least = each * sum(min(config.window, length) for length in lengths)
    return at_least, at_most, each


def step_inspect(measured, arguments):
    at_least, at_most, each = step_needs(arguments)
    if measured.get("read k_win", 0) < at_least or not measured.get("read v_slc", 0):
        return NOT_READ
    _, lengths, _ = arguments["cache"].values
    read, longest = measured.get("read k_slc", 0), max(lengths)
    if read > at_most["k_slc"] and read % (len(lengths) * each) == 0:
        tokens = read // (len(lengths) * each)
        if longest <= tokens <= longest + 3:
            return READS_ALL
    more = [name for name in at_most if measured.get(f"read {name}", 0) > at_most[name]]
    return READS_AGAIN if more else None


def step_cost(ask, generator, given):
    """Bytes of keys and values that one step reads, at two lengths."""
    fields = settings(8, 4, 16, 4, 1, 2, 32)
    config, hk, d = NSAConfig(**fields), 2, 8
    costs = []
    for length in (512, 2048):
        arguments = step_arguments(generator, [length], 4, hk, d, d, fields, d**-0.5, 1)
        _, measured = ask(arguments, measure="work")
        numbers = sum(n for name, n in measured.items() if name.startswith("read "))
        least = query_bytes(length - 1, config, d_qk=d, d_v=d, hk=hk, element_bytes=ELEMENT_BYTES)
        beside = {"what NSA must read": least["nsa"], "dense": least["dense"]}
        what = f"keys and values read by a step at {length:,} tokens, in {ELEMENT_BYTES}-byte numbers:"
        costs.append(Cost(what, numbers * ELEMENT_BYTES, "bytes", beside))
    return costs


# --- part 5: bytes ----------------------------------------------------------------------------------------


def bytes_case(lengths, fields, d_qk, d_v, hk, element_bytes):
    arguments = {
        "lengths": lengths, "config": Given("config", fields=fields), "d_qk": d_qk, "d_v": d_v, "hk": hk,
        "element_bytes": element_bytes,
    }  # fmt: skip
    said = ", ".join(f"{name}={value}" for name, value in fields.items())
    return Case(f"lengths {lengths}, {said}, d_qk={d_qk}, d_v={d_v}, hk={hk}", arguments)


def bytes_cases(generator):
    paper = settings(32, 16, 64, 16, 1, 2, 512)
    small = settings(8, 4, 16, 4, 1, 2, 12)
    return [
        bytes_case([65536], paper, 128, 128, 4, 2),
        bytes_case([4, 7, 8, 9, 12, 13], small, 6, 5, 2, 4),
        bytes_case([100, 37, 61], small, 4, 8, 3, 2),
        bytes_case([1], paper, 192, 128, 4, 2),
        bytes_case([between(generator, 1000, 9000) for _ in range(4)], paper, 192, 128, 4, 2),
        bytes_case([between(generator, 5, 60) for _ in range(3)], settings(6, 3, 6, 5, 1, 1, 20), 2, 4, 1, 1),
    ]


def bytes_cost(ask, generator, given):
    """What the function says of the paper's setting: how many times as much dense attention moves."""
    costs = []
    for length in (8192, 65536):
        arguments = bytes_case([length] * 8, settings(32, 16, 64, 16, 1, 2, 512), 128, 128, 4, 2).arguments
        found, _ = ask(arguments)
        what = f"a step of 8 rows at {length:,} tokens moves"
        costs.append(Cost(what, found["nsa"] / 1e6, "MB", {"dense": found["dense"] / 1e6}))
    return costs


FILE = "decoding_assignment.py"
PARTS = [
    Part(
        name="ring",
        title="1. A ring of tokens",
        points=15,
        minutes=30,
        file=FILE,
        function="write_ring",
        cases=ring_cases,
        expected=write,
        axes="b hk slot head_dim",
        mistakes=RING,
    ),
    Part(
        name="compression",
        title="2. Compression as tokens come",
        points=20,
        minutes=45,
        file=FILE,
        function="compress_new",
        cases=compression_cases,
        expected=compress,
        axes="b hk tc head_dim",
        mistakes=COMPRESSION,
        measure="work",
        inspect=phi_inspect,
        cost=phi_cost,
    ),
    Part(
        name="step",
        title="3. One step",
        points=30,
        minutes=90,
        file=FILE,
        function="decode_step",
        cases=step_cases,
        expected=decoded,
        axes="b hq d_v",
        mistakes=STEP,
        measure="work",
        inspect=step_inspect,
        cost=step_cost,
    ),
    Part(
        name="cache",
        title="4. Append and truncate",
        points=25,
        minutes=60,
        file=FILE,
        function="replay",
        cases=cache_cases,
        expected=played,
        axes="event b n",
        mistakes=CACHE,
        show=event_named,
    ),
    Part(
        name="bytes",
        title="5. The bytes of a step",
        points=10,
        minutes=30,
        file=FILE,
        function="step_bytes",
        cases=bytes_cases,
        expected=step_bytes,
        mistakes=BYTES,
        cost=bytes_cost,
    ),
]
