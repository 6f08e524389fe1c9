"""What the rows `decode` and `train` work on: users' sequences, their items' semantic IDs, and trained weights.

With a data root they are Amazon Instruments with the IDs published for it; without one they are made, of like shape.
"""

import hashlib
import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from musicrec_kit import training
from musicrec_kit.data.splits import Sequences, train_prefixes
from musicrec_kit.generation import Generator, tasks
from musicrec_kit.generation.fit import ABOUT, precision_of
from musicrec_kit.generation.seq2seq import T5, weights_from_hf
from musicrec_kit.generation.tasks import Spans, TokenStore
from musicrec_kit.ids import SemanticIds
from musicrec_kit.params import GeneratorParams, IdsParams
from musicrec_kit.pipeline import Job
from tests.reference_generation import hf_t5

KEPT = Path(tempfile.gettempdir()) / "musicrec_kit_benchmarks"  # read data and trained weights, for the next run
HISTORY = 20  # items, as the lineage
USERS, ITEMS, LEVELS, CODES = 17_112, 6_250, 4, 256  # of Instruments


@dataclass(frozen=True)
class World:
    """Sequences and IDs, and what to call them."""

    name: str
    sequences: Sequences
    ids: SemanticIds

    def generator(self, params: GeneratorParams) -> Generator:
        """Return a generator with initial weights."""
        return Generator.untrained(self.ids, params, IdsParams(), HISTORY)

    def trained(self, params: GeneratorParams) -> Generator:
        """Return a generator after `params.steps`, without looks at validation; kept for the next run."""
        assert params.steps is not None, "benchmarks train for a number of steps"
        told = [self.sequences.items.tobytes(), *(codes.tobytes() for codes in self.ids.views.values())]
        key = hashlib.sha256(b"".join([*told, params.model_dump_json().encode()])).hexdigest()[:16]
        folder, made = KEPT / "generators" / key, self.generator(params)
        if (folder / ABOUT).is_file():
            return Generator.load(folder)
        store, spans = self.examples(made)
        batches = itertools.islice(tasks.batches(store, spans, params.batch, 0), params.steps)
        train(made, batches, params.steps)
        made.save(folder)
        return made

    def examples(self, generator: Generator) -> tuple[TokenStore, Spans]:
        """Return the training examples of the first epoch of all tasks, and the store that they are places in."""
        sequences = self.sequences.before("test")
        store, families = generator.store(sequences), [(task,) for task in generator.every_task]
        return store, tasks.draw_epoch(store, families, train_prefixes(sequences, HISTORY), 0, 0)


def train(generator: Generator, batches: Iterable[tuple[Tensor, Tensor]], steps: int) -> None:
    """Train as `fit_generator` does, without looks at validation."""
    model, params = generator.model, generator.params
    training.fit(
        model,
        lambda _: batches,
        lambda batch: (model.loss(*batch), {}),
        lr=params.lr,
        weight_decay=params.weight_decay,
        epochs=1,
        steps=steps,
        warmup=params.warmup,
        clip=params.clip,
        rates={"position_bias": params.position_lr},
        precision=precision_of(params.precision, generator.device),
    )


def world(data_root: Path | None, scale: float) -> World:
    """Return Instruments, or a made world in which what comes next follows from the last item's place in the tree."""
    if data_root is not None:
        overrides = {"ids": {"source": "published"}}
        job = Job("instruments", "mql4grec", runs_dir=KEPT / "runs", data_root=data_root, overrides=overrides)
        return World("Instruments, published IDs", job.sequences, job.ids)
    users, items = max(60, round(USERS * scale)), max(50, round(ITEMS * scale))
    draw = np.random.default_rng(0)
    views = {view: _codes(items, draw) for view in ("text", "image")}
    # a step along a shuffled circle, mostly a short one
    circle, counts = draw.permutation(items), 4 + draw.geometric(1 / 4, users)
    counts = np.minimum(counts, items)
    lists = []
    for count in counts:
        steps = np.where(draw.random(count) < 0.7, draw.integers(1, 4, count), draw.integers(1, items, count))
        lists.append(circle[np.cumsum(steps) % items])
    sizes = {view: (CODES,) * LEVELS for view in views}
    segments = {view: ((view, LEVELS),) for view in views}
    suffix = {view: np.zeros(items, np.int32) for view in views}
    ids = SemanticIds(views=views, suffix=suffix, segments=segments, sizes=sizes, shared_levels=0)
    return World(f"made, {users:,} users", Sequences.from_lists(lists, items), ids)


def _codes(items: int, draw: np.random.Generator) -> np.ndarray:
    """Return different codes int32 [items, levels]: few and uneven on the first level, as learnt ones are."""
    codes = np.zeros((0, LEVELS), np.int32)
    while len(codes) < items:
        more = (CODES * draw.beta(0.6, 1.5, (2 * items, LEVELS))).astype(np.int32)
        codes = np.unique(np.concatenate([codes, more]), axis=0)
    return codes[draw.permutation(len(codes))[:items]]


def hugging_face(model: T5) -> T5ForConditionalGeneration:
    """Return Hugging Face's T5 with a model's weights.

    Where `weights_from_hf` puts every number is seen from numbers that say where they come from.
    """
    theirs = hf_t5(model.shape, model.n_tokens)
    parameters = dict(theirs.named_parameters())
    at = np.cumsum([0, *(parameter.numel() for parameter in parameters.values())]).tolist()
    places = {
        name: torch.arange(first, first + parameter.numel(), dtype=torch.float64).view(parameter.shape)
        for first, (name, parameter) in zip(at, parameters.items(), strict=False)
    }
    flat = torch.empty(at[-1])
    for name, place in weights_from_hf(places).items():
        flat[place.long()] = model.state_dict()[name].cpu()
    with torch.no_grad():
        for first, parameter in zip(at, parameters.values(), strict=False):
            parameter.copy_(flat[first : first + parameter.numel()].view(parameter.shape))
    return theirs
