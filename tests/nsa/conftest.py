"""Inputs of native sparse attention, and a second oracle written token by token."""

import itertools
import math

import pytest
import torch

from minisys.nsa import NSAConfig

SMALL = NSAConfig(
    compress_block=4, compress_stride=2, select_block=8, top_n=4, initial_blocks=1, local_blocks=2, window=6
)


@pytest.fixture
def small_config():
    return SMALL


@pytest.fixture
def make_inputs():
    """Random tensors for `nsa_attention`, by argument name, float64 unless asked."""

    def make(config, *, b=1, t=40, hq=4, hk=2, d_qk=6, d_v=5, seed=0, lengths=None, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        tc = sum(map(config.num_compressed, lengths or [t]))
        t = sum(lengths) if lengths else t
        shapes = {
            "q": (b, t, hq, d_qk),
            "k_cmp": (b, tc, hk, d_qk),
            "v_cmp": (b, tc, hk, d_v),
            "k_slc": (b, t, hk, d_qk),
            "v_slc": (b, t, hk, d_v),
            "k_win": (b, t, hk, d_qk),
            "v_win": (b, t, hk, d_v),
            "gates": (b, t, hq, 3),
        }
        inputs = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        inputs["gates"] = inputs["gates"].sigmoid()
        return {name: tensor.to(dtype) for name, tensor in inputs.items()}

    return make


def attend_token(q, keys, values, scale):
    """Attention of one query vector to lists of key and value vectors, in plain Python floats."""
    if not keys:
        return [0.0] * len(values[0]) if values else None
    scores = [scale * sum(a * b for a, b in zip(q, key, strict=True)) for key in keys]
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    total = sum(weights)
    return [
        sum(w * v[i] for w, v in zip(weights, values, strict=True)) / total for i in range(len(values[0]))
    ]


def token_by_token(inputs, config, scale=None):
    """(output, block numbers) of batch row 0, from the paper's text with loops, no masks and no PyTorch."""
    x = {name: tensor[0].tolist() for name, tensor in inputs.items()}
    t, hq, hk = len(x["q"]), len(x["q"][0]), len(x["k_slc"][0])
    g, d_v = hq // hk, len(x["v_slc"][0][0])
    scale = 1 / math.sqrt(len(x["q"][0][0])) if scale is None else scale
    block, stride, select = config.compress_block, config.compress_stride, config.select_block
    output = [[None] * hq for _ in range(t)]
    chosen = [[None] * hk for _ in range(t)]
    for token, j in itertools.product(range(t), range(hk)):
        visible = [i for i in range(len(x["k_cmp"])) if i * stride + block - 1 <= token]
        importance = [0.0] * (token // select + 1)
        for head in range(j * g, j * g + g):
            scores = [
                scale * sum(a * b for a, b in zip(x["q"][token][head], x["k_cmp"][i][j], strict=True))
                for i in visible
            ]
            top = max(scores, default=0.0)
            total = sum(math.exp(s - top) for s in scores)
            for i, s in zip(visible, scores, strict=True):
                for start in range(i * stride, i * stride + block, stride):  # each stride-long piece
                    importance[start // select] += math.exp(s - top) / total
        own = token // select
        forced = {j_ for j_ in range(own + 1) if j_ < config.initial_blocks or j_ > own - config.local_blocks}
        rest = sorted(set(range(own + 1)) - forced, key=lambda j_: (-importance[j_], j_))
        blocks = sorted([*forced, *rest[: config.top_n - len(forced)]])
        chosen[token][j] = blocks + [-1] * (config.top_n - len(blocks))
        tokens = [s for s in range(token + 1) if s // select in blocks]
        window = range(max(0, token - config.window + 1), token + 1)
        for head in range(j * g, j * g + g):
            q = x["q"][token][head]
            parts = (
                attend_token(
                    q, [x["k_cmp"][i][j] for i in visible], [x["v_cmp"][i][j] for i in visible], scale
                ),
                attend_token(
                    q, [x["k_slc"][s][j] for s in tokens], [x["v_slc"][s][j] for s in tokens], scale
                ),
                attend_token(
                    q, [x["k_win"][s][j] for s in window], [x["v_win"][s][j] for s in window], scale
                ),
            )
            gates = x["gates"][token][head]
            output[token][head] = [
                sum(gate * part[i] for gate, part in zip(gates, parts, strict=True) if part is not None)
                for i in range(d_v)
            ]
    return torch.tensor(output, dtype=torch.float64)[None], torch.tensor(chosen)[None]


@pytest.fixture
def oracle():
    return token_by_token
