"""Train and measure the small NSA model: ``python -m minisys.bench.nsa_small train|window|recall|cost``.

- ``train``: the model of the chapters (minisys/nsa/small.py), and a dense twin of as many parameters on the
  same batches; writes the weights and the result file nsa-small. 8 minutes on one H100.
- ``window``: the same model, trained for less long, with windows from 1 to 512 tokens: what does the window
  buy? Writes nsa-window. 7 minutes on one H100.
- ``recall``: which share of the blocks of most attention mass each selection rule finds. Writes nsa-select.
- ``cost``: tokens, FLOPs and time of the compressed branch alone against dense attention. Writes nsa-cmp, or
  nsa-cmp-gpu on a GPU.

Every command checks first that attention on this device equals the float64 reference on the CPU. Runs resume:
a killed run goes on from its last checkpoint when it is started again.
"""

import functools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from minisys.bench import results
from minisys.bench.nsa_checks import check_paths
from minisys.bench.timing import median_seconds
from minisys.core.data import Corpus, load_corpus
from minisys.core.decoder import Decoder
from minisys.core.train import TrainConfig, save_weights, train
from minisys.nsa import NSAConfig, compress
from minisys.nsa.compression import BlockCompressor
from minisys.nsa.costs import compression_flops, sequence_flops, tokens_read
from minisys.nsa.recall import RULES, selection_recall
from minisys.nsa.reference import compressed_mask
from minisys.nsa.small import CONFIG, CONTEXT, SIZES, WEIGHTS, build_small, layer_branches, load_small

app = typer.Typer(help=__doc__.split("\n")[0], add_completion=False)

MAIN = TrainConfig(
    steps=4500,
    batch=8,
    t=CONTEXT,
    learning_rate=1e-3,
    warmup_steps=400,
    eval_every=500,
    checkpoint_every=500,
)
DENSE_SIZES = replace(SIZES, mlp_dim=832)  # a wider MLP stands in for the parameters that NSA spends
WINDOWS = (1, 16, 32, 64, 128, 512)
WINDOWS_LESS_LOCAL = (
    1,
    32,
    128,
)  # again with one local block, so that selection covers less of the near past
RECALL_FILES = 12  # held-out files, the first CONTEXT bytes of each

Device = Annotated[str, typer.Option(help="cpu or cuda")]
Runs = Annotated[Path, typer.Option(help="folder for checkpoints and logs")]


@torch.no_grad()
def validation_loss(model: torch.nn.Module, corpus: Corpus, device: str, *, windows: int = 96) -> list[float]:
    """Bits per byte of each of `windows` fixed held-out windows of CONTEXT bytes, in float32."""
    losses = []
    for step in range(windows // 4):
        x, y = corpus.batch_at("validation", 4, CONTEXT, seed=1, step=step)
        logits = model(x.to(device)).transpose(1, 2)
        nats = torch.nn.functional.cross_entropy(logits, y.to(device), reduction="none").mean(dim=1)
        losses += (nats / torch.log(torch.tensor(2.0, device=device))).tolist()
    return losses


def summary(losses: list[float]) -> dict[str, float]:
    """Mean and standard error of losses, in bits per byte."""
    values = torch.tensor(losses, dtype=torch.float64)
    return {
        "bits_per_byte": values.mean().item(),
        "standard_error": (values.std() / len(losses) ** 0.5).item(),
    }


def train_one(
    model: Decoder, corpus: Corpus, config: TrainConfig, directory: Path, device: str, progress: bool = True
) -> dict[str, float]:
    """Train, then measure the held-out loss."""
    model.to(device)
    if device == "cuda":
        config = replace(config, amp="bfloat16")
    start = time.perf_counter()
    train(model, corpus, config, directory, device=device, progress=progress)
    seconds = time.perf_counter() - start
    losses = validation_loss(model.eval(), corpus, device)
    return {"seconds": round(seconds, 1), "parameters": model.num_parameters(), **summary(losses)}


def new_generator() -> torch.Generator:
    return torch.Generator().manual_seed(MAIN.seed)


@app.command("train")
def train_command(
    device: Device = "cuda",
    runs: Runs = Path("runs"),
    weights: Annotated[Path, typer.Option(help="where the trained weights go")] = WEIGHTS,
    out: Annotated[Path | None, typer.Option(help="folder of the result file")] = None,
    steps: Annotated[int, typer.Option(help="training steps")] = MAIN.steps,
) -> None:
    """Train the chapters' model and its dense twin."""
    errors, corpus, config = check_paths(device), load_corpus(), replace(MAIN, steps=steps)
    model = build_small(backend="sdpa", generator=new_generator())
    nsa = train_one(model, corpus, config, runs / "nsa-small", device)
    metadata = {"corpus": corpus.version, "steps": str(steps), "bits_per_byte": f"{nsa['bits_per_byte']:.4f}"}
    save_weights(weights, model, metadata, dtype=torch.bfloat16)
    typer.echo(f"nsa   {nsa}")
    twin = Decoder(DENSE_SIZES, generator=new_generator())
    dense = train_one(twin, corpus, config, runs / "dense", device)
    typer.echo(f"dense {dense}")
    payload = {
        "relative_errors": errors,
        "sizes": asdict(SIZES),
        "dense_sizes": asdict(DENSE_SIZES),
        "config": asdict(CONFIG),
        "training": asdict(config),
        "train_bytes": steps * config.batch * config.t,
        "corpus_sha256": corpus.sha256,
        "nsa": nsa,
        "dense": dense,
    }
    results.save("nsa-small", payload, "python -m minisys.bench.nsa_small train", out, device=device)


def window_row(window: int, local_blocks: int, config: TrainConfig, directory: Path, device: str) -> dict:
    """Train one model of the window study, in a process of its own."""
    nsa = replace(CONFIG, window=window, local_blocks=local_blocks)
    model = build_small(nsa, backend="sdpa", generator=new_generator())
    return {
        "window": window,
        "local_blocks": local_blocks,
        **train_one(model, load_corpus(), config, directory, device, progress=False),
    }


@app.command("window")
def window_command(
    device: Device = "cuda",
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="folder of the result file")] = None,
    steps: Annotated[int, typer.Option(help="training steps of each model")] = 600,
    processes: Annotated[int, typer.Option(help="models trained at once, about 20 GiB each")] = 3,
) -> None:
    """Train one model a window length, on the same batches, and compare held-out loss."""
    errors, config = check_paths(device), replace(MAIN, steps=steps, warmup_steps=100)
    cases = [(window, 2) for window in WINDOWS] + [(window, 1) for window in WINDOWS_LESS_LOCAL]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(window_row, window, local, config, runs / f"window-{local}-{window}", device)
            for window, local in cases
        ]
        for row in as_completed(waiting):
            typer.echo(f"{row.result()}")
    payload = {
        "relative_errors": errors,
        "config": asdict(CONFIG),
        "training": asdict(config),
        "corpus_sha256": load_corpus().sha256,
        "rows": [row.result() for row in waiting],
    }
    results.save("nsa-window", payload, "python -m minisys.bench.nsa_small window", out, device=device)


def recall_texts(corpus: Corpus, count: int = RECALL_FILES) -> dict[str, torch.Tensor]:
    """The first CONTEXT bytes ``[1, t]`` of the first `count` long enough held-out files, by path."""
    long = [f for f in corpus.files if f.split == "validation" and f.length >= CONTEXT]
    return {file.path: corpus.tokens(file.path)[:CONTEXT].long()[None] for file in long[:count]}


def measure_recall(model: Decoder, tokens: torch.Tensor) -> list[dict[str, dict[str, float]]]:
    """`selection_recall` of every layer on one text ``[1, t]``."""
    scale = SIZES.head_dim**-0.5
    return [selection_recall(layer, CONFIG, scale) for layer in layer_branches(model, tokens)]


@app.command("recall")
def recall_command(
    device: Device = "cpu",
    weights: Annotated[Path, typer.Option(help="trained weights")] = WEIGHTS,
    out: Annotated[Path | None, typer.Option(help="folder of the result file")] = None,
) -> None:
    """Recall of every selection rule on held-out files, mean over layers, with the spread over files."""
    errors, model = check_paths(device), load_small(weights).to(device)
    texts = recall_texts(load_corpus())
    by_file = {path: measure_recall(model, tokens.to(device)) for path, tokens in texts.items()}
    rules = next(iter(by_file.values()))[0]
    means: dict[str, dict[str, float]] = {}
    for rule, measures in rules.items():
        means[rule] = {}
        for name in measures:
            values = torch.tensor(
                [[layer[rule][name] for layer in layers] for layers in by_file.values()], dtype=torch.float64
            )  # [files, layers]
            means[rule][name] = values.mean().item()
            means[rule][f"{name}_standard_error"] = (values.mean(1).std() / len(values) ** 0.5).item()
            means[rule][f"{name}_by_layer"] = values.mean(0).tolist()
        typer.echo(f"{rule:8} recall {means[rule]['recall']:.3f}  mass {means[rule]['mass']:.3f}")
    payload = {
        "relative_errors": errors,
        "config": asdict(CONFIG),
        "context": CONTEXT,
        "files": list(by_file),
        "rules": means,
        **{f"{rule}_recall_percent": 100 * means[rule]["recall"] for rule in RULES},
    }
    results.save("nsa-select", payload, "python -m minisys.bench.nsa_small recall", out, device=device)


@torch.no_grad()
def compressed_cost(t: int, device: str, *, hq: int, hk: int, head_dim: int, dtype: torch.dtype) -> dict:
    """FLOPs and median time of the compressed branch alone (φ and attention) and of dense causal attention.

    Both sides call PyTorch's `scaled_dot_product_attention`; the compressed branch has to pass its mask.
    """
    config, sdpa = NSAConfig(), torch.nn.functional.scaled_dot_product_attention
    draw = lambda heads: torch.randn(1, t, heads, head_dim, device=device, dtype=dtype)
    q, k, v = draw(hq), draw(hk), draw(hk)
    phi = BlockCompressor(head_dim, config.compress_block).to(device, dtype)
    mask = compressed_mask(t, config, torch.device(device))
    mask[: config.compress_block - 1] = True  # rows that see nothing would be NaN; their time is the same
    heads_first = lambda x: x.transpose(1, 2)
    grouped = lambda x: heads_first(x).repeat_interleave(hq // hk, dim=1)

    def compressed() -> None:
        k_cmp, v_cmp = (compress(x, phi, config=config) for x in (k, v))
        sdpa(heads_first(q), grouped(k_cmp), grouped(v_cmp), attn_mask=mask)

    flops = sequence_flops(t, config, d_qk=head_dim, d_v=head_dim, hq=hq)
    phi_flops = compression_flops(t, config, d_qk=head_dim, d_v=head_dim, hk=hk)
    seconds = median_seconds(compressed, device)
    dense = median_seconds(
        functools.partial(sdpa, heads_first(q), grouped(k), grouped(v), is_causal=True), device
    )
    total = flops["compressed"] + phi_flops
    return {
        "t": t,
        "hq": hq,
        "hk": hk,
        "head_dim": head_dim,
        "dtype": str(dtype).removeprefix("torch."),
        "compressed_tokens": tokens_read(t - 1, config).compressed,
        "attention_flops": flops["compressed"],
        "phi_flops": phi_flops,
        "dense_flops": flops["dense"],
        "attention_saved_percent": 100 * (1 - flops["compressed"] / flops["dense"]),
        "saved_percent": 100 * (1 - total / flops["dense"]),
        "compressed_ms": 1e3 * seconds,
        "dense_ms": 1e3 * dense,
        "speed_ratio": dense / seconds,
    }


@app.command("cost")
def cost_command(
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="folder of the result file")] = None,
) -> None:
    """The compressed branch alone against dense attention, at the small model's size or a large one's."""
    errors = check_paths(device)
    lengths = (1024, 2048, 4096) if device == "cpu" else (8192, 16384, 32768, 65536)
    sizes = {"hq": 4, "hk": 2, "head_dim": 32} if device == "cpu" else {"hq": 64, "hk": 4, "head_dim": 128}
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    rows = []
    for t in lengths:
        rows.append(compressed_cost(t, device, dtype=dtype, **sizes))
        typer.echo(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items())
        )
    name = "nsa-cmp" if device == "cpu" else "nsa-cmp-gpu"
    payload = {"relative_errors": errors, "config": asdict(NSAConfig()), "rows": rows}
    results.save(
        name, payload, f"python -m minisys.bench.nsa_small cost --device {device}", out, device=device
    )


if __name__ == "__main__":
    app()
