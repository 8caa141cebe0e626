"""A dense decoder whose attention, MLP and linear layer are constructor arguments.

Pre-norm blocks, each ``x + attention(norm(x))`` then ``x + mlp(norm(x))``: RMSNorm (Zhang and Sennrich 2019,
eq. 4), rotary positions (Su et al. 2021, eq. 34), grouped-query attention (Ainslie et al. 2023), SwiGLU
(Shazeer 2020, eq. 6), embeddings tied to the output unless the config says otherwise.

Layout: `[b, t, dim]` between blocks, `[b, t, h, head_dim]` inside attention; hq query heads, hk key/value
heads. A forward pass over t tokens costs about 2·t FLOPs a matrix parameter, and 2·t²·hq·head_dim a layer for
causal attention. A cache holds 2·t·hk·head_dim numbers a layer.

What a plug-in looks like:
- `attention(dim, num_heads, num_kv_heads, head_dim, linear=..., rotary_base=...)`, called once a layer, gives
  a module with `forward(x [b, t, dim], positions [t], cache=None) -> [b, t, dim]`. The class attribute
  `supports_cache` says whether it can continue from a cache; if so it has `new_cache(batch, max_t)`, which
  gives an object with an int `length`.
- `mlp(dim, hidden, linear=...)` gives a module from `[b, t, dim]` to the same shape.
- `linear(in_features, out_features, bias=False)` gives a module in the manner of `nn.Linear`.

Left out: dropout, biases, packed sequences, sharding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minisys.core.checks import check, check_positive_int, check_rank, check_shape
from minisys.core.sampling import generate, sample
from minisys.core.seeds import seeded

__all__ = [
    "Block",
    "Decoder",
    "DecoderConfig",
    "GroupedQueryAttention",
    "KVCache",
    "RMSNorm",
    "SwiGLU",
    "generate",
    "rotate",
    "rotate_all",
    "sample",
]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder. Raises ValueError for a field that is not usable."""

    vocab_size: int = 256
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 16
    mlp_dim: int = 384
    rotary_base: float = 10000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        for field in ("vocab_size", "dim", "num_layers", "mlp_dim"):
            check_positive_int(field, getattr(self, field))
        check_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        check(self.rotary_base > 1, "rotary_base", self.rotary_base, "a number above 1")
        check(self.norm_eps > 0, "norm_eps", self.norm_eps, "a positive number")


def check_heads(num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Check that the head counts are positive and divide, and that head_dim can be rotated (is even)."""
    check_positive_int("num_heads", num_heads)
    check_positive_int("num_kv_heads", num_kv_heads)
    check_positive_int("head_dim", head_dim)
    expected = f"a multiple of num_kv_heads = {num_kv_heads}"
    check(num_heads % num_kv_heads == 0, "num_heads", num_heads, expected)
    check(head_dim % 2 == 0, "head_dim", head_dim, "an even number (rotary positions turn pairs)")


def rotate(
    x: Float[Tensor, "b t h head_dim"], positions: Int[Tensor, " t"], base: float = 10000.0
) -> Float[Tensor, "b t h head_dim"]:
    """Rotary positions (Su et al. 2021, eq. 34): turn pair i of a head by positions · base^(−2i/head_dim).

    Pairing: element i goes with element i + head_dim/2 ("half split", as in Llama's public weights), not with
    its neighbour. Angles and products are float32, or float64 where `x` is; the result has the dtype of `x`.
    The inner product of two rotated vectors depends on the difference of their positions only.

    Raises:
        ValueError: ranks or lengths do not fit, or head_dim is odd.
    """
    (rotated,) = rotate_all((x,), positions, base)
    return rotated


def rotate_all(
    tensors: Sequence[Float[Tensor, "b t _ head_dim"]], positions: Int[Tensor, " t"], base: float = 10000.0
) -> list[Float[Tensor, "b t _ head_dim"]]:
    """`rotate` of several tensors of one dtype and head size.

    Sines and cosines, half of the launches, are computed once.

    Raises:
        ValueError: ranks, lengths, dtypes or head sizes do not fit, or the head size is odd.
    """
    for x in tensors:
        check_rank("x", x, "b t h head_dim")
        check_shape("positions", positions, (x.shape[1],), "t")
        check(x.dtype == tensors[0].dtype, "x", x.dtype, f"{tensors[0].dtype}, as the others")
        check(x.shape[-1] == tensors[0].shape[-1], "head_dim", x.shape[-1], f"{tensors[0].shape[-1]}")
    head_dim, device = tensors[0].shape[-1], tensors[0].device
    check(head_dim % 2 == 0, "head_dim", head_dim, "an even number")
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, dtype=dtype, device=device) / head_dim
    angles = positions.to(device=device, dtype=dtype)[:, None] * base**-exponents  # [t, head_dim/2]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # [t, 1, head_dim/2], the same for every head
    rotated = []
    for x in tensors:
        first, second = x.to(dtype).chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        rotated.append(turned.to(x.dtype))
    return rotated


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang and Sennrich 2019, eq. 4).

    Computed in float32 or wider.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), the gated MLP of Shazeer 2020, eq. 6."""

    def __init__(self, dim: int, hidden: int, *, linear: Callable[..., nn.Module] = nn.Linear):
        super().__init__()
        self.gate = linear(dim, hidden, bias=False)
        self.up = linear(dim, hidden, bias=False)
        self.down = linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "b t dim"]) -> Float[Tensor, "b t dim"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class KVCache:
    """Keys and values of one layer for up to `max_t` tokens, stored before they are needed.

    `keys` and `values` are `[b, max_t, hk, head_dim]`; the first `length` tokens are valid. No gradient flows
    through a cache.
    """

    def __init__(
        self,
        batch: int,
        max_t: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (batch, max_t, num_kv_heads, head_dim)
        for argument, size in zip(("batch", "max_t", "num_kv_heads", "head_dim"), shape, strict=True):
            check_positive_int(argument, size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def append(
        self, keys: Float[Tensor, "b t hk head_dim"], values: Float[Tensor, "b t hk head_dim"]
    ) -> tuple[Float[Tensor, "b total hk head_dim"], Float[Tensor, "b total hk head_dim"]]:
        """Store t more tokens and return all keys and values so far, as views.

        Raises ValueError, and stores nothing, when a shape does not fit or `max_t` would be passed.
        """
        check_rank("keys", keys, "b t hk head_dim")
        b, max_t, hk, head_dim = self.keys.shape
        for argument, new in (("keys", keys), ("values", values)):
            check_shape(argument, new, (b, keys.shape[1], hk, head_dim), "b t hk head_dim")
        end = self.length + keys.shape[1]
        check(end <= max_t, "cache", f"{end} tokens", f"at most max_t = {max_t}")
        self.keys[:, self.length : end] = keys.detach()
        self.values[:, self.length : end] = values.detach()
        self.length = end
        return self.keys[:, :end], self.values[:, :end]


class GroupedQueryAttention(nn.Module):
    """Causal attention in which num_heads // num_kv_heads query heads read the same keys and values."""

    supports_cache = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        linear: Callable[..., nn.Module] = nn.Linear,
        rotary_base: float = 10000.0,
    ):
        super().__init__()
        check_heads(num_heads, num_kv_heads, head_dim)
        self.num_kv_heads, self.head_dim, self.rotary_base = num_kv_heads, head_dim, rotary_base
        self.query = linear(dim, num_heads * head_dim, bias=False)
        self.key = linear(dim, num_kv_heads * head_dim, bias=False)
        self.value = linear(dim, num_kv_heads * head_dim, bias=False)
        self.output = linear(num_heads * head_dim, dim, bias=False)

    def new_cache(self, batch: int, max_t: int) -> KVCache:
        """An empty cache of the dtype and on the device of this layer's weights."""
        like = next(self.parameters())
        return KVCache(batch, max_t, self.num_kv_heads, self.head_dim, dtype=like.dtype, device=like.device)

    def forward(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"], cache: KVCache | None = None
    ) -> Float[Tensor, "b t dim"]:
        """Attend from the t tokens of `x` to what `cache` holds and to themselves, and add them to it."""
        b, t, _ = x.shape
        q, k, v = (
            project(x).view(b, t, -1, self.head_dim) for project in (self.query, self.key, self.value)
        )  # [b, t, hq, head_dim], [b, t, hk, head_dim] twice
        q, k = rotate_all((q, k), positions, self.rotary_base)
        past = 0
        if cache is not None:
            past = cache.length
            k, v = cache.append(k, v)
        mask = None
        if past and t > 1:  # SDPA's own causal mask starts at the first key, ours at the first new one
            mask = torch.ones(t, past + t, dtype=torch.bool, device=x.device).tril(past)
        out = F.scaled_dot_product_attention(
            *(tensor.transpose(1, 2) for tensor in (q, k.to(q.dtype), v.to(q.dtype))),
            attn_mask=mask,
            is_causal=past == 0,
            enable_gqa=True,
        )
        return self.output(out.transpose(1, 2).reshape(b, t, -1))


class Block(nn.Module):
    """One pre-norm residual block."""

    def __init__(self, config: DecoderConfig, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = attention
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = mlp

    def forward(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"], cache: object = None
    ) -> Float[Tensor, "b t dim"]:
        x = x + self.attention(self.attention_norm(x), positions, cache=cache)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Tokens in, logits out. The module's docstring says what `attention`, `mlp` and `linear` have to be.

    The output head is an `nn.Linear` or the embedding itself, never `linear`: the systems taught here keep it
    in higher precision.

    Plug-ins draw their own weights (`nn.Linear` as it always does) and embeddings come from N(0, 0.02²). What
    a branch adds to the residual stream is scaled by depth as in GPT-2: `attention.output.weight` and
    `mlp.down.weight` of each block are divided by sqrt(2 · num_layers). All of it follows from torch's
    seed, or from `generator`, which then leaves torch's own random state as it was.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        attention: Callable[..., nn.Module] = GroupedQueryAttention,
        mlp: Callable[..., nn.Module] = SwiGLU,
        linear: Callable[..., nn.Module] = nn.Linear,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        if generator is None:
            self._build(attention, mlp, linear)
        else:
            seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
            with seeded(int(seed)):
                self._build(attention, mlp, linear)

    @torch.no_grad()
    def _build(self, attention: Callable, mlp: Callable, linear: Callable) -> None:
        config = self.config
        heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(
            Block(
                config,
                attention(config.dim, *heads, linear=linear, rotary_base=config.rotary_base),
                mlp(config.dim, config.mlp_dim, linear=linear),
            )
            for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith((".attention.output.weight", ".mlp.down.weight")):
                parameter *= (2 * config.num_layers) ** -0.5

    def num_parameters(self) -> int:
        """How many numbers are trained; tied embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def supports_cache(self) -> bool:
        """Whether every layer's attention can continue from a cache."""
        return all(getattr(block.attention, "supports_cache", False) for block in self.blocks)

    def new_cache(self, batch: int, max_t: int) -> list:
        """One empty cache a layer, with room for `max_t` tokens."""
        check(self.supports_cache, "attention", type(self.blocks[0].attention).__name__, "one with a cache")
        return [block.attention.new_cache(batch, max_t) for block in self.blocks]

    def forward(
        self,
        tokens: Int[Tensor, "b t"],
        *,
        cache: Sequence | None = None,
        positions: Int[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b t vocab"]:
        """Logits of the token after each token; with `cache` (from `new_cache`) `tokens` go on from it.

        `positions` are those after the cache's unless given, as a recorded step does, whose host no longer
        counts.
        """
        check_rank("tokens", tokens, "b t")
        check(tokens.numel() > 0, "tokens", f"shape {tuple(tokens.shape)}", "at least one token")
        # The range is checked on the CPU only: a GPU would have to wait for the answer.
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in tokens.aminmax())
            check(low >= 0, "tokens", low, "no token below 0")
            check(high < self.config.vocab_size, "tokens", high, f"tokens below {self.config.vocab_size}")
        if cache is not None:
            check(len(cache) == len(self.blocks), "cache", f"{len(cache)} layers", f"{len(self.blocks)}")
        if positions is None:
            start = cache[0].length if cache is not None else 0
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        check_shape("positions", positions, (tokens.shape[1],), "t")
        x = self.embedding(tokens)
        for index, block in enumerate(self.blocks):
            x = block(x, positions, cache=None if cache is None else cache[index])
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
