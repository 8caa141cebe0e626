"""Selection rules and their recall, on cases small enough to work by hand."""

import pytest
import torch

from minisys.nsa import NSAConfig
from minisys.nsa.recall import RULES, block_mass, choose, quest_scores, selection_recall
from minisys.nsa.reference import top_blocks

CONFIG = NSAConfig(
    compress_block=2, compress_stride=2, select_block=2, top_n=3, initial_blocks=1, local_blocks=1, window=2
)


def branches(t=12, hq=4, hk=2, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return {"q": draw(1, t, hq, d), "k_cmp": draw(1, t // 2, hk, d), "k_slc": draw(1, t, hk, d)}


def test_mass_of_equal_keys_is_spread_evenly():
    x = branches()
    mass = block_mass(x["q"], torch.zeros_like(x["k_slc"]), CONFIG, 1.0)
    assert torch.allclose(mass.sum(-1), torch.ones(1, 12, 2, dtype=torch.float64))
    assert torch.allclose(mass[0, 4, 0], torch.tensor([0.4, 0.4, 0.2, 0, 0, 0], dtype=torch.float64))


def test_mass_is_the_mean_over_the_heads_of_a_group():
    x = branches(hq=2, hk=1)
    heads = [block_mass(x["q"][:, :, h : h + 1], x["k_slc"], CONFIG, 1.0) for h in range(2)]
    assert torch.allclose(block_mass(x["q"], x["k_slc"], CONFIG, 1.0), (heads[0] + heads[1]) / 2)


def test_quest_bounds_every_score_of_the_block():
    x = branches(t=11, hq=2)
    bound = quest_scores(x["q"], x["k_slc"], CONFIG)
    scores = torch.einsum("bthd,bshd->bths", x["q"], x["k_slc"])
    for j in range(6):
        inside = scores[..., 2 * j : 2 * j + 2].amax(-1)
        assert (bound[..., j] >= inside - 1e-12).all()
    one = NSAConfig(1, 1, 1, top_n=3, local_blocks=1)  # blocks of one token: the bound is the score
    assert torch.allclose(quest_scores(x["q"], x["k_slc"], one), scores)


def test_local_reads_the_last_blocks_and_all_rules_are_causal():
    x = branches()
    assert choose("local", x, CONFIG, 1.0)[0, 11, 0].tolist() == [3, 4, 5]
    for rule in RULES:
        chosen = choose(rule, x, CONFIG, 1.0, torch.Generator().manual_seed(1))
        assert (chosen <= torch.arange(12)[:, None, None] // 2).all()
        assert (chosen[0, :, :, 0] >= 0).all()


def test_nsa_chooses_by_mass_where_the_compressed_keys_carry_the_scores():
    """One head a group and both keys of a block alike: the order by p_cmp is the order by mass."""
    x = branches(hq=2)
    x["k_slc"] = x["k_slc"][:, ::2].repeat_interleave(2, dim=1)
    x["k_cmp"] = x["k_slc"][:, ::2]
    by_mass = top_blocks(block_mass(x["q"], x["k_slc"], CONFIG, 1.0), CONFIG)
    assert torch.equal(choose("nsa", x, CONFIG, 1.0), by_mass)
    found = selection_recall(x, CONFIG, 1.0)
    assert found["best"]["recall"] == found["best"]["free_recall"] == 1.0
    assert found["nsa"]["recall"] > found["local"]["recall"]
    assert found["best"]["mass"] >= max(found[rule]["mass"] for rule in RULES)


def test_recall_by_hand():
    """One head; keys along one axis, so that block 2 and then block 4 hold most of the mass."""
    t = 12
    k = torch.zeros(1, t, 1, 1, dtype=torch.float64)
    k[0, 4:6], k[0, 8:10] = 5.0, 3.0
    x = {"q": torch.ones(1, t, 1, 1, dtype=torch.float64), "k_slc": k, "k_cmp": torch.zeros_like(k[:, :6])}
    found = selection_recall(x, CONFIG, 1.0)
    # queries 6 to 11 choose; flat compressed keys rank by visible pieces, ties to the earlier: {0, 1, own}
    assert found["nsa"]["mass"] < 0.1
    # local reads the own block and the two before: block 2 is among them for queries 6 to 9 only
    last = block_mass(x["q"], k, CONFIG, 1.0)[0, 6:, 0]
    expected = torch.stack([last[i, (6 + i) // 2 - 2 : (6 + i) // 2 + 1].sum() for i in range(6)]).mean()
    assert found["local"]["mass"] == pytest.approx(expected.item(), rel=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="q: got 6 tokens, expected more than 6"):
        selection_recall(branches(t=6), CONFIG, 1.0)
    with pytest.raises(ValueError, match="rule: got 'best'"):
        choose("best", branches(), CONFIG, 1.0)
