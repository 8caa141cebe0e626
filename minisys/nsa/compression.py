"""Token compression: one learned key or value for each block of tokens (arXiv 2502.11089, equation 7).

Block i summarises tokens ``i·d … i·d + l - 1`` (0-based, d = compress_stride, l = compress_block):
K̃_cmp[i] = φ(k[i·d : i·d + l]), with φ an MLP that knows where in the block each token sits.
Layout ``[b, t, h, head_dim]`` in, ``[b, tc, h, head_dim]`` out, tc = max(0, (t - l)//d + 1).
Tokens behind the last whole block belong to no compressed block; window and selection cover them.

Cost of φ for one block and head: 2·l·head_dim·hidden + 2·hidden·head_dim FLOPs, once per stride; a
`BlockCompressor` gives what it did for a piece of tokens to all blocks that hold it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minisys.core.checks import check, check_rank
from minisys.nsa.config import NSAConfig
from minisys.nsa.packing import sequence_bounds


class BlockCompressor(nn.Module):
    """φ of equation 7: an MLP over one block, ``[..., l, head_dim] -> [..., head_dim]``.

    Every token first gets a learned vector for its place in the block, so that φ can weigh the
    start of a block against its end. All heads share one φ.

    Args:
        head_dim: size of a key or value.
        block: tokens of a block (l).
        hidden: width of the hidden layer; 2·head_dim unless set.
    """

    def __init__(self, head_dim: int, block: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 2 * head_dim if hidden is None else hidden
        for name, got in (("head_dim", head_dim), ("block", block), ("hidden", hidden)):
            check(got >= 1, name, got, "at least 1")
        self.head_dim, self.block = head_dim, block
        self.positions = nn.Parameter(torch.zeros(block, head_dim))
        self.first = nn.Linear(block * head_dim, hidden)
        self.second = nn.Linear(hidden, head_dim)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, blocks: Float[Tensor, "*lead l head_dim"]) -> Float[Tensor, "*lead head_dim"]:
        expected = (self.block, self.head_dim)
        check(
            tuple(blocks.shape[-2:]) == expected,
            "blocks",
            f"shape {tuple(blocks.shape)}",
            f"last axes {expected} [l, head_dim]",
        )
        return self.second(nn.functional.silu(self.first((blocks + self.positions).flatten(-2))))

    def sequence(self, x: Float[Tensor, "b t h head_dim"], stride: int) -> Float[Tensor, "b tc h head_dim"]:
        """`forward` of every block of a sequence, a block every `stride` tokens, which divides the block.

        Neighbouring blocks share tokens. The first layer is linear, so each stride-long piece goes through it
        once, with the weights of every place that it has in a block, and a block adds up its pieces: l/d
        times fewer FLOPs and bytes than with blocks that were written out.
        """
        pieces, count = self.block // stride, x.shape[1] // stride
        blocks = count - pieces + 1
        cut = x[:, : count * stride].unflatten(1, (count, stride)).transpose(2, 3).flatten(3)
        weights = self.first.weight.unflatten(1, (pieces, -1))  # [hidden, pieces, stride·head_dim]
        total = nn.functional.linear(self.positions.flatten(), self.first.weight, self.first.bias)
        for piece in range(pieces):  # each product adds to what is there: no sum is a pass of its own
            rows = cut[:, piece : piece + blocks].flatten(0, 2)
            total = torch.addmm(total, rows, weights[:, piece].T)
        out = self.second(nn.functional.silu(total))
        return out.unflatten(0, (x.shape[0], blocks, x.shape[2]))


def compress(
    x: Float[Tensor, "b t h head_dim"],
    phi: Callable[[Tensor], Tensor],
    *,
    config: NSAConfig,
    cu_seqlens: Int[Tensor, " sequences_plus_1"] | None = None,
) -> Float[Tensor, "b tc h head_dim"]:
    """Compress keys or values block by block (equation 7).

    Args:
        x: keys or values, ``[b, t, h, head_dim]``, any floating dtype.
        phi: maps blocks ``[b, tc, h, l, head_dim]`` to ``[b, tc, h, head_dim]``, for example a
            `BlockCompressor`, or ``lambda blocks: blocks.mean(-2)`` for mean pooling.
        config: block length and stride.
        cu_seqlens: for packed sequences (b = 1), where each starts, and t at the end, ``[0, …, t]``.
            No block reaches over a boundary; the blocks of all sequences are concatenated.

    Returns:
        ``[b, tc, h, head_dim]``; tc = 0 where no whole block fits.

    Raises:
        ValueError: `x` has the wrong rank, `cu_seqlens` does not fit, or `phi` returns a wrong shape.
    """
    check_rank("x", x, "b t h head_dim")
    bounds = sequence_bounds(cu_seqlens, x)
    if type(phi) is BlockCompressor and (phi.head_dim, phi.block) == (x.shape[3], config.compress_block):
        whole = [(start, end) for start, end in bounds if end - start >= phi.block]
        if whole:
            parts = [phi.sequence(x[:, a:b], config.compress_stride) for a, b in whole]
            return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    blocks = []
    for start, end in bounds:
        if end - start >= config.compress_block:  # unfold refuses a shorter axis
            windows = x[:, start:end].unfold(1, config.compress_block, config.compress_stride)
            blocks.append(windows.transpose(-1, -2))  # [b, tc, h, l, head_dim]
    if not blocks:
        return x.new_zeros(x.shape[0], 0, x.shape[2], x.shape[3])
    stacked = torch.cat(blocks, dim=1)
    out = phi(stacked)
    check(
        tuple(out.shape) == (*stacked.shape[:3], stacked.shape[-1]),
        "phi",
        f"output of shape {tuple(out.shape)}",
        f"{(*stacked.shape[:3], stacked.shape[-1])} [b, tc, h, head_dim]",
    )
    return out
