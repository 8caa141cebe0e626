"""What a call costs: FLOPs of matrix products, and bytes that a Triton kernel's tiles move.

Runs beside the submission, around one call. Both give a dict of whole numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def flops() -> Iterator[dict[str, int]]:
    """FLOPs of PyTorch's matrix products and fused attention; elementwise work is not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = {"flops": 0}
    counter = FlopCounterMode(display=False)
    with counter:
        yield counted
    counted["flops"] = int(counter.get_total_flops())


@contextmanager
def tiles() -> Iterator[dict[str, int]]:
    """Bytes of the tile loads and stores, and FLOPs of the dots, of Triton kernels in the interpreter.

    What a mask hides is not counted: nothing is read there. A tile that is loaded twice counts twice.
    """
    from triton.runtime.interpreter import interpreter_builder as builder

    counted = {"loaded_bytes": 0, "stored_bytes": 0, "dot_flops": 0}
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot

    def counting_load(pointers, mask, *rest, **options):
        tile = load(pointers, mask, *rest, **options)
        counted["loaded_bytes"] += int(mask.data.sum()) * tile.data.itemsize
        return tile

    def counting_store(pointers, value, mask, *rest, **options):
        counted["stored_bytes"] += int(mask.data.sum()) * value.data.itemsize
        return store(pointers, value, mask, *rest, **options)

    def counting_dot(a, b, *rest, **options):
        product = dot(a, b, *rest, **options)
        counted["dot_flops"] += 2 * product.data.size * a.data.shape[-1]
        return product

    builder.create_masked_load = counting_load
    builder.create_masked_store = counting_store
    builder.create_dot = counting_dot
    try:
        yield counted
    finally:  # the instance's own attributes hide the class's methods; without them those are back
        del builder.create_masked_load, builder.create_masked_store, builder.create_dot


MEASURES = {"flops": flops, "tiles": tiles}
