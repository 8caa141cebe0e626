"""NativeSparseAttention: the layer that a decoder calls in place of dense attention."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minisys.core.checks import check, check_rank
from minisys.core.decoder import rotate, rotate_all
from minisys.nsa.attention import nsa_attention
from minisys.nsa.cache import NSACache
from minisys.nsa.compression import BlockCompressor, compress
from minisys.nsa.config import NSAConfig
from minisys.nsa.decoding import nsa_step

BRANCHES = ("cmp", "slc", "win")


class NativeSparseAttention(nn.Module):
    """Causal self-attention with three gated branches (arXiv 2502.11089, equation 5).

    Every branch has its own key and value projection, so that the window cannot take over the keys
    that selection needs. The gates are σ(MLP(x)), one for each token, query head and branch.

    Positions are rotary. Keys are compressed before they are rotated, and a compressed key is then rotated
    to the position of the last token of its block: φ sees the same numbers wherever a block stands.

    Args:
        dim: width of the model.
        num_heads: query heads (hq).
        num_kv_heads: key/value heads (hk), which divides num_heads.
        head_dim: size of queries and keys (d_qk); even.
        config: block lengths, top_n and window.
        value_dim: size of values (d_v); head_dim unless set.
        compress_hidden: width of φ's hidden layer; 2·(size of its input vectors) unless set.
        gate_hidden: width of the gate MLP's hidden layer; dim//4 unless set.
        scale: factor on q·k; 1/√d_qk unless set.
        linear: class of the projections, called ``linear(in, out, bias=False)``.
        rotary_base: base of the rotary frequencies.
        backend: passed to `nsa_attention`; with a cache, ``"sdpa"`` decodes as ``"reference"`` does.

    Raises:
        ValueError: sizes that do not fit.
    """

    supports_cache = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        config: NSAConfig | None = None,
        value_dim: int | None = None,
        compress_hidden: int | None = None,
        gate_hidden: int | None = None,
        scale: float | None = None,
        linear: type[nn.Module] = nn.Linear,
        rotary_base: float = 10000.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        value_dim = head_dim if value_dim is None else value_dim
        gate_hidden = max(1, dim // 4) if gate_hidden is None else gate_hidden
        sizes = {
            "dim": dim,
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "value_dim": value_dim,
            "gate_hidden": gate_hidden,
        }
        for name, got in sizes.items():
            check(got >= 1, name, got, "at least 1")
        check(head_dim % 2 == 0, "head_dim", head_dim, "an even number, for rotary positions")
        check(
            num_heads % num_kv_heads == 0,
            "num_heads",
            num_heads,
            f"a multiple of num_kv_heads ({num_kv_heads})",
        )
        self.config = NSAConfig() if config is None else config
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim, self.value_dim = head_dim, value_dim
        self.scale, self.rotary_base, self.backend = scale, rotary_base, backend
        self.query = linear(dim, num_heads * head_dim, bias=False)
        self.keys = nn.ModuleDict({c: linear(dim, num_kv_heads * head_dim, bias=False) for c in BRANCHES})
        self.values = nn.ModuleDict({c: linear(dim, num_kv_heads * value_dim, bias=False) for c in BRANCHES})
        self.compress_keys = BlockCompressor(head_dim, self.config.compress_block, compress_hidden)
        self.compress_values = BlockCompressor(value_dim, self.config.compress_block, compress_hidden)
        self.gate = nn.Sequential(
            nn.Linear(dim, gate_hidden), nn.SiLU(), nn.Linear(gate_hidden, 3 * num_heads)
        )
        self.output = linear(num_heads * value_dim, dim, bias=False)

    def new_cache(self, batch: int, max_t: int, *, max_append: int = 64) -> NSACache:
        """An empty cache for `max_t` tokens, of the dtype and on the device of this layer's weights."""
        like = self.gate[0].weight
        return NSACache(
            batch,
            max_t,
            self.num_kv_heads,
            self.head_dim,
            self.value_dim,
            config=self.config,
            compress_keys=self.compress_keys,
            compress_values=self.compress_values,
            rotary_base=self.rotary_base,
            max_append=max_append,
            dtype=like.dtype,
            device=like.device,
        )

    def project(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """What the tokens themselves give: rotated q, gates, and keys and values of every branch.

        ``k_raw`` and ``v_raw`` are the compressed branch's before φ, its keys not rotated.
        """
        check_rank("x", x, "b t dim")
        keys = {c: self.keys[c](x).unflatten(-1, (self.num_kv_heads, -1)) for c in BRANCHES}
        values = {c: self.values[c](x).unflatten(-1, (self.num_kv_heads, -1)) for c in BRANCHES}
        q = self.query(x).unflatten(-1, (self.num_heads, -1))
        q, k_slc, k_win = rotate_all((q, keys["slc"], keys["win"]), positions, self.rotary_base)
        return {
            "q": q,
            "k_raw": keys["cmp"],
            "v_raw": values["cmp"],
            "k_slc": k_slc,
            "v_slc": values["slc"],
            "k_win": k_win,
            "v_win": values["win"],
            "gates": torch.sigmoid(self.gate(x)).unflatten(-1, (self.num_heads, 3)),
        }

    def branches(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """Everything `nsa_attention` takes, by its argument names; for a look at what a layer reads."""
        return self._compressed(self.project(x, positions), positions)

    def _compressed(
        self, projected: dict[str, Float[Tensor, "..."]], positions: Int[Tensor, " t"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """`projected` with compressed keys, rotated, and values in place of the raw ones."""
        config, rest = self.config, dict(projected)
        k_cmp = compress(rest.pop("k_raw"), self.compress_keys, config=config)
        v_cmp = compress(rest.pop("v_raw"), self.compress_values, config=config)
        block_ends = positions[config.compress_block - 1 :: config.compress_stride]
        return {"k_cmp": rotate(k_cmp, block_ends, self.rotary_base), "v_cmp": v_cmp, **rest}

    def forward(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"], cache: NSACache | None = None
    ) -> Float[Tensor, "b t dim"]:
        """Attend within `x`, or from `x` to what `cache` holds and to itself, and add it to the cache.

        Args:
            x: hidden states ``[b, t, dim]``.
            positions: rotary position of each token, ``[t]``, consecutive; with a cache, its place there.
            cache: from `new_cache`, all rows of one length. No gradient flows through it.

        Raises:
            ValueError: `x` has the wrong rank, or `cache` is of another kind or has no room.
        """
        if cache is None:
            return self._output(self._attend(self.branches(x, positions)))
        check(isinstance(cache, NSACache), "cache", type(cache).__name__, "an NSACache, from new_cache")
        if positions.device.type == "cpu" and len(positions):  # a GPU would have to wait for the answer
            first, held = int(positions[0]), cache.length
            check(first == held, "positions", f"{first} first", f"{held}, the next of the cache")
        cache.check_room(x.shape[1])
        projected = self.project(x, positions)
        tokens = {name: y.detach().to(cache.dtype) for name, y in projected.items()}
        q, gates = tokens.pop("q"), tokens.pop("gates")
        if cache.length == 0:
            inputs = self._compressed(projected, positions)
            made = tuple(inputs[name].detach().to(cache.dtype) for name in ("k_cmp", "v_cmp"))
            cache.prefill(**tokens, compressed=made)
            return self._output(self._attend(inputs))
        backend = "reference" if self.backend == "sdpa" else self.backend
        heads = []
        for start in range(0, x.shape[1], cache.max_append):
            part = slice(start, start + cache.max_append)
            new = {name: y[:, part] for name, y in tokens.items()}
            heads.append(
                nsa_step(q[:, part], cache, gates[:, part], **new, scale=self.scale, backend=backend)
            )
        return self._output(torch.cat(heads, dim=1))

    def _attend(self, inputs: dict[str, Float[Tensor, "..."]]) -> Float[Tensor, "b t hq d_v"]:
        return nsa_attention(**inputs, config=self.config, scale=self.scale, backend=self.backend)

    def _output(self, heads: Float[Tensor, "b t hq d_v"]) -> Float[Tensor, "b t dim"]:
        return self.output(heads.flatten(2))
