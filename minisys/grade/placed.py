"""The tensors of a kernel's launch in Triton's interpreter, each with room around it.

The interpreter loads and stores at plain addresses of this process. So for the time of a launch every tensor
lies in a buffer of its own, between two stretches that nobody owns; an address outside of all tensors is an
error that names the nearest, as a sanitizer reports it on a GPU, instead of a wrong number or a crash.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROOM = 1 << 16  # bytes before and behind each tensor
FILLED = 0xFF  # NaN as a float of any size, -1 as a whole number


@dataclasses.dataclass(frozen=True)
class Span:
    """Addresses of one tensor: its name in the kernel, and that of the call's argument that it is, or ""."""

    name: str
    argument: str
    start: int
    end: int


class Placed:
    """The tensors of one launch. `put` each of them, run the kernel, then `take_back` what it stored.

    Args:
        arguments: those of the call that launches, by name; a tensor that lies in one of them is that one.
    """

    def __init__(self, arguments: Mapping[str, object]) -> None:
        self.arguments = {name: extent(x) for name, x in arguments.items() if isinstance(x, Tensor)}
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}  # by address of a storage: its bytes, the buffer
        self.spans: list[Span] = []

    def put(self, value: object, name: str) -> object:
        """`value`, with every tensor in it in its buffer."""
        if isinstance(value, TensorDescriptor):
            return dataclasses.replace(value, base=self.put(value.base, name))
        if type(value) is tuple:
            return tuple(self.put(item, name) for item in value)
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.buffers:
            content = torch.empty(0, dtype=torch.uint8).set_(storage)
            buffer = torch.full((2 * ROOM + len(content),), FILLED, dtype=torch.uint8)
            buffer[ROOM : ROOM + len(content)] = content
            self.buffers[storage.data_ptr()] = content, buffer
        _, buffer = self.buffers[storage.data_ptr()]
        first = ROOM // value.itemsize + value.storage_offset()
        placed = torch.empty(0, dtype=value.dtype)
        placed.set_(buffer.untyped_storage(), first, value.shape, value.stride())
        within = (own for own, (start, end) in self.arguments.items() if start <= value.data_ptr() < end)
        self.spans.append(Span(name, next(within, ""), *extent(placed)))
        return placed

    def take_back(self) -> None:
        """Copy the buffers' contents to where the tensors were."""
        for content, buffer in self.buffers.values():
            content.copy_(buffer[ROOM : ROOM + len(content)])

    def bytes_by_argument(self, addresses: np.ndarray, size: int, does: str) -> dict[str, int]:
        """Bytes of numbers of `size` bytes at these addresses, by the call's argument in which they lie.

        Raises:
            IndexError: one lies outside of every tensor of the launch.
        """
        found: dict[str, int] = {}
        rest = addresses.astype(np.int64)
        for span in self.spans:
            inside = (rest >= span.start) & (rest <= span.end - size)
            if inside.any():
                found[span.argument] = found.get(span.argument, 0) + int(inside.sum()) * size
                rest = rest[~inside]
        if rest.size:
            raise IndexError(self.outside(int(rest[0]), rest.size, size, does))
        return found

    def outside(self, address: int, count: int, size: int, does: str) -> str:
        """Where the address lies, in words."""
        if not self.spans:
            return f"the kernel {does}, and got no tensor"
        gap = lambda span: max(span.start - address, address - span.end + size)
        span = min(self.spans, key=gap)
        side = f"before the start of {span.name}" if address < span.start else f"after the end of {span.name}"
        return f"the kernel {does} {count} numbers outside of its tensors, the first of them {side}"


def extent(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor, and the one behind its last number."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1 if tensor.numel() else 0) * tensor.itemsize
