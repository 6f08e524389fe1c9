"""hopwise's models (a maintained fork of RecBole) trained on the kit's sequences and scored by the kit's evaluator.

Data in: sequences, the items' attributes, a method's settings. Data out: scores of all items after any history. What
hopwise does otherwise than the kit, and what is done about it here:

- BERT4Rec's ranking drops the oldest item of every history, also of a short one, and puts the mask behind the rest; a
  column of padding in front is what it drops here.
- Cloze and pretraining rows are prefixes without their targets, so that no user's last training item is ever in one;
  the rows of validation, whose targets nothing reads there, are added to them. The kit's rows there are histories:
  hopwise makes as many rows, in fewer epochs.
- A batch of BERT4Rec's in which no item happens to be hidden has a loss of 0 / 0, which ends its training. It counts
  0 here.
- Pretraining pads S3-Rec's histories in front, fine-tuning behind. Left as it is.
- One of its modules, SINE, turns on torch's search for anomalies when it is imported, as it is with every model: all
  training of the process is several times slower from then on. Turned off, unless `as_installed` is asked for.
"""

import contextlib
import copy
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from musicrec_kit.data.splits import Examples, Sequences, held_out
from musicrec_kit.evaluation import metrics
from musicrec_kit.evaluation.protocol import Score, rank_by_scores
from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential.recommender import EVERY_ITEM
from musicrec_kit.sequential.sources import Attributes
from musicrec_kit.sequential.windows import overlapping_windows, padded

NAME = "crosscheck"
BOTH = "attributes"  # S3-Rec reads one field: the values of all


def _transformer(params: SequentialParams) -> dict[str, Any]:
    return {
        "hidden_size": params.dim,
        "inner_size": params.width,
        "n_layers": params.layers,
        "n_heads": params.heads,
        "hidden_dropout_prob": params.dropout,
        "attn_dropout_prob": params.dropout,
    }


def _gru(params: SequentialParams) -> dict[str, Any]:
    widths = {"embedding_size": params.dim, "hidden_size": params.width}
    return widths | {"num_layers": params.layers, "dropout_prob": params.dropout}


def _cloze(params: SequentialParams) -> dict[str, Any]:
    return _transformer(params) | {"mask_ratio": params.mask, "ft_ratio": params.mask_last}


def _fields(params: SequentialParams) -> dict[str, Any]:
    return _transformer(params) | {"selected_features": ["categories", "brand"]}


def _pretrained(params: SequentialParams) -> dict[str, Any]:
    first = params.pretraining
    weights = {"aap_weight": first.item_attribute, "mip_weight": first.masked_item, "sp_weight": first.segment}
    weights |= {"map_weight": first.masked_attribute, "mask_ratio": first.mask}
    return _transformer(params) | weights | {"item_attribute": BOTH}


MODELS: dict[str, tuple[str, Callable[[SequentialParams], dict[str, Any]]]] = {
    "sasrec": ("SASRec", _transformer),
    "gru4rec": ("GRU4Rec", _gru),
    "bert4rec": ("BERT4Rec", _cloze),
    "fdsa": ("FDSA", _fields),
    "s3_rec": ("S3Rec", _pretrained),
}


def write_atomic(sequences: Sequences, attributes: dict[str, Attributes], folder: Path) -> None:
    """Write `.inter` and `.item`, hopwise's atomic files; items are named by their numbers, times are places."""
    place = np.arange(len(sequences.items)) - sequences.offsets[sequences.users]
    rows = zip(sequences.users, sequences.items, place, strict=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    (folder / NAME / f"{NAME}.inter").write_text("\n".join(lines) + "\n")
    head = ["item_id:token", *(f"{name}:token_seq" for name in [*attributes, BOTH])]
    lines = ["\t".join(head)]
    for item in range(sequences.n_items):
        values = [
            [f"{name}{v}" for v in each.values[each.offsets[item] : each.offsets[item + 1]]]
            for name, each in attributes.items()
        ]
        fields = [" ".join(each) for each in [*values, chain.from_iterable(values)]]
        lines.append("\t".join([str(item), *fields]))
    (folder / NAME / f"{NAME}.item").write_text("\n".join(lines) + "\n")


def _or_zero(model: torch.nn.Module) -> Callable[[Any], torch.Tensor]:
    """Return the model's loss, 0 where it is not a number; weights that are no numbers would be seen in its scores."""
    loss = model.calculate_loss

    def found(rows: Any) -> torch.Tensor:
        value = loss(rows)
        return sum(0.0 * p.sum() for p in model.parameters()) if torch.isnan(value) else value

    return found


class Hopwise:
    """One of hopwise's models on the kit's data: its loaders and its trainer, an epoch at a time."""

    def __init__(
        self,
        method: str,
        params: SequentialParams,
        sequences: Sequences,
        attributes: dict[str, Attributes],
        history: int,
        seed: int,
        folder: Path,
        as_installed: bool = False,
    ) -> None:
        """Write the files, and go through the first stage of a model that has two."""
        self.as_installed = as_installed
        assert sequences.leave_one_out and (sequences.held_out > 0).all(), "hopwise holds out two items of every user"
        self.sequences, self.history, self.places = sequences, history, params.places(history)
        write_atomic(sequences, attributes, folder)
        windows = len(overlapping_windows(sequences.items, sequences.offsets[:-1], sequences.train_end, history))
        targets = int(sequences.in_training.sum()) - sequences.n_users  # a row each
        self.rows = targets / windows
        # as many targets in a step; where rows are masked, as many rows in a step and in all, in fewer epochs
        hides = params.rows == "cloze"
        self.shorter = self.rows if hides else 1.0
        name, settings = MODELS[method]
        asked = settings(params) | {
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", *attributes, BOTH]},
            "MAX_ITEM_LIST_LENGTH": self.places,
            "train_neg_sample_args": None,
            "train_batch_size": round(params.batch * self.rows / self.shorter),
            "learning_rate": params.lr,
            "weight_decay": params.weight_decay,
            "metrics": ["NDCG", "Hit"],
            "metric_decimal_place": 9,
            "use_gpu": False,
            "seed": seed,
        }
        if params.pretrained:
            first = {"train_stage": "pretrain", "learning_rate": params.pretraining.lr}
            first["train_batch_size"] = params.pretraining.batch
            self._make(name, asked | first, folder, whole=True)
            for epoch in range(round(params.pretraining.epochs / self.rows)):
                self.epoch(epoch)
            made = folder / "pretrained.pth"
            torch.save({"state_dict": self.model.state_dict()}, made)
            asked |= {"train_stage": "finetune", "pre_model_path": str(made)}
        self._make(name, asked, folder, whole=hides)

    def _make(self, name: str, settings: dict[str, Any], folder: Path, whole: bool) -> None:
        from hopwise.config import Config
        from hopwise.data import create_dataset, data_preparation
        from hopwise.data.interaction import cat_interactions
        from hopwise.utils import get_model, get_trainer, init_seed

        # it reads the command line, and its trainer writes into the current folder
        with contextlib.chdir(folder), patch.object(sys, "argv", sys.argv[:1]):
            config = Config(name, NAME, config_dict=settings)
            init_seed(config["seed"], config["reproducibility"])
            dataset = create_dataset(config)
            self.train, self.valid, self.test = data_preparation(config, dataset)
            if whole:
                both = [part._dataset.inter_feat for part in (self.train, self.valid)]
                self.train._dataset.inter_feat = cat_interactions(both)
            self.model = get_model(name)(config, self.train._dataset)
            if whole and not settings.get("train_stage"):
                self.model.calculate_loss = _or_zero(self.model)
            self.trainer = get_trainer(config["MODEL_TYPE"], name)(config, self.model)
            torch.autograd.set_detect_anomaly(self.as_installed)
        tokens = dataset.field2token_id["item_id"]
        self.number = np.array([tokens[str(item)] for item in range(self.sequences.n_items)])

    def epoch(self, number: int) -> None:
        """Train an epoch."""
        self.trainer._train_epoch(self.train, number)

    def fit(self, params: SequentialParams, after: Callable[[float], None] = lambda ndcg: None) -> int:
        """Train by the kit's rule: the best epoch by validation NDCG@10, plain, is kept; return how many were made."""
        best, weights, since, epoch = -1.0, self.model.state_dict(), 0, 0
        while self.shorter * epoch < params.longer * params.epochs and since < params.longer * params.patience:
            self.epoch(epoch)
            ndcg = float(metrics.ndcg(self.ranks("valid"), 10).mean())
            epoch, since = epoch + 1, since + 1
            if ndcg > best:
                best, weights, since = ndcg, copy.deepcopy(self.model.state_dict()), 0
            after(ndcg)
        self.model.load_state_dict(weights)
        return epoch

    def scorer(self, sequences: Sequences, lead: int | None = None) -> Score:
        """Return examples -> float32 [examples, items], the items numbered as the kit's.

        Args:
            lead: columns of padding before a history; None: as many as ranking drops.
        """
        return lambda examples: self._scores(examples, sequences, lead)

    def _scores(self, examples: Examples, sequences: Sequences, lead: int | None) -> np.ndarray:
        from hopwise.data.interaction import Interaction

        lead = self.places - self.history if lead is None else lead
        padding = self.sequences.n_items
        start = np.maximum(examples.start, examples.end - self.places + lead)
        rows = np.full((len(examples), self.places), padding)
        items = padded(sequences.items, start, examples.end, padding)
        rows[:, lead : lead + items.shape[1]] = items
        rows = torch.from_numpy(np.append(self.number, 0)[rows])
        lengths = torch.from_numpy(examples.end - start + lead)
        self.model.eval()
        with torch.inference_mode():
            found = self.model.full_sort_predict(Interaction({"item_id_list": rows, "item_length": lengths}))
        assert torch.isfinite(found).all(), "hopwise's weights are no numbers"
        return found.numpy()[:, self.number]

    def ranks(self, split: str, lead: int | None = None) -> np.ndarray:
        """Return int32 [users]: the target's rank in the plain list, 0 below its 20."""
        asked = held_out(self.sequences, split, EVERY_ITEM)
        return rank_by_scores(self.scorer(self.sequences, lead), asked, asked, self.sequences)[0].target_rank

    def own(self, split: str) -> dict[str, float]:
        """Return what hopwise itself finds."""
        return self.trainer.evaluate({"valid": self.valid, "test": self.test}[split], load_best_model=False)
