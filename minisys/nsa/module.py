"""NativeSparseAttention: the layer that a decoder calls in place of dense attention."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minisys.core.checks import check, check_rank
from minisys.core.decoder import rotate
from minisys.nsa.attention import nsa_attention
from minisys.nsa.compression import BlockCompressor, compress
from minisys.nsa.config import NSAConfig

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
        backend: passed to `nsa_attention`.

    Raises:
        ValueError: sizes that do not fit.
    """

    supports_cache = False  # generation recomputes the prefix

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

    def branches(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """Everything `nsa_attention` takes, by its argument names; for a look at what a layer reads."""
        check_rank("x", x, "b t dim")
        config = self.config
        q = rotate(self.query(x).unflatten(-1, (self.num_heads, -1)), positions, self.rotary_base)
        keys = {c: self.keys[c](x).unflatten(-1, (self.num_kv_heads, -1)) for c in BRANCHES}
        values = {c: self.values[c](x).unflatten(-1, (self.num_kv_heads, -1)) for c in BRANCHES}
        block_ends = positions[config.compress_block - 1 :: config.compress_stride]
        k_cmp = compress(keys["cmp"], self.compress_keys, config=config)
        return {
            "q": q,
            "k_cmp": rotate(k_cmp, block_ends, self.rotary_base),
            "v_cmp": compress(values["cmp"], self.compress_values, config=config),
            "k_slc": rotate(keys["slc"], positions, self.rotary_base),
            "v_slc": values["slc"],
            "k_win": rotate(keys["win"], positions, self.rotary_base),
            "v_win": values["win"],
            "gates": torch.sigmoid(self.gate(x)).unflatten(-1, (self.num_heads, 3)),
        }

    def forward(
        self, x: Float[Tensor, "b t dim"], positions: Int[Tensor, " t"], cache: None = None
    ) -> Float[Tensor, "b t dim"]:
        """Attend within `x`.

        Args:
            x: hidden states ``[b, t, dim]``.
            positions: rotary position of each token, ``[t]``, consecutive.
            cache: must be None.

        Raises:
            ValueError: `x` has the wrong rank, or a cache was given.
        """
        check(cache is None, "cache", type(cache).__name__, "None: this layer recomputes the whole prefix")
        heads = nsa_attention(
            **self.branches(x, positions), config=self.config, scale=self.scale, backend=self.backend
        )
        return self.output(heads.flatten(2))
