"""The training loop: a resumed run ends where an uninterrupted one ends; the best weights win."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from musicrec_kit import seeds, training


def _model() -> nn.Module:
    with seeds.torch_seed(0, "model"):
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def _fit(
    model: nn.Module, folder: Path | None, epochs: int = 6, stop_at: int | None = None, **more
) -> training.TrainResult:
    inputs = torch.randn(32, 4, generator=seeds.torch_generator(1))
    targets = inputs.sum(1, keepdim=True)
    steps = 0

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        order = torch.randperm(32, generator=seeds.torch_generator(2, epoch))
        yield from order.split(8)

    def loss(rows: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        nonlocal steps
        steps += 1
        if stop_at is not None and steps > stop_at:
            raise KeyboardInterrupt
        return (model(inputs[rows]) - targets[rows]).square().mean(), {}

    return training.fit(
        model,
        batches,
        loss,
        lr=0.01,
        weight_decay=0.01,
        epochs=epochs,
        steps=4 * epochs,
        warmup=0.1,
        folder=folder,
        **more,
    )


def test_a_run_killed_in_the_middle_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole, killed = _model(), _model()
    _fit(whole, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        _fit(killed, tmp_path / "b", stop_at=14)
    again = _model()
    result = _fit(again, tmp_path / "b")
    assert result.epochs == 6
    for (name, expected), found in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _fit(_model(), None)
    assert torch.equal(before, torch.get_rng_state())


def test_the_model_ends_with_its_best_weights_and_stops_by_patience() -> None:
    model = nn.Linear(4, 1)
    values = iter([3.0, 1.0, 2.0, 2.5, 9.0])
    seen = []

    def validate() -> tuple[float, dict[str, float]]:
        seen.append(model.weight.detach().clone())
        return next(values), {}

    result = _fit(model, None, epochs=50, validate=validate, patience=2)
    assert (result.best_value, result.best_epoch, result.epochs, result.stopped) == (1.0, 1, 4, "patience")
    assert torch.equal(model.weight, seen[1])


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (9, 1.0), (10, 1.0), (55, 0.5), (100, 0.0)])
def test_cosine_with_warm_up(step: int, expected: float) -> None:
    assert training.learning_rate(step, 100, 0.1, "cosine") == pytest.approx(expected)


def test_a_loss_that_is_not_a_number_stops_the_run() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(
            model,
            lambda _: [0],
            lambda _: (model.weight.sum() * math.nan, {}),
            lr=1.0,
            weight_decay=0.0,
            epochs=1,
            steps=1,
        )


def test_vectors_do_not_decay() -> None:
    groups = training.parameter_groups(nn.Linear(2, 3), 0.1)
    assert [(g["weight_decay"], [p.ndim for p in g["params"]]) for g in groups] == [(0.1, [2]), (0.0, [1])]


def _one_step(model: nn.Module, slope: float, weight_decay: float) -> dict[str, torch.Tensor]:
    """Make a step of AdamW on slope * (the sum of weights), `quick` at 50 times the rate; return the old weights."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training.fit(
        model,
        lambda _: [0],
        lambda _: (slope * torch.stack([p.sum() for p in model.parameters()]).sum(), {}),
        lr=0.01,
        weight_decay=weight_decay,
        epochs=1,
        steps=1,
        schedule="constant",
        rates={"quick": 50.0},
    )
    return before


def _slow_and_quick(size: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("slow", nn.Linear(size, size))
    model.add_module("quick", nn.Linear(size, size))
    return model


def test_a_rate_applies_to_the_parameters_it_names_and_follows_the_schedule() -> None:
    model = _slow_and_quick(1)
    before = _one_step(model, slope=1.0, weight_decay=0.0)
    for name, parameter in model.named_parameters():
        # Adam's first step is the learning rate
        assert (before[name] - parameter).item() == pytest.approx(0.5 if "quick" in name else 0.01, rel=1e-4)


def test_a_rate_leaves_the_decay_as_it_is() -> None:
    model = _slow_and_quick(2)
    before = _one_step(model, slope=0.0, weight_decay=0.5)
    for name, parameter in model.named_parameters():
        left = 1 - 0.01 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * left, msg=name)
