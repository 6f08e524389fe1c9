"""Sequential models trained on the training part: recommendations by next-item scores, and z_cf for the tokenizer."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from musicrec_kit import runs, seeds, training
from musicrec_kit.data.splits import Examples, Sequences, held_out
from musicrec_kit.evaluation import metrics
from musicrec_kit.evaluation.protocol import RankedList, rank_by_scores
from musicrec_kit.params import CFParams, Refused, SequentialParams
from musicrec_kit.sequential import objectives, pretraining
from musicrec_kit.sequential.interests import InterestReader
from musicrec_kit.sequential.items import Catalogue
from musicrec_kit.sequential.model import Model
from musicrec_kit.sequential.sources import SOURCES, Sources
from musicrec_kit.sequential.vectors import ItemVectors
from musicrec_kit.sequential.windows import (
    NO_TARGET,
    Windows,
    bucketed,
    cut_windows,
    hold_back,
    masked_rows,
    overlapping_windows,
    padded,
    prefixes,
    training_rows,
)

log = logging.getLogger(__name__)

FILE = "recommender.safetensors"
EVERY_ITEM = 10**9  # a history that is never cut
CHUNK = 1024  # users scored at once while choosing an epoch
HELD_BACK, MOST_HELD_BACK = 0.1, 2000  # share and number of users whose last training item chooses z_cf's epoch


class Batch(NamedTuple):
    """Histories [batch, history], their targets (-1: none), and negatives (a row's, or each position's) where asked."""

    inputs: Tensor
    targets: Tensor
    negatives: Tensor | None


@dataclass(frozen=True)
class Recommender:
    """A trained sequential model and what happened in its training."""

    model: Model
    params: SequentialParams
    sources: Sources
    result: training.TrainResult | None = None

    def scorer(self, sequences: Sequences) -> Callable[[Examples], np.ndarray]:
        """Return examples -> float32 [examples, items], for `evaluation.rank_by_scores`."""
        with torch.inference_mode():
            catalogue = self.model.catalogue()
        return lambda examples: _scores(self.model, sequences, examples, catalogue).cpu().numpy()

    def rank(self, sequences: Sequences, split: str, k: int = 20) -> tuple[RankedList, RankedList]:
        """Return the (plain, no_history) lists of a split's users."""
        examples = held_out(sequences, split, self.model.history)
        return rank_by_scores(self.scorer(sequences), examples, held_out(sequences, split, EVERY_ITEM), sequences, k)

    def save(self, folder: Path) -> Path:
        """Write the weights with the settings, and what the model reads of items; return the weights' path."""
        about = {"params": self.params.model_dump_json(), "history": str(self.model.history)}
        about["n_items"] = str(self.model.n_items)
        self.sources.save(folder / SOURCES)
        runs.write_tensors(folder / FILE, self.model.state_dict(), about)
        return folder / FILE

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Recommender":
        """Read what `save` wrote."""
        about = runs.read_tensor_metadata(folder / FILE)
        params = SequentialParams(**json.loads(about["params"]))
        sources = Sources.load(folder / SOURCES, int(about["n_items"]))
        model = Model(params, int(about["history"]), sources)
        training.load_weights(model, folder / FILE)
        return cls(model.to(device).eval(), params, sources)


def fit_recommender(
    sequences: Sequences,
    params: SequentialParams,
    history: int,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    sources: Sources | None = None,
) -> Recommender:
    """Train a model on the training part; the epoch with the best NDCG@10 on validation, plain, is kept.

    Args:
        history: the most items that are read.
        sources: what the model reads of items; left out: nothing but their numbers.
    """
    sequences = sequences.before("test")
    whole = sequences.items, sequences.offsets[:-1], sequences.train_end
    if params.rows == "positions":
        windows = overlapping_windows(*whole, history)
    elif params.rows == "prefixes":
        windows = prefixes(cut_windows(*whole, EVERY_ITEM), history)
    else:
        windows = cut_windows(*whole, history)
    valid = held_out(sequences, "valid", history)
    return train(windows, sequences, valid, params, history, folder, seed, device, sources)


def fit_item_vectors(
    sequences: Sequences, params: CFParams, history: int, folder: Path | None = None, seed: int = 0, device: str = "cpu"
) -> ItemVectors:
    """Return z_cf: the item embeddings of a SASRec that has seen nothing but the training part.

    Not even the epoch is chosen by validation: a tenth of the users (at most 2,000) give a training item for it.
    Changing every validation and test item changes no bit of the vectors.
    """
    sequences = sequences.before("valid")
    windows, examples = hold_back(sequences, history, HELD_BACK, MOST_HELD_BACK, seed)
    asked = SequentialParams(**params.model_dump(exclude={"loss"}), objective=params.loss)
    model = train(windows, sequences, examples, asked, history, folder, seed, device, name="sasrec", even=False).model
    vectors = model.catalogue().read[: model.n_items].detach().float().cpu().numpy()
    present = np.zeros(sequences.n_items, bool)
    present[_used(windows)] = True
    return ItemVectors(np.where(present[:, None], vectors, np.float32(0)), present)


def _used(windows: Windows) -> np.ndarray:
    """Return every item that stands in a window."""
    change = np.zeros(len(windows.items) + 1, np.int64)
    np.add.at(change, windows.start, 1)
    np.add.at(change, windows.end, -1)
    return np.unique(windows.items[np.cumsum(change[:-1]) > 0])


def train(
    windows: Windows,
    sequences: Sequences,
    valid: Examples,
    params: SequentialParams,
    history: int,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    sources: Sources | None = None,
    name: str = "recommender",
    even: bool = True,
) -> Recommender:
    """Train a model on windows; the best epoch by NDCG@10 of `valid` is kept, without any the last.

    Args:
        even: every target has the same weight, whatever batch it is in; else every batch has (z_cf, version 1).
    """
    if not len(windows):
        raise Refused(
            f"{name}: no user has two items in the training part, so there is nothing to learn; see data.k_core"
        )
    sources = Sources(sequences.n_items) if sources is None else sources
    with seeds.torch_seed(seed, name):
        model = Model(params, params.places(history), sources).to(device)
    if params.pretrained:
        pretraining.fit(model, sequences, params, sources, folder, seed, device)
    epochs = params.epochs_of(len(windows))
    per_row = _targets_per_row(windows, params) if even else None

    def validate() -> tuple[float, dict[str, float]]:
        ndcg = float(metrics.ndcg(target_ranks(model, sequences, valid), 10).mean())
        return -ndcg, {"ndcg@10": ndcg}

    result = training.fit(
        model,
        lambda epoch: _batches(model, windows, sequences, params, seed, epoch, device),
        lambda batch: (loss_of(model, batch, params, per_row), {}),
        lr=params.lr,
        weight_decay=params.weight_decay,
        epochs=epochs,
        steps=epochs * math.ceil(len(windows) / params.batch),
        schedule="constant",
        patience=params.longer * params.patience if len(valid) else None,
        validate=validate if len(valid) else None,
        folder=folder,
        seed=seed,
        name=name,
    )
    log.info("%s: %d epochs, best %d (NDCG@10 %.4f)", name, result.epochs, result.best_epoch, -result.best_value)
    return Recommender(model, params, sources, result)


def _targets_per_row(windows: Windows, params: SequentialParams) -> float:
    """Return how many targets a row has on average; of hidden items what is expected."""
    lengths = (windows.end - windows.start).astype(np.float64)
    if params.rows == "cloze":
        return float((params.mask_last + (1 - params.mask_last) * np.maximum(params.mask * lengths, 1)).mean())
    first = windows.start + 1 if windows.first is None else windows.first
    return float((windows.end - first).mean())


def _batches(
    model: Model,
    windows: Windows,
    sequences: Sequences,
    params: SequentialParams,
    seed: int,
    epoch: int,
    device: str,
) -> Iterator[Batch]:
    """Yield an epoch's batches; interests are found anew before the first."""
    if isinstance(model.encoder, InterestReader):
        draws = seeds.torch_generator(seed, "interests", epoch)
        model.encoder.interests.find(model.catalogue(), params.interest_rounds, draws)
    for number, index in enumerate(bucketed(windows, params.batch, seed, epoch)):
        rng = seeds.generator(seed, "examples", epoch, number)
        if params.rows == "cloze":
            hide = params.mask, params.mask_last, rng, params.last_of == "prefix"
            inputs, targets = masked_rows(windows, index, model.padding, model.mask_token, *hide)
        else:
            inputs, targets = training_rows(windows, index, model.padding)
        negatives = None
        if params.objective == "bce":
            user = np.searchsorted(sequences.offsets, windows.start[index], side="right") - 1
            known = padded(sequences.items, sequences.offsets[user], sequences.train_end[user], model.padding)
            negatives = objectives.uniform_outside(rng, targets, known, model.n_items)
        elif params.objective != "ce":
            negatives = objectives.uniform(rng, len(index), params.negatives, model.n_items)
        found = (None if each is None else torch.from_numpy(each).to(device) for each in (inputs, targets, negatives))
        yield Batch(*found)  # type: ignore[arg-type]  # only negatives may be None


def loss_of(model: Model, batch: Batch, params: SequentialParams, per_row: float | None = None) -> Float[Tensor, ""]:
    """Return the mean loss of every position that has a target, and what the encoder adds.

    Args:
        per_row: targets that a row has on average. Batches are of similar lengths, and with their own means a target of
            a short history would weigh many times one of a long; divided by this, all weigh the same.
    """
    catalogue = model.catalogue()
    states, extra = model(batch.inputs, catalogue)
    asked = batch.targets != NO_TARGET
    loss = _asked_loss(model, batch, params, catalogue, states, asked)
    if per_row is not None:
        loss = loss * (asked.sum() / (len(asked) * per_row))
    return loss + params.orthogonality * extra


def _asked_loss(
    model: Model, batch: Batch, params: SequentialParams, catalogue: Catalogue, states: Tensor, asked: Tensor
) -> Float[Tensor, ""]:
    targets, similarity = batch.targets[asked], model.similarity
    if params.objective == "ce":
        return cross_entropy(similarity.all(states[asked], catalogue), targets)
    assert batch.negatives is not None
    positive = similarity.of_each(states[asked], catalogue, targets)
    if params.objective == "bce":
        negative = similarity.of_each(states[asked], catalogue, batch.negatives[asked])[:, None]
        return objectives.binary(positive, negative)
    drawn = similarity.of_row(states, catalogue, batch.negatives)
    same = batch.negatives[:, None, :] == batch.targets[:, :, None]
    negative = drawn.masked_fill(same, -math.inf)[asked]
    if params.objective == "sampled_softmax":
        return objectives.sampled_softmax(positive, negative)
    power = objectives.gbce_power(model.n_items, params.negatives, params.calibration)
    return objectives.binary(positive, negative, power)


def _scores(
    model: Model, sequences: Sequences, examples: Examples, catalogue: Catalogue
) -> Float[Tensor, "batch items"]:
    """Return the scores of every item after each history; a user without history gets the state after padding."""
    device = next(model.parameters()).device
    asks = model.both_ways  # by a mask in the place of the next item
    start = np.maximum(examples.start, examples.end - (model.history - asks))
    tokens = padded(sequences.items, start, examples.end, model.padding)
    last = examples.end - start - (not asks)
    if asks:
        tokens = np.concatenate([tokens, np.full((len(tokens), 1), model.padding)], axis=1)
        tokens[np.arange(len(tokens)), last] = model.mask_token
    with torch.inference_mode():
        states, _ = model(torch.from_numpy(tokens).to(device), catalogue)
        chosen = torch.from_numpy(np.maximum(last, 0)).to(device)
        return model.similarity.all(states[torch.arange(len(chosen), device=device), chosen], catalogue)


def target_ranks(model: Model, sequences: Sequences, examples: Examples) -> np.ndarray:
    """Return int64 [examples]: the rank of the target among all items, ties before it (as evaluation does)."""
    ranks: list[Any] = []
    by_length = np.argsort(examples.end - examples.start, kind="stable")
    with torch.inference_mode():
        catalogue = model.catalogue()
    for first in range(0, len(by_length), CHUNK):
        part = examples.take(by_length[first : first + CHUNK])
        scores = _scores(model, sequences, part, catalogue)
        target = torch.from_numpy(part.target.astype(np.int64)).to(scores.device)
        ranks.append((scores >= scores.gather(1, target[:, None])).sum(dim=1).cpu().numpy())
    result = np.zeros(len(examples), np.int64)
    result[by_length] = np.concatenate([np.zeros(0, np.int64), *ranks])
    return result
