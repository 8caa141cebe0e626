"""What `minisys bench nsa` asks every path to compute: random inputs, a float64 oracle, and what it costs.

Four problems, all causal, layout ``[b, t, h, head_dim]``:

- ``dense``: attention to all tokens before.
- ``selected``: NSA's selected branch alone. Its blocks are drawn at random, the forced ones included.
- ``nsa``: all of NSA: φ on the compressed keys and values, three branches with keys and values of their
  own, selection inside the call, gates.
- ``pooled``: NSA as flash-linear-attention computes it: mean pooling over blocks that do not overlap, one set
  of keys and values, compressed and selected branch, no window.

And ``decode``: one new token for each of 8 sequences, dense attention to t tokens.

What is counted: FLOPs of scores and weighted values over visible tokens (a multiply-add is 2), in the
backward the five products that it cannot avoid, and φ; bytes if each input is read and each output written
once.
"""

import copy
import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minisys.core.seeds import seeded
from minisys.nsa import NSAConfig, compress, nsa_attention, select_blocks
from minisys.nsa.compression import BlockCompressor
from minisys.nsa.costs import compression_flops, sequence_flops
from minisys.nsa.reference import attention_weights, top_blocks, weighted_values

DECODE_BATCH = 8
CONFIG = NSAConfig()
POOLED = NSAConfig(compress_block=64, compress_stride=64, select_block=64, top_n=16, window=1)
COUNTED = {
    "flops": "scores and weighted values of visible tokens, and φ; a multiply-add is 2; softmax, top-n, gates"
    " and work on tokens that a mask hides are not counted; backward: 5 products to the forward's 2",
    "bytes": "each input read once and each output written once; backward: inputs, output and its gradient "
    "read, gradients written",
    "backward": "the backward alone, after a forward that is not timed",
    "extra_gib": "GPU memory at the peak beyond the inputs, in GiB; backward: with what the forward saved",
    "relative_error": "last 16 tokens at this size against float64, worst of output or of each gradient "
    "(pooled: all of a short sequence)",
}


@dataclass(frozen=True)
class Sizes:
    """Heads, element type and lengths of a run; at the length `check_t` all of a result is compared."""

    hq: int
    hk: int
    head_dim: int
    dtype: torch.dtype
    lengths: tuple[int, ...]
    check_t: int


def draw(problem: str, t: int, sizes: Sizes, generator: torch.Generator, *, grad: bool = False) -> dict:
    """Fresh random inputs of `problem` on the device of `generator`; `grad` adds the output's gradient do."""
    device, dtype, d = generator.device, sizes.dtype, sizes.head_dim
    b, rows = (DECODE_BATCH, 1) if problem == "decode" else (1, t)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

    def key() -> Tensor:
        return normal(b, t, sizes.hk, d)

    inputs: dict[str, Tensor | nn.Module] = {"q": normal(b, rows, sizes.hq, d)}
    if problem == "nsa":
        for name in ("k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win"):
            inputs[name] = key()
        inputs["gates"] = normal(b, t, sizes.hq, 3).sigmoid()
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with seeded(seed):
            for name in ("phi_k", "phi_v"):
                inputs[name] = BlockCompressor(d, CONFIG.compress_block).to(device, dtype)
    else:
        inputs |= {"k": key(), "v": key()}
    if problem == "pooled":
        inputs |= {"g_cmp": normal(b, t, sizes.hq).sigmoid(), "g_slc": normal(b, t, sizes.hq).sigmoid()}
    if problem == "selected":
        scores = torch.rand(b, t, sizes.hk, CONFIG.num_selectable(t), generator=generator, device=device)
        inputs["block_indices"] = top_blocks(scores, CONFIG).int()
    for leaf in leaves(inputs).values():
        leaf.requires_grad_(grad)
    if grad:
        inputs["do"] = normal(b, t, sizes.hq, d)
    return inputs


def leaves(inputs: dict) -> dict[str, Tensor]:
    """What gets a gradient: floating inputs and φ's parameters, by name; not ``do``."""
    found = {}
    for name, value in inputs.items():
        if isinstance(value, nn.Module):
            found |= {f"{name}.{part}": parameter for part, parameter in value.named_parameters()}
        elif name != "do" and value.is_floating_point():
            found[name] = value
    return found


def in_float64(inputs: dict, *, grad: bool = False) -> dict:
    """A copy of `inputs` in float64, for the oracle."""
    exact = {}
    for name, value in inputs.items():
        if isinstance(value, nn.Module):
            exact[name] = copy.deepcopy(value).double()
        else:
            exact[name] = value.detach().double() if value.is_floating_point() else value
    for leaf in leaves(exact).values():
        leaf.requires_grad_(grad)
    return exact


def compressed(inputs: dict) -> tuple[Tensor, Tensor]:
    """φ(k), φ(v) ``[b, tc, hk, head_dim]`` of the ``nsa`` problem."""
    return tuple(compress(inputs[f"{x}_cmp"], inputs[f"phi_{x}"], config=CONFIG) for x in "kv")


def whole_nsa(inputs: dict, backend: str, blocks: Tensor | None = None) -> Float[Tensor, "b t hq d"]:
    """The ``nsa`` problem through `minisys.nsa`: φ, selection (unless `blocks` are given), three branches."""
    k_cmp, v_cmp = compressed(inputs)
    rest = [inputs[name] for name in ("k_slc", "v_slc", "k_win", "v_win", "gates")]
    return nsa_attention(
        inputs["q"], k_cmp, v_cmp, *rest, config=CONFIG, block_indices=blocks, backend=backend
    )


def chosen_blocks(inputs: dict, backend: str) -> Tensor:
    """The blocks that a path of ours chooses in its own arithmetic; float64 may order near ties anew."""
    with torch.no_grad():
        return select_blocks(inputs["q"], compressed(inputs)[0], config=CONFIG, backend=backend)


def last_tokens(inputs: dict, count: int) -> dict:
    """The same problem for the last `count` queries only; keys and values stay whole."""
    by_query = ("q", "do", "gates", "g_cmp", "g_slc", "block_indices")
    return {name: value[:, -count:] if name in by_query else value for name, value in inputs.items()}


def oracle(problem: str, inputs: dict, blocks: Tensor | None = None) -> Float[Tensor, "b rows hq d"]:
    """The exact output, for float64 `inputs`; of dense and selected attention also for `last_tokens`."""
    if problem == "nsa":
        return whole_nsa(inputs, "reference", blocks)
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    t, scale = k.shape[1], k.shape[-1] ** -0.5
    if problem == "pooled":  # one set of keys and values for both branches; the window branch is off
        pool = lambda x: compress(x, lambda blocks_of_x: blocks_of_x.mean(-2), config=POOLED)
        gates = torch.stack([inputs["g_cmp"], inputs["g_slc"], torch.zeros_like(inputs["g_cmp"])], dim=-1)
        return nsa_attention(q, pool(k), pool(v), k, v, k, v, gates, config=POOLED, backend="reference")
    tokens = torch.arange(t, device=q.device)
    mask = tokens <= tokens[-q.shape[1] :, None]
    if problem == "selected":
        # [b, rows, hk, n, blocks] -> [b, hk, 1, rows, t]
        numbers = torch.arange(CONFIG.num_selectable(t), device=q.device)
        member = (inputs["block_indices"][..., None] == numbers).any(dim=3)
        mask = mask & member[..., tokens // CONFIG.select_block].transpose(1, 2)[:, :, None]
    return weighted_values(attention_weights(q, k, mask, scale), v)


def forward_flops(problem: str, t: int, sizes: Sizes) -> tuple[int, int]:
    """FLOPs of a forward: (attention, φ)."""
    d, hq = sizes.head_dim, sizes.hq
    if problem == "decode":
        return DECODE_BATCH * 4 * d * hq * t, 0
    if problem == "dense":
        return 4 * d * hq * t * (t + 1) // 2, 0
    flops = _sequence_flops(t, POOLED if problem == "pooled" else CONFIG, d, hq)
    if problem == "selected":
        return flops["selected"], 0
    if problem == "pooled":
        return flops["compressed"] + flops["selected"], 0
    return flops["nsa"], compression_flops(t, CONFIG, d_qk=d, d_v=d, hk=sizes.hk)


@functools.lru_cache(maxsize=64)
def _sequence_flops(t: int, config: NSAConfig, d: int, hq: int) -> dict[str, int]:
    return sequence_flops(t, config, d_qk=d, d_v=d, hq=hq)


def count_flops(problem: str, t: int, direction: str, sizes: Sizes) -> int:
    """Forward: q·k and p·v. Backward: q·k again, dv, dp, dq and dk, so 2.5 times; φ's backward is twice φ."""
    attention, phi = forward_flops(problem, t, sizes)
    return attention * 5 // 2 + 2 * phi if direction == "backward" else attention + phi


def count_bytes(problem: str, t: int, direction: str, sizes: Sizes) -> int:
    """Bytes if each input is read and each output written once."""
    element = sizes.dtype.itemsize
    b, rows = (DECODE_BATCH, 1) if problem == "decode" else (1, t)
    out = b * rows * sizes.hq * sizes.head_dim * element
    key = b * t * sizes.hk * sizes.head_dim * element
    keys, gates = (6, 3) if problem == "nsa" else (2, 2 if problem == "pooled" else 0)
    trained = out + keys * key + gates * t * sizes.hq * element  # q is as large as the output
    if problem == "nsa":
        block, d = CONFIG.compress_block, sizes.head_dim
        trained += 2 * element * (block * d + block * d * 2 * d + 2 * d + 2 * d * d + d)
    indices = 4 * t * sizes.hk * CONFIG.top_n if problem == "selected" else 0
    if direction == "backward":
        return 2 * trained + 2 * out + indices
    return trained + out + indices
