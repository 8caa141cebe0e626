"""Timing: medians and spread of scripted times, inputs in turns, warm-up left out."""

import time

import pytest
import torch

from minisys.bench import timing
from minisys.bench.ceilings import SIZES, measure_ceilings


class Script:
    """Stopwatches whose n-th one shows the n-th scripted time (the last one from there on)."""

    def __init__(self, *times):
        self.times, self.made, self.running = times, 0, False

    def __call__(self):
        script, time_shown = self, self.times[min(self.made, len(self.times) - 1)]
        self.made += 1

        class Watch:
            def start(self):
                script.running = True

            def stop(self):
                script.running = False

            def seconds(self):
                return time_shown

        return Watch()


def test_quantiles_are_linear_between_neighbours():
    assert timing.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert timing.quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
    assert timing.quantile([float(i) for i in range(11)], 0.1) == 1.0
    assert timing.quantile([float(i) for i in range(11)], 0.9) == 9.0
    assert timing.quantile([0.0, 10.0], 0.25) == 2.5
    assert timing.quantile([7.0], 0.9) == 7.0


def test_median_and_spread_leave_the_warm_up_out():
    script = Script(90.0, 80.0, 5.0, 4.0, 2.0, 3.0, 9.0)  # the third call is 5 s: no time for more than 5
    got = timing.measure(lambda _: None, [None], "cpu", stopwatch=script, repeats=5, seconds=100.0)
    assert got.repeats == 5
    assert script.made == timing.WARM_UP_CALLS + 5
    assert (got.p10, got.median, got.p90) == (2.4, 4.0, 9.0)


def test_inputs_take_turns_and_only_the_function_is_timed():
    script, seen = Script(0.01), []

    def prepare(inputs):
        assert not script.running
        return inputs + 100

    def function(ready):
        assert script.running
        seen.append(ready)

    timing.measure(function, [0, 1, 2], "cpu", prepare=prepare, repeats=6, stopwatch=script)
    assert seen == [100, 101, 102] * 3


@pytest.mark.parametrize(
    ("one_call", "seconds", "repeats"),
    [(0.01, 0.5, 50), (1.0, 0.5, timing.LEAST_REPEATS), (1e-6, 0.5, timing.MOST_REPEATS), (0.0, 0.5, 100)],
)
def test_the_number_of_calls_follows_from_the_time_of_one(one_call, seconds, repeats):
    script = Script(7.0, one_call)
    got = timing.measure(lambda _: None, [None], "cpu", seconds=seconds, stopwatch=script)
    assert got.repeats == repeats
    assert got.median == one_call
    assert script.made - repeats == (2 if one_call > seconds else timing.WARM_UP_CALLS)


def test_a_sleep_is_measured_by_the_host_clock():
    got = timing.measure(lambda _: time.sleep(0.02), [None], "cpu", repeats=3)
    assert 0.02 <= got.p10 <= got.median <= got.p90
    assert timing.median_seconds(lambda: time.sleep(0.02), "cpu", repeats=3) >= 0.02


@pytest.mark.gpu
def test_a_kernel_is_measured_by_device_events():
    x = torch.randn(8192, 8192, device="cuda")
    got = timing.measure(lambda inputs: inputs @ inputs, [x, x + 1], "cuda", repeats=5)
    flops = 2 * 8192**3
    assert flops / got.median < 2e15  # a clock that stops at the launch would show far more


def test_input_sets_make_up_twice_the_cache(monkeypatch):
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 1000)
    assert timing.count_sets(300, "cpu") == 7
    assert timing.count_sets(10_000, "cpu") == 2
    assert timing.count_sets(1, "cpu") == timing.MOST_SETS


def test_the_cache_of_this_machine_is_no_guess_of_nothing():
    assert 2**18 <= timing.cache_bytes("cpu") <= 2**32


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "device: got 'tpu', expected one of 'cpu', 'cuda'"),
        ({"input_sets": []}, "input_sets: got none, expected at least one set of inputs"),
        ({"repeats": 0}, "repeats: got 0, expected a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given = {"function": lambda _: None, "input_sets": [None], "device": "cpu"} | change
    with pytest.raises(ValueError, match=message):
        timing.measure(**given)


def test_quantile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="values: got none"):
        timing.quantile([], 0.5)
    with pytest.raises(ValueError, match=r"share: got 1\.5"):
        timing.quantile([1.0], 1.5)


def test_ceilings_are_rates_of_a_copy_and_a_matrix_product(monkeypatch):
    monkeypatch.setitem(SIZES, ("cpu", True), (2**22, 128, torch.float32))
    found = measure_ceilings("cpu", quick=True, seconds=0.01)
    assert found["copy_bytes"] == 2 * 2**22  # read and written
    assert found["matmul_size"] == 128
    assert found["matmul_dtype"] == "float32"
    for name in ("copy", "matmul"):
        low, high = found[f"{name}_spread"]
        rate = found["copy_tb_per_s"] if name == "copy" else found["matmul_tflops_per_s"]
        assert 0 < low <= rate <= high < 1e3
