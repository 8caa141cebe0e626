"""What a call costs: FLOPs of matrix products, and bytes that a Triton kernel's tiles move.

Runs beside the submission, around one call, whose arguments it is given by name. Both give a dict of whole
numbers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def flops(arguments: Mapping[str, object]) -> Iterator[dict[str, int]]:
    """FLOPs of PyTorch's matrix products and fused attention; elementwise work is not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = {"flops": 0}
    counter = FlopCounterMode(display=False)
    with counter:
        yield counted
    counted["flops"] = int(counter.get_total_flops())


@contextmanager
def tiles(arguments: Mapping[str, object]) -> Iterator[dict[str, int]]:
    """Bytes of the tile loads and stores, and FLOPs of the dots, of Triton kernels in the interpreter.

    What a mask hides is not counted: nothing is read there. A tile that is loaded twice counts twice, and an
    atomic operation is a load and a store. ``loaded_bytes NAME`` is what was loaded from the tensor `NAME` of
    the call's arguments, told by address; a copy of it is another tensor. An access outside of the kernel's
    tensors raises IndexError within the kernel.
    """
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.interpreter import interpreter_builder as builder

    from minisys.grade.placed import Placed

    counted = {"loaded_bytes": 0, "stored_bytes": 0, "dot_flops": 0}
    names = (
        "create_masked_load",
        "create_masked_store",
        "create_atomic_rmw",
        "create_atomic_cas",
        "create_dot",
    )
    load, store, update, exchange, dot = (getattr(builder, name) for name in names)
    launch = GridExecutor.__call__
    placed = Placed(arguments)

    def count(pointers, mask, does: str) -> None:
        addresses = pointers.data.ravel() if mask is None else pointers.data[mask.data.astype(bool)]
        size = pointers.get_element_ty().primitive_bitwidth // 8 or 1
        for name, moved in placed.bytes_by_argument(addresses, size, does).items():
            counted[f"{does}_bytes"] += moved
            if name and does == "loaded":
                counted[f"loaded_bytes {name}"] = counted.get(f"loaded_bytes {name}", 0) + moved

    def counting_launch(executor, *args, **options):
        nonlocal placed
        placed = Placed(arguments)
        args = [placed.put(x, name) for x, name in zip(args, executor.arg_names, strict=False)]
        options = {name: placed.put(x, name) for name, x in options.items()}
        try:
            return launch(executor, *args, **options)
        finally:
            placed.take_back()

    def counting_load(pointers, mask, *rest, **options):
        count(pointers, mask, "loaded")
        return load(pointers, mask, *rest, **options)

    def counting_store(pointers, value, mask, *rest, **options):
        count(pointers, mask, "stored")
        return store(pointers, value, mask, *rest, **options)

    def counting_update(operation, pointers, value, mask, *rest, **options):
        count(pointers, mask, "loaded")
        count(pointers, mask, "stored")
        return update(operation, pointers, value, mask, *rest, **options)

    def counting_exchange(pointers, *rest, **options):
        count(pointers, None, "loaded")
        count(pointers, None, "stored")
        return exchange(pointers, *rest, **options)

    def counting_dot(a, b, *rest, **options):
        product = dot(a, b, *rest, **options)
        counted["dot_flops"] += 2 * product.data.size * a.data.shape[-1]
        return product

    counting = (counting_load, counting_store, counting_update, counting_exchange, counting_dot)
    for name, function in zip(names, counting, strict=True):
        setattr(builder, name, function)
    GridExecutor.__call__ = counting_launch
    try:
        yield counted
    finally:  # the instance's own attributes hide the class's methods; without them those are back
        GridExecutor.__call__ = launch
        for name in names:
            delattr(builder, name)


MEASURES = {"flops": flops, "tiles": tiles}
