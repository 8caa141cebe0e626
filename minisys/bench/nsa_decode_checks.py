"""Correctness before speed: decoding against float64 on fresh random inputs, small and at the timed sizes."""

import copy
import secrets
from typing import cast

import torch
from torch import Tensor

from minisys.bench.harness import WrongResult
from minisys.bench.nsa_checks import LIMITS, relative_error
from minisys.bench.nsa_decode_steps import CONFIG, DenseSteps, NSASteps
from minisys.bench.nsa_problems import Sizes
from minisys.nsa import NSACache, nsa_decode, nsa_step
from minisys.nsa.cache import TOKENS
from minisys.nsa.decoding import chosen_backend, decode_reference, query_positions
from minisys.nsa.reference import attention_weights, weighted_values

STORED = ("k_cmp", "v_cmp", *TOKENS)
LEAST_SHARED = 0.95  # of the chosen blocks, with those that float64 chooses; near ties fall either way


def check_decoding(sizes: Sizes, device: str) -> dict[str, float]:
    """Relative errors of a short sequence, token by token: outputs, and compressed keys and values.

    Rows of different lengths pass the ends of several strides and of a selection block. Everything is
    compared with float64: outputs on what the cache holds, compressed keys with φ of the whole sequence.
    Raises `WrongResult`.
    """
    t, steps = sizes.check_t, 70
    generator = torch.Generator(device).manual_seed(secrets.randbits(63))
    inputs = NSASteps(t + steps, sizes).draw(2, generator)
    made, d = inputs["copies"][0][0], sizes.head_dim
    cache = NSACache(
        2, t + steps, sizes.hk, d, d, config=CONFIG, compress_keys=made.compress_keys,
        compress_values=made.compress_values, rotary_base=made.rotary_base, dtype=sizes.dtype, device=device,
    )  # fmt: skip
    draw = lambda *shape: torch.randn(shape, generator=generator, device=device, dtype=sizes.dtype)
    tokens = {name: draw(2, t + steps, sizes.hk, d) for name in TOKENS}
    q, gates = draw(2, t + steps, sizes.hq, d), draw(2, t + steps, sizes.hq, 3).sigmoid()
    starts = [t, t - 13]
    row = torch.arange(2, device=device)[:, None]
    cut = lambda x, at: x[row, torch.tensor(at, device=device)[:, None]]
    cache.prefill(**{name: x[:, :t] for name, x in tokens.items()}, lengths=starts)
    errors = {"decode": 0.0}
    for step in range(steps):
        at = [start + step for start in starts]
        cache.append(**{name: cut(x, at) for name, x in tokens.items()})
        error = _error_of_step(cut(q, at), cache, cut(gates, at))
        errors["decode"] = max(errors["decode"], error)
    wide = copy.copy(cache)
    in_float64 = lambda phi: copy.deepcopy(cast(torch.nn.Module, phi)).double()
    wide.compress_keys, wide.compress_values = map(in_float64, (cache.compress_keys, cache.compress_values))
    whole = wide._compressed(tokens["k_raw"].double(), tokens["v_raw"].double())
    for name, x in zip(("k_cmp", "v_cmp"), whole, strict=True):
        tc = CONFIG.num_compressed(cache.row_lengths[0])
        errors[name] = relative_error(getattr(cache, name)[0, :, :tc], x[0, :tc].transpose(0, 1))
        _check(name, errors[name], sizes.dtype)
    return errors


def check_nsa_row(steps: NSASteps, inputs: dict) -> float:
    """Relative error of a step at the timed size, last row of the batch. Raises `WrongResult`."""
    steps.reset(inputs)
    cache, new, q, gates = inputs["copies"][0]
    out = nsa_step(q, cache, gates, **new)  # one launch where rows are short, so it is compared too
    error = _error_of_step(q, cache, gates, out)
    steps.reset(inputs)
    return error


def check_dense_row(steps: DenseSteps, inputs: dict) -> float:
    """The same for dense attention."""
    q, (k, v) = inputs["copies"][0]
    out = steps.way.attend(q, k, v)[-1:].transpose(1, 2)
    q, k, v = (x[-1:].transpose(1, 2).double() for x in (q, k, v))
    everything = torch.ones(1, k.shape[1], dtype=torch.bool, device=k.device)
    expected = weighted_values(attention_weights(q, k, everything, q.shape[-1] ** -0.5), v)
    error = relative_error(out, expected)
    _check("dense", error, inputs["copies"][0][0].dtype)
    return error


def _check(what: str, error: float, dtype: torch.dtype) -> None:
    limit = LIMITS[dtype]
    if not error < limit:  # NaN is below no limit
        raise WrongResult(
            f"{what}: got a relative error of {error:.1e}, expected < {limit:g} against float64"
        )


def _error_of_step(q: Tensor, cache: NSACache, gates: Tensor, stepped: Tensor | None = None) -> float:
    """Relative error of `nsa_decode` in the last row to float64 on the same blocks; checks those too.

    With `stepped`, what `nsa_step` gave for the same token, the larger error of the two.
    """
    scale, asked = q.shape[-1] ** -0.5, [q.shape[1]]
    row = last_row(cache)
    clean = [x[-1:].double() for x in (q, gates)]
    out = nsa_decode(q, cache, gates)[-1:]
    blocks = None
    if chosen_backend("auto", cache) == "triton":
        from minisys.nsa.kernels.decode import decode_triton

        blocks = with_forced(decode_triton(q, cache, gates, scale, None)[1][-1:], row)
        best = decode_reference(clean[0], row, clean[1], scale, asked)[1]
        shared = (blocks[..., None] == best[..., None, :]).any(-1)[blocks >= 0].double().mean().item()
        if not shared >= LEAST_SHARED:
            got = f"{shared:.3f} of the blocks that float64 chooses"
            raise WrongResult(f"blocks: got {got}, expected at least {LEAST_SHARED}")
    expected = decode_reference(clean[0], row, clean[1], scale, asked, blocks)[0]
    error = relative_error(out, expected)
    _check("decode", error, q.dtype)
    if stepped is not None:
        error = max(error, relative_error(stepped[-1:], expected))
        _check("step", error, q.dtype)
    return error


def last_row(cache: NSACache) -> NSACache:
    """The last row of a cache, in float64."""
    row = copy.copy(cache)
    row.batch, row.lengths, row._lengths = 1, cache.lengths[-1:], cache.row_lengths[-1:]
    for name in STORED:
        setattr(row, name, getattr(cache, name)[-1:].double())
    return row


def with_forced(chosen: Tensor, cache: NSACache) -> Tensor:
    """All blocks that are read ``[b, t, hk, n]``: the forced ones and `chosen`; -1 for none."""
    config = cache.config
    own = query_positions(cache, chosen.shape[1], [chosen.shape[1]] * cache.batch) // config.select_block
    own = own[..., None, None].expand(*chosen.shape[:3], 1)
    number = torch.arange(config.initial_blocks, device=chosen.device)
    initial = torch.where(number <= own, number, -1)
    number = own - torch.arange(config.local_blocks, device=chosen.device)
    local = torch.where(number >= config.initial_blocks, number, -1)
    return torch.cat([initial, local, chosen.long()], dim=-1)
