"""Who reads which block, from both sides: blocks for a tile of tokens, and tokens for a block.

Forward and dq walk over the blocks of a tile. Neighbouring tokens share some of what they selected, the
initial and the local blocks always, so a tile's list names each block once, with one bit for each token that
wants it:

        code = block · 2^tokens + bits            tile of 2 tokens: {0, 7, 9} and {0, 9} give 0:11, 7:01, 9:11

dk and dv want the opposite: for a block the tokens that selected it, as compressed sparse rows (all lists in
one array, sorted by block, and an array of where each begins). A popular block, as the first one, which every
token reads, has a long list; so lists are cut into stretches that programs of their own take.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from minisys.nsa.kernels.layout import Layout
from minisys.nsa.kernels.tiles import power_of_two

MAX_CODES = 256  # of a tile: the kernel below compares all pairs


@triton.jit(do_not_specialize=["hk", "n"])
@no_type_check
def merge_kernel(
    block_indices,
    tiles,
    codes,
    counts,
    hk,
    n,
    SELECT_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    N_PADDED: tl.constexpr,
):
    program = tl.program_id(0)
    tile = tiles + program // hk * 4
    kv_head = program % hk
    token = tl.load(tile).to(tl.int64)
    position = tl.load(tile + 1)
    count = tl.load(tile + 2)
    entry = tl.arange(0, TOKENS * N_PADDED)
    place = entry // N_PADDED
    slot = entry % N_PADDED
    numbers = block_indices + ((token + place) * hk + kv_head) * n + slot
    block = tl.load(numbers, mask=(place < count) & (slot < n), other=-1)
    valid = (block >= 0) & (block <= (position + place) // SELECT_BLOCK)
    block = tl.where(valid, block, 0x7FFFFFFF)

    same = block[:, None] == block[None, :]  # [own, other]
    earlier = entry[None, :] < entry[:, None]
    first = tl.sum((same & earlier).to(tl.int32), axis=1) == 0
    other_first = tl.sum((same & (entry[:, None] < entry[None, :])).to(tl.int32), axis=0) == 0
    rank = tl.sum((other_first[None, :] & (block[None, :] < block[:, None])).to(tl.int32), axis=1)
    bits = tl.sum(tl.where(same, 1 << place[None, :], 0), axis=1)  # a token names a block once
    kept = first & valid
    target = codes + program.to(tl.int64) * (TOKENS * n) + rank
    tl.store(target, (block << TOKENS) | bits, mask=kept)
    past = kept & ((block + 1) * SELECT_BLOCK <= position + 1)
    tl.store(counts + program * 2, tl.sum(kept.to(tl.int32), axis=0))
    tl.store(counts + program * 2 + 1, tl.sum(past.to(tl.int32), axis=0))


def max_tokens(layout: Layout) -> int:
    """Most tokens of a tile, a power of two: a code has a bit for each beside the block's number, in 31
    bits."""
    room = 31 - layout.config.num_selectable(layout.longest).bit_length()
    return min(16, 1 << (room.bit_length() - 1))


def merged_lists(
    block_indices: Int[Tensor, "tokens hk n"], layout: Layout, tokens: int
) -> tuple[Int[Tensor, "tiles hk codes"], Int[Tensor, "tiles hk 2"]]:
    """Codes of the blocks of every tile of `tokens` tokens, rising by block; how many, and how many of them
    end at or before the tile's first token; int32.

    `block_indices` as `ordered_blocks` gives them; blocks behind a token are left out.
    """
    _, hk, n = block_indices.shape
    tiles = layout.tiles(tokens)
    codes = torch.empty(len(tiles), hk, tokens * n, dtype=torch.int32, device=block_indices.device)
    counts = torch.empty(len(tiles), hk, 2, dtype=torch.int32, device=block_indices.device)
    n_padded = power_of_two(max(1, n))
    with torch.cuda.device_of(block_indices):
        merge_kernel[(len(tiles) * hk,)](
            block_indices, tiles, codes, counts, hk, n, SELECT_BLOCK=layout.config.select_block,
            TOKENS=tokens, N_PADDED=n_padded, num_warps=1 if tokens * n_padded <= 64 else 4,
        )  # fmt: skip
    return codes, counts


def ordered_blocks(block_indices: Int[Tensor, "*lead n"]) -> Int[Tensor, "*lead n"]:
    """Each row's block numbers in rising order, every number once, -1 behind them; int32."""
    none = torch.iinfo(torch.int32).max
    numbers = block_indices.to(torch.int32)
    numbers = numbers.where(numbers >= 0, none).sort(dim=-1).values
    repeated = torch.nn.functional.pad(numbers[..., 1:] == numbers[..., :-1], (1, 0))
    numbers = numbers.masked_fill(repeated, none).sort(dim=-1).values
    return numbers.masked_fill(numbers == none, -1)


def query_lists(block_indices: Tensor, layout: Layout, stretch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens by the block that they selected: (tokens, list starts, stretch lists, stretch starts), int32.

    Args:
        block_indices: ``[tokens, hk, n]`` in rising order without repeats, -1 behind them.
        layout: of the sequences.
        stretch: tokens that one program takes.

    List number block·hk + head is tokens[list_starts[i] : list_starts[i + 1]], rising. Its stretches are
    number stretch_starts[i] … stretch_starts[i + 1] - 1, and stretch_lists names the list of each stretch, -1
    for those that the bound allows and nobody needs. No number comes back to the CPU.
    """
    tokens, hk, n = block_indices.shape
    device = block_indices.device
    positions = layout.positions()
    lists = len(layout.blocks()) * hk
    own = positions[:, 0, None, None] // layout.config.select_block
    number = (block_indices + positions[:, 1, None, None]) * hk
    number = number + torch.arange(hk, device=device, dtype=torch.int32)[:, None]
    number = torch.where((block_indices >= 0) & (block_indices <= own), number, lists).to(torch.int32)
    ordered, entry = number.flatten().sort(stable=True)
    listed = (entry // (hk * n)).to(torch.int32)
    bounds = torch.arange(lists + 1, device=device, dtype=torch.int32)
    list_starts = torch.searchsorted(ordered, bounds, out_int32=True)
    counts = list_starts[1:] - list_starts[:-1]
    ends = torch.cumsum((counts + stretch - 1) // stretch, 0, dtype=torch.int32)
    stretch_starts = torch.cat([ends.new_zeros(1), ends])
    most = min(lists + tokens * hk * n // stretch, tokens * hk * n)
    stretch_lists = torch.searchsorted(
        ends, torch.arange(most, device=device, dtype=torch.int32), right=True, out_int32=True
    )
    return listed, list_starts, stretch_lists.masked_fill_(stretch_lists == lists, -1), stretch_starts
