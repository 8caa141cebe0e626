"""Wrong answers, planted: edits of the solution that must fail, each with the mistake that must be named.

Capitals are pieces of the solution's text; what stands beside them takes their place.
"""

from minisys.grade.assignment import Wrong


def ring(mistake, *edits):
    return Wrong("ring", mistake, edits)


CLONE = "ring, size = ring.clone(), ring.shape[2]"
SLOT = "slot = (length + place) % size"
PLACES = "for place in range(count):\n            slot"
NEW = "ring[row, :, slot] = new[row, place]"
SHIFTED = "ring[row] = torch.cat([ring[row], new[row, :count].transpose(0, 1)], dim=1)[:, count:]"
LOST = "slot = length % size + place\n            if slot >= size:\n                break"
RESHAPED = "ring[row, :, slot] = new.reshape(*new.shape[::2], -1, new.shape[3])[row, :, place]"

RING = [
    ring("changed its argument ring in place", (CLONE, "size = ring.shape[2]")),
    ring("no-length", (SLOT, "slot = place % size")),
    ring("one-early", (SLOT, "slot = (length + place - 1) % size")),
    ring("one-late", (SLOT, "slot = (length + place + 1) % size")),
    ring("rows", (SLOT, "slot = (lengths[0] + place) % size")),
    ring("rows", (SLOT, "slot = (max(lengths) + place) % size")),
    ring("wrapped", (SLOT, "slot = (length + place) % (size - 1)")),
    ring("is out of bounds", (SLOT, "slot = (length + place) % (size + 1)")),
    ring("is out of bounds", (SLOT, "slot = length + place")),
    ring("clamped", (SLOT, "slot = min(length + place, size - 1)")),
    ring("cut-off", (SLOT, LOST)),
    ring("padding", (PLACES, "for place in range(new.shape[1]):\n            slot")),
    ring("last-of-new", (NEW, "ring[row, :, slot] = new[row, place - count]")),
    ring(
        "shifted",
        (PLACES + SLOT.removeprefix("slot"), SHIFTED.replace("\n", "")),
        ("            " + NEW + "\n", ""),
    ),
    ring("first-stays", (PLACES, "for place in reversed(range(count)):\n            slot")),
    ring("reshaped", (NEW, RESHAPED.replace("*new.shape[::2], -1", "new.shape[0], new.shape[2], -1"))),
]


def compression(mistake, *edits):
    return Wrong("compression", mistake, edits)


WHOLE = "max(0, (tokens - length) // stride + 1)"
BLOCKS = "for block in range(whole(held), whole(now)):"
TOKENS = "tokens = block * stride + torch.arange(length)"
KEY = "key = phi(raw[row, :, tokens % size])"
END = "end = block * stride + length - 1"
ROTATED = "rotate(key, end)"
START = "compressed, size = compressed.clone(), raw.shape[2]"
HELD = "enumerate(zip(before, after, strict=True)):\n        for block"
EACH_ROTATED = (
    "tokens, keys = tokens.tolist(), raw[row, :, tokens % size]\n"
    "            key = phi(torch.stack([rotate(keys[:, i], p) for i, p in enumerate(tokens)], dim=1))"
)
ALL_ROWS = (
    "for row, (held, now) in enumerate(zip(before, after, strict=True)):\n"
    "        if any(whole(c) > whole(b) for b, c in zip(before, after, strict=True)):\n"
    "            phi(raw[:, :, :length])\n"
    "        for block"
)

COMPRESSION = [
    compression("cut-block", (WHOLE, "tokens // stride"), (BLOCKS, BLOCKS[:-1] + "[: compressed.shape[2]]:")),
    compression("cut-block", (WHOLE, "max(0, (tokens - length + 1) // stride + 1)")),
    compression("one-late", (WHOLE, "max(0, (tokens - length - 1) // stride + 1)")),
    compression("block-start", (END, "end = block * stride")),
    compression("block-middle", (END, "end = block * stride + length // 2")),
    compression("block-after", (END, "end = block * stride + length")),
    compression("block-number", (END, "end = block")),
    compression("not-rotated", (ROTATED, "key")),
    compression("rotated-before", (KEY, EACH_ROTATED), (ROTATED, "key")),
    compression("last-only", (BLOCKS, "for block in range(max(whole(held), whole(now) - 1), whole(now)):")),
    compression("newest-tokens", (TOKENS, "tokens = now - length + torch.arange(length)")),
    compression(
        "no-overlap",
        (TOKENS, "tokens = block * length + torch.arange(length)"),
        (END, "end = block * length + length - 1"),
    ),
    compression(
        "unwrapped", (TOKENS, "tokens = min(block * stride % size, size - length) + torch.arange(length)")
    ),
    compression("is out of bounds", (KEY, "key = phi(raw[row, :, tokens])")),
    compression("slot-order", (KEY, "key = phi(raw[row, :, (tokens % size).sort().values])")),
    compression("reversed", (KEY, "key = phi(raw[row, :, tokens % size].flip(1))")),
    compression("mean", (KEY, "key = raw[row, :, tokens % size].mean(dim=1)")),
    compression(
        "filled",
        (TOKENS, f"{TOKENS}\n            if compressed[row, :, block].any():\n                continue"),
    ),
    compression("others-lost", (START, "compressed, size = torch.zeros_like(compressed), raw.shape[2]")),
    compression("rows", (BLOCKS, "for block in range(whole(before[0]), whole(after[0])):")),
    compression("rows", (BLOCKS, "for block in range(whole(min(before)), whole(max(after))):")),
    compression("changed its argument compressed in place", (START, "size = raw.shape[2]")),
    # φ for each token, for all blocks in each step, for all rows when one is due: right, but dear
    compression(
        "phi-too-often",
        (BLOCKS, "for _ in range(now - held):\n            phi(raw[row, :, :length])\n        " + BLOCKS),
    ),
    compression("phi-too-often", (HELD, ALL_ROWS.removeprefix("for row, (held, now) in "))),
    compression(
        "phi-too-often",
        (KEY, "key = phi(raw.unfold(2, length, 1).transpose(-1, -2))[row, :, 0]\n            " + KEY),
    ),
]


def step(mistake, *edits):
    return Wrong("step", mistake, edits)


POSITION = "position = torch.tensor(cache.lengths)[:, None, None] - 1"
GROUPED = "grouped = q.unflatten(1, (hk, -1))"
OUT = 'torch.einsum("bkgn,bknd->bkgd", weights, values).flatten(1, 2)'
KEYS = 'keys, values = cache.read(f"k_{branch}", slots), cache.read(f"v_{branch}", slots)'
AROUND = (
    "keys, values = (\n"
    '            cache._stored[f"{x}_{branch}"].gather(2, slots[..., None].expand(-1, -1, -1, d)) for x, d in'
)
SCORES = 'scores = scale * torch.einsum("bkgd,bknd->bkgn", grouped, keys)'
HIDDEN = "        weights = weights.masked_fill(hidden, 0.0)  # a row that sees nothing is NaN until here\n"
RETURN = "return weights, torch"
COUNT = "count = max(0, (longest - config.compress_block) // config.compress_stride + 1)"
ENDS = "ends = block * config.compress_stride + config.compress_block - 1"
CMP = 'p_cmp, compressed = attend("cmp", block, ends <= position)'
GROUP = "group = p_cmp.sum(dim=2)"
PIECES = "for piece in range(config.compress_block // config.compress_stride):"
FORCED = "forced = (number < config.initial_blocks) | (number > own - config.local_blocks)"
FILLED = '.masked_fill(number > own, float("-inf"))'
TOP = "indices[..., : config.top_n]"
INNER = "inner = torch.arange(config.select_block)"
SLC = '_, selected = attend("slc", tokens.clamp(max=cache.slots("k_slc") - 1), tokens <= position)'
WIN = "tokens = position - config.window + 1 + torch.arange(config.window)"
WIN_SLOTS = 'tokens % cache.slots("k_win"), tokens >= 0)'
GATES = "gates[..., 0:1] * compressed + gates[..., 1:2] * selected + gates[..., 2:3] * window"
# probabilities once more, from scores with something done to them
AGAIN = (
    f"{CMP}\n"
    '    keys = cache._stored["k_cmp"][:, :, :count]\n'
    '    scores = scale * torch.einsum("bkgd,bknd->bkgn", grouped, keys)\n'
    "    seen = (ends <= position)[:, :, None]\n"
    '    low = scores.masked_fill(~seen, float("-inf"))'
)
ALL_BLOCKS = (COUNT, 'count = cache.slots("k_cmp")')
OWNER = (
    "owner = (block + piece) * config.compress_stride // config.select_block\n"
    "        importance.index_add_(2, owner, group)"
)
GUARDED = (
    "owner = (block + piece) * config.compress_stride // config.select_block\n"
    "        inside = owner < importance.shape[2]\n"
    "        importance.index_add_(2, owner[inside], group[..., inside])"
)
MORE = "importance = group.new_zeros(len(q), hk, -(-longest // config.select_block)"
STALE = """
    newest = (ends <= position).sum(dim=-1, keepdim=True) - 1
    old = low.masked_fill((block == newest)[:, :, None] & (newest > 0)[:, :, None], float("-inf"))
    group = (scores - old.logsumexp(dim=-1, keepdim=True)).exp().masked_fill(~seen, 0.0).sum(dim=2)"""
EVERY_TOKEN = """everything = torch.arange(longest)
    taken = ((tokens[..., None] == everything) & (tokens <= position)[..., None]).any(dim=2)
    _, selected = attend("slc", everything, taken)"""

STEP = [
    step("window-one-more", (WIN, "tokens = position - config.window + torch.arange(config.window + 1)")),
    step("window-one-less", (WIN, "tokens = position - config.window + 2 + torch.arange(config.window - 1)")),
    step("window-slots", (WIN_SLOTS, "tokens % config.window, tokens >= 0)")),
    step("window-unwrapped", (WIN_SLOTS, 'tokens.clamp(0, cache.slots("k_win") - 1), tokens >= 0)')),
    step("IndexError was raised", (WIN_SLOTS, "tokens.clamp(min=0), tokens >= 0)")),
    step(
        "after-itself",
        (POSITION, POSITION.removesuffix(" - 1")),
        (COUNT, COUNT.replace("longest -", "longest + 1 -")),
        (MORE, MORE.replace("-(-longest", "-(-(longest + 1)")),
    ),
    step("before-itself", (POSITION, POSITION.removesuffix("1") + "2")),
    step("early-block", ALL_BLOCKS, (ENDS, "ends = block * config.compress_stride"), (OWNER, GUARDED)),
    step("early-block", ALL_BLOCKS, (ENDS, "ends = block * 0 - 9"), (OWNER, GUARDED)),
    step("late-block", (CMP, CMP.replace("<=", "<"))),
    step("rows", (POSITION, "position = torch.tensor(cache.lengths[:1] * len(q))[:, None, None] - 1")),
    step("rows", (POSITION, "position = torch.tensor([max(cache.lengths)] * len(q))[:, None, None] - 1")),
    step("rows", (POSITION, "position = torch.tensor([min(cache.lengths)] * len(q))[:, None, None] - 1")),
    step("scores-summed", (CMP, AGAIN), (GROUP, "group = low.sum(dim=2).softmax(dim=-1).nan_to_num(0.0)")),
    step("one-head", (GROUP, "group = p_cmp[:, :, 0]")),
    step("stale-lse", (CMP, AGAIN), (GROUP, STALE.strip())),
    step(
        "stale-lse",
        (CMP, AGAIN),
        (GROUP, "group = (low - low.cummax(dim=-1).values).exp().nan_to_num(0.0).sum(dim=2)"),
    ),
    step(
        "unnormalised",
        (CMP, AGAIN),
        (GROUP, "group = (low - low.amax(dim=-1, keepdim=True)).exp().nan_to_num(0.0).sum(dim=2)"),
    ),
    step(
        "hidden-importance",
        ALL_BLOCKS,
        (CMP, AGAIN),
        (GROUP, "group = scores.softmax(dim=-1).sum(dim=2)"),
        (OWNER, GUARDED),
    ),
    step(
        "future",
        ALL_BLOCKS,
        (CMP, AGAIN),
        (GROUP, "group = scores.softmax(dim=-1).sum(dim=2)"),
        (OWNER, GUARDED),
        (MORE, MORE + " + 1"),
        (
            FORCED,
            FORCED.replace(
                "(number > own - config.local_blocks)",
                "((number > own - config.local_blocks) & (number <= own))",
            ),
        ),
        (FILLED, ""),
    ),
    step("start-only", (PIECES, "for piece in range(1):")),
    step("no-initial", (FORCED, "forced = number > own - config.local_blocks")),
    step("no-local", (FORCED, "forced = number + own * 0 < config.initial_blocks")),
    step("own-only", (FORCED, FORCED.replace("config.local_blocks", "1"))),
    step("one-block-more", (TOP, "indices[..., : config.top_n + 1]")),
    step("one-block-less", (TOP, "indices[..., : config.top_n - 1]")),
    step(
        "not-causal",
        (
            SLC,
            SLC.replace(
                "tokens <= position",
                'tokens < ((own + 1) * config.select_block).clamp(max=cache.slots("k_slc"))',
            ),
        ),
    ),
    step("none-is-zero", (INNER, f"chosen = chosen.where(chosen <= own, 0)\n    {INNER}")),
    step(
        "heads",
        (GROUPED, "grouped = q.unflatten(1, (-1, hk)).transpose(1, 2)"),
        (OUT, OUT.replace(".flatten", ".transpose(1, 2).flatten")),
    ),
    step("gates-order", (GATES, GATES.replace("0:1", "9").replace("1:2", "0:1").replace("9", "1:2"))),
    step("no-gates", (GATES, "compressed + selected + window")),
    step("own-scale", (SCORES, SCORES.replace("scale *", "q.shape[-1] ** -0.5 *"))),
    step("nan", (HIDDEN, "")),
    step(
        "not-read", (KEYS, f"{AROUND} zip('kv', (q.shape[2], cache._stored['v_cmp'].shape[3]), strict=True))")
    ),
    step("reads-all", (SLC, EVERY_TOKEN)),
    step("reads-again", (KEYS, f"for _ in range(grouped.shape[2]):\n            {KEYS}")),
]


def cache(mistake, *edits):
    return Wrong("cache", mistake, edits)


SIZE = "return window + max_append - 1"
IF_T = "if t > cache.max_append:"
IF_COUNTS = "if len(counts) != cache.batch or not all(0 <= count <= t for count in counts):"
IF_START = "if list(start) != cache.lengths:"
IF_ROOM = "if max(ends) > cache.capacity:"
T = "t = new.shape[1]\n"
ENDS_4 = "    ends = [length + count for length, count in zip(cache.lengths, counts, strict=False)]\n"
WRITES = """    for row, count in enumerate(counts):
        for place in range(count):
            cache.ring[row, (cache.lengths[row] + place) % cache.ring.shape[1]] = new[row, place]
        cache.least"""
WRITE_FIRST = """    for row, count in enumerate(counts):
        for place in range(min(count, t) if len(counts) == cache.batch and max(counts) <= t else 0):
            cache.ring[row, (cache.lengths[row] + place) % cache.ring.shape[1]] = new[row, place]
"""
GROW_FIRST = """    held = cache.lengths
    if len(counts) == cache.batch and max(counts) <= t:
        cache.lengths = ends
"""
GREW = """    cache.lengths = held
"""
IF_KEEP = "if not 0 <= keep <= held:"
IF_LEAST = "if 0 < keep < least:"
EACH = "for keep, held, least in zip(lengths, cache.lengths, cache.least, strict=True):"
ONE_BY_ONE = (
    "for row, (keep, held, least) in enumerate(zip(lengths, list(cache.lengths), cache.least, strict=True)):"
)
SHORT = 'raise ValueError(f"lengths: got {keep}, expected 0 or at least {least}")'
RESET = "cache.least = [least if keep else 0 for keep, least in zip(lengths, cache.least, strict=True)]"
NEVER = "if False:"

CACHE = [
    cache("ring-too-small", (SIZE, "return window")),
    cache("ring-too-small", (SIZE, "return window + max_append - 2")),
    cache("ring-too-large", (SIZE, "return window + max_append")),
    cache("failed-append-wrote", (ENDS_4, ENDS_4 + WRITE_FIRST)),
    cache(
        "failed-append-grew",
        (ENDS_4, ENDS_4 + GROW_FIRST),
        (IF_START, "if list(start) != held:"),
        (WRITES, GREW + WRITES),
    ),
    cache("max-append", (IF_T, NEVER)),
    cache("IndexError was raised", (IF_COUNTS, NEVER)),
    cache("out-of-order", (IF_START, NEVER)),
    cache("no-room", (IF_ROOM, NEVER)),
    cache("last-place", (IF_ROOM, "if max(ends) >= cache.capacity:")),
    cache("counts", (T, f"{T}    counts = [t] * cache.batch\n"), (IF_COUNTS, NEVER)),
    cache("one-late", ("(cache.lengths[row] + place)", "(cache.lengths[row] + 1 + place)")),
    cache("grows", (IF_KEEP, NEVER)),
    cache("too-short", (IF_LEAST, NEVER)),
    cache("least-from-length", (IF_LEAST, "if 0 < keep < held - cache.max_append:")),
    cache("least-one-more", (IF_LEAST, "if 0 < keep < least + 1:")),
    cache("least-one-less", (IF_LEAST, "if 0 < keep < least - 1:")),
    cache("not-emptied", (IF_LEAST, "if keep < least:")),
    cache("least-not-reset", (RESET, "cache.least = list(cache.least)")),
    cache("partly-truncated", (EACH, ONE_BY_ONE), (SHORT, f"{SHORT}\n        cache.lengths[row] = keep")),
]


def moved(mistake, *edits):
    return Wrong("bytes", mistake, edits)


TOKEN = "token = (d_qk + d_v) * hk * element_bytes"
LENGTHS = "for length in lengths:\n        past"
DENSE = '"dense": token * sum(length + 1 for length in lengths)}'
ROW_DENSE = '"dense": token * sum(length + 1 for length in alike)}'
CMP_5 = "max(0, past // config.compress_stride + 1)"
SELECTED = "((blocks - 1) * config.select_block + own)"
BLOCKS_5 = "blocks = min(config.top_n, -(-length // config.select_block))"
COMPLETES = "completes = past >= 0 and past % config.compress_stride == 0"
PHI = "(config.compress_block + 1) * completes"

BYTES = [
    moved("keys-only", (TOKEN, "token = d_qk * hk * element_bytes")),
    moved("one-head", (TOKEN, "token = (d_qk + d_v) * element_bytes")),
    moved("numbers", (TOKEN, "token = (d_qk + d_v) * hk")),
    moved("rows", (TOKEN, f"{TOKEN}\n    lengths = lengths[:1] * len(lengths)")),
    moved("rows", (TOKEN, f"{TOKEN}\n    lengths = [max(lengths)] * len(lengths)")),
    moved("one-row", (TOKEN, f"{TOKEN}\n    lengths = lengths[:1]")),
    moved("every-stride", (CMP_5, "(length // config.compress_stride)")),
    moved("whole-blocks", (SELECTED, "blocks * config.select_block")),
    moved("always-top-n", (BLOCKS_5, "blocks = config.top_n")),
    moved("always-window", ("min(config.window, length)", "config.window")),
    moved("one-write", ("token * 3", "token")),
    moved("every-step", (COMPLETES, "completes = past >= 0")),
    moved("stride-from-0", (COMPLETES, "completes = length % config.compress_stride == 0")),
    moved("not-written", (PHI, "config.compress_block * completes")),
    moved("dense-writes", (DENSE, DENSE.replace("length + 1", "length"))),
]

WRONG = [*RING, *COMPRESSION, *STEP, *CACHE, *BYTES]
