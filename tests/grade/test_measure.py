"""Bytes and FLOPs of kernels are counted exactly, and a kernel cannot leave its tensors unseen."""

import pytest
import torch

from minisys.grade import measure

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="counted in the interpreter")


@triton.jit
def add_kernel(x, y, out, n, shift, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    sums = tl.load(x + place, mask=place < n, other=0.0)
    sums += tl.load(y + shift + place, mask=place < n, other=0.0)
    tl.store(out + place, sums, mask=place < n)


@triton.jit
def square_kernel(x, count, out, SIZE: tl.constexpr):
    row = tl.arange(0, SIZE)
    tile = tl.load(x + row[:, None] * SIZE + row)
    tl.store(out + row[:, None] * SIZE + row, tl.dot(tile, tile))
    tl.atomic_add(count, 1)


def add(x, y, shift=0, n=5):
    out = torch.zeros(5)
    add_kernel[(1,)](x, y, out, n, shift, SIZE=8)
    return out


def test_loads_are_counted_by_the_tensor_that_they_go_to():
    x, y = torch.arange(5.0), torch.ones(9)
    with measure.tiles({"x": x, "y": y, "n": 5}) as counted:
        assert add(x, y, shift=4).tolist() == [1, 2, 3, 4, 5]
    assert counted == {
        "loaded_bytes": 40, "stored_bytes": 20, "dot_flops": 0, "loaded_bytes x": 20, "loaded_bytes y": 20,
    }  # fmt: skip


def test_a_part_of_a_tensor_is_that_tensor_and_a_copy_is_not():
    y = torch.ones(9)
    with measure.tiles({"y": y}) as counted:
        add(y[2:], y.clone())
    assert counted["loaded_bytes"] == 40
    assert counted["loaded_bytes y"] == 20


def test_dots_and_atomics_are_counted():
    x, count = torch.ones(16, 16), torch.zeros(1, dtype=torch.int32)
    with measure.tiles({"x": x}) as counted:
        square_kernel[(1,)](x, count, torch.empty(16, 16), SIZE=16)
    assert count.item() == 1
    assert counted["dot_flops"] == 2 * 16**3
    assert counted["loaded_bytes"] == counted["stored_bytes"] == 16 * 16 * 4 + 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 6}, "loaded 1 numbers after the end of x"),
        ({"shift": 2}, "loaded 2 numbers after the end of y"),
        ({"shift": -1}, "loaded 1 numbers before the start of y"),
        (
            {"n": 6, "longer": True},
            "stored 1 numbers after the end of out",
        ),
    ],
)
def test_an_access_outside_of_the_tensors_is_an_error_that_names_one(arguments, says):
    says = says.replace(" numbers ", " numbers outside of its tensors, the first of them ")
    size = 6 if arguments.pop("longer", False) else 5
    x, y = torch.ones(size), torch.ones(size)
    with measure.tiles({"x": x}), pytest.raises(Exception, match=says):
        add(x, y, **arguments)


def test_everything_is_as_before_afterwards():
    from triton.runtime.interpreter import GridExecutor, interpreter_builder

    launch = GridExecutor.__call__
    x = torch.ones(5)
    with measure.tiles({"x": x}):
        assert GridExecutor.__call__ is not launch
    assert GridExecutor.__call__ is launch
    assert "create_masked_load" not in vars(interpreter_builder)
