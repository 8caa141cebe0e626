"""The selected branch in Triton, part 3: one list for several tokens. README.md says how it is graded.

Letters as in the course: t tokens, hk key/value heads, n blocks that a token selects. A tile is `tokens`
tokens that follow one another. This file needs no Triton; plain Python will do.
"""

import torch
from jaxtyping import Int


def merge_lists(
    block_indices: Int[torch.Tensor, "t hk n"], tokens: int
) -> Int[torch.Tensor, "tiles hk tokens_times_n"]:
    """Part 3: for every tile and key/value head the blocks that its tokens selected, each once, with who did.

    Tile i holds the tokens i·tokens … i·tokens + tokens - 1; the last one may be cut short, so that there are
    ceil(t / tokens). A block of a tile's list is one whole number,

        code = block · 2^tokens + bits

    where bit p of `bits` (worth 2^p) is set if token p of the tile selected the block, p = 0 being the first.
    Codes rise, and -1 fills the rest of the tokens·n places.

    A token's numbers in `block_indices` rise, with -1 for no block at the end. A number may stand there twice
    in a row; that means the same as once.

        tokens = 2, lists {0, 7, 9} and {0, 9}:   0·4 + 0b11, 7·4 + 0b01, 9·4 + 0b11  =  3, 29, 39, -1, -1, -1
    """
    # BEGIN SOLUTION
    t, hk, n = block_indices.shape
    tiles = -(-t // tokens)
    codes = torch.full((tiles, hk, tokens * n), -1, dtype=block_indices.dtype)
    for tile in range(tiles):
        first = tile * tokens
        for group in range(hk):
            bits = {}
            for token in range(first, min(first + tokens, t)):
                for block in block_indices[token, group].tolist():
                    if block >= 0:
                        bits[block] = bits.get(block, 0) | 1 << (token - first)
            merged = [(block << tokens) + bits[block] for block in sorted(bits)]
            codes[tile, group, : len(merged)] = torch.tensor(merged, dtype=codes.dtype)
    return codes
    # END SOLUTION
