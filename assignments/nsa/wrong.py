"""Wrong answers, planted: edits of the solution that must fail, each with the mistake that must be named.

Capitals are pieces of the solution's text; what stands beside them takes their place.
"""

from minisys.grade.assignment import Wrong


def compression(mistake, *edits):
    return Wrong("compression", mistake, edits)


STARTS = "range(0, x.shape[1] - config.compress_block + 1, config.compress_stride)"
EMPTY = """    if len(starts) == 0:
        return x.new_zeros(x.shape[0], 0, x.shape[2], x.shape[3])
"""
CUT = "    blocks = torch.stack("
PHI = "phi(blocks.transpose(2, 3))"
WITH_LAST = (
    "range(0, max(1, x.shape[1] - config.compress_block + config.compress_stride), config.compress_stride)"
)
ZEROS = "    x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, config.compress_block))\n"

COMPRESSION = [
    compression("stride", (STARTS, STARTS.replace("config.compress_stride", "config.compress_block"))),
    compression("one-short", (STARTS, STARTS.replace(" + 1", ""))),
    compression("incomplete", (STARTS, WITH_LAST), (CUT, ZEROS + CUT)),
    compression("shifted", (STARTS, STARTS.replace("0, ", "1, "))),
    compression("mean", (PHI, "blocks.mean(dim=2)")),
    compression("reversed", (PHI, "phi(blocks.transpose(2, 3).flip(-2))")),
    compression("phi: got blocks of shape", (PHI, "phi(blocks.permute(0, 1, 3, 4, 2))")),
    compression("shorter than a block", (EMPTY, "")),
    compression("changed its argument x in place", (EMPTY, EMPTY + "    x.mul_(1.0)\n")),
]


def importance(mistake, *edits):
    return Wrong("importance", mistake, edits)


GROUP = "group = p_cmp.sum(dim=2)  # [b, hk, t, tc]"
CREDIT = """        for piece in range(config.compress_block // config.compress_stride):
            token = (i + piece) * config.compress_stride
            importance[..., token // config.select_block] += group[..., i]
"""
LITERAL = """        ratio = config.select_block // config.compress_stride
        for j in range(blocks):
            for m in range(ratio):
                for n in range(config.compress_block // config.compress_stride):
                    if ratio * j - m - n == i:
                        importance[..., j] += group[..., i]
"""
START = """        importance[..., i * config.compress_stride // config.select_block] += group[..., i]
"""
ONCE = """        first = i * config.compress_stride // config.select_block
        last = (i * config.compress_stride + config.compress_block - 1) // config.select_block
        importance[..., first : last + 1] += group[..., i : i + 1]
"""
SHARE = "+= group[..., i] / (config.compress_block // config.compress_stride)"
RESULT = "return importance.transpose(1, 2)"

IMPORTANCE = [
    importance("no-group-sum", (GROUP, "group = p_cmp.flatten(1, 2)")),
    importance("group-mean", (GROUP, "group = p_cmp.mean(dim=2)")),
    importance("one-head", (GROUP, "group = p_cmp[:, :, 0]")),
    importance("sign", (CREDIT, LITERAL)),
    importance("start-only", (CREDIT, START)),
    importance("once-a-block", (CREDIT, ONCE)),
    importance("share", ("+= group[..., i]", SHARE)),
    importance("cut-block", (RESULT, f"{RESULT}[..., : t // config.select_block]")),
    importance("torch.float32", (RESULT, f"{RESULT}.float()")),
]


def selection(mistake, *edits):
    return Wrong("selection", mistake, edits)


OWN = "torch.arange(t) // config.select_block"
FORCED = "(number < config.initial_blocks) | (number > own - config.local_blocks)"
NOT_AHEAD = "(number < config.initial_blocks) | ((number > own - config.local_blocks) & (number <= own))"
BEFORE = "(number < config.initial_blocks) | ((number >= own - config.local_blocks) & (number < own))"
FUTURE = '.masked_fill(number > own, float("-inf"))'
DROPPED = "torch.where(order > own, blocks, order)"
ORDER = "    order = score.sort(dim=-1, descending=True, stable=True).indices[..., : config.top_n]\n"
LATER = """    flipped = score.flip(-1).sort(dim=-1, descending=True, stable=True)
    order = blocks - 1 - flipped.indices[..., : config.top_n]
"""
MORE = """    top_n = config.top_n + config.initial_blocks + config.local_blocks
    order = score.sort(dim=-1, descending=True, stable=True).indices[..., : top_n]
"""
MISSING = "max(0, config.top_n - blocks)"
ASCENDING = ", value=blocks).sort(dim=-1).values"
PADDED = "torch.where(order == blocks, -1, order)"

SELECTION = [
    selection("forced-not-counted", (ORDER, MORE), (MISSING, "max(0, top_n - blocks)")),
    selection("ties-later", (ORDER, LATER)),
    selection("padding-zero", (PADDED, "torch.where(order == blocks, 0, order)")),
    selection("unsorted", (ASCENDING, ", value=blocks)")),
    selection("future", (FUTURE, ""), (DROPPED, "order")),
    selection("future", (FORCED, NOT_AHEAD), (FUTURE, ""), (DROPPED, "order")),
    selection("no-initial", (FORCED, "number > own - config.local_blocks")),
    selection("no-local", (FORCED, "number < config.initial_blocks")),
    selection("own-only", (FORCED, "(number < config.initial_blocks) | (number == own)")),
    selection("local-before", (FORCED, BEFORE)),
    selection("local-one-more", (FORCED, FORCED.replace("> own", ">= own"))),
    selection("own-block", (OWN, "(torch.arange(t) + 1) // config.select_block")),
    selection("torch.float64", (PADDED, f"{PADDED}.double()")),
]


def gating(mistake, *edits):
    return Wrong("gating", mistake, edits)


COMPRESSED = "compressed = ends <= query"
WINDOW = "(token <= query) & (token > query - config.window)"
CAUSAL = " & (token <= query)  # [b, hk, 1, t, t]"
CHOSEN = "(block_indices[..., None] == block)"
FILL = 'scores.masked_fill(~mask, float("-inf"))'
ZERO = "        weights = weights.masked_fill(~mask, 0.0)  # a row that sees nothing is NaN until here\n"
SCALE = "scale * torch.einsum("
GATE = "gates[..., c : c + 1]"
GROUPED = "q.unflatten(2, (k.shape[2], -1))"
HEADS = '"bkgts,bskd->btkgd"'
ATTEND_WINDOW = "attend(k_win, v_win, window)"

GATING = [
    gating("nan", (ZERO, "")),
    gating("hidden-average", (ZERO, ""), (FILL, "scores.masked_fill(~mask, -1e9)")),
    gating("gate-order", (GATE, "gates[..., 2 - c : 3 - c]")),
    gating("gate-order", (GATE, "gates[..., (1, 0, 2)[c], None]")),
    gating("no-gates", (f"{GATE} * branch", "branch")),
    gating("compressed-late", (COMPRESSED, "compressed = ends < query")),
    gating("compressed-early", (COMPRESSED, "compressed = ends - config.compress_block + 1 <= query")),
    gating("compressed-early", (COMPRESSED, "compressed = ends - 1 <= query")),
    gating("selected-not-causal", (CAUSAL, "")),
    gating("selected-not-itself", (CAUSAL, " & (token < query)")),
    gating("window-long", (WINDOW, "(token <= query) & (token >= query - config.window)")),
    gating("window-short", (WINDOW, "(token <= query) & (token > query - config.window + 1)")),
    gating("minus-one", (CHOSEN, "(block_indices[..., None] % (block[-1] + 1) == block)")),
    gating("minus-one", (CHOSEN, "(block_indices.clamp(min=0)[..., None] == block)")),
    gating(
        "heads", (GROUPED, "q.unflatten(2, (-1, k.shape[2])).transpose(2, 3)"), (HEADS, '"bkgts,bskd->btgkd"')
    ),
    gating("no-scale", (SCALE, "torch.einsum(")),
    gating("own-scale", (SCALE, "q.shape[-1] ** -0.5 * torch.einsum(")),
    gating("window-scale", (ATTEND_WINDOW, "attend(k_win / scale, v_win, window)")),
]


def kernel(mistake, *edits):
    return Wrong("kernel", mistake, edits)


IF_BLOCK = "if number >= 0:"
TOKENS = "tokens = number * BLOCK"
RESCALED = "acc * shift[:, None] + tl.dot(weights, v_tile)"
SUM = "weight_sum * shift + tl.sum(weights, axis=1)"
LOAD_Q = "    q_tile = tl.load(q + (row * G + heads[:, None])"
OTHER_HEADS = """    head = (row - group) * G + heads[:, None] * hk + group
    q_tile = tl.load(q + head"""
STORE = "tl.store(out + (row * G + heads[:, None])"
OUT = "    out = torch.empty("
PLAIN = """    token = torch.arange(t)
    chosen = (block_indices[..., None] == token // config.select_block).any(dim=3)
    mask = chosen.transpose(1, 2)[:, :, None] & (token <= token[:, None])
    scores = scale * torch.einsum("btkgd,bskd->bkgts", q.unflatten(2, (hk, -1)), k_slc)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1).masked_fill(~mask, 0.0)
    return torch.einsum("bkgts,bskd->btkgd", weights, v_slc).flatten(2, 3)
"""

KERNEL = [
    kernel("selected-not-causal", ("(tokens <= query)", "(tokens < t)")),
    kernel("minus-one", (IF_BLOCK, "if i >= 0:"), (TOKENS, "tokens = tl.maximum(number, 0) * BLOCK")),
    kernel("no-scale", ("tl.dot(q_tile, k_tile) * scale", "tl.dot(q_tile, k_tile)")),
    kernel("no-rescale", (RESCALED, "acc + tl.dot(weights, v_tile)")),
    kernel("no-rescale", (RESCALED, "acc + tl.dot(weights, v_tile)"), (SUM, SUM.replace(" * shift", ""))),
    kernel("heads", (LOAD_Q, OTHER_HEADS), (STORE, "tl.store(out + head")),
    kernel("no-kernel", (OUT, PLAIN + OUT)),
]

WRONG = [*COMPRESSION, *IMPORTANCE, *SELECTION, *GATING, *KERNEL]
