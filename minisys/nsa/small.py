"""The small model of the NSA chapters: its sizes, its trained weights, and what its attention looks like.

A byte-level decoder of 1.9 million parameters with native sparse attention in every layer, trained on the
course's corpus by ``python -m minisys.bench.nsa_small train``. The block lengths are the paper's; top_n and
window are a half and a quarter of the paper's, because the model reads 4,096 bytes and not 65,536 tokens.
"""

import functools
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.decoder import Decoder, DecoderConfig
from minisys.core.train import load_weights
from minisys.nsa.config import NSAConfig
from minisys.nsa.module import NativeSparseAttention

SIZES = DecoderConfig(
    vocab_size=256, dim=160, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, mlp_dim=448
)
CONFIG = NSAConfig(compress_block=32, compress_stride=16, select_block=64, top_n=8, window=128)
CONTEXT = 4096  # bytes that the model was trained to read
WEIGHTS = Path(__file__).with_name("weights") / "small.safetensors"


def build_small(
    config: NSAConfig = CONFIG, *, backend: str = "auto", generator: torch.Generator | None = None
) -> Decoder:
    """The untrained model, with native sparse attention as `config` says in every layer."""
    attention = functools.partial(NativeSparseAttention, config=config, backend=backend)
    return Decoder(SIZES, attention=attention, generator=generator)


def load_small(path: Path = WEIGHTS, *, backend: str = "sdpa") -> Decoder:
    """The trained model in float32, ready to read (`eval` mode).

    Raises:
        ValueError: the file is missing, broken, or holds other weights.
    """
    model = build_small(backend=backend)
    load_weights(path, model)
    return model.eval()


@torch.no_grad()
def layer_branches(model: Decoder, tokens: Int[Tensor, "b t"]) -> list[dict[str, Float[Tensor, "..."]]]:
    """What `nsa_attention` got in every layer while `model` read `tokens`, by argument name."""
    seen: list[dict[str, Tensor]] = []

    def record(layer: NativeSparseAttention, arguments: tuple) -> None:
        seen.append(layer.branches(*arguments[:2]))

    hooks = [block.attention.register_forward_pre_hook(record) for block in model.blocks]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
