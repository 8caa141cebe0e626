"""The steps that `minisys bench nsa-decode` times: 16 in a row, in one CUDA graph, over caches in turns.

A recorded step has no launch gaps and no host in it, as in a recorded decoder. If one small cache served all
16 steps, its keys would come from the L2 cache; so there are up to 16 copies, a power of two, and step s goes
to copy s mod copies. Their lengths are staggered: over the 16 steps each place in a stride comes up once.
Before each timed call the lengths are set back (not timed) and the GPU is kept busy for a moment, so that the
whole graph is queued when the clock starts.
"""

import copy
import functools
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from minisys.bench.harness import Unavailable, explain
from minisys.bench.nsa_problems import CONFIG, Sizes
from minisys.bench.timing import cache_bytes, measure
from minisys.core.seeds import seeded
from minisys.nsa import BlockCompressor, NSACache, nsa_decode, nsa_step
from minisys.nsa.cache import TOKENS
from minisys.nsa.costs import step_bytes

STEPS = CONFIG.compress_stride
STAGES = ("append", "attend")
ROTARY_BASE = 10000.0
BUSY_CYCLES = 400_000  # about a fifth of a millisecond


def resident(bytes_of_a_step: float, device: str) -> int:
    """Copies that make up twice the last-level cache: a power of two, at most one for each step."""
    copies = 1
    while copies < STEPS and copies * bytes_of_a_step < 2 * cache_bytes(device):
        copies *= 2
    return copies


class Recorded:
    """Runs the launches of an input set: recorded once for each set on a GPU, else one after the other."""

    def __init__(self) -> None:
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def launches(self, inputs: dict) -> Iterable[Callable[[], object]]:
        """The steps, each a function without arguments."""
        raise NotImplementedError

    def reset(self, inputs: dict) -> None:
        """Bring the input set back to where it was drawn."""

    def announce(self, inputs: dict) -> None:
        """Tell the host what a replay is about to do."""

    def prepare(self, inputs: dict) -> dict:
        """What is not timed."""
        if inputs["device"] == "cuda":
            self._graph(inputs)
        self.reset(inputs)
        if inputs["device"] == "cuda":
            self.announce(inputs)
            torch.cuda._sleep(BUSY_CYCLES)
        return inputs

    @torch.no_grad()
    def run(self, inputs: dict) -> None:
        """All steps."""
        if inputs["device"] == "cuda":
            self._graph(inputs).replay()
        else:
            for launch in self.launches(inputs):
                launch()

    @torch.no_grad()
    def _graph(self, inputs: dict) -> torch.cuda.CUDAGraph:
        if id(inputs) not in self._graphs:
            self.reset(inputs)
            for launch in self.launches(inputs):  # compiles, and makes what is kept between steps
                launch()
            self.reset(inputs)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for launch in self.launches(inputs):
                    launch()
            self._graphs[id(inputs)] = graph
        return self._graphs[id(inputs)]


class NSASteps(Recorded):
    """Steps of NSA at t tokens, or one of their launches alone."""

    def __init__(self, t: int, sizes: Sizes, stage: str | None = None) -> None:
        super().__init__()
        self.t, self.sizes, self.stage = t, sizes, stage

    def draw(self, batch: int, generator: torch.Generator) -> dict:
        """Caches of random numbers, filled up to a little under t tokens, and a new token for each."""
        sizes, device, d = self.sizes, generator.device, self.sizes.head_dim
        element = sizes.dtype.itemsize
        read = step_bytes(self.t, CONFIG, d_qk=d, d_v=d, hk=sizes.hk, batch=batch, element_bytes=element)
        copies = resident(read["nsa"], device.type)
        normal = lambda *shape: torch.randn(shape, generator=generator, device=device, dtype=sizes.dtype)
        inputs: dict = {"device": device.type, "copies": [], "starts": []}
        with seeded(int(torch.randint(2**62, (), generator=generator, device=device))):
            phi = BlockCompressor(d, CONFIG.compress_block).to(device, sizes.dtype).requires_grad_(False)
        for i in range(copies):
            cache = NSACache(
                batch, self.t, sizes.hk, d, d, config=CONFIG, compress_keys=copy.deepcopy(phi),
                compress_values=copy.deepcopy(phi), rotary_base=ROTARY_BASE, dtype=sizes.dtype, device=device,
            )  # fmt: skip
            for name in ("k_cmp", "v_cmp", *TOKENS):
                inputs[f"{name} {i}"] = getattr(cache, name).normal_(generator=generator)
            start = self.t - (copies - i) * (STEPS // copies)  # the last step of the last copy is at t tokens
            cache.replayed(start)
            cache.lengths.fill_(start)
            new = {name: normal(batch, 1, sizes.hk, d) for name in TOKENS}
            q, gates = normal(batch, 1, sizes.hq, d), normal(batch, 1, sizes.hq, 3).sigmoid()
            inputs["copies"].append((cache, new, q, gates))
            inputs["starts"].append(start)
        return inputs

    def reset(self, inputs: dict) -> None:
        for (cache, *_), start in zip(inputs["copies"], inputs["starts"], strict=True):
            cache.truncate(start)

    def announce(self, inputs: dict) -> None:
        for cache, *_ in inputs["copies"]:
            if self.stage in (None, "append"):
                cache.replayed(STEPS // len(inputs["copies"]))

    def launches(self, inputs: dict) -> Iterable[Callable[[], object]]:
        copies = inputs["copies"]

        def step(i: int) -> None:
            cache, new, q, gates = copies[i % len(copies)]
            if self.stage is None:
                nsa_step(q, cache, gates, **new)
            elif self.stage == "append":
                cache.append(**new)
            else:
                nsa_decode(q, cache, gates)

        return [lambda i=i: step(i) for i in range(STEPS)]


@dataclass(frozen=True)
class Dense:
    """A way to compute dense attention of one query: a backend of PyTorch's, and where heads stand."""

    backend: SDPBackend | None
    head_major: bool

    @property
    def label(self) -> str:
        name = "default" if self.backend is None else self.backend.name.lower().removesuffix("_attention")
        return f"{name}, {'[b, hk, t, d]' if self.head_major else '[b, t, hk, d]'}"

    def draw(self, t: int, batch: int, sizes: Sizes, generator: torch.Generator) -> dict:
        """Queries ``[b, h, t, d]``, keys and values ``[2, b, h, t, d]``, in copies that no cache could hold.

        Keys and values share a tensor so that one launch stores a token.
        """
        element = sizes.dtype.itemsize
        copies = resident(2 * batch * t * sizes.hk * sizes.head_dim * element, generator.device.type)

        def normal(count: int, h: int, tokens: int) -> Tensor:
            shape = (count, batch, h, tokens) if self.head_major else (count, batch, tokens, h)
            x = torch.randn(
                *shape, sizes.head_dim, generator=generator, device=generator.device, dtype=sizes.dtype
            )
            return x if self.head_major else x.transpose(2, 3)

        inputs: dict = {"device": generator.device.type, "copies": []}
        inputs["new"] = normal(2, sizes.hk, 1)
        inputs["position"] = torch.tensor([t - 1], device=generator.device)
        for i in range(copies):
            q, kv = normal(1, sizes.hq, 1)[0], normal(2, sizes.hk, t)
            inputs["copies"].append((q, kv))
            inputs |= {f"q {i}": q, f"kv {i}": kv}
        return inputs

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with nullcontext() if self.backend is None else sdpa_kernel(self.backend):
            return scaled_dot_product_attention(q, k, v, enable_gqa=True)


class DenseSteps(Recorded):
    """Steps of dense attention; with `append` each stores its token first, where the GPU is told to."""

    def __init__(self, way: Dense, *, append: bool = False) -> None:
        super().__init__()
        self.way, self.append = way, append

    def launches(self, inputs: dict) -> Iterable[Callable[[], object]]:
        copies = inputs["copies"]

        def step(i: int) -> None:
            q, kv = copies[i % len(copies)]
            if self.append:
                kv.index_copy_(3, inputs["position"], inputs["new"])
            self.way.attend(q, *kv)

        return [lambda i=i: step(i) for i in range(STEPS)]


@functools.lru_cache
def fastest_dense(t: int, batch: int, sizes: Sizes, device: str) -> tuple[Dense, str]:
    """The fastest way at this size, and a note of what each of them took.

    Raises `Unavailable` where none runs.
    """
    backends: list[SDPBackend | None] = [None]
    if device == "cuda":
        backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    ways = [Dense(backend, head_major) for backend in backends for head_major in (True, False)]
    times, refused = {}, {}
    for way in ways:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns why it takes no kernel, and raises
                steps, generator = DenseSteps(way), torch.Generator(device).manual_seed(0)
                inputs = way.draw(t, batch, sizes, generator)
                timing = measure(steps.run, [inputs], device, prepare=steps.prepare, repeats=5)
            times[way] = 1e3 * timing.median / STEPS
        except RuntimeError as error:
            refused[way] = explain(error)
        finally:
            inputs = steps = None
            if device == "cuda":
                torch.cuda.empty_cache()
    if not times:
        raise Unavailable("; ".join(f"{way.label}: {why}" for way, why in refused.items()))
    ordered = sorted(times, key=times.get)
    note = "fastest of " + ", ".join(f"{way.label} {times[way]:.4f} ms" for way in ordered)
    return ordered[0], note + "".join(f"; {way.label} does not run" for way in refused)
