"""The operator as PyTorch sees it: registration, torch.compile, activation checkpointing, what is kept."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from minisys.nsa import nsa_attention

from . import kernel_cases as cases
from .kernel_cases import INTERPRETED, SMALL, draw_nsa, with_gradients

from minisys.nsa.kernels.attention import nsa_backward_op, nsa_op  # isort: skip  (skipped without Triton)

T = 9
CONFIG = [4, 2, 8, 4, 1, 2, 6]  # SMALL

pytestmark = cases.FAILED_GUESSES


def arguments(keep=True, lengths=None, requires_grad=False):
    """Positional arguments of `nsa_op` on one axis of tokens."""
    lengths = lengths or [T]
    inputs, do = draw_nsa(SMALL, lengths=lengths, hq=2, hk=1)
    tensors = [tensor[0].contiguous().requires_grad_(requires_grad) for tensor in inputs.values()]
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    return [*tensors, None, starts, CONFIG, 0.25, keep], do[0]


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("given", [False, True], ids=["blocks computed", "blocks given"])
def test_opcheck(check, given):
    inputs, _ = arguments(requires_grad=True)
    if given:
        inputs[8] = cases.draw_blocks(SMALL, t=T, hk=1, n=3)[0]
    torch.library.opcheck(nsa_op, tuple(inputs), test_utils=check)


@pytest.mark.parametrize("check", ["test_schema", "test_faketensor"])
def test_opcheck_without_gradients(check):
    torch.library.opcheck(nsa_op, tuple(arguments(keep=False)[0]), test_utils=check)


@pytest.mark.parametrize("check", ["test_schema", "test_faketensor"])
def test_opcheck_of_the_backward(check):
    inputs, do = arguments()
    _, *kept, blocks = nsa_op(*inputs)
    tensors, (_, starts, config, scale, _) = inputs[:8], inputs[8:]
    backward = (do, *tensors, kept[:3], kept[3:6], blocks, starts, config, scale)
    torch.library.opcheck(nsa_backward_op, backward, test_utils=check)


def test_nothing_is_kept_without_gradients():
    inputs, _ = arguments(keep=False)
    out, *branches, _ = nsa_op(*inputs)
    assert [branch.numel() for branch in branches] == [0] * 6
    inputs[-1] = True
    kept = nsa_op(*inputs)
    cases.assert_same(kept[0], out)
    gates = inputs[7].unsqueeze(-1).unbind(2)
    assert (
        cases.error(sum(g.double() * o for g, o in zip(gates, kept[1:4], strict=True)), out.double()) < 1e-6
    )


def saved_bytes(inputs):
    """Bytes of tensors that autograd keeps besides the inputs, and the output."""
    own = {tensor.untyped_storage().data_ptr() for tensor in inputs.values()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = nsa_attention(**inputs, config=SMALL, backend="triton")
    return sum(kept.values()), out


def test_what_autograd_keeps():
    """Inputs, three branch outputs, lse and block numbers; nothing where no gradient is wanted."""
    inputs, _ = draw_nsa(SMALL, t=T)
    assert saved_bytes(inputs)[0] == 0
    inputs["q"].requires_grad_()
    with torch.no_grad():
        kept, out = saved_bytes(inputs)
    assert kept == 0
    assert not out.requires_grad
    kept, out = saved_bytes(inputs)
    assert kept == 4 * (3 * out.numel() + 3 * T * 4 + T * 2 * 4)


def test_inference_mode_first():
    """Tables that inference made serve training afterwards."""
    inputs, do = draw_nsa(SMALL, t=T + 2, hq=2, hk=1)
    with torch.inference_mode():
        out = nsa_attention(**inputs, config=SMALL, backend="triton")
    cases.assert_same(with_gradients(inputs, do, SMALL, backend="triton")["out"], out)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    """Recomputed in the backward pass: the same gradients, bit for bit.

    The first of the two forwards keeps nothing where checkpointing is reentrant, so another kernel runs.
    """
    inputs, do = draw_nsa(SMALL, t=T, hq=2, hk=1)
    plain = with_gradients(inputs, do, SMALL, backend="triton")
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]

    def attend(*tensors):
        return nsa_attention(*tensors, config=SMALL, backend="triton")

    out = checkpoint(attend, *leaves, use_reentrant=reentrant)
    out.backward(do)
    if reentrant:
        cases.assert_same(out, plain["out"])
    else:
        assert torch.equal(out, plain["out"])
    for (name, tensor), leaf in zip(list(plain.items())[1:], leaves, strict=True):
        assert torch.equal(leaf.grad, tensor), name


@pytest.fixture
def no_compiled_code():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Inductor of PyTorch 2.11 imports what PyTorch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("no_runtime_types", "no_compiled_code")
@pytest.mark.parametrize("scale", [None, -0.3])
def test_compile_in_one_graph(scale):
    """No graph break, the same numbers and gradients; `inductor` on a GPU, without a compiler on the CPU."""
    inputs, do = draw_nsa(SMALL, t=T, hq=4, hk=2)
    if scale:  # not contiguous either
        inputs = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in inputs.items()}
    options = {"config": SMALL, "backend": "triton", "scale": scale}
    plain = with_gradients(inputs, do, **options)

    @torch.compile(fullgraph=True, backend="aot_eager" if INTERPRETED else "inductor")
    def attend(inputs):
        return 2 * nsa_attention(**inputs, **options)

    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    out = attend(leaves)
    assert torch.equal(out, 2 * plain["out"])
    gradients = torch.autograd.grad(out, list(leaves.values()), do / 2)
    for name, gradient in zip(leaves, gradients, strict=True):
        assert torch.equal(gradient, plain[name]), name
    with torch.no_grad():
        cases.assert_same(attend(leaves), out)


def test_no_second_derivative():
    """Differentiating the gradient is an error, never a silent zero."""
    inputs, do = draw_nsa(SMALL, t=T, hq=2, hk=1)
    inputs["q"].requires_grad_()
    out = nsa_attention(**inputs, config=SMALL, backend="triton")
    (gradient,) = torch.autograd.grad(out, inputs["q"], do, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), inputs["q"])
