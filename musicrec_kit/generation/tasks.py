"""Tasks: the kinds of training example, and their batches of tokens.

A history's or an item's tokens are a slice of one long array (`TokenStore`), so an example is six integers (`Spans`)
and a batch is one gather on the device. A *writing* is the tuple of views that an item is written in, one after the
other; where there is one view of several segments, `view:stream` names a segment.

Source = prompt + the user's token (`generator.user_tokens`) + tokens + eos, target = tokens + eos, padded on the right
(lineage.md 3.1).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from musicrec_kit import seeds
from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.generation.marks import NO_PICTURE, Marks, Source
from musicrec_kit.ids.vocabulary import EOS, PAD, Vocabulary
from musicrec_kit.params import Refused

log = logging.getLogger(__name__)

Writing = tuple[str, ...]
WINDOW = 64  # batches that are sorted by length together
ALIKE = 4  # lengths that differ by less share batches, so that tasks mix


@dataclass(frozen=True)
class Task:
    """A kind of training example.

    Attributes:
        name: "next/text", "joint", "align/text/image", "cross/text/image", "direct/text".
        kind: the source is a history and the target its next item, or both are one item; direct: the source is the
            user alone, the target the next item.
        source, target: how they are written.
        prompt: number of the task's own prompt tokens in the vocabulary; -1 for none.
    """

    name: str
    kind: Literal["next", "item", "direct"]
    source: Writing
    target: Writing
    prompt: int = -1


Family = tuple[Task, ...]  # tasks of which every example draws one, anew in each epoch


def expand(words: Iterable[str], segments: dict[str, tuple[tuple[str, int], ...]]) -> dict[str, tuple[Family, ...]]:
    """Return word -> families of tasks over the views; prompts are numbered in the order of joint, align, cross.

    A word that needs two views expands to nothing where there is one. Alignment then pairs the view's segments, if it
    has several: that is MGR-LF++'s first stage (lineage.md 3.5).
    """
    views = tuple(segments)
    parts = [(view,) for view in views]
    if len(views) == 1:
        parts = [(f"{views[0]}:{stream}",) for stream, _ in segments[views[0]]]
    pairs = list(permutations(parts, 2))
    crossed = pairs if len(views) > 1 else []
    given, prompt = set(words), 0
    families: dict[str, tuple[Family, ...]] = {}
    for word in ("next", "joint", "align", "cross", "direct"):
        if word not in given:
            continue
        if word == "next":
            tasks = [Task(f"next/{view}", "next", (view,), (view,)) for view in views]
        elif word == "direct":
            tasks = [Task(f"direct/{view}", "direct", (), (view,)) for view in views]
        elif word == "joint":
            tasks = [Task("joint", "next", views, views, prompt)] if len(views) > 1 else []
        else:
            kind: Literal["next", "item"] = "item" if word == "align" else "next"
            directions = enumerate(pairs if word == "align" else crossed, prompt)
            tasks = [Task(f"{word}/{a[0]}/{b[0]}", kind, a, b, number) for number, (a, b) in directions]
        prompt += sum(task.prompt >= 0 for task in tasks)
        families[word] = ((tuple(tasks),) if tasks else ()) if word == "cross" else tuple((task,) for task in tasks)
        if not tasks:
            log.info("task %s needs two views; there is one (%s), so it gives no examples", word, views[0])
    if not any(families.values()):
        raise Refused(f"generator.tasks={sorted(given)} give no examples with the views {list(views)}; add next")
    return families


def write(vocabulary: Vocabulary, writing: Writing) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens int32 [items, width], lengths int32 [items]) of all items in a writing, without eos."""
    if all(name in vocabulary.ids.views for name in writing):
        return vocabulary.joined(writing)
    (name,) = writing
    view, stream = name.rsplit(":", 1)
    codes, at = np.full_like(vocabulary.ids.views[view], -1), 0
    for segment, levels in vocabulary.ids.segments[view]:
        if segment == stream:
            codes[:, at : at + levels] = vocabulary.ids.views[view][:, at : at + levels]
        at += levels
    tokens, lengths = vocabulary.write(view, codes)
    # the token that tells colliding items apart belongs to the whole ID, not to a segment
    return tokens, lengths - (lengths > 0) * int(vocabulary.ids.has_suffix(view))


def with_pictures(
    tokens: np.ndarray, lengths: np.ndarray, marks: Marks, picture: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (tokens, lengths, pictures) of items with the visual tokens of each behind its own.

    Pictures int32 [items, width] number the visual tokens of all items, `marks.visual` each; an item without a picture,
    or without an ID, has none.
    """
    more = np.where(marks.present.cpu().numpy() & (lengths > 0), marks.visual, 0).astype(lengths.dtype)
    place = np.arange(tokens.shape[1] + marks.visual) - lengths[:, None]
    inside = (place >= 0) & (place < more[:, None])
    wide = np.pad(tokens, ((0, 0), (0, marks.visual)))
    shown = np.where(inside, np.arange(len(tokens))[:, None] * marks.visual + place, NO_PICTURE).astype(np.int32)
    return np.where(inside, picture, wide).astype(np.int32), lengths + more, shown


class Spans(NamedTuple):
    """Examples as places in a `TokenStore`: int64 [examples] each."""

    source_first: np.ndarray
    source_length: np.ndarray
    target_first: np.ndarray
    target_length: np.ndarray
    prompt: np.ndarray
    user: np.ndarray  # the user's token; -1 for none

    @property
    def usable(self) -> np.ndarray:
        """Return bool [examples]: there is a history or a user, and a target."""
        return ((self.source_length > 0) | (self.user >= 0)) & (self.target_length > 0)

    def take(self, index: np.ndarray) -> "Spans":
        """Return the examples at an index."""
        return Spans(*(part[index] for part in self))

    @staticmethod
    def join(parts: Sequence["Spans"]) -> "Spans":
        """Return the examples of all parts in order."""
        return Spans(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class TokenStore:
    """All tokens that tasks read, as one array on the device, and where in it a history or an item is written."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequences: Sequences,
        tasks: Iterable[Task],
        device: str | torch.device = "cpu",
        partner: np.ndarray | None = None,
        marks: Marks | None = None,
        among: np.ndarray | None = None,
    ) -> None:
        """Lay out the tokens.

        Args:
            among: bool [items], the items that tasks of items have an example of; None: all.
            partner: int64 [items], the item whose ID alignment asks for, by default the same.
            marks: what the model is told besides tokens; sources are marked so, and show the pictures of a history.
        """
        self.device, self._vocabulary = torch.device(device), vocabulary
        self._partner, self._marks, self._among = partner, marks, among
        self._ends: dict[tuple[str, Writing], np.ndarray] = {}
        arrays, words, pictures, size = [], [], [], 0
        read = {(task.kind, task.source) for task in tasks if task.kind != "direct"}
        for kind, writing in sorted(read | {("item", task.target) for task in tasks}):
            tokens, lengths = write(vocabulary, writing)
            shown = np.full_like(tokens, NO_PICTURE)
            if kind == "next":
                if marks is not None and marks.visual:
                    tokens, lengths, shown = with_pictures(tokens, lengths, marks, vocabulary.picture)
                tokens, lengths, shown = (part[sequences.items] for part in (tokens, lengths, shown))
            arrays.append(tokens[np.arange(tokens.shape[1]) < lengths[:, None]])
            pictures.append(shown[np.arange(shown.shape[1]) < lengths[:, None]])
            words.append(np.repeat(np.cumsum(lengths > 0, dtype=np.int32), lengths))
            self._ends[kind, writing] = size + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            size += len(arrays[-1])
        # words are running numbers of the items that are written; a source counts from its own first one
        self.tokens, self.words, self.pictures = (
            torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *parts])).to(self.device)
            for parts in (arrays, words, pictures)
        )
        n_prompts = max([task.prompt for task in tasks], default=-1) + 1
        rows = np.zeros((n_prompts + 1, len(vocabulary.prompts(0)) if n_prompts else 0), np.int32)
        for number in range(n_prompts):
            rows[number] = vocabulary.prompts(number)
        self.prompts = torch.from_numpy(rows).to(self.device)  # the last row, of -1, is never read

    @property
    def n_prompt_tokens(self) -> int:
        """Return the length of a prompt."""
        return self.prompts.shape[1]

    def spans(self, task: Task, examples: Examples | None) -> Spans:
        """Return the examples of a task: one per history, or one per item where `examples` is None."""
        out = self._ends["item", task.target]
        if task.kind == "item":
            first = np.arange(len(out) - 1) if self._among is None else np.flatnonzero(self._among)
            stop, target = first + 1, first if self._partner is None else self._partner[first]
        else:
            assert examples is not None
            first, stop, target = examples.start, examples.end, examples.target.astype(np.int64)
        begin = length = np.zeros(len(first), np.int64)
        if task.kind != "direct":
            source = self._ends[task.kind, task.source]
            begin, length = source[first], source[stop] - source[first]
        prompt, user = np.full(len(first), task.prompt), np.full(len(first), -1)
        if self._vocabulary.users and task.kind != "item" and examples is not None:
            user = self._vocabulary.user_tokens(examples.users)
        return Spans(begin, length, out[target], out[target + 1] - out[target], prompt, user)

    def source_widths(self, spans: Spans) -> np.ndarray:
        """Return int64 [examples]: tokens of the source with prompt, user and eos."""
        return spans.source_length + (spans.prompt >= 0) * self.n_prompt_tokens + (spans.user >= 0) + 1

    def on_device(self, spans: Spans) -> Int[Tensor, "examples 6"]:
        """Return the examples as one tensor on the device."""
        return torch.from_numpy(np.stack(spans, axis=1)).to(self.device)

    def sources(self, spans: Int[Tensor, "batch 6"], width: int) -> Int[Tensor, "batch width"] | Source:
        """Return prompt + user + tokens + eos of each example, padded to `width`; marked if the model reads marks."""
        first, length, prompt, user = spans[:, :1], spans[:, 1:2], spans[:, 4:5], spans[:, 5:]
        n_prompt = (prompt >= 0) * self.n_prompt_tokens
        before = n_prompt + (user >= 0)
        source, position = self._slices(first, length, before, width), torch.arange(width, device=self.device)
        if self.n_prompt_tokens:
            told = self.prompts[prompt, position.clamp(max=self.n_prompt_tokens - 1)].long()
            source = torch.where(position < n_prompt, told, source)
        if self._vocabulary.users:
            source = torch.where((position == n_prompt) & (user >= 0), user, source)
        if self._marks is None:
            return source
        at = position - before
        inside, place = (at >= 0) & (at < length), (first + at).clamp(0, len(self.words) - 1)
        words = torch.where(inside, self.words[place] - self.words[first] + 1, 0)
        return Source(source, words.long(), torch.where(inside, self.pictures[place], NO_PICTURE).long())

    def targets(self, spans: Int[Tensor, "batch 6"], width: int) -> Int[Tensor, "batch width"]:
        """Return tokens + eos of each example's target, padded to `width`."""
        return self._slices(spans[:, 2:3], spans[:, 3:4], torch.zeros_like(spans[:, :1]), width)

    def _slices(self, first: Tensor, length: Tensor, shift: Tensor, width: int) -> Tensor:
        at = torch.arange(width, device=self.device) - shift
        tokens = self.tokens[(first + at).clamp(0, len(self.tokens) - 1)].long()
        tokens = torch.where((at >= 0) & (at < length), tokens, PAD)
        return torch.where(at == length, EOS, tokens)


def draw_epoch(store: TokenStore, families: Sequence[Family], examples: Examples, seed: int, epoch: int) -> Spans:
    """Return an epoch's examples, all families one after the other; a family of several tasks draws one per example.

    The draw is uniform over the tasks in which the example has both a history and a target, and depends on
    (seed, epoch) alone. Examples without any are left out.
    """
    parts = []
    for number, family in enumerate(families):
        options = [store.spans(task, None if task.kind == "item" else examples) for task in family]
        usable = np.stack([option.usable for option in options])
        if len(options) > 1:
            draw = seeds.generator(seed, "tasks", number, epoch).random(usable.shape[1])
            # the j-th usable task of an example, j uniform
            wanted = (draw * usable.sum(axis=0)).astype(np.int64) + 1
            chosen = (usable & (np.cumsum(usable, axis=0) == wanted)).argmax(axis=0)
        else:
            chosen = np.zeros(usable.shape[1], np.int64)
        columns = [np.stack(column)[chosen, np.arange(len(chosen))] for column in zip(*options, strict=True)]
        parts.append(Spans(*columns).take(np.flatnonzero(usable.any(axis=0))))
    return Spans.join(parts)


def order_in_batches(
    widths: np.ndarray, minor: np.ndarray, batch: int, seed: int | None, epoch: int = 0
) -> list[np.ndarray]:
    """Return the batches of an epoch as index arrays: examples of like length together, batches in random order.

    Examples are shuffled, cut into windows of 64 batches, sorted by `widths` inside each (roughly, so that tasks mix),
    cut into batches, and the batches are shuffled. With seed None all are sorted by (`widths`, `minor`) and stay so.
    """
    n = len(widths)
    if seed is None:
        order = np.lexsort([np.arange(n), minor, widths])
        return [order[first : first + batch] for first in range(0, n, batch)]
    generator = seeds.generator(seed, "batches", epoch)
    rank = generator.permutation(n)
    order = np.lexsort([rank, widths // ALIKE, rank // (WINDOW * batch)])
    batches = [order[first : first + batch] for first in range(0, n, batch)]
    return [batches[i] for i in generator.permutation(len(batches))]


def batches(
    store: TokenStore, spans: Spans, batch: int, seed: int | None = None, epoch: int = 0
) -> Iterator[tuple[Int[Tensor, "batch source"] | Source, Int[Tensor, "batch target"]]]:
    """Yield (source, target) tokens of all examples, in the order of `order_in_batches`."""
    widths, targets = store.source_widths(spans), spans.target_length + 1
    plan = store.on_device(spans)
    for index in order_in_batches(widths, targets, batch, seed, epoch):
        rows = plan[torch.from_numpy(index).to(store.device)]
        yield store.sources(rows, int(widths[index].max())), store.targets(rows, int(targets[index].max()))
