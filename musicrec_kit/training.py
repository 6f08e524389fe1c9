"""The one training loop of the kit: batches in, trained weights out.

A killed run continues from its last checkpoint and ends with the same weights: batches are a pure function of the
epoch, and torch's generator is seeded per step.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from musicrec_kit import distributed, runs, seeds

log = logging.getLogger(__name__)

Schedule = Literal["cosine", "linear", "constant"]
Loss = Callable[[Any], tuple[Tensor, dict[str, float]]]
CHECKPOINT_SECONDS = 30.0  # at most this much work is lost to a kill, besides the epoch in hand


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the tensors of a safetensors file into a model, which has to have the same names and shapes."""
    model.load_state_dict({name: torch.from_numpy(array) for name, array in runs.read_tensors(path).items()})


@dataclass(frozen=True)
class TrainResult:
    """What a training did: the best validation value (lower is better) and where it was, and why it ended."""

    best_value: float
    best_epoch: int
    epochs: int
    stopped: str
    log: list[dict[str, Any]]


@dataclass
class _State:
    """What a checkpoint holds besides tensors."""

    epoch: int = 0
    step: int = 0
    best_value: float = math.inf
    best_epoch: int = -1
    since_best: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


def learning_rate(step: int, steps: int, warmup: float, schedule: Schedule) -> float:
    """Return the factor on the learning rate at a step: linear warm-up, then the schedule down to 0.

    >>> [round(learning_rate(s, 10, 0.2, "linear"), 2) for s in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warm = max(1, round(steps * warmup)) if warmup > 0 else 0
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - warm))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0 - done if schedule == "linear" else 1.0


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return groups of parameters: matrices, which decay, and vectors, which do not (as Hugging Face's Trainer).

    `rate` is a group's factor on the learning rate: that of the first word in `rates` that the parameter's name holds.
    AdamW decays by learning rate times decay, so a group's decay is divided by its rate: all matrices decay alike.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for word, rate in (rates or {}).items() if word in name), 1.0)
            groups.setdefault((weight_decay if parameter.ndim > 1 else 0.0, rate), []).append(parameter)
    return [{"params": found, "weight_decay": decay / rate, "rate": rate} for (decay, rate), found in groups.items()]


def fit(
    model: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    loss: Loss,
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    steps: int,
    warmup: float = 0.0,
    schedule: Schedule = "cosine",
    clip: float | None = None,
    rates: Mapping[str, float] | None = None,
    patience: int | None = None,
    validate: Callable[[], tuple[float, dict[str, float]]] | None = None,
    check_every: int = 1,
    folder: Path | None = None,
    seed: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    name: str = "training",
    keep_best: bool = True,
    split: Callable[[Any], Iterable[tuple[Any, Tensor | float]]] = lambda batch: ((batch, 1.0),),
    shared: bool = False,
) -> TrainResult:
    """Train `model` with AdamW and return what happened; the model ends with its best weights by `validate`.

    Args:
        batches: epoch -> that epoch's batches, the same every time it is asked.
        loss: batch -> (scalar, named parts for the log).
        epochs: upper limit; 0 trains nothing.
        steps: of all epochs together; the schedule ends there.
        rates: factors on `lr` for parameters whose names hold a word (`parameter_groups`).
        patience: checks without gain before stopping.
        validate: () -> (value, parts); lower is better; asked every `check_every` epochs and after the last.
        folder: for `metrics.jsonl` and `checkpoint/`; a checkpoint found there is continued.
        precision: bf16 runs the forward pass under autocast with fp32 weights.
        split: batch -> its parts, each with its share of the loss; one after the other they need less memory.
        shared: the processes of torchrun train one model: `split` gives each its own parts of every batch, gradients
            are summed. Dropout draws other masks than in one process.
    """
    shared = shared and distributed.size() > 1
    device = next(model.parameters()).device
    fused = device.type in ("cuda", "cpu")
    optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay, rates), lr=lr, fused=fused)
    state, best = _resume(model, optimiser, folder)
    if shared:
        state, best = _as_the_first(model, optimiser, state, best)
        folder = folder if distributed.is_first() else None
    own = (distributed.number(),) if shared and not distributed.is_first() else ()
    total = max(1, steps)
    start, saved = time.perf_counter() - state.seconds, time.perf_counter()
    bar = tqdm(total=total, initial=state.step, desc=name, unit="step", mininterval=1.0, leave=False)
    stopped = "epochs"
    for epoch in range(state.epoch, epochs):
        if patience is not None and state.since_best >= patience:
            stopped = "patience"
            break
        model.train()
        losses: list[Tensor] = []
        parts: dict[str, float] = {}
        for batch in batches(epoch):
            for group in optimiser.param_groups:
                group["lr"] = lr * group["rate"] * learning_rate(state.step, total, warmup, schedule)
            with seeds.torch_seed(seed, name, state.step, *own):
                optimiser.zero_grad(set_to_none=True)
                whole = torch.zeros((), device=device)
                for part, share in split(batch):
                    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                        value, parts = loss(part)
                        value = value * share
                    value.backward()
                    whole += value.detach()
            if shared:
                distributed.sum_gradients(model)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
            state.step += 1
            losses.append(whole)
            bar.update()
        state.epoch = epoch + 1
        state.seconds = time.perf_counter() - start
        seen = torch.stack(losses) if losses else torch.full((1,), math.nan)
        mean_loss = float((distributed.summed(seen) if shared else seen).mean())
        if losses and not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"{name}: the loss is {mean_loss} in epoch {epoch}; lower the learning rate ({lr})"
            )
        record = {"step": state.step, "epoch": epoch, "loss": mean_loss, **parts, "lr": optimiser.param_groups[0]["lr"]}
        if validate is not None and ((epoch + 1) % check_every == 0 or epoch + 1 == epochs):
            model.eval()
            with torch.no_grad():
                valid, more = validate()
            record |= {"valid": valid, **more}
            if valid < state.best_value:
                state.best_value, state.best_epoch, state.since_best = valid, epoch, 0
                best = _copy(model)
            else:
                state.since_best += 1
        state.log.append({**record, "seconds": round(state.seconds, 2)})
        bar.set_postfix({k: f"{v:.4f}" for k, v in record.items() if k in ("loss", "valid")})
        _write_log(folder, state.log)
        if time.perf_counter() - saved > CHECKPOINT_SECONDS:
            _save(model, optimiser, state, best, folder)
            saved = time.perf_counter()
    bar.close()
    if patience is not None and state.since_best >= patience:
        stopped = "patience"
    if keep_best and best is not None:
        model.load_state_dict(best)
    model.eval()
    return TrainResult(state.best_value, state.best_epoch, state.epoch, stopped, state.log)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _write_log(folder: Path | None, lines: list[dict[str, Any]]) -> None:
    if folder is not None:
        runs.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _save(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: _State,
    best: dict[str, Tensor] | None,
    folder: Path | None,
) -> None:
    """Write one safetensors file whose metadata holds the counters: a checkpoint is there whole or not at all."""
    if folder is None:
        return
    tensors: dict[str, Any] = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    runs.write_tensors(folder / "checkpoint" / "last.safetensors", tensors, {"state": json.dumps(vars(state))})


def _resume(
    model: nn.Module, optimiser: torch.optim.Optimizer, folder: Path | None
) -> tuple[_State, dict[str, Tensor] | None]:
    path = None if folder is None else folder / "checkpoint" / "last.safetensors"
    if path is None or not path.is_file():
        return _State(), None
    tensors = {name: torch.from_numpy(array) for name, array in runs.read_tensors(path).items()}
    state = _State(**json.loads(runs.read_tensor_metadata(path)["state"]))
    model.load_state_dict({name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")})
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
    log.info("continuing after epoch %d, step %d", state.epoch, state.step)
    runs.count_earlier(state.seconds)
    return state, best or None


def _as_the_first(
    model: nn.Module, optimiser: torch.optim.Optimizer, state: _State, best: dict[str, Tensor] | None
) -> tuple[_State, dict[str, Tensor] | None]:
    """Put every process where the first one is: it alone may have found a checkpoint."""
    first = (vars(state), best, model.state_dict(), optimiser.state_dict())
    values, best, weights, slots = distributed.same_tensors(first)
    model.load_state_dict(weights)
    optimiser.load_state_dict(slots)
    return _State(**values), best
