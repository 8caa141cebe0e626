"""What this machine can do at most: copy bandwidth and the rate of a large matrix product, both measured.

A data sheet's numbers are no ceiling: no program reaches them. A benchmark gives each row as a share of
what a plain large copy and a plain large matrix product reach on the same machine, in the same run.
"""

import torch

from minisys.bench.timing import Timing, measure

# bytes of the buffer that is copied, size n of the n × n matrices, dtype of the matrices
SIZES = {
    ("cuda", False): (2**30, 8192, torch.bfloat16),
    ("cuda", True): (2**30, 8192, torch.bfloat16),
    ("cpu", False): (2**28, 2048, torch.float32),
    ("cpu", True): (2**26, 1024, torch.float32),
}


def measure_ceilings(device: str, *, quick: bool = False, seconds: float = 0.5) -> dict:
    """Copy bandwidth and matrix product rate of `device`, on fresh random data.

    Returns a mapping with ``copy_tb_per_s`` (10¹² bytes read *and* written a second), ``copy_bytes`` (read
    and written by one copy), ``matmul_tflops_per_s`` (a multiply-add counts 2), ``matmul_size`` n of the
    n × n matrices, ``matmul_dtype``, and for both ``…_spread``, the 10th and 90th percentile of the rate.
    """
    buffer_bytes, n, dtype = SIZES[device, quick]
    buffers = [torch.randn(buffer_bytes // 4, device=device) for _ in range(2)]
    target = torch.empty_like(buffers[0])
    copied = 2 * buffer_bytes
    copy = measure(target.copy_, buffers, device, seconds=seconds)
    del buffers, target

    pairs = [tuple(torch.randn(n, n, device=device, dtype=dtype) for _ in range(2)) for _ in range(2)]
    product = torch.empty(n, n, device=device, dtype=dtype)
    matmul = measure(lambda pair: torch.matmul(*pair, out=product), pairs, device, seconds=seconds)
    flops = 2 * n**3
    return {
        "copy_tb_per_s": copied / copy.median / 1e12,
        "copy_spread": _rates(copied, copy),
        "copy_bytes": copied,
        "matmul_tflops_per_s": flops / matmul.median / 1e12,
        "matmul_spread": _rates(flops, matmul),
        "matmul_size": n,
        "matmul_dtype": str(dtype).removeprefix("torch."),
    }


def _rates(amount: int, timing: Timing) -> list[float]:
    return [amount / seconds / 1e12 for seconds in (timing.p90, timing.p10)]
