"""Training: the schedule, one update, the log, evaluation, the data."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_runs import MODEL, RUN, batch, make_model, names, run, without_time

from minisys.core.checkpoint import CheckpointError, checkpoints, save_checkpoint
from minisys.core.data import read_corpus
from minisys.core.decoder import Decoder
from minisys.core.train import TrainConfig, evaluate, learning_rate_at, make_optimizer, read_log, train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    log, model = run(directory)
    return directory, log, model


# Schedule and configuration


def test_learning_rates_by_hand():
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_fraction=0.2)
    for step, expected in ((1, 0.1), (5, 0.5), (10, 1.0), (60, 0.6), (110, 0.2)):
        assert learning_rate_at(config, step) == pytest.approx(expected, abs=1e-12)
    assert learning_rate_at(config, 35) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, abs=1e-12)
    assert learning_rate_at(replace(config, warmup_steps=0), 110) == pytest.approx(0.2)
    assert learning_rate_at(replace(config, steps=10), 10) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch", -1),
        ("t", 2.0),
        ("learning_rate", 0.0),
        ("warmup_steps", 13),
        ("final_fraction", 1.5),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("gradient_clip", 0.0),
        ("checkpoint_every", 0),
        ("log_every", True),
        ("eval_every", 0),
        ("eval_batches", 0),
        ("amp", "float16"),
    ],
)
def test_settings_are_checked(field, value, no_runtime_types):
    with pytest.raises(ValueError, match=f"^{field}: got "):
        replace(RUN, **{field: value})


def test_only_matrices_decay():
    model = make_model()
    optimizer = make_optimizer(model, RUN)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.0 if "norm" in name else RUN.weight_decay)
    assert len(decays) == len(list(model.parameters()))


def test_one_update_is_adamw_on_the_clipped_gradient(tmp_path):
    config = replace(RUN, steps=1, warmup_steps=1, gradient_clip=0.01, checkpoint_every=1)
    expected = make_model().eval()
    model = make_model().eval()
    model.train = lambda mode=True: model  # no dropout in this test
    log = train(model, batch, config, tmp_path, progress=False)
    inputs, targets = batch("train", 1)
    loss = nn.functional.cross_entropy(expected(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in expected.parameters()]).norm()
    assert log[0]["loss"] == loss.item()
    assert log[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-6)
    for name, parameter in expected.named_parameters():
        gradient = parameter.grad * 0.01 / norm
        decayed = parameter.detach() * (1 - 0.02 * (0.1 if parameter.ndim >= 2 else 0))
        after = decayed - 0.02 * gradient / (gradient.abs() + 1e-8)  # the first step of Adam
        torch.testing.assert_close(model.get_parameter(name).detach(), after, rtol=1e-4, atol=2e-6)


# Log and progress


def test_the_log_has_each_due_step_once_and_the_last(unbroken):
    directory, log, _ = unbroken
    assert [record["step"] for record in log] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in log if "validation_loss" in record] == [6, 12]
    assert read_log(directory) == log
    for record in log:
        assert record["learning_rate"] == learning_rate_at(RUN, record["step"])
        assert record["seconds"] >= 0


def test_training_learns(unbroken):
    _, log, model = unbroken
    trained = evaluate(model, batch, 4)
    assert trained < evaluate(make_model(), batch, 4) - 0.2
    assert evaluate(model, batch, 2) == log[-1]["validation_loss"]
    assert model.training


def test_progress_goes_to_stderr_only_when_asked_for(tmp_path, capfd):
    run(tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    train(make_model(), batch, RUN, tmp_path / "shown")
    out, err = capfd.readouterr()
    assert out == ""
    assert "12/12" in err
    assert "loss=" in err


def test_no_validation_and_odd_intervals(tmp_path):
    config = replace(RUN, steps=7, eval_every=None, log_every=5, checkpoint_every=3)
    log, _ = run(tmp_path, config=config)
    assert [record["step"] for record in log] == [5, 7]
    assert not any("validation_loss" in record for record in log)
    assert names(tmp_path) == [
        "checkpoint-00000006.safetensors",
        "checkpoint-00000007.safetensors",
        "log.jsonl",
    ]


def test_a_run_depends_on_its_seed_and_leaves_torchs_random_state_alone(tmp_path, unbroken):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    log, _ = run(tmp_path / "same")
    assert without_time(log) == without_time(unbroken[1])
    other, _ = run(tmp_path / "other", config=replace(RUN, seed=1))  # other dropout, as the batches are ours
    assert without_time(other) != without_time(log)
    make_model()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoints(tmp_path):
    class Broken(Decoder):
        calls = 0

        def forward(self, tokens):
            self.calls += 1
            return super().forward(tokens) * (math.nan if self.calls == 6 else 1)

    config = replace(RUN, eval_every=None)
    with pytest.raises(FloatingPointError, match=r"step 6: got loss nan"):
        train(Broken(MODEL), batch, config, tmp_path, progress=False)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000004.safetensors"]
    assert [record["step"] for record in read_log(tmp_path)] == [2, 4]


# The corpus, autocast, public names


def test_a_corpus_is_sampled_by_seed_and_step_and_belongs_to_the_run(tmp_path):
    package = tmp_path / "sympy"
    package.mkdir()
    for index in range(20):
        (package / f"m{index:02}.py").write_text(f"x{index} = {index} + {index}\n" * 5)
    corpus = read_corpus(package, "9")
    config = replace(RUN, batch=2, t=16)
    seen = []

    class Spy(Decoder):
        def forward(self, tokens):
            seen.append(tokens)
            return super().forward(tokens)

    train(Spy(replace(MODEL, vocab_size=256)), corpus, config, tmp_path / "run", progress=False)
    assert torch.equal(seen[0], corpus.batch_at("train", 2, 16, seed=0, step=1)[0])
    assert torch.equal(seen[6], corpus.batch_at("validation", 2, 16, seed=0, step=0)[0])
    (package / "m00.py").write_text("changed = 1\n")
    with pytest.raises(ValueError, match="data: got"):
        train(
            Spy(replace(MODEL, vocab_size=256)),
            read_corpus(package, "9"),
            config,
            tmp_path / "run",
            progress=False,
        )


def test_autocast_trains_float32_weights_in_bfloat16(tmp_path):
    seen = []

    class Linear(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    model = Decoder(MODEL, linear=Linear)
    log = train(model, batch, replace(RUN, amp="bfloat16"), tmp_path, progress=False)
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert log[-1]["validation_loss"] < log[0]["loss"]


def test_save_and_load_are_public_here(tmp_path):
    from minisys.core import train as module

    model = make_model()
    module.save_checkpoint(tmp_path / "a", model, make_optimizer(model, RUN), 3, {})
    assert module.load_checkpoint(tmp_path / "a", model, make_optimizer(model, RUN))["step"] == 3
    assert module.save_checkpoint is save_checkpoint
    assert module.CheckpointError is CheckpointError
