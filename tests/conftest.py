"""Shared fixtures. The suite runs with jaxtyping's runtime check of every annotated signature."""

import importlib.util
import os

import jaxtyping
import pytest
import torch

# A bare GPU machine has no beartype; the kernels' tests run there without the check.
if importlib.util.find_spec("beartype"):
    jaxtyping.install_import_hook(
        "minisys", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )

# Without a GPU the kernels run in Triton's interpreter. Triton looks when it is first imported: after this.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)  # xdist runs one worker a core; results must not depend on the thread count


@pytest.fixture
def no_runtime_types():
    """Switch the runtime check off, so that a test of bad input sees the function's own ValueError."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def gpu_memory_given_back():
    """Other workers use the same GPU, and PyTorch would keep what a test took."""
    yield
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
