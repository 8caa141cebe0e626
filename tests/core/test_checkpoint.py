"""Checkpoints and weights: exact, refused when broken or foreign, and never half loaded."""

import json
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from minisys.core.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
)


class Model(nn.Module):
    """Tied weights, a buffer, an unused parameter and two dtypes."""

    def __init__(self, width=3):
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.tied = nn.Linear(width, width, bias=False)
        self.tied.weight = self.first.weight
        self.norm = nn.Parameter(torch.ones(width, dtype=torch.bfloat16))
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        return self.tied(self.first(x)) * self.norm


def trained(seed=0, steps=2):
    torch.manual_seed(seed)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    update(model, optimizer, steps)
    return model, optimizer


def update(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()


def state(model, optimizer):
    states = [optimizer.state[parameter] for parameter in model.parameters()]
    values = [values[key] for values in states for key in sorted(values)]
    return [value.clone() for value in (*model.state_dict().values(), *values, torch.get_rng_state())]


def equal(first, second):
    return len(first) == len(second) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_a_loaded_checkpoint_continues_to_the_last_bit(path):
    model, optimizer = trained()
    save_checkpoint(path, model, optimizer, 2, {"name": "run"})
    update(model, optimizer, 3)
    expected = state(model, optimizer)
    other, other_optimizer = trained(seed=9, steps=5)
    assert load_checkpoint(path, other, other_optimizer) == {"step": 2, "run": {"name": "run"}}
    update(other, other_optimizer, 3)  # on random batches: torch's random state was restored as well
    assert equal(state(other, other_optimizer), expected)
    assert other.tied.weight is other.first.weight


def test_equal_contents_give_equal_files(tmp_path):
    for name in "ab":
        model, optimizer = trained()
        save_checkpoint(tmp_path / name, model, optimizer, 2, {"x": 1, "y": [2]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_fresh_optimizer_has_no_state_to_save(path):
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(path, model, optimizer, 0, {})
    other, other_optimizer = trained(steps=3)
    load_checkpoint(path, other, other_optimizer)
    assert not other_optimizer.state


def flip(content, index):
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def damaged_files():
    """A checkpoint cut at every kind of place, and with one bit flipped in header, metadata and tensors."""
    yield "empty", lambda content: b""
    yield "text", lambda content: b"this is no checkpoint at all, but text\n"
    for share in (0.001, 0.1, 0.5, 0.999):
        yield f"cut at {share}", lambda content, share=share: content[: int(len(content) * share)]
    yield "longer", lambda content: content + b"\0"
    yield "length flipped", lambda content: flip(content, 0)
    yield "step changed", lambda content: content.replace(b'\\"step\\\\\\": 2', b'\\"step\\\\\\": 3')
    yield "hash changed", lambda content: flip(content, content.index(b"sha256") + 15)
    for place in (0.3, 0.7, 0.99999):
        yield f"bit at {place}", lambda content, place=place: flip(content, int(len(content) * place))


@pytest.mark.parametrize(("name", "damage"), list(damaged_files()), ids=[name for name, _ in damaged_files()])
def test_a_damaged_file_is_named_and_nothing_is_loaded(path, name, damage):
    model, optimizer = trained()
    save_checkpoint(path, model, optimizer, 2, {})
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    other, other_optimizer = trained(seed=9)
    before = state(other, other_optimizer)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: got .*, expected "):
        load_checkpoint(path, other, other_optimizer)
    assert equal(state(other, other_optimizer), before)
    assert path.read_bytes() == damage(content)


def test_files_from_elsewhere_are_refused(path):
    model, optimizer = trained()
    safetensors.torch.save_file({"model/first.weight": torch.ones(3, 3)}, path)
    with pytest.raises(CheckpointError, match="got a file from elsewhere, expected checkpoint"):
        load_checkpoint(path, model, optimizer)
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"minisys": "[1]"})
    with pytest.raises(CheckpointError, match="got a file from elsewhere, expected checkpoint"):
        read_checkpoint(path)
    save_weights(path, model)
    with pytest.raises(CheckpointError, match="got weights, expected checkpoint"):
        load_checkpoint(path, model, optimizer)
    save_checkpoint(path, model, optimizer, 1, {})
    with pytest.raises(CheckpointError, match="got checkpoint, expected weights"):
        load_weights(path, model)
    with pytest.raises(FileNotFoundError, match="got no such file, expected checkpoint"):
        read_checkpoint(path.with_name("missing"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: model.register_parameter("more", nn.Parameter(torch.ones(1))),
            "tensor more only in the model",
        ),
        (lambda model: delattr(model, "unused"), "tensor unused only in the file"),
        (lambda model: model.half(), "expected .* torch.float16"),
        (lambda model: setattr(model, "unused", nn.Parameter(torch.ones(3))), r"tensor unused \(2,\)"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_was(path, change, message):
    model, optimizer = trained()
    save_checkpoint(path, model, optimizer, 2, {})
    other = Model()
    change(other)
    before = [value.clone() for value in other.state_dict().values()]
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, other, torch.optim.AdamW(other.parameters()))
    assert equal(list(other.state_dict().values()), before)


def test_optimizer_state_that_does_not_fit_is_refused(path):
    model, optimizer = trained()
    optimizer.state[model.norm]["exp_avg"] = torch.zeros(9)
    save_checkpoint(path, model, optimizer, 2, {})
    other, other_optimizer = trained(seed=9)
    before = state(other, other_optimizer)
    with pytest.raises(CheckpointError, match=r"optimizer state exp_avg/norm \(9,\)"):
        load_checkpoint(path, other, other_optimizer)
    assert equal(state(other, other_optimizer), before)


def test_what_cannot_be_saved_is_refused_before_writing(path):
    model, optimizer = trained()
    with pytest.raises(ValueError, match="metadata: got no JSON"):
        save_checkpoint(path, model, optimizer, 1, {"loss": float("nan")})
    optimizer.state[model.norm]["note"] = "text"
    with pytest.raises(ValueError, match="optimizer state note: got str, expected a tensor"):
        save_checkpoint(path, model, optimizer, 1, {})
    assert not path.exists()


def test_weights_round_trip_with_and_without_a_narrower_dtype(path):
    model, _ = trained()
    save_weights(path, model, {"loss": 1.5, "note": "φ"})
    other = Model()
    assert load_weights(path, other) == {"loss": 1.5, "note": "φ"}
    assert equal(list(other.state_dict().values()), list(model.state_dict().values()))
    full = path.stat().st_size
    save_weights(path, model, dtype=torch.bfloat16)
    assert path.stat().st_size < full
    narrow = Model()
    assert load_weights(path, narrow) == {}
    assert narrow.first.weight.dtype == torch.float32
    assert torch.equal(narrow.first.weight, model.first.weight.bfloat16().float())
    assert narrow.count == 7


def test_weights_that_do_not_fit_are_refused(path):
    save_weights(path, Model())
    model = Model(width=4)
    before = model.first.weight.clone()
    with pytest.raises(CheckpointError, match=r"tensor first\.weight \(3, 3\) .* expected \(4, 4\)"):
        load_weights(path, model)
    assert torch.equal(model.first.weight, before)


def test_the_file_is_plain_safetensors(path):
    model, optimizer = trained()
    save_checkpoint(path, model, optimizer, 2, {"name": "run"})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert {name.split("/")[0] for name in header} == {"__metadata__", "model", "optimizer", "random"}
    own = json.loads(header["__metadata__"]["minisys"])
    assert json.loads(own["metadata"]) == {"step": 2, "run": {"name": "run"}}
