"""Rows of a whole model in ``minisys bench nsa-decode``: the first token of a long prompt, and the next ones.

The model is a small decoder (`MODEL`), once with dense attention and once with NSA, with random weights.

``first token``: a prompt into a new cache, and one token. ``next token``: steps of the model from caches that
hold a prompt of that length, the weights read anew in each. On a GPU a step is recorded in a CUDA graph and
replayed, as ``generate(…, cuda_graph=True)`` does. A dense cache keeps its length on the host, so the dense
step is recorded at the full length and repeats it, which takes as long.
"""

from collections.abc import Sequence
from typing import cast

import torch

from minisys.bench.harness import Built, Case
from minisys.bench.nsa_decode_steps import BUSY_CYCLES, STEPS
from minisys.bench.nsa_problems import CONFIG
from minisys.core.decoder import Decoder, DecoderConfig, KVCache
from minisys.core.recorded import RecordedStep
from minisys.nsa import NativeSparseAttention, NSACache
from minisys.nsa.costs import query_flops, sequence_flops, step_bytes

# The model, its prompt, the dtype of its weights, and batches of the steps after it.
MODEL = {
    "cuda": (DecoderConfig(8192, 2048, 8, 32, 2, 128, 5632), 32768, torch.bfloat16, (1, 8, 64)),
    "cpu": (DecoderConfig(256, 64, 2, 4, 2, 16, 128), 512, torch.float32, (1,)),
}
ATTENTIONS = ("dense", "nsa")


def model_cases(name: str, device: str) -> list[Case]:
    """All rows of ``MODEL[name]`` on `device`."""
    first = [_first_token(attention, name, device) for attention in ATTENTIONS]
    return first + [
        _next_token(attention, name, batch, device)
        for batch in MODEL[name][3]
        for attention in ATTENTIONS
    ]  # fmt: skip


def make_model(attention: str, config: DecoderConfig, dtype: torch.dtype, device: str) -> Decoder:
    """A decoder of random weights, for inference."""
    kind = {"attention": NativeSparseAttention} if attention == "nsa" else {}
    with torch.device(device):
        return Decoder(config, **kind).to(dtype).eval()


class ModelSteps:
    """`STEPS` steps of a model whose caches hold random tokens, up to t in the last step."""

    def __init__(self, model: Decoder, batch: int, t: int) -> None:
        self.model, self.start = model, t - STEPS
        self.cache: Sequence = model.new_cache(batch, t)
        device = next(model.parameters()).device
        self.tokens = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.graph: torch.cuda.CUDAGraph | RecordedStep | None = None
        for layer in self.cache:
            dense = isinstance(layer, KVCache)
            for name in (
                ("keys", "values") if dense else ("k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win")
            ):
                getattr(layer, name).normal_()
            if not dense:
                cast(NSACache, layer).replayed(self.start)
        self.reset()
        if device.type == "cuda":
            self.graph = self._recorded()

    def reset(self) -> None:
        """Bring the caches back to `start` tokens."""
        for layer in self.cache:
            if isinstance(layer, KVCache):
                layer.length = self.start
            else:
                layer.truncate(self.start)
        if isinstance(self.graph, RecordedStep):
            self.graph.positions.fill_(self.start)

    @torch.no_grad()
    def _recorded(self) -> torch.cuda.CUDAGraph | RecordedStep:
        if isinstance(self.cache[0], NSACache):
            return RecordedStep(self.model, self.cache, len(self.tokens))
        last = self.start + STEPS - 1
        positions = torch.full((1,), last, device=self.tokens.device)

        def step() -> None:
            for layer in self.cache:
                layer.length = last
            self.model(self.tokens, cache=self.cache, positions=positions)

        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph

    def prepare(self, inputs: dict) -> dict:
        """What is not timed."""
        self.reset()
        if self.graph is not None:
            torch.cuda._sleep(BUSY_CYCLES)  # so that the first steps are queued when the clock starts
        return inputs

    @torch.no_grad()
    def run(self, inputs: dict) -> None:
        """All steps."""
        self.tokens.copy_(inputs["tokens"])
        for _ in range(STEPS):
            if isinstance(self.graph, torch.cuda.CUDAGraph):
                self.graph.replay()
            elif self.graph is not None:
                self.graph(self.tokens)
            else:
                self.model(self.tokens, cache=self.cache)


def _first_token(attention: str, name: str, device: str) -> Case:
    """A prompt into a new cache, and the token after it."""
    config, t, dtype, _ = MODEL[name]

    def build() -> Built:
        model = make_model(attention, config, dtype, device)

        @torch.no_grad()
        def first_token(inputs: dict) -> torch.Tensor:
            cache = model.new_cache(1, t + 1)
            return model(inputs["tokens"], cache=cache)[:, -1].argmax(dim=-1)

        return Built(first_token)

    d, hq = config.head_dim, config.num_heads
    flops = sequence_flops(t, CONFIG, d_qk=d, d_v=d, hq=hq)[attention] * config.num_layers
    weights = matrix_parameters(config)
    return Case(
        name=attention,
        t=t,
        direction="first token",
        build=build,
        draw=lambda generator: _draw(config, (1, t), generator),
        flops=flops + 2 * t * weights,
        bytes=weights * dtype.itemsize,
        ours=attention == "nsa",
        note="prefill of first_token_model; FLOPs and bytes of dense projections only",
    )


def _next_token(attention: str, name: str, batch: int, device: str) -> Case:
    """Steps of a model after a prompt."""
    config, t, dtype, _ = MODEL[name]

    def build() -> Built:
        steps = ModelSteps(make_model(attention, config, dtype, device), batch, t)
        return Built(steps.run, steps.prepare, steps=STEPS)

    d, layers = config.head_dim, config.num_layers
    weights = matrix_parameters(config)
    flops = layers * query_flops(t - 1, CONFIG, d_qk=d, d_v=d, hq=config.num_heads)[attention]
    moved = step_bytes(
        t, CONFIG, d_qk=d, d_v=d, hk=config.num_kv_heads, batch=batch, element_bytes=dtype.itemsize
    )
    return Case(
        name=attention,
        t=t,
        direction=f"next token, batch {batch}",
        build=build,
        draw=lambda generator: _draw(config, (batch, 1), generator),
        flops=batch * (flops + 2 * weights),
        bytes=weights * dtype.itemsize + int(layers * moved[attention]),
        ours=attention == "nsa",
        note="a step of first_token_model, weights included; FLOPs and bytes of dense projections only",
    )


def _draw(config: DecoderConfig, shape: tuple[int, int], generator: torch.Generator) -> dict:
    return {"tokens": torch.randint(config.vocab_size, shape, generator=generator, device=generator.device)}


def matrix_parameters(config: DecoderConfig) -> int:
    """Numbers in the matrices of a dense decoder of that size; tied embeddings count once."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return config.num_layers * config.dim * (heads + 3 * config.mlp_dim) + config.vocab_size * config.dim
