"""What passes between the grader and a submission's process: frames of JSON and tensors, never a pickle.

A frame is two lengths (8 bytes each, little-endian), a JSON text, and a safetensors blob with the tensors
that the JSON refers to. The other side may be anybody's code, so a frame that is too large or no frame at all
is a `BrokenFrame`, whatever its bytes.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase

MAX_BYTES = 64 << 20
LENGTHS = struct.Struct("<QQ")


class BrokenFrame(Exception):  # noqa: N818
    """The other side sent something that is no frame, or ended in the middle of one."""


@dataclass(frozen=True)
class Given:
    """An argument that JSON cannot hold: ``given.name(*values, **fields)``, made anew on each side.

    `given` is the module ``given.py`` of the assignment, for example with ``config(compress_block=8)``.
    """

    name: str
    values: tuple = ()
    fields: Mapping[str, object] = field(default_factory=dict)

    def make(self, module: object) -> object:
        """The argument itself, made by the functions of `module`."""
        return getattr(module, self.name)(*self.values, **self.fields)


def write_frame(stream: BufferedIOBase, message: dict) -> None:
    """Send a dict of None, bool, int, float, str, list, dict, tensors and `Given`.

    Raises TypeError for a value of another kind, and ValueError where it is larger than `MAX_BYTES`.
    """
    tensors: dict = {}
    text = json.dumps(_encode(message, tensors)).encode()
    blob = b""
    if tensors:
        import safetensors.torch

        blob = safetensors.torch.save(tensors)
    if len(text) + len(blob) > MAX_BYTES:
        raise ValueError(f"{(len(text) + len(blob)) >> 20} MiB, more than the {MAX_BYTES >> 20} MiB allowed")
    stream.write(LENGTHS.pack(len(text), len(blob)) + text + blob)
    stream.flush()


def read_frame(stream: BufferedIOBase, given: object = None) -> dict | None:
    """The next message, or None where the other side has ended. `given` makes what was sent as `Given`."""
    lengths = stream.read(LENGTHS.size)
    if not lengths:
        return None
    if len(lengths) < LENGTHS.size:
        raise BrokenFrame("it ends within a frame")
    sizes = LENGTHS.unpack(lengths)
    if sum(sizes) > MAX_BYTES:
        raise BrokenFrame("it is no frame")
    parts = [stream.read(size) for size in sizes]
    if [len(part) for part in parts] != list(sizes):
        raise BrokenFrame("it ends within a frame")
    try:
        tensors: dict = {}
        if parts[1]:
            import safetensors.torch

            tensors = safetensors.torch.load(parts[1])
        message = _decode(json.loads(parts[0]), tensors, given)
    except Exception as error:  # whatever another's bytes make of the two readers
        raise BrokenFrame(f"it is no frame ({type(error).__name__})") from error
    if not isinstance(message, dict):
        raise BrokenFrame("it is no frame")
    return message


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, without importing torch where nobody has."""
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _encode(value: object, tensors: dict) -> object:
    if isinstance(value, Given):
        fields = _encode(dict(value.fields), tensors)
        return {"$given": value.name, "values": _encode(list(value.values), tensors), "fields": fields}
    if is_tensor(value):
        return {"$tensor": _store(value, tensors)}
    if isinstance(value, dict):
        return {str(key): _encode(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, tensors) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(type(value).__name__)


def _store(tensor, tensors: dict) -> str:
    import torch

    if tensor.layout != torch.strided:
        raise TypeError(f"tensor of layout {tensor.layout}")
    size = tensor.numel() * tensor.element_size()
    if size > MAX_BYTES:
        raise ValueError(f"a tensor of {size >> 20} MiB, more than the {MAX_BYTES >> 20} MiB allowed")
    name = str(len(tensors))
    # A copy, because safetensors refuses tensors that share memory.
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def _decode(value: object, tensors: dict, given: object) -> object:
    if isinstance(value, list):
        return [_decode(item, tensors, given) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    fields = {key: _decode(item, tensors, given) for key, item in value.items()}
    if "$given" not in value:
        return fields
    return Given(value["$given"], tuple(fields["values"]), fields["fields"]).make(given)
