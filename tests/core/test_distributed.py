"""Process groups: they work, they fail with the right traceback, and they end in time."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from minisys.core.distributed import Group, RankError, process_group, spawn


def add_ranks(group, factor):
    assert group == Group(dist.get_rank(), dist.get_world_size(), group.rank, torch.device("cpu"))
    assert dist.get_backend() == "gloo"
    total = torch.tensor([float(group.rank + 1)]) * factor
    dist.all_reduce(total)
    return {"rank": group.rank, "total": total.item(), "tensor": total}


def add_on_gpu(group):
    total = torch.ones(3, device=group.device)
    dist.all_reduce(total)
    return dist.get_backend(), str(group.device), total.tolist()


def fail_on_rank_1(group):
    if group.rank == 1:
        raise KeyError("a key that is missing")
    dist.barrier()


def hang_on_rank_0(group):
    if group.rank == 0:
        time.sleep(600)


def die(group, code):
    os._exit(code)


def wait_in_vain(group):
    if group.rank == 0:
        dist.barrier()  # the other rank leaves without it
    return group.rank


def test_all_reduce_on_two_ranks_gives_each_ranks_result():
    results = spawn(add_ranks, 2, 10, timeout_s=100.0, backend="gloo")
    assert [result["rank"] for result in results] == [0, 1]
    assert [result["total"] for result in results] == [30.0, 30.0]
    assert results[1]["tensor"].tolist() == [30.0]


def test_the_failing_ranks_traceback_is_raised_and_all_ranks_end():
    started = time.monotonic()
    with pytest.raises(
        RankError, match=r"rank 1 of 2 failed:(?s:.)*fail_on_rank_1(?s:.)*a key that is missing"
    ):
        spawn(fail_on_rank_1, 2, timeout_s=100.0, backend="gloo")
    assert time.monotonic() - started < 60


def test_a_rank_that_hangs_is_killed_and_named():
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"got no result from 0(, 1)? in 6\.0 s"):
        spawn(hang_on_rank_0, 2, timeout_s=6.0, backend="gloo")
    assert 6 <= time.monotonic() - started < 15


def test_a_rank_that_dies_without_a_word_is_reported():
    with pytest.raises(RankError, match="rank 0 of 1 failed:\nexit code 7, no traceback"):
        spawn(die, 1, 7, timeout_s=100.0, backend="gloo")


@pytest.fixture
def alone(monkeypatch):
    """The environment of a group of one."""
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29511")
    return monkeypatch


def test_a_group_of_one_in_this_process_is_always_destroyed(alone, tmp_path):
    meeting = (tmp_path / "store").as_uri()
    with process_group("gloo", 20.0, init_method=meeting) as group:
        assert group == Group(0, 1, 0, torch.device("cpu"))
        dist.barrier()
    assert not dist.is_initialized()
    with pytest.raises(RuntimeError, match="inside"), process_group("gloo", 20.0, init_method=f"{meeting}2"):
        raise RuntimeError("inside")
    assert not dist.is_initialized()


def test_a_rank_that_nobody_meets_gives_up_in_time(alone, tmp_path):
    alone.setenv("WORLD_SIZE", "2")
    started = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=r"(?i)timeout|timed out"),
        process_group("gloo", 1.0, init_method=(tmp_path / "store").as_uri()),
    ):
        pass
    assert time.monotonic() - started < 15
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", None, "RANK: got nothing, expected a whole number .* start with torchrun"),
        ("RANK", "1", "RANK: got '1', expected a whole number from 0 to 0"),
        ("WORLD_SIZE", "two", "WORLD_SIZE: got 'two'"),
        ("WORLD_SIZE", "0", "WORLD_SIZE: got '0', expected a whole number from 1"),
        ("LOCAL_RANK", "", "LOCAL_RANK: got ''"),
        ("MASTER_PORT", "65536", "MASTER_PORT: got '65536'"),
        ("MASTER_ADDR", None, "MASTER_ADDR: got nothing"),
    ],
)
def test_a_bad_environment_is_named(alone, name, value, message):
    if value is None:
        alone.delenv(name)
    else:
        alone.setenv(name, value)
    with pytest.raises(ValueError, match=message), process_group("gloo"):
        pass
    assert not dist.is_initialized()


def test_bad_arguments(alone, no_runtime_types):
    with pytest.raises(ValueError, match="backend: got 'mpi'"), process_group("mpi"):
        pass
    with pytest.raises(ValueError, match="timeout_s: got 0"), process_group("gloo", 0):
        pass
    with pytest.raises(ValueError, match="world_size: got 0"):
        spawn(add_ranks, 0)
    with pytest.raises(ValueError, match=r"function: got .*lambda.* expected one that can be pickled"):
        spawn(lambda group: None, 1)
    with pytest.raises(ValueError, match="timeout_s: got -1"):
        spawn(add_ranks, 1, timeout_s=-1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_nccl_without_a_gpu_is_refused_before_anything_starts(alone):
    with (
        pytest.raises(ValueError, match="LOCAL_RANK: got 0, expected less than the 0 GPUs"),
        process_group("nccl"),
    ):
        pass


@pytest.mark.gpu
def test_nccl_on_every_gpu_of_this_machine():
    gpus = torch.cuda.device_count()
    results = spawn(add_on_gpu, gpus, timeout_s=200.0)
    assert results == [("nccl", f"cuda:{rank}", [float(gpus)] * 3) for rank in range(gpus)]
