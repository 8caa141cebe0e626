"""A training loop that can be stopped at any moment, kill -9 included, and goes on as if it had not been.

AdamW (Loshchilov and Hutter 2019), linear warm-up, cosine decay. Everything a step depends on is in its
checkpoint or follows from (seed, step), so on the CPU a resumed run equals an unbroken one to the last bit.

A run's folder holds ``log.jsonl`` and the last two ``checkpoint-<step>.safetensors``. A line of the log has
step, loss (of that step's batch, nats a token), learning_rate, gradient_norm (before clipping),
validation_loss where it was measured, and seconds since this process began.
Left out: several devices, gradient accumulation, float16.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minisys.core.checkpoint import (
    CheckpointError,
    checkpoint_path,
    drop_old,
    load_checkpoint,
    load_weights,
    resume,
    save_checkpoint,
    save_weights,
)
from minisys.core.checks import check, check_choice, check_positive_int
from minisys.core.data import Corpus
from minisys.core.files import only_writer, remove_partials, write_atomic
from minisys.core.seeds import seeded

__all__ = [
    "CheckpointError",
    "TrainConfig",
    "evaluate",
    "learning_rate_at",
    "load_checkpoint",
    "load_weights",
    "read_log",
    "save_checkpoint",
    "save_weights",
    "train",
]

BatchFunction = Callable[[str, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. Raises ValueError for a field that is not usable.

    Attributes:
        steps: updates in all.
        batch, t: sequences a step and tokens a sequence (used where the data is a Corpus).
        learning_rate: the highest, reached after `warmup_steps`; falls to `final_fraction` of it (cosine).
        weight_decay: for parameters of two or more axes; norms and biases have none.
        betas: of AdamW.
        gradient_clip: largest global norm of the gradient, or None.
        seed: of the batches, and of what is random in the model.
        checkpoint_every, log_every, eval_every: in steps; eval_every may be None. The last step counts.
        eval_batches: validation batches, always the same ones.
        amp: None, or "bfloat16" for autocast.
    """

    steps: int = 1000
    batch: int = 16
    t: int = 256
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    final_fraction: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float | None = 1.0
    seed: int = 0
    checkpoint_every: int = 200
    log_every: int = 10
    eval_every: int | None = 200
    eval_batches: int = 4
    amp: str | None = None

    def __post_init__(self) -> None:
        for field in ("steps", "batch", "t", "checkpoint_every", "log_every", "eval_batches"):
            check_positive_int(field, getattr(self, field))
        if self.eval_every is not None:
            check_positive_int("eval_every", self.eval_every)
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        warmup = self.warmup_steps
        check(0 <= warmup <= self.steps, "warmup_steps", warmup, f"0 to steps = {self.steps}")
        check(0 <= self.final_fraction <= 1, "final_fraction", self.final_fraction, "0 to 1")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        check(fit, "betas", self.betas, "two numbers in [0, 1)")
        clip = self.gradient_clip
        check(clip is None or clip > 0, "gradient_clip", clip, "None or a positive number")
        check_choice("amp", self.amp, (None, "bfloat16"))


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """The learning rate of update `step`, 1 … steps: linear up to `warmup_steps`, then half a cosine down."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def train(
    model: nn.Module,
    data: Corpus | BatchFunction,
    config: TrainConfig,
    directory: str | os.PathLike,
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
    identity: dict | None = None,
) -> list[dict]:
    """Train `model` in place for ``config.steps`` updates and return the lines of the log.

    Goes on from the newest good checkpoint in `directory` if there is one. A broken checkpoint is set aside
    as ``….broken`` with a warning, and the one before it is used.

    Args:
        model: maps tokens ``[b, t]`` to logits ``[b, t, vocab]``.
        data: a Corpus, or a function of split (``"train"``, ``"validation"``) and step that gives inputs and
            targets ``[b, t]`` int64 and depends on nothing else.
        config: the settings.
        directory: the run's folder; made where it is missing, and used by one run at a time.
        device: where to train.
        progress: show a progress bar on stderr.
        identity: JSON that says what else the run depends on, such as the sizes of the model.

    Raises:
        ValueError: the folder holds a run with other settings, or another process is using it.
        CheckpointError: there are checkpoints, but no good one, or they do not fit the model.
        FloatingPointError: loss or gradient is no longer finite. The checkpoints before that are kept.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    run = {"config": asdict(config), "data": getattr(data, "sha256", None), "identity": identity}
    try:
        run = json.loads(json.dumps(run, allow_nan=False))  # as it will be read back
    except (TypeError, ValueError) as error:
        raise ValueError(f"identity: got no JSON ({error}), expected numbers, text and the like") from error
    model.to(device).train()
    optimizer = make_optimizer(model, config)
    batches = _batches(data, config, device)
    with only_writer(directory), seeded(config.seed):
        done = resume(directory, model, optimizer, run)
        remove_partials(directory, "*")
        log = _cut_log(directory / "log.jsonl", done)
        started = time.perf_counter()
        with (
            open(directory / "log.jsonl", "a", encoding="utf-8") as log_file,
            tqdm(total=config.steps, initial=done, unit="step", disable=not progress) as bar,
        ):
            for step in range(done + 1, config.steps + 1):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(config, step)
                loss, norm = _update(model, optimizer, batches("train", step), config)
                bar.update()
                saves = _due(step, config.checkpoint_every, config)
                evaluates = _due(step, config.eval_every, config)
                logs = evaluates or _due(step, config.log_every, config)
                if logs or saves:  # else nothing is read, as a GPU would have to wait for it
                    record = _record(step, loss.item(), norm.item(), config)
                if evaluates:
                    validation_loss = evaluate(model, batches, config.eval_batches, amp=config.amp)
                    record["validation_loss"] = validation_loss
                if logs:
                    record["seconds"] = round(time.perf_counter() - started, 3)
                    log.append(record)
                    log_file.write(json.dumps(record) + "\n")
                    log_file.flush()
                    bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
                if saves:
                    os.fsync(log_file.fileno())  # the log reaches at least as far as the checkpoint
                    save_checkpoint(checkpoint_path(directory, step), model, optimizer, step, run)
                    drop_old(directory, keep=2)
    return log


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay for parameters of two or more axes."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


@torch.no_grad()
def evaluate(model: nn.Module, batches: BatchFunction, count: int, *, amp: str | None = None) -> float:
    """Mean loss in nats a token over the first `count` batches of ``batches("validation", …)``."""
    check_positive_int("count", count)
    training = model.training
    model.eval()
    losses = [_loss(model, batches("validation", index), amp).item() for index in range(count)]
    model.train(training)
    return sum(losses) / count


def read_log(directory: str | os.PathLike) -> list[dict]:
    """The lines of a run's log. A line cut off by a killed process is left out."""
    lines = (Path(directory) / "log.jsonl").read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was cut off
        try:
            records.append(json.loads(line))
            records[-1]["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"log.jsonl line {number}: got {line!r}, expected JSON with a step") from error
    return records


def _record(step: int, loss: float, norm: float, config: TrainConfig) -> dict:
    if not math.isfinite(loss + norm):
        raise FloatingPointError(
            f"step {step}: got loss {loss} and gradient norm {norm}, expected finite ones"
        )
    return {
        "step": step,
        "loss": loss,
        "learning_rate": learning_rate_at(config, step),
        "gradient_norm": norm,
    }


def _due(step: int, every: int | None, config: TrainConfig) -> bool:
    return every is not None and (step % every == 0 or step == config.steps)


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor], amp: str | None) -> Tensor:
    inputs, targets = batch
    autocast = nullcontext() if amp is None else torch.autocast(inputs.device.type, getattr(torch, amp))
    with autocast:
        logits = model(inputs)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], config: TrainConfig
) -> tuple[Tensor, Tensor]:
    optimizer.zero_grad(set_to_none=True)
    loss = _loss(model, batch, config.amp)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip or math.inf)
    optimizer.step()
    return loss.detach(), norm


def _batches(data: Corpus | BatchFunction, config: TrainConfig, device: str | torch.device) -> BatchFunction:
    def batches(split: str, step: int) -> tuple[Tensor, Tensor]:
        if isinstance(data, Corpus):
            inputs, targets = data.batch_at(split, config.batch, config.t, seed=config.seed, step=step)
        else:
            inputs, targets = data(split, step)
        return inputs.to(device), targets.to(device)

    return batches


def _cut_log(path: Path, step: int) -> list[dict]:
    """Drop the lines after `step`, which will be written again, and return the others."""
    kept = [record for record in read_log(path.parent) if record["step"] <= step] if path.exists() else []
    write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
    return kept
