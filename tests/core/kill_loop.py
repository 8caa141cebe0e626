"""Run by test_resume.py in its own process: start a training run, kill it, look at its files, and again.

Torch is imported once; every run is a fork, killed with SIGKILL at a random moment, every second one in the
middle of writing a file. A run that is left alone follows in a folder beside it. Prints one line of JSON.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from minisys.core.checkpoint import checkpoints, read_checkpoint
from minisys.core.decoder import Decoder, DecoderConfig
from minisys.core.train import TrainConfig, train

MODEL = DecoderConfig(vocab_size=16, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8)
RUN = TrainConfig(
    steps=100,
    warmup_steps=10,
    checkpoint_every=1,
    log_every=1,
    eval_every=50,
    eval_batches=1,
    learning_rate=0.01,
)


def batch(split, step):
    generator = torch.Generator().manual_seed(step + (split == "validation") * 1_000_000)
    tokens = torch.randint(16, (2, 9), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def run(directory):
    model = Decoder(MODEL, generator=torch.Generator().manual_seed(0))
    return train(model, batch, RUN, directory, progress=False)


def newest_step(directory):
    return max((int(path.stem.removeprefix("checkpoint-")) for path in checkpoints(directory)), default=0)


def kill_and_look(directory, kills, seed):
    directory.mkdir()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as warm:  # what torch loads at the first step, it loads once, here
        train(Decoder(MODEL), batch, replace(RUN, steps=10), warm, progress=False)
    chance = random.Random(seed)
    newest, partials = [], 0
    for kill in range(kills):
        goal = newest_step(directory) + chance.randint(0, 2)
        child = os.fork()
        if child == 0:
            run(directory)
            os._exit(0)
        while newest_step(directory) < goal:
            time.sleep(0.001)
        deadline = time.perf_counter() + chance.uniform(0, 0.02)  # somewhere within a step or two
        while time.perf_counter() < deadline + 0.2 * (kill % 2):
            if kill % 2 and list(directory.glob("*.partial")):
                break  # in the middle of writing a file
            time.sleep(0.0002)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the run ended before it was killed"
        partials += len(list(directory.glob("*.partial")))
        for path in checkpoints(directory):
            read_checkpoint(path)  # raises where the file is broken
        newest.append(newest_step(directory))
    run(directory)
    return {"newest": newest, "partials": partials, "steps": RUN.steps}


if __name__ == "__main__":
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    report = kill_and_look(folder / "killed", kills, seed)
    run(folder / "unbroken")
    print(json.dumps(report))
