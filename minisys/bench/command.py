"""``minisys bench TOPIC``, or ``python -m minisys.bench TOPIC`` where nothing but PyTorch is installed.

One module a topic: ``DEVICES`` that it can be measured on, the preferred one first, and ``run(command, …)``.
"""

import argparse
import difflib
import importlib
import sys
from pathlib import Path

import torch

from minisys.core.checks import check, check_choice

TOPICS = {
    "nsa": "minisys.bench.nsa",
    "nsa-decode": "minisys.bench.nsa_decode",
    "kgrag": "minisys.bench.kgrag",
}
MINUTES = 8.0


def bench(
    topic: str,
    *,
    quick: bool = False,
    device: str | None = None,
    out: Path | None = None,
    minutes: float = MINUTES,
) -> int:
    """Check and measure `topic`, print the table and write the result file; the exit status.

    Args:
        topic: one of `TOPICS`.
        quick: small sizes, under a minute on two cores, into a result file of its own.
        device: ``"cpu"`` or ``"cuda"``; the GPU where there is one and the topic has use for it.
        out: folder of the result file; the checkout's ``benchmarks/results`` unless given.
        minutes: no row is started that would end later.

    Returns 0, or 1 where a row of our own code failed for another reason than memory or time, or where a
    topic that cannot leave rows out needs more minutes.

    Raises:
        ValueError: an argument does not fit, a file is in the way, or a result is wrong. Nothing was written.
    """
    if topic not in TOPICS:
        near = difflib.get_close_matches(topic, TOPICS, n=3, cutoff=0.4)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        raise ValueError(f"topic: got {topic!r}, expected one of {', '.join(TOPICS)}{hint}")
    module = importlib.import_module(TOPICS[topic])
    if device is None:
        device = next(name for name in module.DEVICES if name == "cpu" or torch.cuda.is_available())
    check_choice("device", device, module.DEVICES)
    has_device = device == "cpu" or torch.cuda.is_available()
    check(has_device, "device", "'cuda'", "'cpu': PyTorch sees no GPU here")
    check(minutes > 0, "minutes", minutes, "more than 0")
    command = f"minisys bench {topic} --device {device}" + (" --quick" if quick else "")
    return module.run(command, device=device, quick=quick, out=out, minutes=minutes)


def main(arguments: list[str] | None = None) -> int:
    """The command without typer: bad input is one line on standard error and status 2."""
    parser = argparse.ArgumentParser(prog="python -m minisys.bench", description=__doc__.split("\n")[0])
    parser.add_argument("topic", help=", ".join(TOPICS))
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute on two cores")
    parser.add_argument("--device", help="cpu or cuda; by default the GPU where there is one")
    parser.add_argument("--out", type=Path, help="folder of the result file")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="start no row that would end later")
    given = vars(parser.parse_args(arguments))
    try:
        return bench(given.pop("topic"), **given)
    except ValueError as error:
        print(f"minisys: {error}", file=sys.stderr)
        return 2
