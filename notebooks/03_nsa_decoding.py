# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Native sparse attention, one token at a time
#
# *Your model has written 65,535 tokens.
# What must move through memory before it can write the next, and how close to that does a real step get?*
#
# [Chapter 1](01_native_sparse_attention.ipynb) counted what native sparse attention (NSA) {cite}`yuan2025nsa` reads, [chapter 2](02_nsa_kernels.ipynb) made it fast for whole prompts.
# This chapter is about {term}`decoding <decode>`: one new token, and a cache of everything before it.
#
# After this chapter you can
#
# - say why a decoding step is bound by bytes, and count them by branch,
# - decide what a cache must keep whole, what it may forget, and when it compresses,
# - append several tokens at once, take refused ones back, and show that nothing was lost,
# - cut one query's keys into parts and put the results together exactly,
# - tell a ratio of bytes from a ratio of times.
#
# You need chapter 1; chapter 2 helps where kernels come up.
# Reading takes about 45 minutes.
# Everything runs on a laptop's CPU in under 30 seconds and 1 GB of memory, without Triton.
# With a GPU, the generation at the end of the cache's part uses the kernels.
# Times were measured on a GPU, and are read from the file of `minisys bench nsa-decode`.

# %%
import textwrap

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from minisys.bench import results
from minisys.core.data import load_corpus
from minisys.core.decoder import Decoder, DecoderConfig
from minisys.core.sampling import generate
from minisys.nsa import (
    BlockCompressor,
    NativeSparseAttention,
    NSACache,
    NSAConfig,
    compress,
    nsa_attention,
    nsa_decode,
)
from minisys.nsa.costs import cache_bytes, step_bytes, tokens_read
from minisys.nsa.decoding import decode_reference
from minisys.nsa.small import load_small

device = "cuda" if torch.cuda.is_available() else "cpu"
DECODE = "nsa-decode-gpu"
Markdown(results.provenance(DECODE))

# %% [markdown]
# ## A step has one query
#
# For each key and value of a key/value head, attention loads $d_{qk} + d_v$ numbers of 2 bytes.
# With one query, the $g$ heads of the {term}`group` are all that use them, for $2\,(d_{qk} + d_v)$ FLOPs each:
#
# $$ \frac{\text{FLOPs}}{\text{bytes}} \;=\; \frac{2\,(d_{qk} + d_v)\, g}{2\,(d_{qk} + d_v)} \;=\; g . $$ (eq-decode-intensity)
#
# This is the step's {term}`arithmetic intensity`.
# The GPU can do far more with a byte before its matrix units become the limit {cite}`williams2009roofline`.
# Here are its two rates, measured in the same run as everything below, and what queries that share their keys would do with them:

# %%
sizes = results.value(DECODE, "sizes")
hq, hk, d = (sizes[name] for name in ("hq", "hk", "head_dim"))
group = hq // hk
ceilings = results.value(DECODE, "ceilings")
matmul = ceilings["matmul_tflops_per_s"] * 1e12
copy = ceilings["copy_tb_per_s"] * 1e12
print(
    f"matrix product {matmul / 1e12:.0f} TFLOP/s, copy {copy / 1e12:.2f} TB/s"
)
print(f"the two are equal at {matmul / copy:.0f} FLOPs a byte\n")
print("queries over the same keys   FLOPs a byte   bound by")
for queries in (1, 4, 64, 4096):
    bound = "bytes" if queries * group < matmul / copy else "arithmetic"
    print(f"{queries:26,} {queries * group:14,}   {bound}")
assert group < matmul / copy < 64 * group

# %% [markdown]
# A prompt of thousands of queries is bound by arithmetic, a step by its bytes.
# A larger batch does not change that: each row of the batch has keys and values of its own.
# (It does help the model's other matrices, which all rows share; that is why models are served in batches.)
# The way to a faster step is to load less {cite}`shazeer2019mqa`.
#
# ```{admonition} The rule
# :class: tip
# A step takes at least as long as its bytes.
# It does $g$ FLOPs with each, so its arithmetic is nearly free.
# ```
#
# ## What must be read
#
# Sizes from here on: 64 query heads in 4 groups, $d_{qk} = d_v = 128$, bfloat16, and the paper's block lengths.
# This is what the query at the end of each context reads, by the formula of chapter 1:

# %%
config = NSAConfig(**results.value(DECODE, "config"))
assert config == NSAConfig()
assert (hq, hk, d) == (64, 4, 128)
sized = {"d_qk": d, "d_v": d, "hk": hk}
LENGTHS, BATCHES = (8192, 16384, 32768, 65536), (1, 8, 64)
token_ratio = {}
print("          keys              byte ratio at batch")
print("  tokens   NSA   ratio       1      8     64")
for t in LENGTHS:
    keys = tokens_read(t - 1, config).total
    token_ratio[t] = t / keys
    moved = [step_bytes(t, config, **sized, batch=b) for b in BATCHES]
    shown = " ".join(f"{m['dense'] / m['nsa']:6.2f}" for m in moved)
    print(f"{t:8,} {keys:5,} {token_ratio[t]:7.2f}  {shown}")
assert [round(r, 1) for r in token_ratio.values()] == [4.0, 6.4, 9.1, 11.6]

# %% [markdown]
# 4, 6.4, 9.1, 11.6: those are the paper's "expected" speed-ups of decoding.
# They are ratios of tokens.
# The three columns on the right are ratios of all bytes of a step, which has two more things to do: store the new token, and keep the summaries up to date.
# By part, at 64k:

# %%
parts = ("compressed", "selected", "window", "append", "compression")
print("MB a step       " + "".join(f"{f'batch {b}':>10}" for b in BATCHES))
moved = [step_bytes(65536, config, **sized, batch=b) for b in BATCHES]
for name in (*parts, "nsa", "dense"):
    print(f"{name:16}" + "".join(f"{m[name] / 1e6:10.2f}" for m in moved))
print()
for t in (LENGTHS[0], LENGTHS[-1]):
    m = step_bytes(t, config, **sized, batch=8)
    share = m["compressed"] / m["nsa"]
    print(f"at {t:,} tokens, {100 * share:.0f} % is the compressed branch")
assert share > 0.7

# %% [markdown]
# `compression` is the function $\varphi$: its weights and one raw block, shared by the 16 steps of which one completes a block.
# The weights are the same for all rows, so they count at batch 1 and vanish in a large batch.
#
# Selected blocks and window cost the same at all these lengths.
# All that grows is the compressed branch, and at 64k it is most of a step's bytes.
# Move length, batch, group, window and $n$, and see which part you would attack first.
# What would a launch of 5 µs do to the ratio at batch 1?

# %% tags=["nbval-ignore-output"]
from minisys.viz import nsa_decode as what_a_token_must_read

cases = dict.fromkeys(found["case"] for found in results.rows(DECODE))
stages = [case for case in cases if case.startswith("stage: ")]
what_a_token_must_read(launches={"nsa": len(stages), "dense": 2})

# %% [markdown]
# Lines are computed; points are steps that were measured, where there are any with these settings.
#
# ## What must be kept
#
# Reading less does not mean keeping less.
# Ask of each branch what *any later* query may want:
#
# | Branch | A later query may read | So the cache keeps |
# |---|---|---|
# | compressed | every summary | one key and one value for every 16 tokens, and the last 32 raw tokens, for the block that is not whole yet |
# | selected | any block, whichever it will choose | every token |
# | window | the last 512 tokens, its own among them | the last 512 tokens |
#
# Raw tokens of the compressed branch are needed only until the blocks that hold them are whole, and the window has nothing to do with older tokens: both are {term}`rings <ring>` that later tokens overwrite.

# %%
print("MB a row        " + "".join(f"{t:>9,}" for t in LENGTHS))
kept = [cache_bytes(t, config, **sized) for t in LENGTHS]
for name in ("compressed", "selected", "window", "raw", "nsa", "dense"):
    print(f"{name:16}" + "".join(f"{k[name] / 1e6:9.2f}" for k in kept))

cache = NSACache(
    1, 65536, hk, d, d, config=config, dtype=torch.bfloat16, device="meta",
    compress_keys=lambda x: x, compress_values=lambda x: x,
)  # fmt: skip
print(f"\nNSACache for 65,536 tokens: {cache.nbytes / 1e6:.2f} MB")
everything = 3 + 1 / config.compress_stride
now = kept[-1]["nsa"] / kept[-1]["dense"]
print(f"{now:.2f} times a dense cache; all of all branches: {everything:.2f}")
assert 1 + 1 / 16 < now < 1.08

# %% [markdown]
# **NSA's cache is larger than a dense one**, by a sixteenth and two rings of fixed size.
# It saves reading, not keeping.
# The class has a little more room than counted: its rings hold 63 tokens more, so that up to 64 can be appended, and taken back, at once.
#
# ## The cache, step by step
#
# ### A ring
#
# The token at position $p$ lies in slot $p$ modulo the ring's size.
# With a window of 4 and up to two tokens at once, five slots do: the first of two new queries reads its own token and three before it, and the second new token must not have overwritten any of those.

# %%
slots, window, at_once = [None] * 5, 4, 2
assert len(slots) == window + at_once - 1
for start in range(0, 10, at_once):
    for position in range(start, start + at_once):
        slots[position % 5] = position
    print(f"after {start} and {start + 1}: {slots}")
    assert set(range(max(0, start - 3), start + 1)) <= set(slots)

# %% [markdown]
# ### Compression, when a block is whole
#
# Block $i$ ends with token $i d + l - 1$.
# When that token comes, $\varphi$ has all it needs, and what it makes never changes again.
# With blocks of 4 tokens and a stride of 2:

# %%
tiny = NSAConfig(4, 2, select_block=8, top_n=4, window=6)
for position in range(10):
    block = tiny.num_compressed(position + 1) - 1
    if block >= tiny.num_compressed(position):
        first = block * tiny.compress_stride
        print(f"token {position} ends block {block}: {first} to {position}")

# %% [markdown]
# So $\varphi$ runs in one step of every $d$, whatever the length.
# With the paper's stride that is one step in 16: a sixteenth of a block for each token.
#
# ### Decoding is the last row of the whole
#
# Here is one sequence of 72 tokens, in float64, with its oracle: the reference of chapter 1, which sees everything at once.
# Keys carry no positions here, to keep the cells short; the layer rotates them, and gives a summary the position of its block's last token.

# %%
t, small_hq, small_hk, small_d = 72, 4, 2, 8
generator = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(
    *shape, generator=generator, dtype=torch.float64
).to(device)
names = ("k_raw", "v_raw", "k_slc", "v_slc", "k_win", "v_win")
tokens = {name: draw(2, t, small_hk, small_d) for name in names}
q, gates = draw(2, t, small_hq, small_d), draw(2, t, small_hq, 3).sigmoid()
torch.manual_seed(0)
phi = [
    BlockCompressor(small_d, tiny.compress_block)
    .double()
    .to(device)
    .requires_grad_(False)
    for _ in range(2)
]

k_cmp, v_cmp = (
    compress(tokens[name], each, config=tiny)
    for name, each in zip(("k_raw", "v_raw"), phi, strict=True)
)
whole = nsa_attention(
    q, k_cmp, v_cmp, *(tokens[name] for name in names[2:]), gates,
    config=tiny, backend="reference",
)  # fmt: skip

# %% [markdown]
# Now the same tokens one at a time, through {py:class}`minisys.nsa.NSACache`.
# $\varphi$ is wrapped so that it counts the blocks that it is given.


# %%
class Counted:
    """A function of blocks that counts them."""

    def __init__(self, function):
        self.function, self.blocks = function, 0

    def __call__(self, blocks):
        self.blocks += blocks.shape[:-2].numel() // small_hk
        return self.function(blocks)


def empty_cache(batch=1, capacity=t, max_append=8, counted=None):
    return NSACache(
        batch, capacity, small_hk, small_d, small_d, config=tiny,
        compress_keys=counted or phi[0], compress_values=phi[1],
        max_append=max_append, dtype=torch.float64, device=device,
    )  # fmt: skip


def piece(start, end, row=slice(0, 1)):
    """Tokens start to end - 1 of a row: keys and values, queries, gates."""
    cut = lambda x: x[row, start:end]
    return {n: cut(x) for n, x in tokens.items()}, cut(q), cut(gates)


counted = Counted(phi[0])
cache, worst, calls = empty_cache(counted=counted), 0.0, []
for position in range(t):
    new, query, gate = piece(position, position + 1)
    before = counted.blocks
    cache.append(**new, start=position)
    calls.append(counted.blocks - before)
    out = nsa_decode(query, cache, gate)
    error = (out - whole[:1, position : position + 1]).abs().max().item()
    worst = max(worst, error)
assert worst < 1e-13
print(f"{t} steps: none differs from the full forward by 1e-13")
print("blocks that φ got, by step:")
print("".join(map(str, calls)))

# %%
anew = sum(tiny.num_compressed(n + 1) for n in range(t))
assert counted.blocks == tiny.num_compressed(t) == sum(calls)
assert max(calls) == 1
stored = cache.k_cmp[:, :, : tiny.num_compressed(t)].transpose(1, 2)
assert (stored - k_cmp[:1]).abs().max() < 1e-13
print(f"{counted.blocks} blocks in all; compressed anew each step: {anew:,}")

# %% [markdown]
# Appending comes first and the query after it, since a token attends to itself.
# `start` says where the caller believes the token stands; if the cache disagrees it raises, which is how a token that came twice is noticed.
#
# ### What a step touches
#
# A step that reads the whole cache would give the same numbers.
# To see that this one does not, write "not a number" into every token of the selected branch that the query has not chosen:

# %%
_, query, gate = piece(t - 1, t)
out, blocks = decode_reference(query, cache, gate, small_d**-0.5, [1])
for head, chosen in enumerate(blocks[0, 0].tolist()):
    print(f"key/value head {head} reads blocks {chosen} of 0 to 8")
    block = torch.arange(t, device=device) // tiny.select_block
    unread = ~torch.isin(block, torch.tensor(chosen, device=device))
    cache.k_slc[0, head, unread] = torch.nan
    cache.v_slc[0, head, unread] = torch.nan
assert (nsa_decode(query, cache, gate) - out).abs().max() < 1e-14
spoiled = 2 * t - blocks.numel() * tiny.select_block
print(f"{spoiled} of {2 * t} spoiled, and the output is the same")

# %% [markdown]
# ### Several tokens at once, and taking them back
#
# In {term}`speculative decoding` a small model guesses a few tokens ahead, and the large one checks all guesses in one step {cite}`leviathan2023speculative`.
# The cache takes them all, answers them all, and forgets those that are refused:

# %%
cache = empty_cache()
cache.prefill(**piece(0, 60)[0])
drafts = {name: draw(1, 3, small_hk, small_d) for name in names}
for name in names:  # the first draft is right, the others are not
    drafts[name][:, :1] = tokens[name][:1, 60:61]
cache.append(**drafts)
cache.truncate(61)
new, query, gate = piece(61, 65)
cache.append(**new)
out = nsa_decode(query, cache, gate)
assert (out - whole[:1, 61:65]).abs().max() < 1e-13
print("60 tokens, 3 drafts of which 2 refused, then 4 at once: as the oracle")

# %% [markdown]
# The refused drafts had completed block 29, tokens 58 to 61, with a wrong last token.
# Nobody mended it: a block counts only when its last token is there, and then $\varphi$ makes it again.
#
# A ring is less forgiving.
# The drafts overwrote the oldest slots, so truncation works only as far as the ring has room to spare, and the cache keeps count of that:

# %%
assert tiny.num_compressed(62) - 1 == 29
for ask in (
    lambda: cache.truncate(50),
    lambda: cache.append(**piece(0, 9)[0]),
    lambda: cache.append(**piece(64, 65)[0], start=64),
):
    try:
        ask()
    except ValueError as refused:
        print(textwrap.fill(str(refused), 72))
    else:
        raise AssertionError("it was accepted")
assert cache.row_lengths == [65]
assert (nsa_decode(query, cache, gate) - out).abs().max() < 1e-14
print("and the cache is as it was")

# %% [markdown]
# ### Rows of different lengths
#
# In a batch, one row has read a long file and another a short question.
# Each row has its own length, its own place in the rings and its own next block; a step may add a token to some rows and none to others.

# %%
rows = empty_cache(batch=2)
both = lambda start, end: piece(start, end, slice(0, 2))
rows.prefill(**both(0, 60)[0], lengths=[60, 7])
stack = lambda a, b: torch.cat([a[:1, 60:62], b[1:, 7:9]])
rows.append(
    **{name: stack(x, x) for name, x in tokens.items()}, counts=[1, 2]
)
out = nsa_decode(stack(q, q), rows, stack(gates, gates), counts=[1, 2])
assert (out[0, :1] - whole[0, 60:61]).abs().max() < 1e-13
assert (out[1] - whole[1, 7:9]).abs().max() < 1e-13
assert not out[0, 1].any()
print(f"lengths {rows.row_lengths}, each row as if it were alone")

# %% [markdown]
# ### A model that writes
#
# The decoder of the course asks each layer for a cache, so {py:func}`minisys.core.sampling.generate` works with NSA as it does with dense attention.
# With a cache, and without one, where each step reads everything again:

# %%
model = load_small(backend="auto").to(device)
text = load_corpus().read("sympy/polys/polyutils.py")[:640]
prompt = torch.tensor(list(text), device=device)[None]
written = generate(model, prompt, 24, temperature=0)
again = generate(model, prompt, 24, temperature=0, use_cache=False)
assert torch.equal(written, again)
print(f"{len(text)} bytes read, then: {bytes(written[0, -24:].tolist())!r}")
if device == "cuda":
    replayed = generate(model, prompt, 24, temperature=0, cuda_graph=True)
    assert torch.equal(replayed, written)

# %% [markdown]
# A step of a small batch is many short kernels, and the host takes longer to launch them than the GPU to run them.
# On a GPU, `cuda_graph=True` records the step once and replays it, while the cache grows.
#
# The bytes of the prompt are SymPy 1.14.0, © SymPy Development Team, BSD 3-clause licence.
#
# ## Small batches: cut the keys
#
# The natural unit of work is a row of the batch and a key/value head: one query group against one set of keys.
# At batch 1 those are 4, and the GPU of our measurements has more than a hundred multiprocessors, most of which would watch.
# So the keys of each unit are cut into parts, which different programs read at the same time ({term}`split-KV`), as in Flash-Decoding {cite}`dao2023flashdecoding`.
#
# Each part $p$ leaves what an online softmax carries: its largest score $m_p$, its sum of exponentials $\ell_p$ and its weighted values $a_p$.
# The parts add up exactly:
#
# $$ o \;=\; \frac{\sum_p e^{m_p - m}\, a_p}{\sum_p e^{m_p - m}\, \ell_p} $$ (eq-decode-combine)
#
# with $m = \max_p m_p$.

# %%
scores, values = draw(300), draw(300, small_d)
exact = scores.softmax(0) @ values


def part(s, v):
    if not len(s):  # behind the end of a short row
        return s.new_tensor(-torch.inf), s.sum(), v.sum(0)
    weights = (s - s.max()).exp()
    return s.max(), weights.sum(), weights @ v


def combine(parts):
    m, total, above = (torch.stack(each) for each in zip(*parts, strict=True))
    shrink = (m - m.max()).exp()
    return (shrink @ above) / (shrink @ total)


for cuts in ((300,), (100, 100, 100), (1, 298, 1), (0, 7, 293), (4,) * 75):
    pieces = zip(scores.split(cuts), values.split(cuts), strict=True)
    got = combine([part(s, v) for s, v in pieces])
    assert (got - exact).abs().max() < 1e-14
    print(f"{len(cuts):2} parts: {got[0].item():.12f}")

# %% [markdown]
# Any cut gives the same number, up to rounding.
# To give the same *bits* each time, the parts are always added in the same order, whichever program is done last.
#
# Parts are not free.
# Each writes one $a_p$ for every query head, in float32, and somebody reads them all:

# %%
each = hq * (d + 2) * 4
for count in (1, 8, 32):
    more = 2 * count * each / step_bytes(65536, config, **sized)["nsa"]
    print(f"{count:2} parts: {100 * more:4.1f} % more bytes a step at 64k")

# %% [markdown]
# So a small batch is cut into many parts and a large one into few.
#
# Not everything can be read at the same time.
# The choice of blocks needs the softmax over *all* compressed keys, so no chosen block can be loaded before the last part of the compressed branch is done.
# A step is a chain: append → compressed keys → choice → chosen blocks → sum.
# Bytes say nothing about chains.
#
# ## The kernels
#
# Two launches do a step; a few short rows do with one, which has a section of its own below.
#
# **Append** stores the new tokens where each branch keeps them.
# Beside the programs that store there are others, which share $\varphi$'s weights between them.
# Where no row completes a block, these end at once, and the weights are not read.
# Where one does, they are a chain of three links.
# Each multiplies some columns of the first layer for a few of the block's tokens; whoever is last at its columns adds up and goes on with its share of the second layer; whoever is last of those adds up the shares.
#
# **Attend** is the rest of the chain.
# A program is one query, one key/value head and one part of the work below.
# All heads of the group are the rows of its products, so what it loads serves all of them.
#
# | Part | Reads | Waits for |
# |---|---|---|
# | compressed keys and values, cut into pieces | all summaries | nothing |
# | window, cut into pieces | the window's ring | nothing |
# | forced blocks | the first block and the last two | nothing |
# | choice | the importance of each block | all pieces' keys |
# | chosen blocks, cut into pieces | the other 13 blocks | the choice |
# | sum of the compressed branch | what its pieces left | all pieces |
# | sum of all, by the last to arrive | that sum, and what the other parts left | all of the above |
#
# Memory should be busy while a choice is made.
# The choice needs scores, and scores need keys, which are half of what a summary is.
# So in a small batch a piece reads *all its keys first*, says that its scores are known, and reads its values while others choose.
# Until their values come, the weights of the scores have to wait somewhere, which is the L2 cache if they still fit:

# %%
kept = 2 * 2 * hq * config.num_compressed(65536)  # written and read, 16 bits
more = kept / step_bytes(65536, config, **sized)["nsa"]
print(
    f"weights, written and read: {100 * more:.0f} % of a step's bytes at 64k"
)
assert 0.05 < more < 0.1

# %% [markdown]
# A large batch can do without.
# It reads keys and values together, and has the compressed keys of other rows and heads to read while some are choosing.
# Windows and forced blocks, which need no choice, come when the last choices are made.
# A program waits only for programs that started before it and that do not wait for it, so every wait ends.
#
# Importance costs no second look at the keys.
# While scores are on the chip, their exponentials are added by selection block, with the largest score so far as their unit, and these sums are written in place of one number a key.
# A choice is made by one program, or where the batch is small by several, each for some of the blocks.
# Whatever follows waits for it, so it is written to be short.
# Where a small batch has few blocks, up to 16k tokens here, nobody even tells the others: each program that reads chosen blocks makes the whole choice itself.
# That is the same work several times over, and yet takes less time than passing on what one found, which is two or three round trips to the L2 cache.
#
# Several new tokens of a row are so many queries, each with programs of its own.
# What two of them read is loaded twice, the second time from the L2 cache at best.
#
# All of it can be recorded in a {term}`CUDA graph` and replayed while the rows grow.
# Lengths are therefore read from the GPU's memory, never given as arguments; grids depend on the cache's capacity, and programs behind the end of a row stop at once.
#
# Each launch alone, at 64k, with the bytes that it has to move:

# %% tags=["hide-input"]
LONGEST = max(LENGTHS)


def row(case, batch, t=LONGEST):
    given = {"case": case, "t": t, "direction": f"batch {batch}"}
    (found,) = results.rows(DECODE, **given)
    return found


def us(case, batch, t=LONGEST):
    return 1e3 * row(case, batch, t)["median_ms"]


print("launch             batch       MB       µs   share of copy")
for stage in stages:
    for batch in BATCHES:
        x = row(stage, batch)
        print(
            f"{stage.removeprefix('stage: '):18} {batch:5} {x['bytes'] / 1e6:8.2f}"
            f" {us(stage, batch):8.1f} {100 * x['copy_share']:13.0f} %"
        )

# %% [markdown]
# ## Short rows: one launch
#
# At 8k and batch 1 there is next to nothing to read, and the chain is all:

# %% tags=["hide-input"]
few = step_bytes(8192, config, **sized)["nsa"]
alone = [us(stage, 1, 8192) for stage in stages]
print(f"{few / 1e6:.1f} MB, at the rate of a copy {1e6 * few / copy:.1f} µs")
print("append and attend, each alone: ", end="")
print(" + ".join(f"{each:.1f}" for each in alone), "µs")
print(f"one launch for both: {us('nsa', 1, 8192):.1f} µs")
assert us("nsa", 1, 8192) < alone[1]

# %% [markdown]
# {py:func}`nsa_step <minisys.nsa.decoding.nsa_step>` appends a token and attends to it, and where rows are few and have at most 16k tokens, it does so in one launch.
# That launch also takes less time than attention alone did, whose chain has the same links.
# What is different:
#
# - **Words with a stamp.** To hand numbers over, a program stores them, *waits until the stores have arrived*, and raises a counter; whoever sees the counter asks for the numbers. Here a number lies in one word of 64 bits with the number of the launch beside it. A word is written in one piece, so a reader who finds the right stamp has the right number, and nobody waits for stores. NCCL sends small messages in this way and calls it LL, for low latency {cite}`hu2025nccl`. The counter is still there, as a hint when to look.
# - **Boxes.** The copy engine loads a tile with one instruction, where the addresses of loads took hundreds.
# - **Asking early.** Programs of a launch are there before the last one has ended. What does not depend on the new token, they ask for in the L2 cache while they wait.
# - **The new token comes from the input.** Windows and forced blocks do not wait for its store. Only the tile whose key it completes waits for $\varphi$.
# - **Many hands at the end.** Every chosen block has a program, and so has every 16 numbers of a head's output.
#
# A stamp in PyTorch:


# %%
def stamped(x, stamp):
    return (stamp << 32) | (x.view(torch.int32).long() & 0xFFFFFFFF)


def unstamped(words):
    return words.int().view(torch.float32), words >> 32


numbers = torch.tensor([0.5, -3.25, 1e-30])
words = torch.zeros(4, dtype=torch.int64)  # of launches before
words[:3] = stamped(numbers, 7)  # a fourth number is still on its way
found, stamps = unstamped(words)
assert torch.equal(found[:3], numbers)
print("there in launch 7:", (stamps == 7).tolist())

# %% [markdown]
# The versions that led there, with what did not help, are in `benchmarks/nsa_decode_log.md`.
#
# ## Measured
#
# Sixteen steps in one CUDA graph are timed, and a step's time is a sixteenth of that.
# One of them completes a block in every row, so append and $\varphi$ are in it with their share.
# The steps take turns over as many caches as it takes for the L2 cache not to hold what they read.
# Dense attention is recorded in the same way, and is the fastest of PyTorch's FlashAttention, cuDNN and memory-efficient attention {cite}`paszke2019pytorch`, in the better of two layouts; what the others took stands in the notes of the file.
# Storing its new token is not in it, though it is in ours; a row of its own has it.
# Before a step was timed, its output was compared with float64.
#
# The copy rate is that of a copy, which reads and writes as much; a step nearly only reads, so its own limit need not be the same.

# %% tags=["hide-input"]
checked = [x.get("relative_error") for x in results.rows(DECODE)]
worst = max(error for error in checked if error is not None)
print(f"largest relative error of a step: {worst:.1e}\n")
print("                      µs a step            NSA: times as fast")
print("  tokens  batch    dense      NSA    bytes say   measured   copy rate")
time_ratio, byte_ratio = {}, {}
for t in LENGTHS:
    for batch in BATCHES:
        at = t, batch
        dense, sparse = row("dense", batch, t), row("nsa", batch, t)
        time_ratio[at] = dense["median_ms"] / sparse["median_ms"]
        byte_ratio[at] = dense["bytes"] / sparse["bytes"]
        print(
            f"{t:8,} {batch:6} {us('dense', batch, t):8.1f} {us('nsa', batch, t):8.1f}"
            f" {byte_ratio[at]:12.1f} {time_ratio[at]:10.1f}"
            f" {100 * sparse['copy_share']:9.0f} %"
        )

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two charts against tokens from 8k to 64k. Left: how many times as fast as dense attention a step of NSA is, one line each for batch 1, 8 and 64, and as a dotted line the ratio of bytes. Right, logarithmic: microseconds of a step at batch 8, dense and NSA, each with a dotted line for its bytes at the rate of a copy."}}
figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.4), layout="constrained"
)
for batch, style in zip(BATCHES, ("^-", "o-", "s-"), strict=True):
    y = [time_ratio[t, batch] for t in LENGTHS]
    line = left.plot(LENGTHS, y, style, label=f"batch {batch}")
y = [byte_ratio[t, 64] for t in LENGTHS]
line = left.plot(LENGTHS, y, "k:", label="bytes, batch 64")
for case, color in (("dense", "C3"), ("nsa", "C0")):
    y = [us(case, 8, t) for t in LENGTHS]
    line = right.plot(LENGTHS, y, "o-", color=color, label=case)
    y = [1e6 * row(case, 8, t)["bytes"] / copy for t in LENGTHS]
    line = right.plot(LENGTHS, y, ":", color=color)
left.set(ylabel="times as fast as dense", ylim=(0, None))
right.set(ylabel="µs a step, batch 8", yscale="log")
for axes in (left, right):
    axes.set(xlabel="tokens", xscale="log")
    axes.set_xticks(LENGTHS, [f"{n // 1024}k" for n in LENGTHS])
    axes.minorticks_off()
    legend = axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Dotted lines are what the bytes alone would give.
#
# Held against what we set out to reach:

# %% tags=["hide-input"]
lines = []
for batch, least, goal in ((8, 7, 9.5), (64, 9, 11)):
    got = time_ratio[LONGEST, batch]
    verdict = "reaches the goal" if got >= goal else "misses the goal"
    floor = "holds" if got >= least else "**is missed too**"
    lines.append(
        f"- 64k, batch {batch}: **{got:.3g} times as fast** as dense attention,"
        f" where the bytes say {byte_ratio[LONGEST, batch]:.1f}. That {verdict} of"
        f" {goal:g}; the minimum of {least} {floor}."
    )
against = {
    "our whole step against dense attention": ("dense", "nsa"),
    "against a dense step that stores its token too": (
        "dense and append",
        "nsa",
    ),
    "attention alone against attention alone": ("dense", "stage: attend"),
}
for name, (theirs, ours) in against.items():
    ratios = {b: us(theirs, b, 8192) / us(ours, b, 8192) for b in BATCHES}
    slower = [f"batch {b}" for b, got in ratios.items() if got < 1]
    lines.append(
        f"- 8k, {name}: "
        + ", ".join(f"{got:.2f} at batch {b}" for b, got in ratios.items())
        + (f". **Slower** at {', '.join(slower)}." if slower else ".")
    )
share = [row("nsa", b)["copy_share"] for b in BATCHES]
lines.append(
    "- Share of the copy rate at 64k: "
    + ", ".join(
        f"{100 * s:.0f} % at batch {b}"
        for b, s in zip(BATCHES, share, strict=True)
    )
    + "."
)
Markdown("\n".join(lines))

# %% [markdown]
# ### Where the rest goes
#
# At one length, bytes grow with the batch, and the chain has as many links.
# So a line through the times at batch 8 and 64 has a slope, the rate at which more bytes come, and a beginning, the time that would be left with no bytes at all:

# %% tags=["hide-input"]
rest, rate = {}, {}
for case in ("dense", "nsa"):
    low, high = row(case, 8), row(case, 64)
    seconds = (high["median_ms"] - low["median_ms"]) / 1e3
    rate[case] = (high["bytes"] - low["bytes"]) / seconds
    rest[case] = us(case, 8) - 1e6 * low["bytes"] / rate[case]
    print(
        f"{case:5} at 64k: {rest[case]:5.1f} µs, and bytes at"
        f" {rate[case] / 1e12:.2f} TB/s = {100 * rate[case] / copy:.0f} % of a copy"
    )


def line_of(name, values):
    print(f"{name:26}" + "".join(f"{value:8.1f}" for value in values))


print("\nNSA at 64k, µs       batch" + "".join(f"{b:8}" for b in BATCHES))
read = [row("nsa", batch)["bytes"] for batch in BATCHES]
line_of("its bytes, as a copy", [1e6 * n / copy for n in read])
line_of("the line", [rest["nsa"] + 1e6 * n / rate["nsa"] for n in read])
line_of("measured", [us("nsa", batch) for batch in BATCHES])
for stage in stages:
    name = f"alone: {stage.removeprefix('stage: ')}"
    line_of(name, [us(stage, batch) for batch in BATCHES])

# %% tags=["hide-input"]
bytes_only = us("nsa", 8) - rest["nsa"]
Markdown(
    f"At batch 8 the beginning is {100 * rest['nsa'] / us('nsa', 8):.0f} % of a step of"
    f" NSA, and {100 * rest['dense'] / us('dense', 8):.0f} % of a dense one. NSA's"
    f" bytes come at {rate['nsa'] / rate['dense']:.2f} times the rate of dense"
    " attention's. With that rate and nothing else NSA would be"
    f" {us('dense', 8) / bytes_only:.3g} times as fast at batch 8, not"
    f" {time_ratio[LONGEST, 8]:.3g}."
    if rest["nsa"] > 0
    else "The line begins below zero: at batch 64 a byte takes longer than at batch 8,"
    " so this way of looking says nothing of a fixed cost."
)

# %% [markdown]
# The line is drawn through two of its three points, so batch 1 is the test of it, and the line fails:

# %%
expected = rest["nsa"] + 1e6 * row("nsa", 1)["bytes"] / rate["nsa"]
print(f"batch 1: {expected:.0f} µs by the line, {us('nsa', 1):.0f} measured")
assert us("nsa", 1) > 1.3 * expected
assert us("nsa", 1) > 5 * 1e6 * row("nsa", 1)["bytes"] / copy

# %% [markdown]
# So there is no fixed cost that every batch pays.
# The chain takes its time at every batch; at batch 8 the values, which are read while others choose, hide a part of it, and at batch 1 they are too few to hide anything behind.
# Alone, a launch follows others of its kind; in a step the two alternate and one waits for the other, so they need not add up to it.
#
# What is not hidden weighs eleven times as much beside the bytes of NSA as it would beside those of dense attention.
# That, and bytes that come more slowly, is how a ratio of bytes becomes a smaller ratio of times.
#
# ```{admonition} The rule
# :class: tip
# The less you read, the more everything else counts.
# A ratio of bytes is what the ratio of times would be if nothing but bytes counted.
# ```
#
# ## Before the first token
#
# Somebody has to fill the cache.
# {term}`Prefill <prefill>` is the forward pass of [chapter 2](02_nsa_kernels.ipynb), with all of the model around it.
# A digest gives 89 ms to the first token of a 32k prompt, and 13 GB of memory ({claim}`nsa-ttft`), for a model and a machine that it does not name.
# We can say what a model of a stated shape does, with random weights:

# %% tags=["hide-input"]
shape = dict(results.value(DECODE, "first_token_model"))
prompt_length, dtype = shape.pop("prompt"), shape.pop("dtype")
shape = DecoderConfig(**shape)
print(
    f"{shape.num_layers} layers of width {shape.dim}, {dtype}, heads of"
    f" {shape.head_dim}:\n{shape.num_heads} for queries and"
    f" {shape.num_kv_heads} for keys and values; a prompt of"
    f" {prompt_length:,} tokens\n"
)
print(
    "         weights GB    TFLOP       ms   matrix rate   GiB beyond weights"
)
first, weights = {}, {}
for case in ("dense", "nsa"):
    kind = {"attention": NativeSparseAttention} if case == "nsa" else {}
    with torch.device("meta"):
        weights[case] = 2 * Decoder(shape, **kind).num_parameters()
    (x,) = results.rows(DECODE, case=case, direction="first token")
    first[case] = x
    print(
        f"{case:8} {weights[case] / 1e9:10.2f} {x['flops'] / 1e12:8.0f}"
        f" {x['median_ms']:8.0f} {100 * x['matmul_share']:11.0f} %"
        f" {x['extra_gib']:16.2f}"
    )
held = cache_bytes(
    prompt_length, config, d_qk=shape.head_dim, d_v=shape.head_dim,
    hk=shape.num_kv_heads,
)  # fmt: skip
gib = {case: shape.num_layers * held[case] / 2**30 for case in first}
logits = prompt_length * shape.vocab_size * 2 / 2**30
print(f"\nof which cache: {gib['dense']:.2f} dense, {gib['nsa']:.2f} NSA;")
print(f"logits of all positions: {logits:.2f}")

# %% tags=["hide-input"]
faster = first["dense"]["median_ms"] / first["nsa"]["median_ms"]
more = first["nsa"]["extra_gib"] / first["dense"]["extra_gib"]
Markdown(
    (
        f"With NSA the first token of this model comes {faster:.1f} times as fast"
        if faster >= 1
        else "With NSA the first token of this model takes"
        f" {1 / faster:.1f} times as long"
    )
    + f" as with dense attention, and needs {more:.1f} times the memory beyond the"
    " weights."
)

# %% [markdown]
# FLOPs are those of attention and of a dense decoder's projections; NSA has a few more, for two more sets of keys and values, its gates, $\varphi$ and the choice of blocks.
#
# The digest's number cannot be the paper's model on one GPU such as ours, and that takes no measurement.
# The model has 27 billion parameters, of which 3 billion work on each token.

# %%
needed = 2 * 3e9 * 32768 / 89e-3
print(f"weights in 16 bits: {27e9 * 2 / 1e9:.0f} GB, not 13")
print(f"32k tokens in 89 ms: {needed / 1e12:,.0f} TFLOP/s without attention,")
print(f"{needed / matmul:.1f} times the matrix units' measured rate")
assert needed > 2 * matmul

# %% [markdown]
# So it is another model, or several GPUs, or both.
# What can be tested of the claim without them is the table above.
#
# ## A model is more than its attention
#
# Each step of a model also reads the weights, once for all rows of the batch.
# For the model above, after its prompt, by bytes and as measured, each step a replay of a recorded one:

# %%
heads = {"d_qk": shape.head_dim, "d_v": shape.head_dim}
heads["hk"] = shape.num_kv_heads
print(
    "         GB a step          ms a step       NSA: times as fast   tokens/s"
)
print(
    "batch   dense    NSA     dense     NSA   bytes say  measured         NSA"
)
whole_ratio, step_ratio = {}, {}
for batch in BATCHES:
    m = step_bytes(prompt_length, config, **heads, batch=batch)
    total = {
        case: weights[case] + shape.num_layers * m[case] for case in weights
    }
    whole_ratio[batch] = total["dense"] / total["nsa"]
    ms = {}
    for case in total:
        (x,) = results.rows(
            DECODE, case=case, direction=f"next token, batch {batch}"
        )
        ms[case] = x["median_ms"]
    step_ratio[batch] = ms["dense"] / ms["nsa"]
    print(
        f"{batch:5} {total['dense'] / 1e9:7.2f} {total['nsa'] / 1e9:6.2f}"
        f" {ms['dense']:9.2f} {ms['nsa']:7.2f} {whole_ratio[batch]:11.1f}"
        f" {step_ratio[batch]:9.1f} {1e3 * batch / ms['nsa']:11,.0f}"
    )
assert 1 < whole_ratio[1] < 1.5 < whole_ratio[8] < whole_ratio[64] < 10
assert step_ratio[1] < 0.8 < 0.95 < step_ratio[8] < 1.05 < 2 < step_ratio[64]
assert all(step_ratio[b] < whole_ratio[b] for b in BATCHES)
assert all(time_ratio[prompt_length, b] > 1 for b in BATCHES)

# %% [markdown]
# **At batch 1 this model is slower with NSA**, at batch 8 as fast as before, and at batch 64 more than twice as fast.
# Even by bytes it would gain little at batch 1, where the weights are most of them.
# Measured, it gains less at every batch: the layer has seven products where a dense one has three, and gates, and each is a kernel that is over before it has read much.
# At 32k one layer's attention alone takes less time with NSA at every batch, by the table above; it is what stands around it that does not.
# We have not tuned that part.
#
# "Inference is 11.6 times as fast" ({claim}`nsa-infer`) is said of attention, and a model comes near it only with many long rows.
#
# ## Claims, re-measured
#
# ```{claim-row} nsa-infer
# ```
#
# ```{claim-row} nsa-ttft
# ```
#
# ```{claim-row} nsa-mem
# ```
#
# ```{claim-row} code-3x
# ```
#
# ```{claim-row} text-5x
# ```
#
# ## Exercises
#
# [The assignment on decoding](../book/assignment_nsa_decoding.md) lets you write the ring, the compression as tokens come, the step, and a cache that takes tokens back.
#
# ````{exercise} The hundredth block
# :label: decode-block
# With the paper's settings, the token at which position completes compressed block 100?
# The ring of raw tokens has room for 64 tokens at once: in which slot does that token lie, and in which the block's first?
# ````
#
# ````{solution} decode-block
# :class: dropdown
# Block 100 begins at $100 \cdot 16 = 1600$ and ends at $1631$.
# The ring has $32 + 64 - 1 = 95$ slots, so the last token lies in slot 16 and the first in slot 80: the block goes around the end.
# ````

# %% tags=["hide-input"]
paper = NSACache(
    1, 4096, hk, d, d, config=config, device="meta",
    compress_keys=lambda x: x, compress_values=lambda x: x,
)  # fmt: skip
ring = paper.k_raw.shape[2]
assert [config.num_compressed(n) for n in (1631, 1632)] == [100, 101]
assert (ring, 1631 % ring, 1600 % ring) == (95, 16, 80)

# %% [markdown]
# ````{exercise} What a fixed cost does
# :label: decode-fixed
# A copy runs at 3 TB/s, a step of NSA has 10 µs on top of its bytes, and a dense step has nothing.
# How many times as fast is NSA at 64k, at batch 1, 8 and 64?
# ````
#
# ````{solution} decode-fixed
# :class: dropdown
# 3.2, 8.8 and 11.2 times, where the bytes say 11.4, 11.6 and 11.6.
# ````

# %% tags=["hide-input"]
answers = {}
for batch in BATCHES:
    m = step_bytes(65536, config, **sized, batch=batch)
    answers[batch] = (m["dense"] / 3e12) / (m["nsa"] / 3e12 + 10e-6)
    said = {1: (3.2, 11.4), 8: (8.8, 11.6), 64: (11.2, 11.6)}[batch]
    assert (round(answers[batch], 1), round(m["dense"] / m["nsa"], 1)) == said

# %% [markdown]
# ````{exercise} Rows out of step
# :label: decode-phase
# In the measurement all rows have the same length, so $\varphi$'s weights are read in one step of 16.
# If the rows of a batch have lengths that have nothing to do with each other, in what share of the steps does some row complete a block, at batch 8 and 64?
# What share of a step's bytes at 64k are $\varphi$'s weights then?
# ````
#
# ````{solution} decode-phase
# :class: dropdown
# No row completes one with probability $(15/16)^b$, so some row does in 40 % and 98 % of the steps.
# The weights are 4.3 MB: 1.9 % of 93 MB at batch 8, and 0.6 % of 739 MB at batch 64.
# ````

# %% tags=["hide-input"]
phi_weights = sum(
    2 * parameter.numel()
    for _ in ("keys", "values")
    for name, parameter in BlockCompressor(d, 32).named_parameters()
    if name.endswith("weight")
)
assert round(phi_weights / 1e6, 1) == 4.3
for batch, expected in ((8, (40, 93, 1.9)), (64, (98, 739, 0.6))):
    often = 1 - (15 / 16) ** batch
    nsa = step_bytes(65536, config, **sized, batch=batch)["nsa"]
    part_of = round(100 * often * phi_weights / nsa, 1)
    assert (round(100 * often), round(nsa / 1e6), part_of) == expected

# %% [markdown]
# ````{exercise} The end of the ratio
# :label: decode-limit
# At a million tokens ($2^{20}$) and batch 8, how many times fewer bytes does a step of NSA move than a dense one?
# Would twice as many selected blocks matter?
# ````
#
# ````{solution} decode-limit
# :class: dropdown
# 15.6 times, near the limit of 16 that the stride sets.
# With $n = 32$ it is 15.4: at that length nearly all of the step is compressed keys.
# ````

# %% tags=["hide-input"]
ratios = []
for n in (16, 32):
    m = step_bytes(2**20, NSAConfig(top_n=n), **sized, batch=8)
    ratios.append(round(m["dense"] / m["nsa"], 1))
assert ratios == [15.6, 15.4]

# %% [markdown]
# ````{exercise} A million lines
# :label: decode-million
# A claim speaks of code bases of a million lines ({claim}`code-3x`).
# At 10 tokens a line, how many bytes does one layer's cache take in the sizes of this chapter, and how many such layers fit into 80 GB beside nothing else?
# ````
#
# ````{solution} decode-million
# :class: dropdown
# 10 million tokens are 20.5 GB dense and 21.8 GB with NSA: three layers.
# NSA reads less of it, but all of it has to be there.
# ````

# %% tags=["hide-input"]
million = cache_bytes(10**7, config, **sized)
assert round(million["dense"] / 1e9, 1) == 20.5
assert round(million["nsa"] / 1e9, 1) == 21.8
assert 80e9 // million["nsa"] == 80e9 // million["dense"] == 3

# %% [markdown]
# ## What the paper does that we do not
#
# - It gives the tokens that a step loads and an expected speed-up, for $d_{qk} = 192$ and $d_v = 128$; we give bytes and times, for 128 and 128.
# - Its model has 30 layers and is trained. Our step is one layer's attention, on random numbers: selection of random keys reads as many bytes as selection of real ones.
# - It does not describe its cache. What is kept, when $\varphi$ runs, and how tokens are taken back is ours.
#
# And what servers do that we do not: storage in pages {cite}`kwon2023vllm`, so that a short row does not reserve the room of a long one (`benchmarks/nsa_decode_log.md` says what our steps would lose by it); caches in 8 bits; prompts that share a beginning.
#
# ## References
#
# The method is {cite:t}`yuan2025nsa`; why decoding is about loading keys and values is {cite:t}`shazeer2019mqa`; cut keys are {cite:t}`dao2023flashdecoding`; drafts are {cite:t}`leviathan2023speculative`.
# The code is `cache.py` and `decoding.py` in {py:mod}`minisys.nsa`, the kernels are `decode*.py` in {py:mod}`minisys.nsa.kernels`, and the count of bytes is {py:func}`minisys.nsa.costs.step_bytes`.
