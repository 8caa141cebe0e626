"""What typical mistakes with merged lists give: plain loops with one thing done otherwise."""

import torch

from minisys.grade.assignment import Mistake


def merge(
    block_indices, tokens, *, whole_tiles=False, all_heads=False, strided=False, backwards=False,
    together=True, ordered=True, add=False, shift=None, first_bit=0, clamp=False, back=False,
):  # fmt: skip
    """The codes of part 3; all but the first two arguments say what is done otherwise."""
    t, hk, n = block_indices.shape
    tiles = t // tokens if whole_tiles else -(-t // tokens)
    codes = torch.full((tiles, hk, tokens * n), -1, dtype=torch.int64)
    for tile in range(tiles):
        first = max(0, min(tile * tokens, t - tokens)) if back else tile * tokens
        members = range(tile, t, tiles) if strided else range(first, min(first + tokens, t))
        for head in range(hk):
            found = []  # (block, bit) as they come
            for place, token in enumerate(members):
                bit = tokens - 1 - place if backwards else place + first_bit
                heads = range(hk) if all_heads else [head]
                numbers = [number for h in heads for number in block_indices[token, h].tolist()]
                numbers = [max(number, 0) if clamp else number for number in numbers]
                numbers = [number for number in numbers if number >= 0]
                found += [(number, 1 << bit) for number in (numbers if add else dict.fromkeys(numbers))]
            merged = {}
            for number, bit in found:
                merged[number] = merged.get(number, 0) + bit if add else merged.get(number, 0) | bit
            pairs = list(merged.items()) if together else found
            pairs = sorted(pairs) if ordered else pairs
            width = tokens if shift is None else shift
            own = [(number << width) + bits for number, bits in pairs]
            own = own[: tokens * n]
            codes[tile, head, : len(own)] = torch.tensor(own, dtype=torch.int64)
    return codes


def number_only(block_indices, tokens):
    """Blocks without their bits."""
    codes = merge(block_indices, tokens)
    return torch.where(codes < 0, codes, codes >> tokens)


def mistake(key, says, **changed):
    return Mistake(key, says, lambda **arguments: merge(**arguments, **changed))


BIT_ORDER = "Bit p, worth 2^p, is token p of the tile, and p = 0 is its first token."
LISTS = [
    mistake("bit-order", f"Your bits run backwards. {BIT_ORDER}", backwards=True),
    mistake("bit-order", f"Your bits begin at 1. {BIT_ORDER}", first_bit=1),
    mistake(
        "not-merged",
        "A block that several tokens selected stands in the list once for each. It stands there once, with "
        "all their bits.",
        together=False,
    ),
    mistake(
        "carry",
        "A token that names a block twice adds its bit twice, and two times bit p is bit p + 1, another "
        "token's. Set bits with |.",
        add=True,
    ),
    mistake("unsorted", "The codes of a list must rise.", ordered=False),
    mistake("minus-one", "You read the number -1 as block 0. It stands for no block.", clamp=True),
    mistake(
        "last-tile",
        "The last tile is missing where the tokens do not divide t: there are ceil(t / tokens) tiles.",
        whole_tiles=True,
    ),
    mistake(
        "last-tile-moved",
        "Your last tile begins earlier, so that it is full. Tile i begins at i·tokens, the last is cut.",
        back=True,
    ),
    mistake("heads", "You merge over the key/value heads. Each head has lists of its own.", all_heads=True),
    mistake(
        "strided",
        "Your tiles hold every tiles-th token. A tile's tokens follow one another: they share most blocks.",
        strided=True,
    ),
    mistake(
        "width",
        "The block's number must be moved up by as many bits as a tile has tokens, else bits run into it.",
        shift=1,
    ),
    Mistake("no-bits", "Your list has the blocks' numbers without the tokens' bits.", number_only),
]
