"""Frames: what goes in comes out, and whatever else comes in is no frame."""

import io
import pickle
from types import SimpleNamespace

import pytest
import torch

from minisys.grade import wire
from minisys.grade.wire import BrokenFrame, Given, read_frame, write_frame


def through(message, given=None):
    stream = io.BytesIO()
    write_frame(stream, message)
    stream.seek(0)
    read = read_frame(stream, given)
    assert read_frame(stream) is None
    return read


def test_plain_values_go_through():
    message = {"none": None, "yes": True, "n": 3, "x": 0.1, "text": "φ\x00", "list": [1, [2, {"a": 4}]]}
    assert through(message) == message


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, dtype=torch.float64),
        torch.zeros(2, 0, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor(True),
        torch.ones(1).expand(4),
        torch.full((2,), float("nan")),
        torch.randn(3, requires_grad=True),
    ],
    ids=["float64", "empty", "strided", "bool", "expanded", "nan", "grad"],
)
def test_tensors_go_through(tensor):
    read = through({"result": [tensor, tensor]})["result"]
    for copy in read:
        assert copy.dtype == tensor.dtype
        torch.testing.assert_close(copy, tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_given_is_made_on_the_other_side():
    module = SimpleNamespace(config=lambda *values, **fields: (values, fields))
    values, fields = through({"config": Given("config", (torch.ones(2),), {"l": 8})}, module)["config"]
    assert torch.equal(values[0], torch.ones(2))
    assert fields == {"l": 8}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", torch.ones(2).to_sparse(), torch.float32])
def test_other_values_are_refused_before_anything_is_written(value):
    stream = io.BytesIO()
    with pytest.raises(TypeError):
        write_frame(stream, {"result": value})
    assert stream.getvalue() == b""


def test_what_is_too_large_is_refused():
    with pytest.raises(ValueError, match="80 MiB, more than the 64 MiB allowed"):
        write_frame(io.BytesIO(), {"result": torch.ones(1).expand(20 << 20)})


def frame(text, blob=b""):
    return wire.LENGTHS.pack(len(text), len(blob)) + text + blob


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"x" * 100,
        frame(b"{}")[:-1],
        frame(b"no json"),
        frame(b"[1]"),
        frame(b"\xff\xfe"),
        frame(b'{"result": {"$tensor": "0"}}'),
        frame(b'{"result": {"$given": "config"}}'),
        frame(b"[" * 100_000 + b"]" * 100_000),
        frame(b"{}", pickle.dumps({"0": 1})),
        wire.LENGTHS.pack(1 << 62, 0),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_frame_is_reported(content):
    with pytest.raises(BrokenFrame):
        read_frame(io.BytesIO(content))
