"""The reference against hand-worked cases and against a second oracle written token by token."""

import pytest
import torch

from minisys.nsa import NSAConfig, compress, nsa_attention, select_blocks
from minisys.nsa.reference import (
    attention_weights,
    block_importance,
    block_overlap,
    compressed_mask,
    masked_softmax,
    selected_mask,
    top_blocks,
    window_mask,
)


def relative_error(out, expected):
    return ((out - expected).norm() / expected.norm()).item()


# Block mapping, worked by hand.


def test_overlap_with_the_papers_numbers():
    """l=32, d=16, l'=64: block j gets compressed blocks 4j to 4j+2 whole, 4j-1 and 4j+3 by half."""
    overlap = block_overlap(192, NSAConfig())
    assert overlap.shape == (11, 3)
    assert overlap[:, 0].tolist() == [2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert overlap[:, 1].tolist() == [0, 0, 0, 1, 2, 2, 2, 1, 0, 0, 0]
    assert overlap[:, 2].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2]


def test_overlap_equals_equation_9_term_by_term():
    config = NSAConfig(compress_block=12, compress_stride=3, select_block=6)
    t = 61
    overlap = block_overlap(t, config)
    expected = torch.zeros_like(overlap)
    for j in range(config.num_selectable(t)):
        for m in range(config.select_block // config.compress_stride):
            for n in range(config.compress_block // config.compress_stride):
                i = config.select_block // config.compress_stride * j + m - n
                if 0 <= i < config.num_compressed(t):
                    expected[i, j] += 1
    assert torch.equal(overlap, expected)


def test_every_piece_is_credited_once():
    config = NSAConfig(compress_block=8, compress_stride=2, select_block=4)
    assert torch.equal(block_overlap(50, config).sum(dim=1), torch.full((config.num_compressed(50),), 4))


def test_importance_sums_over_the_heads_of_a_group():
    config = NSAConfig(compress_block=4, compress_stride=2, select_block=4, top_n=4)
    p_cmp = torch.zeros(1, 1, 2, 8, 3, dtype=torch.float64)  # t = 8: compressed blocks at 0, 2, 4
    p_cmp[0, 0, 0, 7] = torch.tensor([1.0, 0.0, 0.0])
    p_cmp[0, 0, 1, 7] = torch.tensor([0.0, 0.5, 0.5])
    # block 0: pieces 0 and 1 of compressed block 0, piece 1 of compressed block 1; block 1: the rest
    assert block_importance(p_cmp, config)[0, 7, 0].tolist() == [2.5, 1.5]


def test_a_compressed_block_is_seen_from_its_last_token_on():
    config = NSAConfig(compress_block=4, compress_stride=2, select_block=4, top_n=4)
    assert compressed_mask(8, config).sum(dim=1).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_window_counts_the_query_itself():
    config = NSAConfig(window=3)
    assert window_mask(5, config).sum(dim=1).tolist() == [1, 2, 3, 3, 3]


# Selection, worked by hand: blocks of 4 tokens, the query at token 27 lies in block 6.
SELECT = NSAConfig(
    compress_block=4, compress_stride=4, select_block=4, top_n=5, initial_blocks=1, local_blocks=2
)


def pick(importance, config=SELECT, t=28):
    rows = torch.tensor(importance, dtype=torch.float64).expand(1, t, 1, -1)
    return top_blocks(rows, config)[0, t - 1, 0].tolist()


def test_forced_blocks_count_and_the_best_of_the_rest_fill_up():
    assert pick([0.0, 0.1, 0.9, 0.2, 0.8, 0.0, 0.0]) == [0, 2, 4, 5, 6]


def test_ties_go_to_the_earlier_block():
    assert pick([0.0, 0.3, 0.3, 0.3, 0.3, 0.0, 0.0]) == [0, 1, 2, 5, 6]
    assert pick([0.0] * 7) == [0, 1, 2, 5, 6]


def test_a_forced_block_is_in_even_if_it_is_the_least_important():
    assert pick([0.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0]) == [0, 1, 2, 5, 6]


def test_future_blocks_are_never_chosen_and_missing_ones_are_minus_one():
    blocks = top_blocks(torch.ones(1, 28, 1, 7), SELECT)[0, :, 0]
    assert blocks[0].tolist() == [0, -1, -1, -1, -1]
    assert blocks[4].tolist() == [0, 1, -1, -1, -1]
    assert blocks[11].tolist() == [0, 1, 2, -1, -1]
    assert blocks[19].tolist() == [0, 1, 2, 3, 4]


def test_without_initial_blocks_the_first_block_competes():
    config = NSAConfig(
        compress_block=4, compress_stride=4, select_block=4, top_n=3, initial_blocks=0, local_blocks=1
    )
    assert pick([0.1, 0.5, 0.2, 0.4, 0.3, 0.0, 0.0], config) == [1, 3, 6]


def test_top_n_larger_than_the_number_of_blocks():
    config = NSAConfig(compress_block=4, compress_stride=4, select_block=4, top_n=9)
    assert pick([0.0, 0.1, 0.9], config, t=11) == [0, 1, 2, -1, -1, -1, -1, -1, -1]


def test_selected_mask_is_causal_and_ignores_order_and_repeats():
    indices = torch.tensor([[1, 0, -1], [0, 1, 1]]).repeat(4, 1)[None, :, None]  # t = 8, blocks of 4
    mask = selected_mask(indices, SELECT)[0, 0, 0]
    assert torch.equal(mask, torch.ones(8, 8, dtype=torch.bool).tril())


def test_softmax_row_that_sees_nothing_is_zero_with_zero_gradient():
    scores = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    weights = masked_softmax(scores, mask)
    assert torch.equal(weights[:, 1], torch.zeros(2, 5, dtype=torch.float64))
    weights.square().sum().backward()
    assert torch.equal(scores.grad[:, 1], torch.zeros(2, 5, dtype=torch.float64))
    assert scores.grad[:, 0].abs().min() > 0
    assert torch.isfinite(scores.grad).all()


# Against the token-by-token oracle.

CASES = {
    "grouped": {},
    "one head a group": {"hq": 3, "hk": 3},
    "all heads in one group": {"hq": 5, "hk": 1},
    "values wider than keys": {"d_qk": 4, "d_v": 9},
    "one token": {"t": 1},
    "shorter than a compressed block": {"t": 3},
    "no multiple of a block": {"t": 37},
    "shorter than the window": {"t": 5},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_token_by_token_oracle(case, small_config, make_inputs, oracle):
    inputs = make_inputs(small_config, **case)
    expected, blocks = oracle(inputs, small_config)
    assert torch.equal(select_blocks(inputs["q"], inputs["k_cmp"], config=small_config), blocks)
    assert relative_error(nsa_attention(**inputs, config=small_config), expected) < 1e-14


CONFIGS = [
    NSAConfig(compress_block=2, compress_stride=2, select_block=2, top_n=3, window=1),
    NSAConfig(compress_block=12, compress_stride=3, select_block=6, top_n=3, window=9),
    NSAConfig(4, 4, 16, top_n=2, initial_blocks=0, local_blocks=1, window=3),
    NSAConfig(8, 4, 4, top_n=6, initial_blocks=2, local_blocks=3, window=100),
    NSAConfig(1, 1, 1, top_n=7, window=4),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_other_configs_equal_the_oracle(config, make_inputs, oracle):
    inputs = make_inputs(config, t=45, seed=3)
    expected, blocks = oracle(inputs, config)
    assert torch.equal(select_blocks(inputs["q"], inputs["k_cmp"], config=config), blocks)
    assert relative_error(nsa_attention(**inputs, config=config), expected) < 1e-14


def test_scale_reaches_every_branch(small_config, make_inputs, oracle):
    inputs = make_inputs(small_config, seed=5)
    for branch in range(3):
        alone = dict(inputs, gates=torch.zeros_like(inputs["gates"]))
        alone["gates"][..., branch] = 1.0
        expected, _ = oracle(alone, small_config, scale=0.9)
        out = nsa_attention(**alone, config=small_config, scale=0.9)
        assert relative_error(out, expected) < 1e-14
        assert relative_error(nsa_attention(**alone, config=small_config), expected) > 1e-2


def test_scale_reaches_selection(small_config, make_inputs):
    inputs = make_inputs(small_config, t=64, seed=6)
    flat = select_blocks(inputs["q"], inputs["k_cmp"], config=small_config, scale=0.0)
    sharp = select_blocks(inputs["q"], inputs["k_cmp"], config=small_config, scale=2.0)
    assert not torch.equal(flat, sharp)


def test_no_visible_compressed_block_contributes_exactly_zero(small_config, make_inputs):
    inputs = make_inputs(small_config, t=12)
    inputs["gates"] = torch.zeros_like(inputs["gates"])
    inputs["gates"][..., 0] = 1.0
    out = nsa_attention(**inputs, config=small_config)
    assert torch.equal(out[:, :3], torch.zeros_like(out[:, :3]))
    assert out[:, 3:].abs().amin(dim=-1).min() > 0


def test_batch_rows_do_not_mix(small_config, make_inputs):
    inputs = make_inputs(small_config, b=3)
    out = nsa_attention(**inputs, config=small_config)
    for row in range(3):
        alone = nsa_attention(**{k: v[row : row + 1] for k, v in inputs.items()}, config=small_config)
        assert relative_error(out[row : row + 1], alone) < 1e-15


@pytest.mark.parametrize("lengths", [[40], [3, 17, 1, 30], [8, 8, 8]], ids=str)
def test_packed_equals_each_sequence_alone(lengths, small_config, make_inputs):
    inputs = make_inputs(small_config, lengths=lengths, seed=2)
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    out = nsa_attention(**inputs, config=small_config, cu_seqlens=cu_seqlens)
    blocks = select_blocks(inputs["q"], inputs["k_cmp"], config=small_config, cu_seqlens=cu_seqlens)
    given = nsa_attention(**inputs, config=small_config, cu_seqlens=cu_seqlens, block_indices=blocks)
    assert torch.equal(out, given)
    first = 0
    for start, end in zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:], strict=False):
        last = first + small_config.num_compressed(end - start)
        alone = {k: v[:, first:last] if k.endswith("cmp") else v[:, start:end] for k, v in inputs.items()}
        assert relative_error(out[:, start:end], nsa_attention(**alone, config=small_config)) < 1e-15
        assert torch.equal(
            blocks[:, start:end], select_blocks(alone["q"], alone["k_cmp"], config=small_config)
        )
        first = last


def test_packed_compression_never_crosses_a_boundary(small_config):
    x = torch.arange(17.0, dtype=torch.float64)[None, :, None, None]
    mean = lambda blocks: blocks.mean(-2)
    packed = compress(x, mean, config=small_config, cu_seqlens=torch.tensor([0, 3, 9, 17]))
    # 3 tokens: no block; tokens 3-8: blocks at 3 and 5; tokens 9-16: blocks at 9, 11, 13
    assert packed.flatten().tolist() == [4.5, 6.5, 10.5, 12.5, 14.5]


def test_future_tokens_change_nothing(small_config, make_inputs):
    inputs = make_inputs(small_config, t=40)
    before = nsa_attention(**inputs, config=small_config)
    changed = {k: v.clone() for k, v in inputs.items()}
    seen = small_config.num_compressed(25)
    for name, tensor in changed.items():
        future = slice(seen, None) if name.endswith("cmp") else slice(25, None)
        tensor[:, future] = torch.randn_like(tensor[:, future]) if name != "gates" else 0.5
    after = nsa_attention(**changed, config=small_config)
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.allclose(before[:, 25:], after[:, 25:])


def test_gradients_against_finite_differences(make_inputs):
    config = NSAConfig(2, 1, 2, top_n=3, window=3)
    inputs = make_inputs(config, t=9, hq=2, hk=1, d_qk=3, d_v=2, seed=4)
    blocks = select_blocks(inputs["q"], inputs["k_cmp"], config=config)
    names = list(inputs)
    tensors = [inputs[name].requires_grad_() for name in names]

    def attend(*values):
        return nsa_attention(**dict(zip(names, values, strict=True)), config=config, block_indices=blocks)

    assert torch.autograd.gradcheck(attend, tensors)


def test_backward_is_the_same_twice(small_config, make_inputs):
    def gradients():
        inputs = {k: v.requires_grad_() for k, v in make_inputs(small_config, dtype=torch.float32).items()}
        nsa_attention(**inputs, config=small_config).square().sum().backward()
        return [tensor.grad for tensor in inputs.values()]

    for a, b in zip(gradients(), gradients(), strict=True):
        assert torch.equal(a, b)


def test_all_blocks_and_a_full_window_are_dense_attention(make_inputs):
    config = NSAConfig(4, 2, 4, top_n=10, window=40)
    inputs = make_inputs(config, t=40, d_v=6)
    for branch, (k, v) in {1: ("k_slc", "v_slc"), 2: ("k_win", "v_win")}.items():
        alone = dict(inputs, gates=torch.zeros_like(inputs["gates"]))
        alone["gates"][..., branch] = 1.0
        dense = torch.nn.functional.scaled_dot_product_attention(
            *(inputs[name].transpose(1, 2) for name in ("q", k, v)), is_causal=True, enable_gqa=True
        ).transpose(1, 2)
        assert relative_error(nsa_attention(**alone, config=config), dense) < 1e-14


def test_heads_of_a_group_are_neighbours(make_inputs, small_config):
    inputs = make_inputs(small_config, hq=6, hk=2)
    p = attention_weights(inputs["q"], inputs["k_win"], window_mask(40, small_config), 1.0)
    assert p.shape == (1, 2, 3, 40, 40)
    alone = attention_weights(
        inputs["q"][:, :, 4:5], inputs["k_win"][:, :, 1:2], window_mask(40, small_config), 1.0
    )
    assert torch.equal(p[:, 1, 1], alone[:, 0, 0])


# The same masks through PyTorch's fused attention.


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_sdpa_equals_the_reference_with_gradients(case, small_config, make_inputs):
    def run(backend):
        inputs = {k: v.requires_grad_() for k, v in make_inputs(small_config, b=2, seed=8, **case).items()}
        out = nsa_attention(**inputs, config=small_config, backend=backend)
        out.square().sum().backward()
        return {"out": out.detach()} | {name: x.grad for name, x in inputs.items() if x.numel()}

    expected = run("reference")
    for name, tensor in run("sdpa").items():
        assert torch.allclose(tensor, expected[name], rtol=1e-10, atol=1e-12), name


def test_sdpa_rows_without_blocks_are_zero(small_config, make_inputs):
    inputs = make_inputs(small_config)
    indices = torch.full((1, 40, 2, 3), -1)
    indices[:, 20:] = 2
    out = nsa_attention(**inputs, config=small_config, block_indices=indices, backend="sdpa")
    expected = nsa_attention(**inputs, config=small_config, block_indices=indices)
    assert relative_error(out, expected) < 1e-14
