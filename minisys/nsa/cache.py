"""NSACache: what one layer of native sparse attention keeps of the tokens it has read.

Each branch remembers no more than a later query can ask for:

* compressed: one key and one value for every compress_stride tokens, made by φ as soon as a block is whole
  (equation 7 of arXiv 2502.11089). Of the raw keys and values only the last block is kept, in a ring: φ
  needs them until the next block is whole. So φ runs once for each block, on average 1/compress_stride
  times a token.
* selected: every token, since any later query may choose any block.
* window: the last `window` tokens, in a ring.

That is 1 + 1/compress_stride times a dense cache and two rings of a fixed size, where keeping everything of
all three branches would be 3 + 1/compress_stride times.

Layout: ``[b, hk, tokens, head_dim]``, head-major. One selection block of one head is what a decoding step
reads at a time; so it lies in one piece, 16 KiB with the paper's block of 64 tokens and bfloat16 heads of
128. In a ring, the token at position p lies at p modulo the ring's size.

Rows may have different lengths. Lengths are on the device, where kernels read them, and once more on the
host, so that every check happens before anything is written and without waiting for the GPU.

Left out: paged storage (each row has its capacity reserved) and gradients.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from minisys.core.checks import check, check_positive_int, check_rank, check_shape
from minisys.core.decoder import rotate
from minisys.nsa.compression import compress
from minisys.nsa.config import NSAConfig

Phi = Callable[[Tensor], Tensor]
TOKENS = ("k_raw", "v_raw", "k_slc", "v_slc", "k_win", "v_win")  # what a cache is given of a token


class NSACache:
    """Keys and values of one layer for up to `capacity` tokens a row.

    Args:
        batch: rows (b).
        capacity: tokens that each row has room for.
        num_kv_heads: key/value heads (hk).
        d_qk, d_v: size of keys and of values.
        config: block lengths, top_n and window.
        compress_keys, compress_values: φ of keys and of values, as `compress` takes it.
        rotary_base: base of the rotary positions that a compressed key gets, those of the last token of its
            block; None for keys without positions.
        max_append: most tokens that `append` takes at once, and that `truncate` takes back. The rings have
            that much more room.
        dtype, device: of all keys and values.

    Attributes:
        k_cmp, v_cmp: compressed keys, rotated, and values ``[b, hk, tc, …]``, tc for a row at capacity.
        k_slc, v_slc: ``[b, hk, capacity, …]``.
        k_win, v_win, k_raw, v_raw: rings; the latter hold the compressed branch's tokens before φ.
        lengths: int32 ``[b]`` on the device, tokens held by each row.

    Raises:
        ValueError: a size is no positive whole number, or an odd d_qk is to be rotated.
    """

    def __init__(
        self,
        batch: int,
        capacity: int,
        num_kv_heads: int,
        d_qk: int,
        d_v: int,
        *,
        config: NSAConfig,
        compress_keys: Phi,
        compress_values: Phi,
        rotary_base: float | None = None,
        max_append: int = 64,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {"batch": batch, "capacity": capacity, "num_kv_heads": num_kv_heads, "d_qk": d_qk, "d_v": d_v}
        for name, size in (sizes | {"max_append": max_append}).items():
            check_positive_int(name, size)
        check(rotary_base is None or d_qk % 2 == 0, "d_qk", d_qk, "an even number, for rotary positions")
        self.batch, self.capacity, self.num_kv_heads = batch, capacity, num_kv_heads
        self.d_qk, self.d_v, self.config, self.max_append = d_qk, d_v, config, max_append
        self.compress_keys, self.compress_values, self.rotary_base = (
            compress_keys,
            compress_values,
            rotary_base,
        )
        # A query needs the window up to itself; the tokens appended with it, or taken back, lie behind it.
        window, raw = config.window + max_append - 1, config.compress_block + max_append - 1
        empty = lambda tokens, size: torch.zeros(
            batch, num_kv_heads, tokens, size, dtype=dtype, device=device
        )
        blocks = config.num_compressed(capacity)
        self.k_cmp, self.v_cmp = empty(blocks, d_qk), empty(blocks, d_v)
        self.k_slc, self.v_slc = empty(capacity, d_qk), empty(capacity, d_v)
        self.k_win, self.v_win = empty(window, d_qk), empty(window, d_v)
        self.k_raw, self.v_raw = empty(raw, d_qk), empty(raw, d_v)
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        # What the kernels keep between launches (kernels/decode*.py).
        self._length_copies: dict[str, Tensor] = {}
        self._counters: dict[str, list[Tensor]] = {}
        self._turns: Tensor | None = None
        self._lengths = [0] * batch  # the host's copy
        self._least = [0] * batch  # shorter rows would need tokens that the rings no longer hold

    @property
    def dtype(self) -> torch.dtype:
        return self.k_slc.dtype

    @property
    def device(self) -> torch.device:
        return self.k_slc.device

    @property
    def row_lengths(self) -> list[int]:
        """Tokens held by each row, from the host's copy."""
        return list(self._lengths)

    @property
    def length(self) -> int:
        """Tokens held by every row.

        Raises:
            ValueError: rows have different lengths.
        """
        same = len(set(self._lengths)) == 1
        check(same, "length", self._lengths, "rows of one length; see row_lengths")
        return self._lengths[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values that the cache has room for."""
        held = ("k_cmp", "v_cmp", *TOKENS)
        return sum(getattr(self, name).nbytes for name in held)

    @torch.no_grad()
    def prefill(
        self,
        k_raw: Float[Tensor, "b t hk d_qk"],
        v_raw: Float[Tensor, "b t hk d_v"],
        k_slc: Float[Tensor, "b t hk d_qk"],
        v_slc: Float[Tensor, "b t hk d_v"],
        k_win: Float[Tensor, "b t hk d_qk"],
        v_win: Float[Tensor, "b t hk d_v"],
        *,
        lengths: Sequence[int] | None = None,
        compressed: tuple[Float[Tensor, "b tc hk d_qk"], Float[Tensor, "b tc hk d_v"]] | None = None,
    ) -> None:
        """Store the first tokens of every row, any number of them.

        Args:
            k_raw, v_raw: keys and values of the compressed branch before φ; keys not rotated.
            k_slc, v_slc, k_win, v_win: of the other branches; keys rotated.
            lengths: tokens of each row, 0 to t, where rows are shorter than t; what lies behind is not read.
            compressed: φ of `k_raw`, rotated, and φ of `v_raw`, where the caller has them; computed here
                unless given.

        Raises:
            ValueError: the cache holds tokens already, there is no room, or an argument does not fit.
                Nothing was written.
        """
        new = (k_raw, v_raw, k_slc, v_slc, k_win, v_win)
        t = self._check_new(new)
        ends = self._check_counts("lengths", lengths, t)
        check(not any(self._lengths), "cache", f"{self._lengths} tokens", "an empty cache; append adds to it")
        self._check_ends(ends)
        if lengths is not None:  # behind the end of a row there may be anything, NaN too
            device_ends = torch.tensor(ends, device=self.device)
            inside = torch.arange(t, device=self.device) < device_ends[:, None]
            new = tuple(x.masked_fill(~inside[..., None, None], 0.0) for x in new)
        if compressed is None:
            compressed = self._compressed(new[0], new[1])
        tc = self.config.num_compressed(t)
        for name, x, size in zip(("k_cmp", "v_cmp"), compressed, (self.d_qk, self.d_v), strict=True):
            check_shape("compressed", x, (self.batch, tc, self.num_kv_heads, size), "b tc hk head_dim")
            getattr(self, name)[:, :, :tc] = x.transpose(1, 2)
        self.k_slc[:, :, :t], self.v_slc[:, :, :t] = new[2].transpose(1, 2), new[3].transpose(1, 2)
        rings = (self.k_raw, self.v_raw, None, None, self.k_win, self.v_win)
        last = torch.tensor(ends, device=self.device)[:, None] - 1
        for ring, x in zip(rings, new, strict=True):
            if ring is not None and t:
                # slot s holds the last position p with p mod size = s
                slots = torch.arange(ring.shape[2], device=self.device)
                position = (last - (last - slots) % len(slots)).clamp_min(0)  # [b, size]
                ring.copy_(x[torch.arange(self.batch, device=self.device)[:, None], position].transpose(1, 2))
        self._set_lengths(ends)
        self._least = [max(0, end - self.max_append) for end in ends]

    @torch.no_grad()
    def append(
        self,
        k_raw: Float[Tensor, "b t hk d_qk"],
        v_raw: Float[Tensor, "b t hk d_v"],
        k_slc: Float[Tensor, "b t hk d_qk"],
        v_slc: Float[Tensor, "b t hk d_v"],
        k_win: Float[Tensor, "b t hk d_qk"],
        v_win: Float[Tensor, "b t hk d_v"],
        *,
        counts: Sequence[int] | None = None,
        start: int | Sequence[int] | None = None,
        backend: str = "auto",
    ) -> None:
        """Store up to max_append more tokens of every row, and φ of the blocks that they complete.

        In a CUDA graph the kernel adds t tokens at every replay, which the host does not see: call `replayed`
        before each replay. While the graph is recorded nothing is added.

        Args:
            k_raw, v_raw, k_slc, v_slc, k_win, v_win: the new tokens, as in `prefill`.
            counts: how many of the t tokens each row gets, 0 to t; all of them unless given. Not in a graph.
            start: where the caller takes the first new token of a row to stand, one number or one a row.
            backend: ``"reference"`` in plain PyTorch, ``"triton"`` in one kernel, or ``"auto"``: the kernel
                on a CUDA GPU where it can run.

        Raises:
            ValueError: too many tokens, no room for them, a `start` that is not the row's length, or an
                argument that does not fit. Nothing was written.
        """
        new = (k_raw, v_raw, k_slc, v_slc, k_win, v_win)
        added, ends, recording = self.check_append(new, counts, start)
        from minisys.nsa.decoding import append_backend, append_reference  # which know caches

        if append_backend(backend, self) == "triton":
            from minisys.nsa.kernels.decode_append import append_triton

            append_triton(self, dict(zip(TOKENS, new, strict=True)), None if counts is None else added)
        else:
            check(not recording, "backend", backend, "'triton' while a graph is recorded")
            append_reference(self, new, added)
            self._set_lengths(ends)
        if not recording:
            self._moved(ends)

    def check_append(
        self, new: tuple[Tensor, ...], counts: Sequence[int] | None, start: int | Sequence[int] | None
    ) -> tuple[list[int], list[int], bool]:
        """Check the arguments of `append`: tokens and lengths of each row, and whether a graph is recorded.

        Raises:
            ValueError: as `append` says.
        """
        t = self._check_new(new)
        check(t <= self.max_append, "k_slc", f"{t} tokens", f"at most max_append = {self.max_append}")
        added = self._check_counts("counts", counts, t)
        if start is not None:
            expected = [start] * self.batch if isinstance(start, int) else list(start)
            check(expected == self._lengths, "start", start, f"the next positions, {self._lengths}")
        ends = [length + count for length, count in zip(self._lengths, added, strict=True)]
        self._check_ends(ends)
        recording = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        check(not (recording and counts is not None), "counts", counts, "None while a graph is recorded")
        return added, ends, recording

    def replayed(self, count: int = 1) -> None:
        """Say that a CUDA graph which appends `count` tokens to every row is about to be replayed.

        Raises:
            ValueError: there is no room for them.
        """
        self.check_room(count)
        self._moved([length + count for length in self._lengths])

    @torch.no_grad()
    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Forget all tokens of each row from position ``lengths[row]`` on, for example refused drafts.

        Compressed blocks need no mending: a block counts when its last token is there, and is computed anew
        when that token comes again.

        Args:
            lengths: tokens to keep, one number or one a row. At most max_append less than a row once held;
                or 0, which empties it.

        Raises:
            ValueError: more than a row holds, or so few that the window before them is gone. Nothing was
                changed.
        """
        kept = [lengths] * self.batch if isinstance(lengths, int) else list(lengths)
        check(len(kept) == self.batch, "lengths", f"{len(kept)} rows", f"{self.batch}")
        for row, (keep, held, least) in enumerate(zip(kept, self._lengths, self._least, strict=True)):
            got = f"{keep} in row {row}"
            check(0 <= keep <= held, "lengths", got, f"0 to the {held} tokens that it holds")
            far = f"0 or at least {least}: the rings hold no token that a shorter row would read"
            check(keep == 0 or keep >= least, "lengths", got, far)
        self._set_lengths(kept)
        self._least = [least if keep else 0 for keep, least in zip(kept, self._least, strict=True)]

    def check_room(self, count: int) -> None:
        """Check that every row has room for `count` more tokens.

        Raises:
            ValueError: there is none.
        """
        self._check_ends([length + count for length in self._lengths])

    def check_queries(self, t: int, counts: Sequence[int] | None = None) -> list[int]:
        """How many of the last tokens of each row are asked for: t, or `counts`.

        Raises:
            ValueError: a row holds fewer, or what they would read is no longer there.
        """
        asked = self._check_counts("counts", counts, t)
        for row, (count, held, least) in enumerate(zip(asked, self._lengths, self._least, strict=True)):
            got = f"{count} tokens of row {row}"
            check(count <= held, "q", got, f"at most the {held} that it holds: append them first")
            recent = f"at most {held - least}: the rings hold no token that an earlier one would read"
            check(count <= held - least, "q", got, recent)
        return asked

    def counter(self, name: str, count: int, dtype: torch.dtype = torch.int32, first: int = 0) -> Tensor:
        """``[count or more]`` times `first`, and later what the kernels left there.

        What it gave out before stays: a recorded graph may use it.
        """
        kept = self._counters.setdefault(name, [])
        if not kept or len(kept[-1]) < count:
            kept.append(torch.full((count,), first, dtype=dtype, device=self.device))
        return kept[-1]

    def length_copies(self, name: str, count: int) -> Tensor:
        """The lengths ``[count, b]``, once for each program of a kernel that counts them in its own copy."""
        if name not in self._length_copies or len(self._length_copies[name]) != count:
            self._length_copies[name] = self.lengths.expand(count, self.batch).contiguous()
        return self._length_copies[name]

    def turns(self) -> Tensor:
        """Cosine and sine for every compressed key, as `rotate` has them, float32 ``[tc, 2, d_qk/2]``."""
        if self._turns is None:
            half, count = self.d_qk // 2, self.k_cmp.shape[2]
            ones = torch.ones(1, count, 1, 2 * half, dtype=torch.float32, device=self.device)
            ones[..., half:] = 0.0  # (1, 0) turns into (cos, sin)
            turned = self._rotated(ones, torch.arange(count, device=self.device))
            self._turns = turned.view(count, 2, half)
        return self._turns

    def _compressed(self, k_raw: Tensor, v_raw: Tensor) -> tuple[Tensor, Tensor]:
        """φ of whole sequences from position 0 on, ``[b, t, hk, …]`` -> ``[b, tc, hk, …]``, keys rotated."""
        keys = compress(k_raw, self.compress_keys, config=self.config)
        values = compress(v_raw, self.compress_values, config=self.config)
        return self._rotated(keys, torch.arange(keys.shape[1], device=self.device)), values

    def _rotated(self, keys: Tensor, blocks: Tensor) -> Tensor:
        """Compressed keys ``[1 or b, n, hk, d_qk]`` at the position of the last token of block n."""
        if self.rotary_base is None:
            return keys
        ends = blocks * self.config.compress_stride + self.config.compress_block - 1
        return rotate(keys, ends, self.rotary_base)

    def _check_new(self, new: tuple[Tensor, ...]) -> int:
        """Check the tokens that come in; returns how many a row."""
        check_rank("k_raw", new[0], "b t hk d_qk")
        t = new[0].shape[1]
        for name, x in zip(TOKENS, new, strict=True):
            size = self.d_qk if name[0] == "k" else self.d_v
            check_shape(name, x, (self.batch, t, self.num_kv_heads, size), "b t hk head_dim")
            check(x.dtype == self.dtype, name, x.dtype, f"{self.dtype}, the dtype of the cache")
            check(x.device == self.device, name, x.device, f"{self.device}, the device of the cache")
        return t

    def _check_counts(self, name: str, counts: Sequence[int] | None, t: int) -> list[int]:
        if counts is None:
            return [t] * self.batch
        added = list(counts)
        check(len(added) == self.batch, name, f"{len(added)} numbers", f"{self.batch}, one a row")
        check(all(0 <= count <= t for count in added), name, added, f"numbers from 0 to {t}")
        return added

    def _check_ends(self, ends: list[int]) -> None:
        check(
            max(ends) <= self.capacity, "cache", f"{max(ends)} tokens", f"at most capacity = {self.capacity}"
        )

    def _moved(self, ends: list[int]) -> None:
        """The host's copy after tokens were appended up to `ends`."""
        self._lengths = ends
        self._least = [max(low, end - self.max_append) for low, end in zip(self._least, ends, strict=True)]

    def _set_lengths(self, ends: list[int]) -> None:
        """Write lengths on the device, all copies of them, and on the host."""
        self.lengths.copy_(torch.tensor(ends, dtype=torch.int32))
        for copies in self._length_copies.values():
            copies.copy_(self.lengths.expand_as(copies))
        self._lengths = list(ends)
