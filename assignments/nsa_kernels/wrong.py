"""Wrong answers, planted: edits of the solution that must fail, each with the mistake that must be named.

Capitals are pieces of the solution's text; what stands beside them takes their place.
"""

from minisys.grade.assignment import Wrong


def step(mistake, *edits):
    return Wrong("step", mistake, edits)


ACC = "acc = acc * shrink[:, None] + "
SUM = "row_sum = row_sum * shrink + "
SHRINK = "tl.exp(row_max - base)"
ONE = "tl.zeros_like(base) + 1.0"
BASE = 'tl.where(new_max == float("-inf"), 0.0, new_max)'
MAXIMUM = "tl.maximum(row_max, tl.max(scores, axis=1))"
MASK = 'tl.where(visible, scores, float("-inf"))'
WEIGHTS = "tl.exp(scores - base[:, None])"
SCALED = 'input_precision="ieee") * scale'

STEP = [
    step("no-rescale-acc", (ACC, "acc = acc + ")),
    step("no-rescale-sum", (SUM, "row_sum = row_sum + ")),
    step("no-rescale", (SHRINK, ONE)),
    step("rescale-inverted", (SHRINK, "tl.exp(base - row_max)")),
    step("nan", (BASE, "new_max")),
    step("no-maximum", (BASE, "tl.zeros_like(new_max)")),
    step("no-maximum", (WEIGHTS, "tl.exp(scores)"), (SHRINK, ONE)),
    step("tile-maximum", (MAXIMUM, "tl.max(scores, axis=1)")),
    step("hidden-zero", (MASK, MASK.replace('float("-inf")', "0.0"))),
    step("not-masked", (MASK, "scores")),
    step("no-scale", (SCALED, 'input_precision="ieee")')),
]


def selected(mistake, *edits):
    return Wrong("selected", mistake, edits)


VISIBLE = "visible = (key < BLOCK) & (tokens <= token)"
IF_BLOCK = "if (block >= 0) & (block != before):"
TOKENS = "tokens = block * BLOCK + key"
STEP_2 = "q_tile, k_tile, v_tile, visible[None, :], row_max, row_sum, acc, scale"
EACH_HEAD = STEP_2.replace("visible[None, :]", "visible[None, :] & (row == j % G)[:, None]")
LOOP_2 = "for i in range(n):\n"
K_LOAD = "k + place * D_QK + qk, mask=visible[:, None] &"
HEAD = "head = program * G + row[:, None]"
LSE_PLACE = "lse + program * G + row, row_lse"
TOTAL = "total = tl.where(nothing, 1.0, row_sum)"
EMPTY_LSE = 'tl.where(nothing, float("inf"), row_max + tl.log(total))'
LSE = "row_max + tl.log(total)"
DIVIDED = "acc / total[:, None]"
LAUNCH_2 = "    selected_kernel[(t * hk,)]("
PLAIN = """    token = torch.arange(t)
    sees = (block_indices[..., None] == token // select_block).any(dim=2).transpose(0, 1)[:, None]
    scores = scale * torch.einsum("tkgd,skd->kgts", q.unflatten(1, (hk, -1)), k)
    scores = scores.masked_fill(~(sees & (token <= token[:, None])), float("-inf"))
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    total = scores.logsumexp(dim=-1).permute(2, 0, 1).flatten(1)
    total = total.masked_fill(total == -float("inf"), float("inf"))
    return joined(torch.einsum("kgts,skd->tkgd", weights, v).flatten(1, 2), total)
"""

SELECTED = [
    selected("not-causal", (VISIBLE, "visible = (key < BLOCK) & (tokens < t)")),
    selected("not-itself", (VISIBLE, "visible = (key < BLOCK) & (tokens < token)")),
    selected("twice", (IF_BLOCK, "if block >= 0:")),
    selected(
        "minus-one",
        (IF_BLOCK, "if (i == 0) | (block != before):"),
        (TOKENS, "tokens = tl.maximum(block, 0) * BLOCK + key"),
    ),
    selected("before the start of k", (IF_BLOCK, "if block != before:")),
    selected("after the end of k", (K_LOAD, "k + place * D_QK + qk, mask=(key < BLOCK)[:, None] &")),
    selected("block-end", (VISIBLE, "visible = tokens <= token")),
    selected("last-unread", (LOOP_2, "for i in range(n - 1):\n")),
    selected("no-scale", (STEP_2, STEP_2.replace("scale", "1.0"))),
    selected("own-scale", (STEP_2, STEP_2.replace("scale", "D_QK ** -0.5"))),
    selected(
        "heads",
        (HEAD, "head = token * hk * G + row[:, None] * hk + group"),
        (LSE_PLACE, "lse + token * hk * G + row * hk + group, row_lse"),
    ),
    selected("no-rescale-acc", (ACC, "acc = acc + ")),
    selected("no-rescale-sum", (SUM, "row_sum = row_sum + ")),
    selected("no-rescale", (SHRINK, ONE)),
    selected("empty-lse", (EMPTY_LSE, LSE)),
    selected("empty-output", (TOTAL, "total = row_sum")),
    selected("lse-base", (LSE, f"({LSE}) * 1.4426950408889634")),
    selected("lse-maximum", (LSE, "tl.log(total)")),
    selected("undivided", (DIVIDED, "acc")),
    selected("no-kernel", (LAUNCH_2, PLAIN + LAUNCH_2)),
    selected("loads-again", (LOOP_2, "for j in range(n * G):\n        i = j // G\n"), (STEP_2, EACH_HEAD)),
]


def lists(mistake, *edits):
    return Wrong("lists", mistake, edits)


SET_BIT = "bits.get(block, 0) | 1 << (token - first)"
CODE = "(block << tokens) + bits[block]"
TILES = "tiles = -(-t // tokens)"
FIRST = "first = tile * tokens"
MEMBERS = "range(first, min(first + tokens, t))"
IF_NUMBER = "if block >= 0:"
MINE = "block_indices[token, group].tolist()"
MERGED = "merged = [(block << tokens) + bits[block] for block in sorted(bits)]"
SINGLE = "merged = sorted((b << tokens) + (1 << i) for b in bits for i in range(tokens) if bits[b] >> i & 1)"

LISTS = [
    lists("bit-order", (SET_BIT, "bits.get(block, 0) | 1 << (tokens - 1 - token + first)")),
    lists("bit-order", (SET_BIT, "bits.get(block, 0) | 1 << (token - first + 1)")),
    lists("not-merged", (MERGED, SINGLE)),
    lists("carry", (SET_BIT, "bits.get(block, 0) + (1 << (token - first))")),
    lists("unsorted", (MERGED, MERGED.replace("sorted(bits)", "bits"))),
    lists("minus-one", (IF_NUMBER, "for block in [max(block, 0)]:")),
    lists("last-tile", (TILES, "tiles = t // tokens")),
    lists("last-tile-moved", (FIRST, "first = max(0, min(tile * tokens, t - tokens))")),
    lists("IndexError was raised in line", (MEMBERS, "range(first, first + tokens)")),
    lists("heads", (MINE, "block_indices[token].flatten().tolist()")),
    lists(
        "strided",
        (FIRST, "first = tile"),
        (MEMBERS, "range(tile, t, tiles)"),
        (SET_BIT, "bits.get(block, 0) | 1 << (token // tiles)"),
    ),
    lists("width", (CODE, "(block << 1) + bits[block]")),
    lists("no-bits", (CODE, "block")),
]


def packed(mistake, *edits):
    return Wrong("packed", mistake, edits)


CHOSEN = "chosen = ((code >> member) & 1) != 0"
SEES = "sees = chosen[:, None] & needed[None, :] & (keys[None, :] <= own[:, None])"
NEEDED = "needed = (key < BLOCK) & (keys < end)"
IF_CODE = "if code >= 0:"
IN_TILE = "in_tile = (member < TOKENS) & (own < t)"
STEP_4 = "rows_q, tile_k, tile_v, sees, row_max, row_sum, acc, scale"
PLACE_Q = "place_q = (own * hk + group) * G + row % G"
LOOP_4 = "for i in range(num_codes):\n"
Q_LOAD = "q + place_q[:, None] * D_QK + qk, mask=in_tile[:, None] &"
Q_OF_OWN = "q + place_q[:, None] * D_QK + qk, mask=(in_tile & (own < t))[:, None] &"
V_LOAD = "v + at * D_V + dv, mask=needed[:, None] &"

PACKED = [
    packed("bits", (CHOSEN, "chosen = row >= 0")),
    packed("bit-order", (CHOSEN, "chosen = ((code >> (TOKENS - 1 - member)) & 1) != 0")),
    packed("bit-order", (CHOSEN, "chosen = ((code >> (member + 1)) & 1) != 0")),
    packed("bit-of-row", (CHOSEN, "chosen = ((code >> row) & 1) != 0")),
    packed("bit-of-row", (CHOSEN, "chosen = ((code >> (row % G)) & 1) != 0")),
    packed("bit-of-row", (CHOSEN, "chosen = ((code >> (row % TOKENS)) & 1) != 0")),
    packed(
        "not-causal",
        (SEES, "sees = chosen[:, None] & needed[None, :]"),
        (NEEDED, "needed = (key < BLOCK) & (keys < t)"),
    ),
    packed("not-itself", (SEES, SEES.replace("<= own", "< own"))),
    packed("tile-causal", (SEES, SEES.replace("own[:, None]", "first"))),
    packed("tile-causal", (SEES, SEES.replace("own[:, None]", "end - 1"))),
    packed("nan", (BASE, "new_max")),
    packed("no-rescale-acc", (ACC, "acc = acc + ")),
    packed("no-rescale-sum", (SUM, "row_sum = row_sum + ")),
    packed("no-rescale", (SHRINK, ONE)),
    packed("no-scale", (STEP_4, STEP_4.replace("scale", "1.0"))),
    packed("own-scale", (STEP_4, STEP_4.replace("scale", "D_QK ** -0.5"))),
    packed("heads", (PLACE_Q, "place_q = own * hk * G + row % G * hk + group")),
    packed("before the start of k", (IF_CODE, "if i >= 0:")),
    packed("after the end of q", (IN_TILE, "in_tile = member < TOKENS")),
    packed("after the end of out", (IN_TILE, "in_tile = member < TOKENS"), (Q_LOAD, Q_OF_OWN)),
    packed("after the end of v", (V_LOAD, "v + at * D_V + dv, mask=(key < BLOCK)[:, None] &")),
    packed(
        "loads-again",
        (LOOP_4, "for j in range(num_codes * TOKENS):\n        i = j // TOKENS\n"),
        (CHOSEN, "chosen = (((code >> member) & 1) != 0) & (member == j % TOKENS)"),
    ),
]

WRONG = [*STEP, *SELECTED, *LISTS, *PACKED]
