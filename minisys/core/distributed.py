"""Process groups that end: set-up, collectives and whole runs have time limits, and groups are destroyed.

`process_group` reads what ``torchrun`` sets, so one script runs on the CPU (gloo) and on GPUs (NCCL, one GPU
a rank). `spawn` starts the ranks itself, on this machine and over loopback, for tests and notebooks.
"""

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
import torch.distributed as dist

from minisys.core.checks import check, check_choice, check_positive_int


class RankError(RuntimeError):
    """A rank failed; the message holds its number and its traceback."""


@dataclass(frozen=True)
class Group:
    """This process in its group: `rank` of `world_size`, `local_rank` on its machine, and its device."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device


@contextmanager
def process_group(
    backend: str | None = None, timeout_s: float = 60.0, *, init_method: str = "env://"
) -> Iterator[Group]:
    """Join the default process group, yield this rank's Group, and always destroy the group.

    Args:
        backend: ``"gloo"`` (CPU), ``"nccl"`` (GPU) or None: nccl where there is a GPU, else gloo.
        timeout_s: seconds that set-up, and later each collective, may take.
        init_method: where the ranks meet; ``env://`` is MASTER_ADDR and MASTER_PORT.

    Raises ValueError for an environment that torchrun would not set, before anything is started, and
    RuntimeError where the ranks do not meet in time.
    """
    check_choice("backend", backend, (None, "gloo", "nccl"))
    check(timeout_s > 0, "timeout_s", timeout_s, "a positive number of seconds")
    world_size = _read_environment("WORLD_SIZE", 1)
    rank = _read_environment("RANK", 0, world_size)
    local_rank = _read_environment("LOCAL_RANK", 0)
    if init_method == "env://":
        _read_environment("MASTER_PORT", 1, 65536)
        check("MASTER_ADDR" in os.environ, "MASTER_ADDR", "nothing", "a host name; start with torchrun")
    if backend is None:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cpu")
    if backend == "nccl":
        gpus = torch.cuda.device_count()
        check(local_rank < gpus, "LOCAL_RANK", local_rank, f"less than the {gpus} GPUs of this machine")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            backend,
            init_method=init_method,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device if backend == "nccl" else None,
        )
        yield Group(rank, world_size, local_rank, device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def spawn(
    function: Callable, world_size: int, *args: object, backend: str | None = None, timeout_s: float = 120.0
) -> list:
    """Run ``function(group, *args)`` on `world_size` new processes and return what each rank returned.

    `function` is at the top level of a module that the processes can import (not in a notebook's cell), and
    arguments and results can be pickled; they travel through pipes. If a rank fails, or time runs out, all
    ranks are killed.

    Raises:
        ValueError: bad arguments, before a process starts.
        RankError: a rank raised or died; with the traceback of the first that did.
        TimeoutError: not all ranks were done after `timeout_s` seconds; names those that were not.
    """
    check_positive_int("world_size", world_size)
    check_choice("backend", backend, (None, "gloo", "nccl"))
    check(timeout_s > 0, "timeout_s", timeout_s, "a positive number of seconds")
    try:
        payload = pickle.dumps((function, args))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"function: got {function} ({error}), expected one that can be pickled") from error
    context = multiprocessing.get_context("spawn")
    deadline = time.monotonic() + timeout_s
    processes, pipes = [], []
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "store").as_uri()
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                settings = (rank, world_size, backend, timeout_s, meeting)
                process = context.Process(target=_run_rank, args=(payload, sender, settings), daemon=True)
                process.start()
                sender.close()
                processes.append(process)
                pipes.append(receiver)
            return _collect(processes, pipes, deadline, timeout_s)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            for pipe in pipes:
                pipe.close()


def _collect(processes: list, pipes: list[Connection], deadline: float, timeout_s: float) -> list:
    """Wait for the result of every rank, or for the first failure."""
    results: dict[int, object] = {}
    while len(results) < len(pipes):
        pending = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in results}
        ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = ", ".join(map(str, pending.values()))
            raise TimeoutError(f"ranks: got no result from {late} in {timeout_s} s; all ranks were killed")
        failures = []
        for pipe in ready:
            rank = pending[pipe]
            try:
                failed_at, text, results[rank] = pickle.loads(pipe.recv_bytes())
            except EOFError:  # the process died without a word
                processes[rank].join()
                failed_at, text = time.monotonic(), f"exit code {processes[rank].exitcode}, no traceback"
            if failed_at is not None:
                failures.append((failed_at, rank, text))
        if failures:  # a rank that fails takes others with it: report the first
            _, rank, text = min(failures)
            raise RankError(f"rank {rank} of {len(pipes)} failed:\n{text}")
    return [results[rank] for rank in range(len(pipes))]


def _run_rank(payload: bytes, sender: Connection, settings: tuple) -> None:
    """The body of a spawned process: join the group, run the function, send the result or the traceback."""
    rank, world_size, backend, timeout_s, meeting = settings
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback)
    try:
        function, args = pickle.loads(payload)
        with process_group(backend, timeout_s, init_method=meeting) as group:
            try:
                answer = pickle.dumps((None, None, function(group, *args)))
            except BaseException:  # sent before the group is destroyed, which makes other ranks fail too
                _send_traceback(sender)
                raise SystemExit(1) from None
        sender.send_bytes(answer)
    except Exception:
        _send_traceback(sender)
        raise SystemExit(1) from None


def _send_traceback(sender: Connection) -> None:
    sender.send_bytes(pickle.dumps((time.monotonic(), traceback.format_exc(), None)))


def _read_environment(name: str, low: int, high: int | None = None) -> int:
    """A whole number in [low, high) from the environment."""
    got = os.environ.get(name)
    expected = f"a whole number from {low}" + ("" if high is None else f" to {high - 1}")
    check(got is not None, name, "nothing", f"{expected} in the environment; start with torchrun")
    check(
        got.isdecimal() and int(got) >= low and (high is None or int(got) < high), name, repr(got), expected
    )
    return int(got)
