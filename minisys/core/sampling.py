"""Sampling: from logits to tokens, one at a time, with or without a cache."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minisys.core.checks import check, check_rank
from minisys.core.recorded import RecordedStep, check_recordable


def sample(
    logits: Float[Tensor, "b vocab"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " b"]:
    """Draw one token a row. Temperature 0 takes the largest logit (the lowest token of equal ones).

    `top_k` keeps the k likeliest tokens, then `top_p` the fewest of those whose probability adds up to it
    (Holtzman et al. 2020); at least one token is always left.
    """
    vocab = logits.shape[-1]
    check(temperature >= 0, "temperature", temperature, "0 (greedy) or more")
    check(top_k is None or 1 <= top_k <= vocab, "top_k", top_k, f"None or 1 to {vocab}")
    check(top_p is None or 0 < top_p <= 1, "top_p", top_p, "None or a number in (0, 1]")
    ordered, tokens = logits.double().sort(dim=-1, descending=True, stable=True)
    if temperature == 0:
        return tokens[:, 0]
    probabilities = (ordered / temperature).softmax(-1)
    if top_k is not None:
        probabilities[:, top_k:] = 0
        probabilities /= probabilities.sum(-1, keepdim=True)
    if top_p is not None:
        before = probabilities.cumsum(-1) - probabilities  # the mass of likelier tokens
        probabilities[before >= top_p] = 0
    if generator is not None:
        probabilities = probabilities.to(generator.device)
    choice = torch.multinomial(probabilities, 1, generator=generator).to(tokens.device)
    return tokens.gather(1, choice)[:, 0]


@torch.no_grad()
def generate(
    model: nn.Module,
    tokens: Int[Tensor, "b t"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    cuda_graph: bool = False,
) -> Int[Tensor, "b total"]:
    """Continue `tokens` by `max_new_tokens`, sampled as `sample` says, and return prompt and continuation.

    `model` is a Decoder. Without a cache, or where an attention has none, every step reads the whole prefix
    again. With `cuda_graph` the steps after the first token are replays of one that was recorded
    (minisys.core.recorded), which takes a moment and pays from some ten tokens on. All ways give the same
    tokens (up to rounding where two tokens are equally likely).

    Raises:
        ValueError: an option does not fit, or no step can be recorded with `cuda_graph`: no GPU, no cache, or
            one that keeps its length on the host.
    """
    check_rank("tokens", tokens, "b t")
    check(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    b, t = tokens.shape
    cached = use_cache and model.supports_cache and max_new_tokens > 0
    cache = model.new_cache(b, t + max_new_tokens) if cached else None
    if cuda_graph and max_new_tokens > 0:
        check(cache is not None, "cuda_graph", True, "False without a cache")
        check_recordable(cache, tokens.device)
    step = None
    for _ in range(max_new_tokens):
        if step is not None:
            logits = step(tokens[:, -1:])[:, -1]
        else:
            unread = tokens if cache is None else tokens[:, cache[0].length :]
            logits = model(unread, cache=cache)[:, -1]
            if cuda_graph and max_new_tokens > 1:
                step = RecordedStep(model, cache, b)
        new = sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        tokens = torch.cat([tokens, new[:, None].to(tokens.dtype)], dim=1)
    return tokens
