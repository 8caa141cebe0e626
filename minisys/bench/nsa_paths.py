"""Who computes the problems of `minisys bench nsa`: PyTorch, flash-linear-attention and our own paths.

A path is a function of an input set (`nsa_problems.draw`) that returns ``[b, t, hq, head_dim]``. A library
that is missing or refuses gives a reason instead, and the benchmark shows it.
"""

import functools
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from minisys.bench.harness import Unavailable, explain
from minisys.bench.nsa_problems import CONFIG, POOLED, Sizes, draw, leaves, whole_nsa
from minisys.nsa.fused import fused_attention
from minisys.nsa.reference import selected_mask

SDPA = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
NO_GPU = "needs a CUDA GPU"


@dataclass(frozen=True)
class Implementation:
    """One way to compute one problem.

    Args:
        name: of its rows.
        problem: of `nsa_problems`.
        build: (length, device) -> the function; raises `Unavailable` where it cannot run.
        ours: code of this package.
        backward: whether it has one.
        longest: longer sequences are not tried: the path's memory grows with t².
        note: what a reader of the row should know.
        context: makes the context to call it in.
    """

    name: str
    problem: str
    build: Callable[[int, str], Callable[[dict], Tensor]]
    ours: bool = False
    backward: bool = True
    longest: int | None = None
    note: str | None = None
    context: Callable | None = None


def find_paths(sizes: Sizes, device: str) -> tuple[list[Implementation], dict[str, str]]:
    """The paths that run here, and for the others, by name, why they do not."""
    found, missing = [], {}
    # scores of every head, or one mask for the heads of a group: too large from some length on
    scores, masks = (4096, 16384) if device == "cuda" else (None, None)
    for name, backend in SDPA.items():
        try:
            repeat = _needs_repeat(backend, sizes, device)
        except Exception as error:  # PyTorch builds differ in what they hold and how they refuse
            missing[name] = NO_GPU if device == "cpu" else explain(error)
            continue
        note = f"keys and values repeated to {sizes.hq} heads inside the timed call" if repeat else None
        sdpa = Implementation(
            name=name,
            problem="dense",
            build=_always(_sdpa(repeat)),
            longest=scores if backend is SDPBackend.MATH else None,
            note=note,
            context=functools.partial(sdpa_kernel, backend),
        )
        found.append(sdpa)
        if name == "sdpa-flash":
            found.append(replace(sdpa, problem="decode"))

    mask = "PyTorch's attention with a mask: the work of dense attention, without writing the scores"
    rest = [
        Implementation("flex-attention", "dense", _flex, note="compiled; causal block mask made beforehand"),
        Implementation("fla-nsa", "pooled", _fla, note="mean pooling, one set of keys and values, no window"),
        Implementation("triton-flash", "dense", _kernel("flash_attention"), ours=True, backward=False),
        Implementation(
            "selected-triton", "selected", _kernel("selected_attention"), ours=True, backward=False
        ),
        Implementation(
            "selected-sdpa", "selected", _always(_selected_sdpa), ours=True, longest=masks, note=mask
        ),
        Implementation("nsa-reference", "nsa", _always(_nsa("reference")), ours=True, longest=scores),
        Implementation("nsa-sdpa", "nsa", _always(_nsa("sdpa")), ours=True, longest=masks, note=mask),
        Implementation("nsa-triton", "nsa", _triton_nsa, ours=True),
    ]
    for path in rest:
        try:
            path.build(sizes.check_t, device)
            found.append(path)
        except Unavailable as error:
            missing[path.name] = str(error)
        except Exception as error:  # a library that is there and broken
            missing[path.name] = explain(error)
    return found, missing


def peer_versions() -> dict[str, str | int | None]:
    """Versions of what is measured beside our code; PyTorch's own is in every result file."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {"fla": _version("fla-core"), "cudnn": cudnn}


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _always(function: Callable[[dict], Tensor]) -> Callable[[int, str], Callable[[dict], Tensor]]:
    return lambda t, device: function


def _sdpa(repeat: bool) -> Callable[[dict], Tensor]:
    def attend(inputs: dict) -> Tensor:
        q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
        if repeat:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        grouped = q.shape[1] != k.shape[1]
        out = scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=grouped)
        return out.transpose(1, 2)

    return attend


def _needs_repeat(backend: SDPBackend, sizes: Sizes, device: str) -> bool:
    """Whether `backend` wants as many key heads as query heads; raises what it raises if neither works."""
    generator = torch.Generator(device).manual_seed(0)
    inputs = draw("dense", 128, sizes, generator, grad=True)
    for repeat in (False, True):
        try:
            with warnings.catch_warnings(), sdpa_kernel(backend):
                warnings.simplefilter("ignore")  # PyTorch warns why it takes no kernel, and raises
                out = _sdpa(repeat)(inputs)
                torch.autograd.grad(out, list(leaves(inputs).values()), inputs["do"])
            return repeat
        except RuntimeError:
            if repeat:
                raise
    raise AssertionError("one of the two returned or raised")


def _flex(t: int, device: str) -> Callable[[dict], Tensor]:
    if device != "cuda":
        raise Unavailable(NO_GPU)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # every length is compiled for itself, and past 8 versions it would not compile
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = create_block_mask(lambda b, h, query, key: query >= key, None, None, t, t, device=device)

    def attend(inputs: dict) -> Tensor:
        q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
        return compiled(q, k, v, block_mask=mask, enable_gqa=True).transpose(1, 2)

    return attend


def _fla(t: int, device: str) -> Callable[[dict], Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module("fla.ops.nsa")
    except ImportError as error:
        raise Unavailable(f"flash-linear-attention is not installed ({error})") from error
    if device != "cuda":
        raise Unavailable(NO_GPU)

    def attend(inputs: dict) -> Tensor:
        return module.parallel_nsa(
            *(inputs[name] for name in ("q", "k", "v", "g_cmp", "g_slc")),
            block_counts=POOLED.top_n,
            block_size=POOLED.select_block,
        )

    return attend


def _kernel(name: str) -> Callable[[int, str], Callable[[dict], Tensor]]:
    """`minisys.nsa.kernels.<name>` on q, k, v and, for the selected branch, the block numbers."""

    def build(t: int, device: str) -> Callable[[dict], Tensor]:
        if device != "cuda":
            raise Unavailable(NO_GPU)
        try:
            kernel = getattr(importlib.import_module("minisys.nsa.kernels"), name)
        except (ImportError, AttributeError) as error:
            raise Unavailable(f"cannot be imported here ({error})") from error

        def attend(inputs: dict) -> Tensor:
            q, k, v = (inputs[part] for part in ("q", "k", "v"))
            if "block_indices" in inputs:
                return kernel(q, k, v, inputs["block_indices"], config=CONFIG)
            return kernel(q, k, v)

        return attend

    return build


def _selected_sdpa(inputs: dict) -> Tensor:
    mask = selected_mask(inputs["block_indices"], CONFIG)
    q, k, v = (inputs[name] for name in ("q", "k", "v"))
    return fused_attention(q, k, v, mask, q.shape[-1] ** -0.5)


def _triton_nsa(t: int, device: str) -> Callable[[dict], Tensor]:
    if device != "cuda":
        raise Unavailable(NO_GPU)
    probe = draw("nsa", 64, Sizes(16, 1, 32, torch.float32, (), 64), torch.Generator(device).manual_seed(0))
    try:
        whole_nsa(probe, "triton")
    except ValueError as error:  # it says what is missing
        raise Unavailable(str(error)) from error
    return _nsa("triton")


def _nsa(backend: str) -> Callable[[dict], Tensor]:
    return lambda inputs: whole_nsa(inputs, backend)
