"""What the assignment gives to a submission beside tensors: settings and a compression φ."""

import torch

from minisys.nsa.config import NSAConfig


def config(**fields):
    """Settings of native sparse attention."""
    return NSAConfig(**fields)


def phi(weights):
    """φ with fixed `weights` ``[l, head_dim, head_dim]``; the order of tokens and of features counts."""
    block, head_dim, _ = weights.shape

    def compress_blocks(blocks):
        if blocks.ndim < 2 or tuple(blocks.shape[-2:]) != (block, head_dim):
            raise ValueError(
                f"phi: got blocks of shape {tuple(blocks.shape)}, "
                f"expected [b, tc, h, l, head_dim] with l = {block} and head_dim = {head_dim}"
            )
        return torch.tanh(torch.einsum("...ld,lde->...e", blocks, weights))

    return compress_blocks
