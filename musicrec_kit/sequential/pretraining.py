"""S3-Rec's first stage (Zhou et al. 2020): what a history and attributes tell of each other, before any next item.

Data in: windows of training items, attributes. Data out: the model's weights. The model looks both ways here.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from musicrec_kit import runs, seeds, training
from musicrec_kit.data.splits import Sequences
from musicrec_kit.params import PretrainingParams, SequentialParams
from musicrec_kit.sequential.encoder import Transformer
from musicrec_kit.sequential.model import Model
from musicrec_kit.sequential.objectives import uniform_outside
from musicrec_kit.sequential.sources import Sources
from musicrec_kit.sequential.windows import Windows, bucketed, cut_windows, padded

PRETRAINED = "pretrained.safetensors"


class Batch(NamedTuple):
    """Histories with hidden items, int64 [batch, history] each.

    Attributes:
        items: as they are; padding behind.
        hidden: with the mask in the place of some.
        other: for every place an item that is not in the history.
        rest, segment, stranger: the history without a segment; the segment alone, in its place; another history's
            items in that place. Everything else is masked.
    """

    items: Tensor
    hidden: Tensor
    other: Tensor
    rest: Tensor
    segment: Tensor
    stranger: Tensor


class Pretrainer(nn.Module):
    """A model and what its first stage needs beside it: attributes' rows and a matrix per loss."""

    hot: Tensor  # bool [items, attributes]

    def __init__(self, model: Model, sources: Sources) -> None:
        super().__init__()
        self.model = model
        hot = np.concatenate([each.multi_hot() for each in sources.attributes.values()], axis=1)
        dim = model.items().read.shape[1]
        self.register_buffer("hot", torch.from_numpy(hot), persistent=False)
        self.attributes = nn.Embedding(hot.shape[1], dim)
        nn.init.normal_(self.attributes.weight, std=0.02)
        self.item_attribute, self.masked_item, self.masked_attribute, self.segment = (
            nn.Linear(dim, dim) for _ in range(4)
        )

    def losses(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the four losses, each summed over a history (as in the authors' code) and averaged over the batch."""
        model, rows = self.model, len(batch.items)
        catalogue = model.catalogue()
        states, _ = model(batch.hidden, catalogue)
        kept = batch.items != model.padding
        masked = kept & (batch.hidden == model.mask_token)
        seen = kept & ~masked
        found = {
            "item_attribute": self._attributes(self.item_attribute(states), batch.items, seen),
            "masked_attribute": self._attributes(self.masked_attribute(states), batch.items, masked),
        }
        asked = self.masked_item(states[masked])
        own, other = (catalogue.read[each[masked]] for each in (batch.items, batch.other))
        found["masked_item"] = _before(asked, own, other).sum()
        last = kept.sum(dim=1) - 1
        ends = [
            model(each, catalogue)[0][torch.arange(rows, device=last.device), last]
            for each in (batch.rest, batch.segment, batch.stranger)
        ]
        found["segment"] = _before(self.segment(ends[0]), ends[1], ends[2]).sum()
        return {name: value / rows for name, value in found.items()}

    def _attributes(
        self,
        asked: Float[Tensor, "batch history dim"],
        items: Int[Tensor, "batch history"],
        where: Bool[Tensor, "batch history"],
    ) -> Float[Tensor, ""]:
        logits = asked[where] @ self.attributes.weight.T
        return binary_cross_entropy_with_logits(logits, self.hot[items[where]].float(), reduction="sum")


def _before(asked: Tensor, own: Tensor, other: Tensor) -> Float[Tensor, " rows"]:
    """Return -log sigma(sigma(a.own) - sigma(a.other)): the authors' code; the paper prints one sigma only."""
    return -logsigmoid(torch.sigmoid((asked * own).sum(-1)) - torch.sigmoid((asked * other).sum(-1)))


def make_batch(
    windows: Windows, index: np.ndarray, model: Model, params: PretrainingParams, rng: np.random.Generator
) -> Batch:
    """Draw a batch: hidden items, items to tell them from, segments, and other histories' items."""
    padding, mask = model.padding, model.mask_token
    items = padded(windows.items, windows.start[index], windows.end[index], padding)
    lengths = (windows.end - windows.start)[index]
    place = np.arange(items.shape[1])
    inside = place < lengths[:, None]
    hidden = np.where(inside & (rng.random(items.shape) < params.mask), mask, items)
    other = uniform_outside(rng, items, items, model.n_items)
    # a segment of 1 to half of the history, anywhere in it
    size = 1 + (rng.random(len(items)) * np.maximum(1, lengths // 2)).astype(np.int64)
    size = np.minimum(size, np.maximum(1, lengths // 2))
    first = (rng.random(len(items)) * (lengths - size + 1)).astype(np.int64)
    within = (place >= first[:, None]) & (place < (first + size)[:, None])
    flat = items[inside]
    start = (rng.random(len(items)) * np.maximum(1, len(flat) - size + 1)).astype(np.int64)
    borrowed = flat[np.clip(start[:, None] + place - first[:, None], 0, len(flat) - 1)]
    outside = np.where(inside, mask, padding)
    made = (
        items,
        hidden,
        other,
        np.where(within, mask, items),
        np.where(within, items, outside),
        np.where(within, borrowed, outside),
    )
    return Batch(*(torch.from_numpy(each) for each in made))


def fit(
    model: Model,
    sequences: Sequences,
    params: SequentialParams,
    sources: Sources,
    folder: Path | None,
    seed: int,
    device: str,
) -> None:
    """Train a model's first stage; with a folder, continue one that was killed."""
    place = None if folder is None else folder / "pretraining"
    if place is not None and (place / PRETRAINED).is_file():
        training.load_weights(model, place / PRETRAINED)
        return
    asked = params.pretraining
    windows = cut_windows(sequences.items, sequences.offsets[:-1], sequences.train_end, model.history)
    # no target follows: a window's last item is read as well, and its first is one too many
    windows = replace(windows, start=np.maximum(windows.start, windows.end - model.history))
    with seeds.torch_seed(seed, "pretrainer"):
        trainer = Pretrainer(model, sources).to(device)
    weight = {name: getattr(asked, name) for name in ("item_attribute", "masked_item", "masked_attribute", "segment")}

    def batches(epoch: int) -> Iterator[Batch]:
        for number, index in enumerate(bucketed(windows, asked.batch, seed, epoch)):
            rng = seeds.generator(seed, "pretraining", epoch, number)
            yield Batch(*(each.to(device) for each in make_batch(windows, index, model, asked, rng)))

    def loss(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        found = trainer.losses(batch)
        return torch.stack([weight[name] * value for name, value in found.items()]).sum(), {}

    look_both_ways(model, True)
    training.fit(
        trainer,
        batches,
        loss,
        lr=asked.lr,
        weight_decay=params.weight_decay,
        epochs=asked.epochs,
        steps=asked.epochs * math.ceil(len(windows) / asked.batch),
        schedule="constant",
        folder=place,
        seed=seed,
        name="pretraining",
    )
    look_both_ways(model, False)
    if place is not None:
        runs.write_tensors(place / PRETRAINED, model.state_dict())  # last: it marks the stage as done


def look_both_ways(model: Model, value: bool) -> None:
    """Let a model's encoder look both ways, or back only."""
    assert isinstance(model.encoder, Transformer)
    model.encoder.causal = not value
