"""Seeds: a stream of random numbers for each purpose, without touching the caller's."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2⁶³) that depends on all `parts`, for example ``derive_seed(seed, "train", step)``.

    Hashed rather than added, so that (seed 1, step 2) and (seed 2, step 1) have nothing in common.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with ``derive_seed(*parts)``."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's global generators set to `seed`, and put them back afterwards.

    Covers the CPU and, once CUDA is in use, the current GPU.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
