"""The selected branch in Triton, parts 1, 2 and 4. README.md says how they are graded.

Letters as in the course: t tokens, hq query heads, hk key/value heads, g = hq // hk query heads in a group.
Query heads j·g … j·g + g - 1 use key/value head j. Block j holds the tokens j·select_block … of the sequence,
select_block of them, the last block maybe fewer. Tokens and blocks count from 0. All tensors are contiguous
and float32; block numbers and codes are int64.

Every part has launch code that is written already, under its kernel. A result is the output with one column
more: the logarithm of the softmax's denominator (lse), from which a backward pass recomputes the weights. For
a row that sees no key the output is 0 and lse is +infinity, so that exp(score - lse) is 0.

Sides of tiles are powers of two, and at least 16, as `tl.dot` wants: what a size does not fill is padding, to
be masked. The tests run the kernels on the CPU in Triton's interpreter; to do so yourself, set the variable
TRITON_INTERPRET=1 before Python starts. Triton is there on Linux only.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int


def padded(size: int) -> int:
    """The smallest power of two that holds `size` and is at least 16."""
    return max(16, triton.next_power_of_2(size))


def joined(out: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    """The output ``[..., d_v]`` with lse ``[...]`` as its last column."""
    return torch.cat([out, lse[..., None]], dim=-1)


# Part 1


@triton.jit
def softmax_step(q, k, v, visible, row_max, row_sum, acc, scale):
    """Part 1: take one tile of keys and values into the online softmax.

    q [rows, d_qk], k [keys, d_qk], v [keys, d_v]; `visible` [rows, keys] (or [1, keys]) says which keys a row
    sees. A score is scale · q·k. Of the keys that a row has seen so far, the three that are carried hold

        row_max [rows]       the highest score m, -infinity if it has seen none,
        row_sum [rows]       Σ exp(score - m), 0 if it has seen none,
        acc [rows, d_v]      Σ exp(score - m) · v.

    Return the three with this tile's keys counted in. Use `tl.dot` for both products, so that they would run
    on tensor cores; with input_precision="ieee" a GPU computes them in full float32.
    """
    # BEGIN SOLUTION
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    base = tl.where(new_max == float("-inf"), 0.0, new_max)  # nothing seen yet: -inf - (-inf) is no number
    weights = tl.exp(scores - base[:, None])
    shrink = tl.exp(row_max - base)
    row_sum = row_sum * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None] + tl.dot(weights, v, input_precision="ieee")
    return new_max, row_sum, acc
    # END SOLUTION


@triton.jit
def tiled_kernel(
    q, k, v, visible, out_max, out_sum, out_acc, scale, rows, keys,
    D_QK: tl.constexpr, D_V: tl.constexpr,
    ROWS: tl.constexpr, QK_TILE: tl.constexpr, V_TILE: tl.constexpr, KEY_TILE: tl.constexpr,
):  # fmt: skip
    """Given: one program walks over all keys, KEY_TILE at a time, and stores what `softmax_step` carries."""
    row, qk, dv = tl.arange(0, ROWS), tl.arange(0, QK_TILE)[None, :], tl.arange(0, V_TILE)[None, :]
    in_rows = (row < rows)[:, None]
    q_tile = tl.load(q + row[:, None] * D_QK + qk, mask=in_rows & (qk < D_QK), other=0.0)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, V_TILE], tl.float32)
    for first in range(0, keys, KEY_TILE):
        key = first + tl.arange(0, KEY_TILE)
        in_keys = (key < keys)[:, None]
        k_tile = tl.load(k + key[:, None] * D_QK + qk, mask=in_keys & (qk < D_QK), other=0.0)
        v_tile = tl.load(v + key[:, None] * D_V + dv, mask=in_keys & (dv < D_V), other=0.0)
        place = row[:, None] * keys + key[None, :]
        sees = tl.load(visible + place, mask=in_rows & (key < keys)[None, :], other=0) != 0
        row_max, row_sum, acc = softmax_step(q_tile, k_tile, v_tile, sees, row_max, row_sum, acc, scale)
    tl.store(out_max + row, row_max, mask=row < rows)
    tl.store(out_sum + row, row_sum, mask=row < rows)
    tl.store(out_acc + row[:, None] * D_V + dv, acc, mask=in_rows & (dv < D_V))


def tiled_attention(
    q: Float[torch.Tensor, "rows d_qk"],
    k: Float[torch.Tensor, "keys d_qk"],
    v: Float[torch.Tensor, "keys d_v"],
    visible: Bool[torch.Tensor, "rows keys"],
    scale: float,
) -> Float[torch.Tensor, "rows d_v_plus_1"]:
    """Given: attention of `rows` queries in one program, tile after tile, with your `softmax_step`."""
    (rows, d_qk), (keys, d_v) = q.shape, v.shape
    row_max, row_sum, acc = q.new_empty(rows), q.new_empty(rows), q.new_empty(rows, d_v)
    tiled_kernel[(1,)](
        q, k, v, visible.to(torch.int8), row_max, row_sum, acc, scale, rows, keys, D_QK=d_qk, D_V=d_v,
        ROWS=padded(rows), QK_TILE=padded(d_qk), V_TILE=padded(d_v), KEY_TILE=16,
    )  # fmt: skip
    nothing = row_sum == 0
    row_sum = row_sum.masked_fill(nothing, 1.0)
    return joined(acc / row_sum[:, None], (row_max + row_sum.log()).masked_fill(nothing, float("inf")))


# Part 2


@triton.jit
def finish_rows(row_max, row_sum, acc):
    """Part 2: (output [rows, d_v], lse [rows]) from what the last `softmax_step` returned."""
    # BEGIN SOLUTION
    nothing = row_sum == 0.0
    total = tl.where(nothing, 1.0, row_sum)
    return acc / total[:, None], tl.where(nothing, float("inf"), row_max + tl.log(total))
    # END SOLUTION


@triton.jit
def selected_kernel(
    q, k, v, block_indices, out, lse, scale, t, hk, n,
    G: tl.constexpr, D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, QK_TILE: tl.constexpr, V_TILE: tl.constexpr, BLOCK_TILE: tl.constexpr,
):  # fmt: skip
    """Part 2: one program is one token and one key/value head; its rows are the G query heads of the group.

    Program number token·hk + head walks over the blocks of its list. The token sees the tokens of a block up
    to and including itself. A list's numbers rise, with -1 for no block at the end; a number may stand there
    twice in a row and then counts once. Load a key or value once for the whole group.

    q ``[t, hk·G, D_QK]``, k ``[t, hk, D_QK]``, v ``[t, hk, D_V]``, block_indices ``[t, hk, n]``; to be
    written: out ``[t, hk·G, D_V]`` and lse ``[t, hk·G]``. BLOCK is select_block; the names with TILE, and
    ROWS for G, are the padded sizes.
    """
    # BEGIN SOLUTION
    program = tl.program_id(0)
    token, group = program // hk, program % hk
    row, key = tl.arange(0, ROWS), tl.arange(0, BLOCK_TILE)
    qk, dv = tl.arange(0, QK_TILE)[None, :], tl.arange(0, V_TILE)[None, :]
    in_group = (row < G)[:, None]
    head = program * G + row[:, None]
    q_tile = tl.load(q + head * D_QK + qk, mask=in_group & (qk < D_QK), other=0.0)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, V_TILE], tl.float32)
    for i in range(n):
        block = tl.load(block_indices + program * n + i)
        before = tl.load(block_indices + program * n + i - 1, mask=i > 0, other=-1)
        if (block >= 0) & (block != before):
            tokens = block * BLOCK + key
            visible = (key < BLOCK) & (tokens <= token)
            place = (tokens * hk + group)[:, None]
            k_tile = tl.load(k + place * D_QK + qk, mask=visible[:, None] & (qk < D_QK), other=0.0)
            v_tile = tl.load(v + place * D_V + dv, mask=visible[:, None] & (dv < D_V), other=0.0)
            row_max, row_sum, acc = softmax_step(
                q_tile, k_tile, v_tile, visible[None, :], row_max, row_sum, acc, scale
            )
    o, row_lse = finish_rows(row_max, row_sum, acc)
    tl.store(out + head * D_V + dv, o, mask=in_group & (dv < D_V))
    tl.store(lse + program * G + row, row_lse, mask=row < G)
    # END SOLUTION


def selected_attention(
    q: Float[torch.Tensor, "t hq d_qk"],
    k: Float[torch.Tensor, "t hk d_qk"],
    v: Float[torch.Tensor, "t hk d_v"],
    block_indices: Int[torch.Tensor, "t hk n"],
    select_block: int,
    scale: float,
) -> Float[torch.Tensor, "t hq d_v_plus_1"]:
    """Given: the selected branch, a program for each token and key/value head."""
    (t, hq, d_qk), (_, hk, d_v), n = q.shape, v.shape, block_indices.shape[2]
    out, lse = q.new_empty(t, hq, d_v), q.new_empty(t, hq)
    selected_kernel[(t * hk,)](
        q, k, v, block_indices, out, lse, scale, t, hk, n, G=hq // hk, D_QK=d_qk, D_V=d_v, BLOCK=select_block,
        ROWS=padded(hq // hk), QK_TILE=padded(d_qk), V_TILE=padded(d_v), BLOCK_TILE=padded(select_block),
    )  # fmt: skip
    return joined(out, lse)


# Part 4


@triton.jit
def packed_kernel(
    q, k, v, codes, out, lse, scale, t, hk, num_codes, TOKENS: tl.constexpr,
    G: tl.constexpr, D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, QK_TILE: tl.constexpr, V_TILE: tl.constexpr, BLOCK_TILE: tl.constexpr,
):  # fmt: skip
    """Part 4: one program is a tile of TOKENS tokens and one key/value head; its rows are their query heads.

    Program number tile·hk + head walks over the merged list of its tile, as part 3 makes it, and loads a
    block once for all rows. A row sees a block's tokens only if its token's bit is set, and none after its
    own token. The last tile may have fewer tokens: there is nothing behind the sequence's end, neither to
    load nor to store.

    codes ``[ceil(t / TOKENS), hk, num_codes]``, -1 at the end of a list; ROWS is TOKENS·G, padded; all else
    as in part 2.
    """
    # BEGIN SOLUTION
    program = tl.program_id(0)
    first, group = program // hk * TOKENS, program % hk
    row, key = tl.arange(0, ROWS), tl.arange(0, BLOCK_TILE)
    qk, dv = tl.arange(0, QK_TILE)[None, :], tl.arange(0, V_TILE)[None, :]
    member, own = row // G, first + row // G  # the row's token in the tile, and in the sequence
    in_tile = (member < TOKENS) & (own < t)
    place_q = (own * hk + group) * G + row % G
    rows_q = tl.load(q + place_q[:, None] * D_QK + qk, mask=in_tile[:, None] & (qk < D_QK), other=0.0)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, V_TILE], tl.float32)
    end = tl.minimum(first + TOKENS, t)
    for i in range(num_codes):
        code = tl.load(codes + program * num_codes + i)
        if code >= 0:
            keys = (code >> TOKENS) * BLOCK + key
            needed = (key < BLOCK) & (keys < end)
            chosen = ((code >> member) & 1) != 0
            sees = chosen[:, None] & needed[None, :] & (keys[None, :] <= own[:, None])
            at = (keys * hk + group)[:, None]
            tile_k = tl.load(k + at * D_QK + qk, mask=needed[:, None] & (qk < D_QK), other=0.0)
            tile_v = tl.load(v + at * D_V + dv, mask=needed[:, None] & (dv < D_V), other=0.0)
            row_max, row_sum, acc = softmax_step(rows_q, tile_k, tile_v, sees, row_max, row_sum, acc, scale)
    o, row_lse = finish_rows(row_max, row_sum, acc)
    tl.store(out + place_q[:, None] * D_V + dv, o, mask=in_tile[:, None] & (dv < D_V))
    tl.store(lse + place_q, row_lse, mask=in_tile)
    # END SOLUTION


def packed_attention(
    q: Float[torch.Tensor, "t hq d_qk"],
    k: Float[torch.Tensor, "t hk d_qk"],
    v: Float[torch.Tensor, "t hk d_v"],
    codes: Int[torch.Tensor, "tiles hk num_codes"],
    tokens: int,
    select_block: int,
    scale: float,
) -> Float[torch.Tensor, "t hq d_v_plus_1"]:
    """Given: the selected branch, a program for each tile of `tokens` tokens and key/value head."""
    (t, hq, d_qk), (_, hk, d_v) = q.shape, v.shape
    tiles, _, num_codes = codes.shape
    out, lse = q.new_empty(t, hq, d_v), q.new_empty(t, hq)
    packed_kernel[(tiles * hk,)](
        q, k, v, codes, out, lse, scale, t, hk, num_codes, TOKENS=tokens,
        G=hq // hk, D_QK=d_qk, D_V=d_v, BLOCK=select_block, ROWS=padded(tokens * (hq // hk)),
        QK_TILE=padded(d_qk), V_TILE=padded(d_v), BLOCK_TILE=padded(select_block),
    )  # fmt: skip
    return joined(out, lse)
