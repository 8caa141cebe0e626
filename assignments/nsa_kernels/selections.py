"""Selections to ask with, what a key counts in them, and how many bytes and FLOPs they take at least."""

from dataclasses import replace

import torch

from minisys.core.data import load_corpus
from minisys.nsa.attention import select_blocks
from minisys.nsa.small import CONFIG, layer_branches, load_small

KEY_BYTES = 4  # a number of a key or a value: float32


def draw_blocks(generator, t, hk, n, block):
    """``[t, hk, n]``: rising numbers at or before a token's own block, -1 at the end.

    Some stand there twice, and some lists are empty. The own block is often among them, so that causality
    within a block shows.
    """
    own = (torch.arange(t) // block)[:, None, None]
    number = (torch.rand(t, hk, n, generator=generator, dtype=torch.float64) * (own + 1)).long()
    number[..., 0] = own[..., 0]
    length = torch.randint(0, 2 * n, (t, hk, 1), generator=generator)  # half of the lists are full
    none = t  # sorts behind every number
    number = number.masked_fill(torch.arange(n) >= length, none).sort(dim=-1).values
    return number.masked_fill(number == none, -1)


def merged(block_indices, tokens):
    """The codes of part 3, by counting in a table of blocks."""
    t, _, n = block_indices.shape
    tiles = -(-t // tokens)
    block = torch.arange(int(block_indices.max()) + 1 if block_indices.numel() else 0)
    wants = (block_indices[..., None] == block).any(dim=2)  # [t, hk, blocks]
    wants = torch.nn.functional.pad(wants, (0, 0, 0, 0, 0, tiles * tokens - t)).unflatten(0, (tiles, tokens))
    bits = (wants.long() << torch.arange(tokens)[:, None, None]).sum(dim=1)  # [tiles, hk, blocks]
    codes = ((block << tokens) + bits).masked_fill(bits == 0, torch.iinfo(torch.int64).max)
    codes = codes.sort(dim=-1).values[..., : tokens * n]
    codes = codes.masked_fill(codes == torch.iinfo(torch.int64).max, -1)
    return torch.nn.functional.pad(codes, (0, tokens * n - codes.shape[-1]), value=-1)


def list_steps(block_indices, block, t):
    """``[n, hk, 1, t, s]``: which keys each place of the lists names, before anything else is hidden."""
    names = block_indices[..., None] == torch.arange(t) // block  # [t, hk, n, s]
    return names.permute(2, 1, 0, 3)[:, :, None]


def code_steps(codes, tokens, block, t, *, bit=lambda place: place):
    """``[c, hk, 1, t, s]``: which keys each place of the merged lists names for each token.

    `bit` says which bit stands for the token at a place of the tile.
    """
    token = torch.arange(t)
    own = codes[token // tokens]  # [t, hk, c]
    wants = (own >> bit(token % tokens)[:, None, None] & 1).bool() & (own >= 0)
    names = (own >> tokens)[..., None] == torch.arange(t) // block
    return (names & wants[..., None]).permute(2, 1, 0, 3)[:, :, None]


def causal(t):
    """``[t, s]``: a token sees itself and what is before it."""
    return torch.ones(t, t, dtype=torch.bool).tril()


def least(steps, tokens, g, d_qk, d_v):
    """Bytes of keys and values and FLOPs that tiles of `tokens` tokens cannot do without.

    `steps` as above. Gives loads of a key for each tile that sees it, and products for each row that sees it.
    """
    seen = steps.any(dim=0).any(dim=1) & causal(steps.shape[-1])  # [hk, t, s]
    tiles = torch.nn.functional.pad(seen, (0, 0, 0, -seen.shape[1] % tokens)).unflatten(1, (-1, tokens))
    keys = int(tiles.any(dim=2).sum())
    return {
        "k": keys * d_qk * KEY_BYTES,
        "v": keys * d_v * KEY_BYTES,
        "flops": 2 * (d_qk + d_v) * g * int(seen.sum()),
    }


def real_selection(t, block, top_n):
    """What one group of the trained small model selects while it reads source code: q, k, v, block_indices.

    Layer 2, key/value head 1, with shorter blocks than it was trained with, because the interpreter is slow.
    q ``[t, 2, 32]``, k and v ``[t, 1, 32]``, block_indices ``[t, 1, top_n]``.
    """
    config = replace(CONFIG, select_block=block, top_n=top_n)
    text = load_corpus().validation[4000 : 4000 + t]
    layer = layer_branches(load_small(), text[None].long())[2]
    indices = select_blocks(layer["q"], layer["k_cmp"], config=config, backend="reference")
    picked = layer["q"][0, :, 2:], layer["k_slc"][0, :, 1:], layer["v_slc"][0, :, 1:], indices[0, :, 1:]
    return tuple(x.contiguous() for x in picked)
