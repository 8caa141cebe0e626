"""How long a call takes: the median over many calls, with the 10th and 90th percentile.

- On a GPU, device events around each call: kernels run after the call returned, so a host clock would measure
  the launch. On the CPU, `time.perf_counter`.
- The first calls are not counted: they load, compile and allocate.
- Calls take turns over several sets of inputs, as many as it takes for the cache not to hold them all.
- On a GPU the calls are queued without waiting in between. A kernel that is shorter than its launch is timed
  with the gap before it, as a program that calls it in a loop would see it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minisys.core.checks import check, check_choice, check_positive_int

WARM_UP_CALLS = 3
LEAST_REPEATS, MOST_REPEATS = 5, 100
MOST_SETS = 64


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, 10th and 90th percentile over `repeats` calls."""

    median: float
    p10: float
    p90: float
    repeats: int


class HostStopwatch:
    """Wall time between start and stop."""

    def start(self) -> None:
        self._start = time.perf_counter()

    def stop(self) -> None:
        self._seconds = time.perf_counter() - self._start

    def seconds(self) -> float:
        return self._seconds


class DeviceStopwatch:
    """Time between two events on the GPU's queue; asking for the seconds waits for the second one."""

    def __init__(self) -> None:
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def start(self) -> None:
        self._begin.record()

    def stop(self) -> None:
        self._end.record()

    def seconds(self) -> float:
        self._end.synchronize()
        return self._begin.elapsed_time(self._end) / 1e3


STOPWATCHES = {"cpu": HostStopwatch, "cuda": DeviceStopwatch}


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie, linear between neighbours; 0.5 is the median.

    Raises ValueError for no values, and for a share outside [0, 1].
    """
    check(len(values) > 0, "values", "none", "at least one")
    check(0 <= share <= 1, "share", share, "a number from 0 to 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def measure(
    function: Callable,
    input_sets: Sequence,
    device: str,
    *,
    prepare: Callable | None = None,
    seconds: float = 0.5,
    repeats: int | None = None,
    stopwatch: Callable | None = None,
) -> Timing:
    """Time ``function(inputs)``, or with `prepare` the function alone in ``function(prepare(inputs))``.

    Args:
        function: what is timed; it gets one of `input_sets`, in turns, or what `prepare` made of it.
        input_sets: at least one; `count_sets` says how many keep the cache from holding them all.
        device: ``"cpu"`` or ``"cuda"``.
        prepare: called before each timed call and not timed, for example the forward before a backward.
        seconds: how long to go on, within 5 and 100 calls.
        repeats: how many calls to time, instead of `seconds`.
        stopwatch: makes an object with start, stop and seconds; by default the one of `device`.

    Raises:
        ValueError: a bad device, no input sets, or `repeats` that is no positive whole number.
    """
    check_choice("device", device, tuple(STOPWATCHES))
    check(len(input_sets) > 0, "input_sets", "none", "at least one set of inputs")
    if repeats is not None:
        check_positive_int("repeats", repeats)
    new_watch = stopwatch or STOPWATCHES[device]
    calls = 0

    def call():  # a stopped stopwatch
        nonlocal calls
        ready = input_sets[calls % len(input_sets)]
        calls += 1
        if prepare is not None:
            ready = prepare(ready)
        watch = new_watch()
        watch.start()
        function(ready)
        watch.stop()
        return watch

    one = 0.0
    for index in range(WARM_UP_CALLS):
        one = call().seconds()
        if index > 0 and one > seconds:  # a long call needs no third one
            break
    if repeats is None:
        fitting = round(seconds / one) if one > 0 else MOST_REPEATS
        repeats = min(max(fitting, LEAST_REPEATS), MOST_REPEATS)
    watches = [call() for _ in range(repeats)]
    times = [watch.seconds() for watch in watches]
    return Timing(quantile(times, 0.5), quantile(times, 0.1), quantile(times, 0.9), repeats)


def median_seconds(function: Callable[[], object], device: str, repeats: int = 9) -> float:
    """Median seconds of `function()`, which takes no inputs of its own."""
    return measure(lambda _: function(), [None], device, repeats=repeats).median


def count_sets(bytes_of_one: int, device: str) -> int:
    """How many input sets make up twice the last-level cache: at least 2, at most 64."""
    check(bytes_of_one > 0, "bytes_of_one", bytes_of_one, "at least 1")
    return min(max(math.ceil(2 * cache_bytes(device) / bytes_of_one), 2), MOST_SETS)


def cache_bytes(device: str) -> int:
    """Size of the last-level cache: a GPU's L2, the CPU's L3 (32 MiB where the system does not say)."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [_kibibytes(file) for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=32 * 1024) * 1024


def _kibibytes(file: Path) -> int:
    text = file.read_text().strip()  # 32768K
    return int(text.removesuffix("K")) if text.removesuffix("K").isdecimal() else 0
