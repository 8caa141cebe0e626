"""How well a selection rule finds the blocks that dense attention would read most.

The yardstick is the selected branch itself without selection: softmax over *all* past keys k_slc, added up by
block and over the heads of a group. A rule's recall is the share of the n blocks with most of that mass that
are among the n blocks it chose; its mass is how much of the whole its blocks hold. Rules other than `nsa` are
what one would use without a compressed branch (Quest: Tang et al. 2024, arXiv 2406.10774, section 3.3).
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.checks import check
from minisys.nsa.attention import select_blocks
from minisys.nsa.config import NSAConfig
from minisys.nsa.reference import attention_weights, top_blocks

RULES = ("nsa", "quest", "local", "random")


def by_block(x: Float[Tensor, "*lead t"], config: NSAConfig) -> Float[Tensor, "*lead ts l"]:
    """The last axis cut into selection blocks; the last block is filled up with zeros."""
    missing = config.num_selectable(x.shape[-1]) * config.select_block - x.shape[-1]
    return torch.nn.functional.pad(x, (0, missing)).unflatten(-1, (-1, config.select_block))


def block_mass(
    q: Float[Tensor, "b t hq d_qk"], k_slc: Float[Tensor, "b t hk d_qk"], config: NSAConfig, scale: float
) -> Float[Tensor, "b t hk ts"]:
    """Mass that dense causal attention puts on each block, mean over a group's heads; a row sums to 1."""
    t = q.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool, device=q.device).tril()
    weights = attention_weights(q, k_slc, causal, scale)  # [b, hk, g, t, t]
    return by_block(weights.mean(dim=2), config).sum(dim=-1).transpose(1, 2)


def quest_scores(
    q: Float[Tensor, "b t hq d_qk"], k_slc: Float[Tensor, "b t hk d_qk"], config: NSAConfig
) -> Float[Tensor, "b t hk ts"]:
    """Quest's upper bound of q·k over a block, Σ_d max(q_d·min_d, q_d·max_d), summed over a group's heads.

    min and max are taken over the whole block, so a query's own block would see its future; that block is
    forced by every rule, and blocks after it are never chosen.
    """
    keys = by_block(k_slc.permute(0, 2, 3, 1), config)  # [b, hk, d, ts, l]
    filled = torch.arange(keys.shape[-2] * keys.shape[-1], device=q.device) < k_slc.shape[1]
    filled = filled.view(keys.shape[-2:])
    low = keys.masked_fill(~filled, torch.inf).amin(-1)  # [b, hk, d, ts]
    high = keys.masked_fill(~filled, -torch.inf).amax(-1)
    grouped = q.unflatten(2, (k_slc.shape[2], -1))
    # max(q·low, q·high) is q·high where q is positive and q·low where it is negative
    return torch.einsum("btkgd,bkdj->btkj", grouped.clamp(min=0), high) + torch.einsum(
        "btkgd,bkdj->btkj", grouped.clamp(max=0), low
    )


def choose(
    rule: str,
    branches: dict[str, Tensor],
    config: NSAConfig,
    scale: float,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "b t hk top_n"]:
    """Blocks that `rule` would read. All but ``local`` (the last n) keep the forced blocks."""
    q, k_slc = branches["q"], branches["k_slc"]
    if rule == "nsa":
        return select_blocks(q, branches["k_cmp"], config=config, scale=scale)
    if rule == "quest":
        return top_blocks(quest_scores(q, k_slc, config), config)
    b, t, hk = k_slc.shape[:3]
    scores = torch.rand(b, t, hk, config.num_selectable(t), generator=generator).to(q.device)
    if rule == "random":
        return top_blocks(scores, config)
    check(rule == "local", "rule", repr(rule), f"one of {', '.join(RULES)}")
    return top_blocks(scores, replace(config, initial_blocks=0, local_blocks=config.top_n))


@torch.no_grad()
def selection_recall(
    branches: dict[str, Tensor], config: NSAConfig, scale: float, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Recall and mass of every rule, over the queries that have more than top_n blocks to choose from.

    Args:
        branches: q, k_cmp and k_slc of one layer, as `NativeSparseAttention.branches` gives them.
        config: the layer's settings.
        scale: factor on q·k.
        seed: of the random rule.

    Returns:
        for each rule, and for ``best`` (the n blocks of most mass): ``recall``, ``free_recall`` (the same
        over the blocks that are not forced) and ``mass``, all in [0, 1].

    Raises:
        ValueError: the sequence is too short for any query to have a choice.
    """
    q, k_slc = branches["q"], branches["k_slc"]
    t, n = q.shape[1], config.top_n
    check(config.num_selectable(t) > n, "q", f"{t} tokens", f"more than {n * config.select_block}")
    own = torch.arange(t, device=q.device) // config.select_block
    choosing = own >= n  # queries with more than n blocks
    mass = block_mass(q, k_slc, config, scale)[:, choosing]
    blocks = torch.arange(mass.shape[-1], device=q.device)
    forced = (blocks < config.initial_blocks) | (
        (blocks > own[:, None] - config.local_blocks) & (blocks <= own[:, None])
    )
    free = ~forced[choosing][None, :, None]

    def marked(indices: Tensor) -> Tensor:
        return torch.zeros_like(mass, dtype=torch.bool).scatter_(-1, indices, True)

    best = marked(mass.topk(n, dim=-1).indices)
    generator = torch.Generator().manual_seed(seed)
    chosen = {rule: marked(choose(rule, branches, config, scale, generator)[:, choosing]) for rule in RULES}
    return {
        rule: {
            "recall": ((is_chosen & best).sum() / best.sum()).item(),
            "free_recall": ((is_chosen & best & free).sum() / (best & free).sum()).item(),
            "mass": (mass * is_chosen).sum(-1).mean().item(),
        }
        for rule, is_chosen in {**chosen, "best": best}.items()
    }
