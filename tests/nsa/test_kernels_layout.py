"""The kernels' tables against loops over sequences: tiles, blocks, positions, who reads which block."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minisys.nsa import NSAConfig

from . import kernel_cases as cases
from .kernel_cases import DEVICE, SMALL, layout_of

from minisys.nsa.kernels.layout import Layout  # isort: skip  (skipped without Triton)
from minisys.nsa.kernels.lists import merged_lists, ordered_blocks, query_lists  # isort: skip

lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=5)
configs = st.sampled_from([SMALL, NSAConfig(1, 1, 3, 4), NSAConfig(4, 4, 12, 4), NSAConfig(9, 3, 6, 4)])
many = cases.settings(cases.few, max_examples=30)


def starts(amounts):
    return [0, *itertools.accumulate(amounts)]


@many
@given(lengths=lengths_of, config=configs, size=st.integers(1, 20))
def test_tables(lengths, config, size):
    layout = layout_of(config, lengths)
    compressed = [config.num_compressed(t) for t in lengths]
    tokens, keys = starts(lengths), starts(compressed)
    pieces = lambda amount, size: range(0, amount, size)

    tiles = [
        [tokens[i] + p, p, min(size, t - p), keys[i]] for i, t in enumerate(lengths) for p in pieces(t, size)
    ]
    got = layout.tiles(size).tolist()
    assert sorted(got) == sorted(tiles)
    assert [row[1] for row in got] == sorted((row[1] for row in got), reverse=True)

    for compressed_keys, amounts, first in ((False, lengths, tokens), (True, compressed, keys)):
        expected = [
            [first[i] + p, p, min(size, amount - p), tokens[i], lengths[i]]
            for i, amount in enumerate(amounts)
            for p in pieces(amount, size)
        ]
        got = layout.key_tiles(size, compressed=compressed_keys).tolist()
        assert sorted(got) == sorted(expected)
        assert [row[1] for row in got] == sorted(row[1] for row in got)

    length = config.select_block
    blocks = [
        [tokens[i] + p, p, min(length, t - p)] for i, t in enumerate(lengths) for p in pieces(t, length)
    ]
    assert layout.blocks().tolist() == blocks
    first_block = starts(config.num_selectable(t) for t in lengths)
    positions = [[p, first_block[i]] for i, t in enumerate(lengths) for p in range(t)]
    assert layout.positions().tolist() == positions
    assert layout.longest == max(lengths)


def test_tables_are_small_integers_made_once():
    layout, again = layout_of(SMALL, [9, 30]), layout_of(SMALL, [9, 30])
    for table in (Layout.blocks, Layout.positions):
        assert table(layout).dtype == torch.int32
        assert table(layout) is table(again)
    assert layout.tiles(4) is again.tiles(4)
    assert layout.key_tiles(4, compressed=True) is again.key_tiles(4, compressed=True)


def test_layout_of_a_million_tokens():
    """Tables are linear in the sequence, and their numbers fit."""
    layout = Layout(((0, 2**20),), NSAConfig(), torch.device("cpu"))
    assert layout.tiles(8).shape == (2**17, 4)
    assert layout.tiles(8)[0].tolist() == [2**20 - 8, 2**20 - 8, 8, 0]
    assert layout.blocks()[-1].tolist() == [2**20 - 64, 2**20 - 64, 64]


# Query lists.


def draw_ordered(layout, hk, n, seed):
    """Ordered block numbers of every token, of the future too, as a caller may give them."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randint(
            -1, layout.config.num_selectable(end - start), (end - start, hk, n), generator=generator
        )
        for start, end in layout.bounds
    ]
    return ordered_blocks(torch.cat(rows)).to(DEVICE)


@many
@given(
    lengths=lengths_of,
    config=configs,
    hk=st.integers(1, 3),
    n=st.integers(0, 5),
    stretch=st.sampled_from([1, 3, 8, 2048]),
    seed=st.integers(0, 2**31),
)
def test_query_lists(lengths, config, hk, n, stretch, seed):
    layout = layout_of(config, lengths)
    blocks = draw_ordered(layout, hk, n, seed)
    listed, list_starts, stretch_lists, stretch_starts = query_lists(blocks, layout, stretch)
    for table in (listed, list_starts, stretch_lists, stretch_starts):
        assert table.dtype == torch.int32

    first_block = starts(config.num_selectable(t) for t in lengths)
    expected = [[] for _ in range(first_block[-1] * hk)]
    rows = blocks.tolist()
    for i, (start, end) in enumerate(layout.bounds):
        for token, head in itertools.product(range(start, end), range(hk)):
            for block in rows[token][head]:
                if 0 <= block <= (token - start) // config.select_block:
                    expected[(first_block[i] + block) * hk + head].append(token)

    ends = list_starts.tolist()
    tokens = listed.tolist()
    assert len(ends) == len(expected) + 1
    assert [tokens[a:b] for a, b in itertools.pairwise(ends)] == expected
    counts = [-(-len(entries) // stretch) for entries in expected]
    assert stretch_starts.tolist() == starts(counts)
    named = [i for i, count in enumerate(counts) for _ in range(count)]
    unused = len(stretch_lists) - len(named)
    assert unused >= 0
    assert stretch_lists.tolist() == named + [-1] * unused
    entries = blocks.numel()  # the workspace is bounded without a look at the numbers
    assert len(stretch_lists) <= min(len(expected) + entries // stretch, entries)


def test_query_lists_wait_for_nothing(monkeypatch):
    """No number comes back to the CPU, so that the GPU never waits: no value of a tensor is asked for."""
    layout = layout_of(SMALL, [40])
    blocks = draw_ordered(layout, 2, 4, 0)
    layout.positions(), layout.blocks()  # made and kept

    def asked(*_):
        raise AssertionError("a number was brought to the CPU")

    for name in ("item", "tolist", "nonzero", "cpu", "__bool__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    query_lists(blocks, layout, 4)


@pytest.mark.gpu
# PyTorch warns once a process that this mode does not find everything.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_query_lists_synchronise_nothing():
    layout = layout_of(NSAConfig(), [5000])
    blocks = draw_ordered(layout, 4, 16, 0)
    query_lists(blocks, layout, 256)
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        query_lists(blocks, layout, 256)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@cases.few
@given(
    lengths=lengths_of,
    config=configs,
    hk=st.integers(1, 2),
    n=st.sampled_from([1, 3, 5, 8]),
    tokens=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
)
def test_merged_lists(lengths, config, hk, n, tokens, seed):
    """A tile's list names each block once, rising, with a bit for every token that reads it.

    The second count is of the blocks that end at or before the tile's first token.
    """
    layout = layout_of(config, lengths)
    blocks = draw_ordered(layout, hk, n, seed)
    codes, counts = merged_lists(blocks, layout, tokens)
    assert codes.shape == (len(layout.tiles(tokens)), hk, tokens * n)
    rows = blocks.tolist()
    for i, (token, position, count, _) in enumerate(layout.tiles(tokens).tolist()):
        for head in range(hk):
            bits = {}
            for place in range(count):
                for block in rows[token + place][head]:
                    if 0 <= block <= (position + place) // config.select_block:
                        bits[block] = bits.get(block, 0) | 1 << place
            expected = [block << tokens | bits[block] for block in sorted(bits)]
            length = config.select_block
            past = sum(block * length + length - 1 <= position for block in bits)
            assert counts[i, head].tolist() == [len(expected), past]
            assert codes[i, head, : len(expected)].tolist() == expected


@many
@given(st.lists(st.lists(st.integers(-1, 9), min_size=5, max_size=5), min_size=1, max_size=6))
def test_ordered_blocks(rows):
    got = ordered_blocks(torch.tensor(rows))
    assert got.dtype == torch.int32
    for row, ordered in zip(rows, got.tolist(), strict=True):
        numbers = sorted({number for number in row if number >= 0})
        assert ordered == numbers + [-1] * (len(row) - len(numbers))
