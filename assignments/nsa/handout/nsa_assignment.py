"""Native sparse attention, in four parts. Fill in the four functions; README.md says how they are graded.

Letters as in the course: b batch, t tokens, h heads, hq query heads, hk key/value heads, g = hq // hk query
heads in a group, tc compressed blocks, ts selection blocks. Query heads j·g … j·g + g - 1 use key/value
head j. Tokens and blocks count from 0. `config` has the fields compress_block (l), compress_stride (d),
select_block (l'), top_n, initial_blocks, local_blocks and window; see `minisys.nsa.NSAConfig`.

Everything must run in the dtype it is given (float64 in the tests), and must leave its arguments as they are.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int

from minisys.nsa import NSAConfig


def compress(
    x: Float[torch.Tensor, "b t h head_dim"], phi: Callable[[torch.Tensor], torch.Tensor], config: NSAConfig
) -> Float[torch.Tensor, "b tc h head_dim"]:
    """Part 1: cut keys or values into blocks and compress each with `phi` (equation 7).

    Block i holds the compress_block tokens from i·compress_stride on. Only whole blocks count, so that
    tc = max(0, (t - compress_block) // compress_stride + 1); where no block fits, the result has tc = 0.
    `phi` maps ``[b, tc, h, l, head_dim]`` to ``[b, tc, h, head_dim]``; l are the tokens of a block in order.
    """
    raise NotImplementedError


def block_importance(
    p_cmp: Float[torch.Tensor, "b hk g t tc"], config: NSAConfig
) -> Float[torch.Tensor, "b t hk ts"]:
    """Part 2: the importance of every selection block (equations 9 and 10).

    `p_cmp` holds the probabilities of the compressed branch; query head j·g + i is ``p_cmp[:, j, i]``.
    Read equation 9 by overlap: a compressed block is compress_block // compress_stride pieces, each
    compress_stride tokens long; every piece credits the block's probability to the selection block in which
    that piece lies. Then add up the query heads of a group. There are ts = ceil(t / select_block) selection
    blocks, of which the last may be cut short.
    """
    raise NotImplementedError


def select_blocks(
    importance: Float[torch.Tensor, "b t hk ts"], config: NSAConfig
) -> Int[torch.Tensor, "b t hk top_n"]:
    """Part 3: the numbers of the blocks that each query reads (equations 11 and 12).

    Always in are the first initial_blocks and the last local_blocks up to the query's own block (its own
    included). They count towards top_n; the most important of the other blocks fill up. A tie goes to the
    earlier block, and a block after the query's own is never chosen. Return the numbers ascending, with -1 at
    the end where a query has fewer than top_n blocks.
    """
    raise NotImplementedError


def gated_output(
    q: Float[torch.Tensor, "b t hq d_qk"],
    k_cmp: Float[torch.Tensor, "b tc hk d_qk"],
    v_cmp: Float[torch.Tensor, "b tc hk d_v"],
    k_slc: Float[torch.Tensor, "b t hk d_qk"],
    v_slc: Float[torch.Tensor, "b t hk d_v"],
    k_win: Float[torch.Tensor, "b t hk d_qk"],
    v_win: Float[torch.Tensor, "b t hk d_v"],
    gates: Float[torch.Tensor, "b t hq 3"],
    block_indices: Int[torch.Tensor, "b t hk n"],
    config: NSAConfig,
    scale: float,
) -> Float[torch.Tensor, "b t hq d_v"]:
    """Part 4: attend in the three branches and add them up by their gates (equation 5).

    * compressed (gate 0): a query sees a compressed block that ends at or before it;
    * selected (gate 1): it sees the tokens of its blocks in `block_indices` (-1 stands for no block), but
      none after itself;
    * window (gate 2): it sees the last `window` tokens, itself included.

    Scores are scale · q·k in all three. A branch in which a query sees nothing contributes exactly zero.
    """
    raise NotImplementedError
