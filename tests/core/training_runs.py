"""A tiny training run that the tests of training and of resuming share."""

from pathlib import Path

import pytest
import torch
from torch import nn

from minisys.core.decoder import Decoder, DecoderConfig, SwiGLU
from minisys.core.train import TrainConfig, train

MODEL = DecoderConfig(vocab_size=16, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8)
RUN = TrainConfig(
    steps=12,
    warmup_steps=3,
    learning_rate=0.02,
    checkpoint_every=4,
    log_every=2,
    eval_every=6,
    eval_batches=2,
)


class StoppedError(Exception):
    """Raised by a batch function in place of a kill."""


class DropoutMLP(nn.Module):
    """Random in training, so that a run is exact only if torch's random state is restored."""

    def __init__(self, dim, hidden, *, linear):
        super().__init__()
        self.inner = SwiGLU(dim, hidden, linear=linear)

    def forward(self, x):
        return nn.functional.dropout(self.inner(x), 0.5, self.training)


def make_model(seed=0):
    return Decoder(MODEL, mlp=DropoutMLP, generator=torch.Generator().manual_seed(seed))


def batch(split, step):
    """Counting upwards from a random number, which a small model learns quickly."""
    generator = torch.Generator().manual_seed(step + (split == "validation") * 1_000_000)
    tokens = (torch.randint(16, (4, 1), generator=generator) + torch.arange(9)) % 16
    return tokens[:, :-1], tokens[:, 1:]


def stop_at(step):
    def stopping(split, at):
        if split == "train" and at == step:
            raise StoppedError
        return batch(split, at)

    return stopping


def run(directory, data=batch, config=RUN, seed=0, **options):
    model = make_model(seed)
    return train(model, data, config, directory, progress=False, **options), model


def interrupted(directory, step, config=RUN):
    with pytest.raises(StoppedError):
        run(directory, stop_at(step), config)


def without_time(log):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in log]


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())
