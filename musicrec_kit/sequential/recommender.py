"""SASRec trained on the training part: recommendations by next-item scores, and item vectors for the tokenizer."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from musicrec_kit import runs, seeds, training
from musicrec_kit.data.splits import Examples, Sequences, held_out
from musicrec_kit.evaluation import metrics
from musicrec_kit.evaluation.protocol import RankedList, rank_by_scores
from musicrec_kit.params import CFParams, Refused
from musicrec_kit.sequential.encoder import SASRec
from musicrec_kit.sequential.vectors import ItemVectors
from musicrec_kit.sequential.windows import NO_TARGET, Windows, bucketed, cut_windows, hold_back, padded, training_rows

log = logging.getLogger(__name__)

FILE = "sasrec.safetensors"
EVERY_ITEM = 10**9  # a history that is never cut
CHUNK = 1024  # users scored at once while choosing an epoch
HELD_BACK, MOST_HELD_BACK = 0.1, 2000  # share and number of users whose last training item chooses z_cf's epoch


@dataclass(frozen=True)
class Recommender:
    """A trained SASRec and what happened in its training."""

    model: SASRec
    result: training.TrainResult | None = None

    def scorer(self, sequences: Sequences) -> Callable[[Examples], np.ndarray]:
        """Return examples -> float32 [examples, items], for `evaluation.rank_by_scores`."""
        return lambda examples: _scores(self.model, sequences, examples).cpu().numpy()

    def rank(self, sequences: Sequences, split: str, k: int = 20) -> tuple[RankedList, RankedList]:
        """Return the (plain, no_history) lists of a split's users."""
        examples = held_out(sequences, split, self.model.history)
        return rank_by_scores(self.scorer(sequences), examples, held_out(sequences, split, EVERY_ITEM), sequences, k)

    def save(self, folder: Path) -> Path:
        """Write `sasrec.safetensors` with the shapes of the model, and return its path."""
        blocks = self.model.blocks
        shape = {
            "n_items": self.model.n_items,
            "history": self.model.history,
            "dim": self.model.items.embedding_dim,
            "layers": len(blocks),
            "heads": blocks[0].heads if len(blocks) else 1,
            "dropout": self.model.drop.p,
        }
        runs.write_tensors(folder / FILE, self.model.state_dict(), {"shape": json.dumps(shape)})
        return folder / FILE

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Recommender":
        """Read what `save` wrote."""
        model = SASRec(**json.loads(runs.read_tensor_metadata(folder / FILE)["shape"]))
        model.load_state_dict({name: torch.from_numpy(a) for name, a in runs.read_tensors(folder / FILE).items()})
        return cls(model.to(device).eval())


def fit_recommender(
    sequences: Sequences, params: CFParams, history: int, folder: Path | None = None, seed: int = 0, device: str = "cpu"
) -> Recommender:
    """Train SASRec on the training part; the epoch with the best NDCG@10 on validation, plain, is kept."""
    windows = cut_windows(sequences.items, sequences.offsets[:-1], sequences.train_end, history)
    return train(windows, sequences, held_out(sequences, "valid", history), params, history, folder, seed, device)


def fit_item_vectors(
    sequences: Sequences, params: CFParams, history: int, folder: Path | None = None, seed: int = 0, device: str = "cpu"
) -> ItemVectors:
    """Return z_cf: the item embeddings of a SASRec that has seen nothing but the training part.

    Not even the epoch is chosen by validation: a tenth of the users (at most 2,000) give a training item for it.
    Changing every validation and test item changes no bit of the vectors.
    """
    windows, examples = hold_back(sequences, history, HELD_BACK, MOST_HELD_BACK, seed)
    model = train(windows, sequences, examples, params, history, folder, seed, device).model
    vectors = model.item_vectors.detach().float().cpu().numpy()
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
    params: CFParams,
    history: int,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Recommender:
    """Train SASRec on windows with cross-entropy over all items; the best epoch by NDCG@10 of `valid` is kept.

    With no example in `valid` the last epoch is kept.
    """
    if not len(windows):
        raise Refused("cf: no user has two items in the training part, so there is nothing to learn; see data.k_core")
    with seeds.torch_seed(seed, "sasrec"):
        model = SASRec(sequences.n_items, history, params.dim, params.layers, params.heads, params.dropout).to(device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index in bucketed(windows, params.batch, seed, epoch):
            inputs, targets = training_rows(windows, index, model.padding)
            yield torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)

    def validate() -> tuple[float, dict[str, float]]:
        ndcg = float(metrics.ndcg(target_ranks(model, sequences, valid), 10).mean())
        return -ndcg, {"ndcg@10": ndcg}

    result = training.fit(
        model,
        batches,
        lambda batch: (next_item_loss(model, *batch), {}),
        lr=params.lr,
        weight_decay=0.0,
        epochs=params.epochs,
        steps=params.epochs * math.ceil(len(windows) / params.batch),
        schedule="constant",
        patience=params.patience if len(valid) else None,
        validate=validate if len(valid) else None,
        folder=folder,
        seed=seed,
        name="sasrec",
    )
    log.info("sasrec: %d epochs, best %d (NDCG@10 %.4f)", result.epochs, result.best_epoch, -result.best_value)
    return Recommender(model, result)


def next_item_loss(
    model: SASRec, inputs: Int[Tensor, "batch history"], targets: Int[Tensor, "batch history"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over all items of every position that has a target; no logits at padding."""
    has_target = targets != NO_TARGET
    return cross_entropy(model.scores(model(inputs)[has_target]), targets[has_target])


def _scores(model: SASRec, sequences: Sequences, examples: Examples) -> Float[Tensor, "batch items"]:
    """Return the scores of every item after each history; a user without history gets the state after padding."""
    device = model.items.weight.device
    start = np.maximum(examples.start, examples.end - model.history)
    tokens = padded(sequences.items, start, examples.end, model.padding)
    last = torch.from_numpy(np.maximum(examples.end - start, 1) - 1).to(device)
    with torch.inference_mode():
        states = model(torch.from_numpy(tokens).to(device))
        return model.scores(states[torch.arange(len(last), device=device), last])


def target_ranks(model: SASRec, sequences: Sequences, examples: Examples) -> np.ndarray:
    """Return int64 [examples]: the rank of the target among all items, ties before it (as evaluation does)."""
    ranks: list[Any] = []
    by_length = np.argsort(examples.end - examples.start, kind="stable")
    for first in range(0, len(by_length), CHUNK):
        part = examples.take(by_length[first : first + CHUNK])
        scores = _scores(model, sequences, part)
        target = torch.from_numpy(part.target.astype(np.int64)).to(scores.device)
        ranks.append((scores >= scores.gather(1, target[:, None])).sum(dim=1).cpu().numpy())
    result = np.zeros(len(examples), np.int64)
    result[by_length] = np.concatenate([np.zeros(0, np.int64), *ranks])
    return result
