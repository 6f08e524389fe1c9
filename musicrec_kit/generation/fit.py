"""Training of the generator: tasks to batches, stages in order, and the result on disk."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from musicrec_kit import distributed, runs, seeds, training
from musicrec_kit.data.splits import Examples, Sequences, held_out, train_prefixes
from musicrec_kit.features.store import Features
from musicrec_kit.generation import seq2seq, tasks
from musicrec_kit.generation.legal_softmax import LegalSoftmax
from musicrec_kit.generation.marks import Marks, Source
from musicrec_kit.generation.seq2seq import SHAPES, T5
from musicrec_kit.generation.tasks import Family, Task, TokenStore
from musicrec_kit.ids.semantic_ids import SemanticIds
from musicrec_kit.ids.vocabulary import PAD, Vocabulary
from musicrec_kit.params import VISUAL, GeneratorParams, IdsParams, Refused

log = logging.getLogger(__name__)

Loss = Callable[..., Tensor]  # (model, source, target, reduction) -> cross-entropy of the target tokens
WEIGHTS, ABOUT = "generator.safetensors", "generator.json"
VALIDATION_BATCH = 512


@dataclass(frozen=True, eq=False)
class Generator:
    """A trained T5 with the vocabulary and the tasks that give its tokens a meaning.

    Attributes:
        families: task word -> families of tasks, over all stages.
        history: the most recent items that the model reads.
        log: the training's records, stage by stage.
    """

    model: T5
    vocabulary: Vocabulary
    families: dict[str, tuple[Family, ...]]
    params: GeneratorParams
    history: int
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ids(self) -> SemanticIds:
        """Return the semantic IDs that the generator writes."""
        return self.vocabulary.ids

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.model.embedding.weight.device

    @property
    def _picture_width(self) -> int:
        marks = self.model.marks
        return marks.vectors.shape[1] if marks is not None and marks.visual else 0

    def tasks(self, word: str) -> tuple[Task, ...]:
        """Return the tasks of a task word that were trained."""
        return tuple(itertools.chain.from_iterable(self.families.get(word, ())))

    @property
    def every_task(self) -> list[Task]:
        """Return all tasks that were trained, word by word."""
        return [task for word in self.families for task in self.tasks(word)]

    def save(self, folder: Path) -> None:
        """Write weights, settings and the semantic IDs."""
        self.ids.save(folder / "ids")
        runs.write_tensors(folder / WEIGHTS, self.model.state_dict())
        about = {"params": self.params.model_dump(mode="json"), "ids": self.vocabulary.params.model_dump(mode="json")}
        counts = {"history": self.history, "users": self.vocabulary.users, "picture_width": self._picture_width}
        runs.write_json(folder / ABOUT, {**about, **counts, "log": self.log})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Generator":
        """Read what `save` wrote."""
        about = runs.read_json(folder / ABOUT)
        ids_params = IdsParams.model_validate(about["ids"])
        params = GeneratorParams.model_validate(about["params"])
        ids, users = SemanticIds.load(folder / "ids"), about.get("users", 0)
        pictures = blank(ids.n_items, about["picture_width"]) if params.visual_tokens else None
        made = cls.untrained(ids, params, ids_params, about["history"], users=users, pictures=pictures)
        training.load_weights(made.model, folder / WEIGHTS)
        made.model.to(device).eval()
        return cls(made.model, made.vocabulary, made.families, params, made.history, about["log"])

    @classmethod
    def untrained(
        cls,
        ids: SemanticIds,
        params: GeneratorParams,
        ids_params: IdsParams,
        history: int,
        seed: int = 0,
        users: int = 0,
        pictures: Features | None = None,
    ) -> "Generator":
        """Return a generator with initial weights.

        Args:
            users: how many users have tokens of their own (`params.user_tokens`).
            pictures: what `params.visual_tokens` are made of.
        """
        families = tasks.expand(params.words, ids.segments)
        n_prompts = sum(task.prompt >= 0 for family in itertools.chain(*families.values()) for task in family)
        vocabulary = Vocabulary.from_ids(ids, ids_params, n_prompts, params.prompt_tokens, users, pictures is not None)
        shape = replace(SHAPES[params.backbone], adapters=params.adapters)
        with seeds.torch_seed(seed, "modules"):  # torch's layers draw weights of their own when they are made
            marks = Marks.of(shape.dim, history if params.whole_word else 0, params.visual_tokens, pictures)
            model = T5(vocabulary.size, shape, params.dropout, vocabulary.n_read_only, marks).initialise(seed)
        return cls(model, vocabulary, families, params, history)

    def store(
        self,
        sequences: Sequences,
        some: Iterable[Task] | None = None,
        partner: np.ndarray | None = None,
        among: np.ndarray | None = None,
    ) -> TokenStore:
        """Return what all trained tasks, or some, read of the sequences, written as the model reads it."""
        wanted = self.every_task if some is None else list(some)
        return TokenStore(self.vocabulary, sequences, wanted, self.device, partner, self.model.marks, among)


def fit_generator(
    sequences: Sequences,
    ids: SemanticIds,
    params: GeneratorParams,
    ids_params: IdsParams,
    history: int,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    pictures: Features | None = None,
    among: np.ndarray | None = None,
) -> Generator:
    """Train a generator and return it; with a folder, save it there and continue a killed training.

    Stages run one after the other on the same weights, each with its own optimiser and schedule and with as many steps
    as the last one (MGR A.2). `params.steps` are all made, whatever a row's examples: patience stops epochs only.

    Args:
        pictures: the features that `params.visual_tokens` are made of.
        among: bool [items], the items that alignment is trained on; None: all.

    Raises:
        Refused: a stage has no examples.
    """
    sequences = sequences.before("test")
    users = sequences.n_users if params.user_tokens else 0
    made = Generator.untrained(ids, params, ids_params, history, seed, users, pictures)
    if params.pretrained:
        seq2seq.load_hf_blocks(made.model, Path(params.pretrained))
    if params.pretrained and params.frozen:
        freeze(made.model)
    made.model.to(device)
    partner = shuffled_partners(ids.n_items, seed) if params.align_pairs == "shuffled" else None
    store = made.store(sequences, partner=partner, among=among)
    loss = T5.loss if params.softmax == "vocabulary" else LegalSoftmax(made.vocabulary, made.every_task, device).loss
    stages = params.stages or (params.tasks,)
    families = [
        [family for word in made.families if word in words for family in made.families[word]] for words in stages
    ]
    examples = train_prefixes(sequences, history)
    in_epoch = [_steps_in_epoch(store, of_stage, examples, params.batch, seed) for of_stage in families]
    steps = params.steps or params.epochs * in_epoch[-1]
    for number in range(len(stages)):
        place = folder if folder is None or len(stages) == 1 else folder / f"stage_{number}"
        done = None if place is None or len(stages) == 1 else place / WEIGHTS
        if done is not None and done.is_file():
            training.load_weights(made.model, done)
            made.log.extend(runs.read_json(done.with_name(ABOUT)))
            continue
        stream = _Stream(store, families[number], examples, in_epoch[number], steps, params, seed)
        records = _fit_stage(made, stream, loss, sequences, number, place)
        made.log.extend(records)
        if done is not None:
            runs.write_json(done.with_name(ABOUT), records)
            runs.write_tensors(done, made.model.state_dict())  # last: it marks the stage as done
    made.model.eval()
    if made.vocabulary.users:
        trained = np.isin(np.arange(users), examples.users)
        with torch.no_grad():  # whoever is unknown, or has no example to learn from, is read as the mean of the others
            rows = made.model.embedding.weight[made.vocabulary.size :]
            rows[0] = rows[1 : 1 + users][torch.from_numpy(trained)].mean(dim=0)
            rows[1 : 1 + users][torch.from_numpy(~trained)] = rows[0]
    if folder is not None:
        made.save(folder)
    return made


def freeze(model: T5) -> None:
    """Leave only adapters, norms, marks and our own tokens to training (VIP5: a frozen backbone).

    VIP5 freezes the tokens, too: its numbers are words that the backbone knows, and ours are new to it.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in ("adapter.", "norm.", "marks.", "embedding.")))


def blank(n_items: int, width: int) -> Features:
    """Return features that a state dict fills."""
    return Features(VISUAL, np.zeros((n_items, width), np.float32), np.zeros(n_items, bool), "")


def shuffled_partners(n_items: int, seed: int) -> np.ndarray:
    """Return int64 [items]: every item's random other, each used once (control of the alignment stage)."""
    order = seeds.generator(seed, "partners").permutation(n_items)
    partner = np.empty(n_items, np.int64)
    partner[order] = np.roll(order, 1)  # one cycle: nobody is his own partner
    return partner


def _steps_in_epoch(store: TokenStore, families: list[Family], examples: Examples, batch: int, seed: int) -> int:
    n_examples = len(tasks.draw_epoch(store, families, examples, seed, 0).prompt)
    if n_examples == 0:
        names = [task.name for family in families for task in family]
        raise Refused(f"the generator has no training examples for {names or 'a stage without tasks'}")
    return -(-n_examples // batch)


@dataclass(frozen=True)
class _Stream:
    """A stage's batches: epochs one after the other, cut after `steps`; validation is looked at after every chunk."""

    store: TokenStore
    families: list[Family]
    examples: Examples
    in_epoch: int
    steps: int
    params: GeneratorParams
    seed: int

    @property
    def chunks(self) -> int:
        """Return how often validation is looked at: every epoch, or every 1,000 steps and eight times at least."""
        if self.params.steps is None:
            return self.params.epochs
        return min(self.steps, max(8, -(-self.steps // 1000)))

    def chunk(self, number: int) -> Iterator[tuple[Tensor | Source, Tensor]]:
        """Yield the batches of a chunk."""
        step, stop = (at * self.steps // self.chunks for at in (number, number + 1))
        while step < stop:
            epoch = step // self.in_epoch
            spans = tasks.draw_epoch(self.store, self.families, self.examples, self.seed, epoch)
            stream = tasks.batches(self.store, spans, self.params.batch, self.seed, epoch)
            ended, before = min(stop, (epoch + 1) * self.in_epoch), epoch * self.in_epoch
            yield from itertools.islice(stream, step - before, ended - before)
            step = ended


def _fit_stage(
    made: Generator, stream: _Stream, loss: Loss, sequences: Sequences, number: int, folder: Path | None
) -> list[dict[str, Any]]:
    params, name, store = made.params, f"generator stage {number}", stream.store
    validation = validation_tasks(stream.families)
    valid = held_out(sequences, "valid", made.history)
    result = training.fit(
        made.model,
        stream.chunk,
        lambda batch: (loss(made.model, *batch), {}),
        lr=params.lr,
        weight_decay=params.weight_decay,
        epochs=stream.chunks,
        steps=stream.steps,
        warmup=params.warmup,
        schedule=params.schedule,
        clip=params.clip,
        rates={"position_bias": params.position_lr},
        patience=params.patience if validation and params.steps is None else None,
        validate=(lambda: validation_loss(made.model, store, loss, validation, valid))
        if validation and len(valid)
        else None,
        folder=folder,
        seed=stream.seed,
        precision=precision_of(params.precision, made.device),
        name=name,
        keep_best=params.keep == "best",
        split=lambda batch: own_parts(batch, params.micro_batch or params.batch),
        shared=True,
    )
    log.info("%s: %d epochs, best validation loss %.4f", name, result.epochs, result.best_value)
    return [{"stage": number, **record} for record in result.log]


def split(
    batch: tuple[Tensor | Source, Tensor], rows: int
) -> Iterator[tuple[tuple[Tensor | Source, Tensor], Tensor | float]]:
    """Yield a batch in parts of at most `rows` examples, each with its share of the batch's target tokens."""
    source, target = batch
    if len(target) <= rows:
        yield batch, 1.0
        return
    live = (target != PAD).sum(dim=1)
    for first in range(0, len(target), rows):
        part = slice(first, first + rows)
        cut = Source(*(each[part] for each in source)) if isinstance(source, Source) else source[part]
        yield (cut, target[part]), live[part].sum() / live.sum()


def own_parts(
    batch: tuple[Tensor | Source, Tensor], rows: int
) -> Iterator[tuple[tuple[Tensor | Source, Tensor], Tensor | float]]:
    """Yield what `split` does of this process's share of a batch, with shares of the whole batch's loss."""
    each = -(-len(batch[1]) // distributed.size())
    for part, share in distributed.own_parts(list(split(batch, each))):
        for cut, of_part in split(part, rows):
            yield cut, share * of_part


def precision_of(wanted: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision to train in; "auto" is bf16 on a GPU."""
    if wanted == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return "bf16" if wanted == "bf16" else "fp32"


def validation_tasks(families: list[Family]) -> list[Task]:
    """Return the tasks that validate a stage: next item per view (lineage.md row 37), else joint, else none."""
    found = [task for family in families for task in family if task.name.startswith("next/")]
    return found or [task for family in families for task in family if task.name == "joint"]


def validation_loss(
    model: T5, store: TokenStore, loss: Loss, validation: list[Task], examples: Examples
) -> tuple[float, dict[str, float]]:
    """Return the mean over tasks of the token-mean cross-entropy on held-out users, and the tasks' own values."""
    values = {}
    for task in validation:
        spans = store.spans(task, examples)
        spans = spans.take(spans.usable.nonzero()[0])
        total, count = torch.zeros((), device=store.device), int((spans.target_length + 1).sum())
        for number, (source, target) in enumerate(tasks.batches(store, spans, VALIDATION_BATCH)):
            if number % distributed.size() == distributed.number():
                total += loss(model, source, target, reduction="sum")
        values[f"valid/{task.name}"] = float(distributed.summed(total)) / max(1, count)
    return sum(values.values()) / len(values), values


assert PAD == seq2seq.PAD
