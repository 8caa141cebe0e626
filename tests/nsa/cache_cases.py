"""What the tests of cache and decoding share: random tokens, φ, and what whole sequences give."""

import copy

import torch

from minisys.core.decoder import rotate
from minisys.nsa import BlockCompressor, NSACache, NSAConfig, compress
from minisys.nsa.reference import nsa_reference

BASE = 100.0
BRANCHES = ("k_raw", "v_raw", "k_slc", "v_slc", "k_win", "v_win")
CONFIGS = {
    "small": NSAConfig(4, 2, 8, top_n=4, initial_blocks=1, local_blocks=2, window=6),
    "no overlap": NSAConfig(4, 4, 4, top_n=5, initial_blocks=0, local_blocks=1, window=3),
    "long blocks": NSAConfig(12, 3, 6, top_n=3, initial_blocks=1, local_blocks=1, window=10),
    "window of one": NSAConfig(2, 1, 3, top_n=3, initial_blocks=2, local_blocks=1, window=1),
}


class Problem:
    """Random tokens for `batch` rows of up to t tokens, a layer's φ, and the attention of whole rows."""

    def __init__(
        self, config, *, batch=2, t=40, hq=4, hk=2, d_qk=6, d_v=5, hidden=7, base=BASE, seed=0, scale=None,
        dtype=torch.float64, device="cpu",
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        self.config, self.batch, self.t, self.hk, self.d_qk, self.d_v = config, batch, t, hk, d_qk, d_v
        self.base, self.dtype, self.device = base, dtype, device
        self.scale = d_qk**-0.5 if scale is None else scale
        draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        self.tokens = {name: draw(batch, t, hk, d_qk if name[0] == "k" else d_v) for name in BRANCHES}
        self.q, self.gates = draw(batch, t, hq, d_qk), draw(batch, t, hq, 3).sigmoid()
        self.phi = []
        for size in (d_qk, d_v):
            phi = BlockCompressor(size, config.compress_block, hidden).to(device, dtype)
            for parameter in phi.parameters():
                parameter.data = draw(*parameter.shape) / parameter.shape[-1] ** 0.5
            self.phi.append(phi.requires_grad_(False))

    def cache(self, capacity=None, **options):
        return NSACache(
            self.batch, self.t if capacity is None else capacity, self.hk, self.d_qk, self.d_v,
            config=self.config, compress_keys=self.phi[0], compress_values=self.phi[1],
            rotary_base=self.base, dtype=self.dtype, device=self.device, **options,
        )  # fmt: skip

    def new(self, start, count, values=float("nan")):
        """Tokens start[row] … start[row] + count - 1 of every row; past the end of a row there is NaN."""
        index = torch.tensor(start, device=self.device)[:, None] + torch.arange(count, device=self.device)
        rows = torch.arange(self.batch, device=self.device)[:, None]
        cut = lambda x: torch.cat([x, x.new_full((self.batch, count, *x.shape[2:]), values)], 1)[rows, index]
        return {name: cut(x) for name, x in self.tokens.items()}, cut(self.q), cut(self.gates)

    def compressed(self):
        """φ of all keys, rotated, and values ``[b, tc, hk, …]``, in float64."""
        phi_k, phi_v = (copy.deepcopy(phi).double() for phi in self.phi)
        keys = compress(self.tokens["k_raw"].double(), phi_k, config=self.config)
        values = compress(self.tokens["v_raw"].double(), phi_v, config=self.config)
        if self.base is not None:
            ends = torch.arange(keys.shape[1], device=self.device) * self.config.compress_stride
            keys = rotate(keys, ends + self.config.compress_block - 1, self.base)
        return keys, values

    def whole(self, block_indices=None):
        """Output at every position of every row ``[b, t, hq, d_v]``, in float64."""
        rest = [self.tokens[name].double() for name in ("k_slc", "v_slc", "k_win", "v_win")]
        return nsa_reference(
            self.q.double(),
            *self.compressed(),
            *rest,
            self.gates.double(),
            self.config,
            self.scale,
            block_indices,
        )
