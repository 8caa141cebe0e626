"""Part 3 in float64, row by row, right and with one thing done otherwise."""

import torch

from minisys.grade.assignment import Mistake


def pieces_of(tc, ts, config):
    """``[tc, ts]``: how many pieces of each compressed block lie in each selection block."""
    pieces = torch.arange(tc)[:, None] + torch.arange(config.compress_block // config.compress_stride)
    owners = pieces * config.compress_stride // config.select_block
    return (owners[..., None] == torch.arange(ts)).sum(dim=1).double()


def starts_only(tc, ts, config):
    owners = torch.arange(tc) * config.compress_stride // config.select_block
    return (owners[:, None] == torch.arange(ts)).double()


def probabilities(scores, visible):
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1).nan_to_num(0.0)


def by_group(scores, visible):
    """Importance of compressed blocks ``[hk, tc]`` from scores ``[hk, g, tc]``."""
    return probabilities(scores, visible).sum(dim=1)


def scores_summed(scores, visible):
    return probabilities(scores.sum(dim=1), visible)


def first_head(scores, visible):
    return probabilities(scores, visible)[:, 0]


def all_slots(scores, visible):
    return scores.softmax(dim=-1).sum(dim=1)


def stale_lse(scores, visible):
    """exp(score - lse), with the lse that was right before the newest block came."""
    old = visible.clone()
    if int(visible.sum()) > 1:
        old[int(visible.nonzero().max())] = False
    lse = scores.masked_fill(~old, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return (scores - lse).exp().masked_fill(~visible, 0.0).sum(dim=1)


def running_maximum(scores, visible):
    """exp(score - m) with the maximum of the blocks so far, never brought to the last one."""
    hidden = scores.masked_fill(~visible, -torch.inf)
    return (hidden - hidden.cummax(dim=-1).values).exp().nan_to_num(0.0).sum(dim=1)


def unnormalised(scores, visible):
    """exp(score - m), not divided by its sum."""
    hidden = scores.masked_fill(~visible, -torch.inf)
    return (hidden - hidden.amax(dim=-1, keepdim=True)).exp().nan_to_num(0.0).sum(dim=1)


def ends_by(position, blocks, config):
    return blocks * config.compress_stride + config.compress_block - 1 <= position


def step(
    q, cache, gates, scale, *, at=0, length_of=None, sees=ends_by, importance=by_group, overlap=pieces_of,
    initial=None, local=None, more=0, ahead=False, causal=True, none=False, window=0, modulus=None,
    clamped=False, interleaved=False, order=(0, 1, 2), nan=False, ):  # fmt: skip
    """One step, with one thing done otherwise.

    at: where the query is taken to stand, against its own place. none: hidden blocks are read as block 0.
    """
    config, stored = cache.config, cache._stored
    hk, hq = cache.num_kv_heads, q.shape[1]
    heads = torch.arange(hq).view(-1, hk).T if interleaved else torch.arange(hq).view(hk, -1)
    initial = config.initial_blocks if initial is None else initial
    local = config.local_blocks if local is None else local
    ts = -(-max(cache.lengths) // config.select_block) + 1
    credits = overlap(cache.slots("k_cmp"), ts, config)
    rows = []
    for row in range(len(q)):
        length = cache.lengths[row] if length_of is None else length_of(cache.lengths)
        position = length - 1 + at
        k, v = ({name[2:]: x[row] for name, x in stored.items() if name[0] == kind} for kind in "kv")
        grouped = q[row][heads]  # [hk, g, d_qk]

        def attend(branch, slots, visible, grouped=grouped, k=k, v=v):
            slots = slots.expand(hk, -1)[..., None]
            take = lambda store: store.gather(1, slots.expand(-1, -1, store.shape[2]))
            scores = scale * torch.einsum("kgd,knd->kgn", grouped, take(k[branch]))
            weights = probabilities(scores, visible.expand(hk, -1)[:, None])
            if nan:
                weights = weights.masked_fill(~visible.any(), torch.nan)
            return torch.einsum("kgn,knd->kgd", weights, take(v[branch])), scores

        blocks = torch.arange(k["cmp"].shape[1])
        visible = sees(position, blocks, config)
        compressed, scores = attend("cmp", blocks, visible)
        credit = importance(scores, visible) @ credits

        own, number = position // config.select_block, torch.arange(ts)
        forced = (number < initial) | ((number > own - local) & (number <= own))
        ranked = credit.masked_fill(forced, torch.inf)
        ranked = ranked if ahead else ranked.masked_fill(number > own, -torch.inf)
        chosen = ranked.sort(dim=-1, descending=True, stable=True).indices[:, : config.top_n + more]
        hidden = (chosen > own) & (not ahead)
        tokens = (
            chosen.masked_fill(hidden, 0 if none else 10**6)[..., None] * config.select_block
        ) + torch.arange(config.select_block)
        tokens = tokens.flatten(1)
        own_end = position if causal else (own + 1) * config.select_block - 1
        seen = (tokens <= own_end) & (tokens < k["slc"].shape[1])
        selected, _ = attend("slc", tokens.clamp(max=k["slc"].shape[1] - 1), seen)

        width, size = config.window + window, k["win"].shape[1]
        tokens = position - width + 1 + torch.arange(width)
        slots = tokens.clamp(0, size - 1) if clamped else tokens % (modulus(config) if modulus else size)
        near, _ = attend("win", slots, tokens >= 0)

        parts = torch.empty(hq, 3, compressed.shape[-1], dtype=q.dtype)
        parts[heads] = torch.stack([compressed, selected, near], dim=2)
        rows.append((gates[row][:, list(order), None] * parts).sum(dim=1))
    return torch.stack(rows)


def with_changes(**changes):
    return lambda **case: step(**case, **changes)


def own_scale(q, scale, **case):
    return step(q=q, scale=q.shape[-1] ** -0.5, **case)


def no_gates(gates, **case):
    return step(gates=torch.ones_like(gates), **case)


def everything(position, blocks, config):
    return torch.ones_like(blocks, dtype=torch.bool)


def begun(position, blocks, config):
    return blocks * config.compress_stride <= position


def strictly(position, blocks, config):
    return blocks * config.compress_stride + config.compress_block - 1 < position


EARLY = "A query sees a compressed block that is not whole yet. It sees those that end at or before it."
ROWS = "All rows use one row's length. Each query stands at the end of its own row."
STALE = (
    "The importance uses probabilities that do not belong to this step: their lse, or the maximum in it, "
    "was taken "
    "before the last blocks came. Then the heads of a group no longer count alike."
)
SUMMED = "You add up the scores of a group's heads before the softmax. Add up their probabilities."
FUTURE = (
    "You choose selection blocks after the query's own: compressed keys that it does not see yet, left "
    "from drafts, "
    "make them important."
)

READS_ALL = Mistake(
    "reads-all",
    "The result is right, but the step reads every token of the selected branch and hides most of them. "
    "That costs "
    "what dense attention costs: read the chosen blocks.",
)
READS_AGAIN = Mistake(
    "reads-again",
    "The result is right, but the step reads more than it needs, or one thing several times: each chosen "
    "block, each "
    "compressed key and each token of the window once for all query heads of a group.",
)
NOT_READ = Mistake(
    "not-read",
    "The result is right, but its keys and values were not read with cache.read.",
)
STEP = [
    Mistake(
        "window-one-more",
        "The window is one token too long: its last token is the query's own, so it begins at position - w "
        "+ 1.",
        with_changes(window=1),
    ),
    Mistake(
        "window-one-less",
        "The window is one token too short: it holds w tokens, the query's own included.",
        with_changes(window=-1),
    ),
    Mistake(
        "window-slots",
        "You look for a token of the window in slot p mod w. The ring has more slots than that: ask "
        "cache.slots.",
        with_changes(modulus=lambda config: config.window),
    ),
    Mistake(
        "window-unwrapped",
        "You look for a token of the window in slot p. It is a ring: p mod its number of slots.",
        with_changes(clamped=True),
    ),
    Mistake(
        "after-itself",
        "You take the query to stand at position lengths[r]. Its token is in the cache already, at "
        "lengths[r] - 1.",
        with_changes(at=1),
    ),
    Mistake(
        "before-itself",
        "You take the query to stand one position before its own: it sees its own token too.",
        with_changes(at=-1),
    ),
    Mistake("early-block", EARLY, with_changes(sees=begun)),
    Mistake("early-block", EARLY, with_changes(sees=everything)),
    Mistake(
        "late-block",
        "A query that is the last token of a compressed block sees that block: it ends at the query.",
        with_changes(sees=strictly),
    ),
    Mistake("rows", ROWS, with_changes(length_of=lambda lengths: lengths[0])),
    Mistake("rows", ROWS, with_changes(length_of=max)),
    Mistake("rows", ROWS, with_changes(length_of=min)),
    Mistake("scores-summed", SUMMED, with_changes(importance=scores_summed)),
    Mistake(
        "one-head",
        "The first query head of a group chooses alone. Add up the probabilities of all its heads.",
        with_changes(importance=first_head),
    ),
    Mistake("stale-lse", STALE, with_changes(importance=stale_lse)),
    Mistake("stale-lse", STALE, with_changes(importance=running_maximum)),
    Mistake(
        "unnormalised",
        "The importance uses exp(score - m) without dividing by its sum. Then the heads of a group do not "
        "count alike.",
        with_changes(importance=unnormalised),
    ),
    Mistake(
        "hidden-importance",
        "The softmax of the importance runs over blocks that the query does not see yet. Their share is "
        "missing "
        "elsewhere, and they may be chosen for it.",
        with_changes(importance=all_slots),
    ),
    Mistake("future", FUTURE, with_changes(importance=all_slots, ahead=True)),
    Mistake(
        "start-only",
        "A compressed block credits one selection block only. Each of its pieces credits the one that it "
        "lies in.",
        with_changes(overlap=starts_only),
    ),
    Mistake(
        "no-initial",
        "The initial blocks are not forced: they compete with the rest.",
        with_changes(initial=0),
    ),
    Mistake(
        "no-local", "The local blocks are not forced: they compete with the rest.", with_changes(local=0)
    ),
    Mistake(
        "own-only",
        "You force the query's own block only. local_blocks counts it and those just before it.",
        with_changes(local=1),
    ),
    Mistake("one-block-more", "You choose one selection block too many.", with_changes(more=1)),
    Mistake("one-block-less", "You choose one selection block too few.", with_changes(more=-1)),
    Mistake(
        "not-causal",
        "In its own selection block the query sees what lies after it. That is left from a draft, or "
        "another's.",
        with_changes(causal=False),
    ),
    Mistake(
        "none-is-zero",
        "Where there are fewer than top_n blocks you read block 0 once more. No block is read for them.",
        with_changes(none=True),
    ),
    Mistake(
        "heads",
        "Query heads go with the wrong key/value heads: heads j·g … j·g + g - 1 use head j.",
        with_changes(interleaved=True),
    ),
    Mistake(
        "gates-order",
        "The gates are mixed up: 0 is compressed, 1 selected, 2 window.",
        with_changes(order=(1, 0, 2)),
    ),
    Mistake("no-gates", "The branches are added without their gates.", no_gates),
    Mistake(
        "own-scale",
        "You use 1/√d_qk although another scale is given: take the argument.",
        own_scale,
    ),
    Mistake(
        "nan",
        "Where a row sees no compressed block, the softmax gives NaN. That branch contributes zero.",
        with_changes(nan=True),
    ),
]
