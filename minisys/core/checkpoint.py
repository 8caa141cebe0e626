"""Checkpoints and weights: one safetensors file each, checked by SHA-256 when read, written in one step.

A checkpoint holds ``model/<name>``, ``optimizer/<key>/<parameter>`` and torch's random state as tensors, and
the step and a description of the run as JSON in the header of the file. Equal contents give equal bytes.
A file is read and checked whole before a model is touched.
"""

import hashlib
import json
import os
import re
import secrets
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from minisys.core.checks import check
from minisys.core.files import write_atomic


class CheckpointError(ValueError):
    """A file is no checkpoint of ours, is damaged, or does not fit the model; the message names the file."""


def save_checkpoint(
    path: str | os.PathLike, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, run: dict
) -> None:
    """Write everything that the next step depends on. `run` is JSON that says which run this is."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            check(isinstance(value, Tensor), f"optimizer state {key}", type(value).__name__, "a tensor")
            tensors[f"optimizer/{key}/{name}"] = value
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    _write(path, "checkpoint", tensors, {"step": step, "run": run})


def load_checkpoint(path: str | os.PathLike, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore model, optimizer and torch's random state; returns ``{"step": ..., "run": ...}``.

    Raises FileNotFoundError, or CheckpointError with everything as it was.
    """
    tensors, metadata = read_checkpoint(path)
    restore(path, tensors, model, optimizer)
    return metadata


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a checkpoint, on the CPU, and step and run; CheckpointError where the file is broken."""
    return _read(path, "checkpoint")


def restore(
    path: str | os.PathLike, tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put the tensors of `read_checkpoint` where they belong; CheckpointError where they do not fit."""
    weights = _under(tensors, "model/")
    _check_fit(path, weights, model, same_dtype=True)
    parameters = dict(model.named_parameters())
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer/").items():
        key, parameter = name.split("/", 1)
        known = parameter in parameters and id(parameters[parameter]) in groups
        if not known or (value.ndim and value.shape != parameters[parameter].shape):
            got = f"optimizer state {name} {tuple(value.shape)}"
            raise CheckpointError(f"{path}: got {got}, expected one that fits a parameter")
        states.setdefault(parameter, {})[key] = value
    model.load_state_dict(weights)
    optimizer.state.clear()
    for name, state in states.items():
        group = groups[id(parameters[name])]
        counts_on_device = group.get("fused") or group.get("capturable")
        for key, value in state.items():  # step counts, which have no axis, mostly stay on the CPU
            device = parameters[name].device if value.ndim or counts_on_device else "cpu"
            optimizer.state[parameters[name]][key] = value.to(device)
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of one step."""
    return directory / f"checkpoint-{step:08}.safetensors"


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    found = directory.glob("checkpoint-*.safetensors")
    return sorted(path for path in found if re.fullmatch(r"checkpoint-\d{8}\.safetensors", path.name))


def drop_old(directory: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep`."""
    for path in checkpoints(directory)[:-keep]:
        path.unlink()


def resume(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict) -> int:
    """Restore the newest good checkpoint in `directory` and return its step, or 0 where there is none at all.

    Newer ones that are broken are renamed to ``….broken``, with a warning. Raises CheckpointError where all
    are broken or the good one does not fit the model, and ValueError where it belongs to another run; then
    nothing has changed.
    """
    broken = []
    for path in reversed(checkpoints(directory)):
        try:
            tensors, metadata = read_checkpoint(path)
        except CheckpointError as error:
            broken.append((path, error))
            continue
        _check_same_run(path, metadata["run"], run)
        restore(path, tensors, model, optimizer)
        for file, error in broken:
            aside = file.with_name(f"{file.name}.{secrets.token_hex(2)}.broken")
            file.rename(aside)
            warnings.warn(f"{error}; kept as {aside.name}, going on from {path.name}", stacklevel=3)
        return metadata["step"]
    if broken:
        problems = "; ".join(str(error) for _, error in broken)
        raise CheckpointError(
            f"{directory}: got no good checkpoint ({problems}); move them away to start again"
        )
    return 0


def _check_same_run(path: Path, saved: dict, run: dict) -> None:
    """Check part by part, and field by field where a part is a dict, that a checkpoint is of this run."""
    for part in sorted(saved.keys() | run.keys()):
        before, now = saved.get(part), run.get(part)
        if isinstance(before, dict) and isinstance(now, dict):
            for field in sorted(before.keys() | now.keys()):
                same = before.get(field) == now.get(field)
                check(same, f"{part}.{field}", now.get(field), f"{before.get(field)} as in {path}")
        check(before == now, part, now, f"{before} as in {path}")


def save_weights(
    path: str | os.PathLike, model: nn.Module, metadata: dict | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write the model's weights, floating ones cast to `dtype` where it is given, and `metadata` (JSON)."""
    tensors = model.state_dict()
    if dtype is not None:
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    _write(path, "weights", tensors, metadata or {})


def load_weights(path: str | os.PathLike, model: nn.Module) -> dict:
    """Load what `save_weights` wrote into `model`, cast to its dtypes, and return the metadata.

    Raises FileNotFoundError, or CheckpointError with the model as it was.
    """
    tensors, metadata = _read(path, "weights")
    _check_fit(path, tensors, model, same_dtype=False)
    model.load_state_dict(tensors)
    return metadata


def _write(path: str | os.PathLike, kind: str, tensors: dict[str, Tensor], metadata: dict) -> None:
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        content = json.dumps(metadata, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: got no JSON ({error}), expected numbers, text and the like") from error
    header = {"kind": kind, "sha256": _digest(kind, content, tensors), "metadata": content}
    # One entry only: safetensors does not write several in a fixed order.
    file = safetensors.torch.save(tensors, metadata={"minisys": json.dumps(header, sort_keys=True)})
    write_atomic(path, file)


def _read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: got no such file, expected {kind}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("minisys", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: got a truncated or foreign file ({error}), expected {kind}"
        ) from error
    found = header.get("kind") if isinstance(header, dict) else None
    if found != kind:
        raise CheckpointError(f"{path}: got {found or 'a file from elsewhere'}, expected {kind}")
    if header.get("sha256") != _digest(kind, header.get("metadata"), tensors):
        raise CheckpointError(
            f"{path}: got content that does not match its SHA-256, expected undamaged {kind}"
        )
    return tensors, json.loads(header["metadata"])


def _digest(kind: str, metadata: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{kind}\0{metadata}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_fit(
    path: str | os.PathLike, tensors: dict[str, Tensor], model: nn.Module, same_dtype: bool
) -> None:
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            where = "the file" if name in tensors else "the model"
            raise CheckpointError(f"{path}: got tensor {name} only in {where}, expected it in file and model")
        got, want = tensors[name], expected[name]
        if got.shape != want.shape or (same_dtype and got.dtype != want.dtype):
            raise CheckpointError(
                f"{path}: got tensor {name} {tuple(got.shape)} {got.dtype}, "
                f"expected {tuple(want.shape)} {want.dtype}"
            )
