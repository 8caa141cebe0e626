"""The public calls as a reader writes them, for the type checker only (tools/mypy.ini); nothing here is run.

`assert_type` fails when a result loses its type. Each line marked `type: ignore` is a mistake that the
checker must see: an ignore that nothing needs is an error too, so a signature that accepts anything fails.
"""

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor

from minisys import claims
from minisys.bench import results
from minisys.core.data import Corpus, decode, encode, load_corpus
from minisys.core.decoder import Decoder, DecoderConfig, generate, rotate, sample
from minisys.core.train import TrainConfig, evaluate, train
from minisys.nsa import (
    BlockCompressor,
    NativeSparseAttention,
    NSACache,
    NSAConfig,
    compress,
    nsa_attention,
    nsa_decode,
    nsa_step,
    select_blocks,
)
from minisys.nsa.costs import TokensRead, query_flops, tokens_read
from minisys.nsa.small import layer_branches, load_small
from minisys.viz import Explorable, nsa_reads


def attention(q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> None:
    config = NSAConfig(compress_block=32, top_n=8)
    phi = BlockCompressor(head_dim=64, block=config.compress_block)
    k_cmp, v_cmp = compress(k, phi, config=config), compress(v, lambda blocks: blocks.mean(-2), config=config)
    assert_type(k_cmp, Tensor)
    blocks = select_blocks(q, k_cmp, config=config, scale=0.5)
    assert_type(blocks, Tensor)
    out = nsa_attention(q, k_cmp, v_cmp, k, v, k, v, gates, config=config, block_indices=blocks)
    assert_type(out, Tensor)
    nsa_attention(q, k_cmp, v_cmp, k, v, k, v, gates)  # type: ignore[call-arg]
    nsa_attention(q, k_cmp, v_cmp, k, v, k, v, gates, config=config, backend=1)  # type: ignore[arg-type]
    nsa_attention(q, k_cmp, v_cmp, k, v, k, v, gates, config=config, top_n=8)  # type: ignore[call-arg]
    select_blocks(q, k_cmp, config={"top_n": 8})  # type: ignore[arg-type]
    NSAConfig(top_n="8")  # type: ignore[arg-type]
    NativeSparseAttention(64, 4, 2)  # type: ignore[call-arg]
    assert_type(tokens_read(100, config), TokensRead)
    assert_type(query_flops(100, config, d_qk=64, d_v=64, hq=8), dict[str, int])


def decoding(q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> None:
    config = NSAConfig()
    phi = BlockCompressor(head_dim=64, block=config.compress_block)
    cache = NSACache(1, 4096, 2, 64, 64, config=config, compress_keys=phi, compress_values=phi)
    cache.prefill(k, v, k, v, k, v)
    cache.append(k, v, k, v, k, v, start=cache.row_lengths)
    assert_type(cache.length, int)
    assert_type(nsa_decode(q, cache, gates), Tensor)
    assert_type(nsa_step(q, cache, gates, k, v, k, v, k, v, start=cache.length), Tensor)
    cache.truncate([1000])
    cache.append(k, v, k, v)  # type: ignore[call-arg]
    nsa_decode(q, cache)  # type: ignore[call-arg]
    nsa_step(q, cache, gates)  # type: ignore[call-arg]
    NSACache(1, 4096, 2, 64, 64, config=config)  # type: ignore[call-arg]


def model(tokens: Tensor, logits: Tensor, positions: Tensor, generator: torch.Generator) -> None:
    decoder = Decoder(DecoderConfig(dim=64), attention=NativeSparseAttention, generator=generator)
    assert_type(decoder.num_parameters(), int)
    assert_type(sample(logits, temperature=0.0, generator=generator), Tensor)
    assert_type(generate(decoder, tokens, 16), Tensor)
    assert_type(rotate(logits, positions), Tensor)
    sample(logits, generator=0)  # type: ignore[arg-type]
    DecoderConfig(width=64)  # type: ignore[call-arg]
    assert_type(load_small(), Decoder)
    assert_type(layer_branches(decoder, tokens), list[dict[str, Tensor]])


def training(decoder: Decoder, directory: Path) -> None:
    corpus = load_corpus()
    assert_type(corpus, Corpus)
    assert_type(corpus.text("sympy/core/add.py"), str)
    assert_type(encode("text"), Tensor)
    assert_type(decode(encode("text")), str)
    assert_type(train(decoder, corpus, TrainConfig(steps=10), directory), list[dict])
    train(decoder, corpus, {"steps": 10}, directory)  # type: ignore[arg-type]
    train(decoder, "corpus", TrainConfig(steps=10), directory)  # type: ignore[arg-type]
    evaluate(decoder, corpus.split("validation"), 2)  # type: ignore[arg-type]


def evidence() -> None:
    ledger = claims.load()
    assert_type(ledger["nsa-stride"], claims.Claim)
    assert_type([row.status for row in ledger], list[str])
    assert_type(results.names(), list[str])
    results.load(1)  # type: ignore[arg-type]
    figure = nsa_reads(load_small(), b"text", NSAConfig())
    assert_type(figure, Explorable)
    assert_type(figure.html(), str)
