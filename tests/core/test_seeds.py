"""Seeds: separate streams, and the caller's random state left alone."""

import pytest
import torch

from minisys.core.seeds import derive_seed, generator_for, seeded


def test_a_derived_seed_depends_on_every_part_and_their_order():
    seeds = [derive_seed(*parts) for parts in ((1, 2), (2, 1), (1, "2"), (12,), (1, 2, 0), ("1, 2",))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "train", 7) == 8054801439241641364  # a change would change every run


def test_generators_of_equal_parts_agree():
    assert torch.equal(
        torch.rand(3, generator=generator_for(1, "a")), torch.rand(3, generator=generator_for(1, "a"))
    )
    assert not torch.equal(
        torch.rand(3, generator=generator_for(1)), torch.rand(3, generator=generator_for(2))
    )


def fail_inside(seed):
    with seeded(seed):
        torch.rand(5)
        raise RuntimeError


def test_seeded_repeats_and_puts_the_state_back_also_after_an_error():
    state = torch.get_rng_state()
    draws = []
    for seed in (3, 3, 4):
        with seeded(seed):
            draws.append(torch.rand(5))
    with pytest.raises(RuntimeError):
        fail_inside(3)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)
