"""A decoder's step of one token, recorded in a CUDA graph and replayed.

Such a step is many short kernels, and a host takes longer to launch them one by one than a GPU to run them.
A graph is launched as one. What it was recorded with is fixed: addresses, shapes, and every number that the
host knew. So the token and its position are read from the GPU's memory, and the caches have to keep their
lengths there too: a cache that can be recorded has `check_room`, `replayed` and `truncate` (minisys.nsa's has
them). PyTorch's manual, "CUDA Graphs", says what may stand in one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minisys.core.checks import check, check_shape

NEEDED = ("check_room", "replayed", "truncate")


def check_recordable(cache: Sequence, device: torch.device) -> None:
    """Check that a step from `cache` can be recorded on `device`; raises ValueError."""
    check(device.type == "cuda", "model", f"weights on {device}", "a model on a CUDA GPU")
    for layer in cache:
        able = all(hasattr(layer, name) for name in NEEDED)
        check(able, "model", f"layers with a {type(layer).__name__}", "layers whose cache can be recorded")


class RecordedStep:
    """One token a row in, logits out, as ``model(tokens, cache=cache)`` of one token, by replaying a graph.

    Args:
        model: a `Decoder` on a CUDA GPU, in evaluation.
        cache: of the model, from `Decoder.new_cache`, with the prompt in it. Tokens that come into it other
            than through this step make the step wrong.
        batch: rows.

    Raises:
        ValueError: the model is not on a GPU, its caches cannot be recorded, or they are empty or full.
            Nothing changed.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, cache: Sequence, batch: int) -> None:
        device = next(model.parameters()).device
        check_recordable(cache, device)
        length = cache[0].length
        check(length > 0, "cache", "no token", "the prompt in it: its first pass is another one")
        cache[0].check_room(1)
        self.cache = cache
        self.tokens = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.positions = torch.full((1,), length, device=device)
        # Once without a graph, on a stream of its own as PyTorch asks: kernels are compiled, and what they
        # keep between launches is made. The token that this appends is taken back.
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            model(self.tokens, cache=cache, positions=self.positions)
        current.wait_stream(aside)
        for layer in cache:
            layer.truncate(length)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = model(self.tokens, cache=cache, positions=self.positions)
            self.positions += 1

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "b 1"]) -> Float[Tensor, "b 1 vocab"]:
        """Append one token a row, and give the logits after it; the next call overwrites them.

        Raises:
            ValueError: a wrong shape, or no room. Nothing changed.
        """
        check_shape("tokens", tokens, tuple(self.tokens.shape), "b 1")
        self.cache[0].check_room(1)
        for layer in self.cache:
            layer.replayed()
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.logits
