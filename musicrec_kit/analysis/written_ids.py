"""IDs as a decoder writes them, taken apart: which part belongs to which modality, and is there such an item?

An ID of several modalities has one *part* per modality (stream), in the order of writing. Under `rank.tree=free` a
decoder may write anything, under `per_modality` any parts that some items have; so a written ID is one of

- `item`: some item's whole ID;
- `mismatch`: parts that items have, each by itself, but that no item has together (MGR Finding 2);
- `invalid`: anything else, such as a part that no item has, or a code at the wrong place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.generation import tasks
from musicrec_kit.generation.beam_search import Score, written_search
from musicrec_kit.generation.fit import Generator
from musicrec_kit.generation.legal import NOWHERE, Legal, make_legal
from musicrec_kit.generation.tasks import Task, Writing
from musicrec_kit.ids.collisions import group_of
from musicrec_kit.ids.vocabulary import EOS, PAD, Vocabulary
from musicrec_kit.params import Refused

KINDS = ("item", "mismatch", "invalid", "nothing")  # nothing: the beam was wider than what can be written
ITEM, MISMATCH, INVALID, NOTHING = range(len(KINDS))


def whole_task(generator: Generator) -> Task:
    """Return the trained task that writes every modality of an item: `joint`, or `next` where there is one view.

    Raises:
        Refused: no task writes more than one modality.
    """
    found = generator.tasks("joint") or generator.tasks("next")
    if not found or len(parts_of(generator.vocabulary, found[0].target)) < 2:
        raise Refused(
            f"no task of this generator writes two modalities one after the other (views {generator.ids.segments}); "
            "take a method whose view has several modalities, or one that trains joint"
        )
    return found[0]


def parts_of(vocabulary: Vocabulary, writing: Writing) -> tuple[str, ...]:
    """Return the modalities (streams) that a writing has, in order.

    Raises:
        Refused: tokens do not tell their modality, because shared levels are written with the same ones.
    """
    segments = vocabulary.ids.segments
    streams = [name.rsplit(":", 1)[1:] or [stream for stream, _ in segments[name]] for name in writing]
    parts = tuple(stream for part in streams for stream in part)
    if len(parts) > 1 and vocabulary.params.tie_shared_tokens and vocabulary.ids.shared_levels:
        raise Refused("ids.tie_shared_tokens=true: a shared token does not tell its modality; set it to false")
    return parts


class Place(NamedTuple):
    """A place of an ID: "image 2", "separator", "suffix" or "end", and the part that it belongs to (-1: none)."""

    name: str
    part: int


def places_of(vocabulary: Vocabulary, writing: Writing) -> tuple[list[Place], np.ndarray]:
    """Return the places of a writing in order, and the place of every token (-1: not used here), int64 [tokens]."""
    parts, places, of_token = parts_of(vocabulary, writing), list[Place](), np.full(vocabulary.size, -1)

    def add(name: str, part: int, first: int, size: int = 1) -> None:
        of_token[first : first + size] = len(places)
        places.append(Place(name, part))

    several = len(vocabulary.separators) > 1
    for number, part in enumerate(parts):
        if number and vocabulary.separators and len(writing) == 1:
            add(f"separator {number}" if several else "separator", -1, vocabulary.separators[number - 1])
        blocks = [block for block in vocabulary.blocks if block.kind == "code" and block.key[0] in (part, "")]
        for block in sorted(blocks, key=lambda block: int(block.key[1])):
            add(f"{part} {int(block.key[1]) + 1}", number, block.first, block.size)
    for block in vocabulary.blocks:
        if block.kind == "suffix" and block.key[0] in writing:
            add("suffix", -1, block.first, block.size)
    add("end", -1, EOS)
    return places, of_token


@dataclass(frozen=True, eq=False)
class Written:
    """What a decoder wrote for every example, best first, beside what it should have written.

    Attributes:
        parts: the modalities, in order of writing.
        places, place_of_token: as `places_of` gives them.
        tokens: int64 [examples, width, depth], closed by eos and padded.
        kinds: int8 [examples, width], index into KINDS.
        items: int64 [examples, width]: the lowest item that has the ID; -1: none has it.
        numbers: int64 [examples, width, parts]: number of each part, equal for equal parts; -1: no item has it.
        of_items: int64 [items, parts]: the same numbers for every item; -1: it lacks the part.
        item_tokens: int64 [items, depth]: every item's ID, closed by eos and padded.
        leaf_of_item: int64 [items]: the lowest item with the same whole ID; -1: none.
        targets: int64 [examples].
    """

    parts: tuple[str, ...]
    places: tuple[Place, ...]
    place_of_token: np.ndarray
    tokens: np.ndarray
    kinds: np.ndarray
    items: np.ndarray
    numbers: np.ndarray
    of_items: np.ndarray
    item_tokens: np.ndarray
    leaf_of_item: np.ndarray
    targets: np.ndarray


@torch.inference_mode()
def written(
    generator: Generator,
    sequences: Sequences,
    examples: Examples,
    tree: str = "free",
    *,
    beam: int = 20,
    width: int = 5,
    score: Score = "lineage",
    batch: int = 128,
) -> Written:
    """Return the `width` best IDs that beam search writes for every example under a tree switch (lineage row 68).

    Examples whose target has no ID are left out.

    Raises:
        Refused: the model was trained to tell legal tokens apart only, and would now have to know which are legal.
    """
    if tree != "joint" and generator.params.softmax == "legal":
        raise Refused(f"rank.tree={tree} needs a model trained with generator.softmax=vocabulary; this one has legal")
    task, model = whole_task(generator), generator.model.eval()
    has_id = tasks.write(generator.vocabulary, task.target)[1] > 0
    examples = examples.take(np.flatnonzero(has_id[examples.target]))
    legal = make_legal(generator.vocabulary, task.target, tree, generator.device, generator.params.softmax)
    store = generator.store(sequences, [task])
    spans = store.spans(task, examples)
    widths = store.source_widths(spans)
    tokens = np.full((len(examples), width, len(legal.levels)), PAD)
    for index in tasks.order_in_batches(widths, np.zeros_like(widths), batch, None):
        source = store.sources(store.on_device(spans.take(index)), int(widths[index].max()))
        found, some = written_search(model, legal, model.encode(source), beam, score)
        some = some.masked_fill(~torch.isfinite(found.lineage)[..., None], PAD)[:, :width]
        tokens[index, : some.shape[1]] = some.cpu().numpy()
    return read_written(generator.vocabulary, task.target, tokens, examples.target.astype(np.int64))


def read_written(vocabulary: Vocabulary, writing: Writing, tokens: np.ndarray, targets: np.ndarray) -> Written:
    """Return written IDs, tokens int [examples, width, depth] closed by eos and padded, taken apart."""
    item_tokens, lengths = tasks.write(vocabulary, writing)
    item_tokens = _closed(item_tokens, lengths)
    places, place = places_of(vocabulary, writing)
    part_of = np.where(place >= 0, np.array([at.part for at in places])[place], -1)
    flat = tokens.reshape(-1, tokens.shape[-1])
    parts = parts_of(vocabulary, writing)
    numbers = np.stack(
        [_numbers(*(_only(rows, part_of[rows] == p) for rows in (item_tokens, flat))) for p in range(len(parts))], 1
    )
    of_items, found = numbers[: len(lengths)], numbers[len(lengths) :]
    legal = make_legal(vocabulary, writing, "per_modality")
    whole = make_legal(vocabulary, writing, "joint")
    leaf = ends_of(whole, torch.from_numpy(flat)).numpy()
    first_item = np.append(
        whole.tree.leaf_items[whole.tree.leaf_first[:-1].clamp(max=len(whole.tree.leaf_items) - 1)].numpy(), -1
    )
    items = np.where(leaf == NOWHERE, -1, first_item[leaf])
    alone = (ends_of(legal, torch.from_numpy(flat)) != NOWHERE).numpy()
    together = _rows_in(found, of_items[lengths > 0])
    kinds = np.select([items >= 0, alone & ~together, (flat != PAD).any(axis=1)], [ITEM, MISMATCH, INVALID], NOTHING)
    shape = tokens.shape[:2]
    own = whole.leaf_of_item(len(lengths))
    return Written(
        parts=parts,
        places=tuple(places),
        place_of_token=place,
        tokens=tokens.astype(np.int64),
        kinds=kinds.astype(np.int8).reshape(shape),
        items=items.reshape(shape),
        numbers=found.reshape(*shape, len(parts)),
        of_items=of_items,
        item_tokens=item_tokens,
        leaf_of_item=np.where(own == NOWHERE, -1, first_item[own]),
        targets=np.asarray(targets, np.int64),
    )


def ends_of(legal: Legal, tokens: torch.Tensor) -> torch.Tensor:
    """Return the state in which each row of tokens [rows, depth] ends after its eos; NOWHERE if a move is not there."""
    keys = torch.repeat_interleave(legal.count) * legal.n_tokens + legal.token
    state, ended = torch.zeros(len(tokens), dtype=torch.long), torch.zeros(len(tokens), dtype=torch.bool)
    for column in tokens.long().unbind(1):
        wanted = state * legal.n_tokens + column
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        there = (keys[at] == wanted) & (state != NOWHERE)
        state = torch.where(ended, state, torch.where(there, legal.state[at], NOWHERE))
        ended |= column == EOS
    return torch.where(ended, state, NOWHERE)


def _closed(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return tokens int64 [items, width + 1] with eos behind every ID."""
    wide = np.pad(tokens.astype(np.int64), ((0, 0), (0, 1)))
    rows = np.flatnonzero(lengths > 0)
    wide[rows, lengths[rows]] = EOS
    return wide


def _only(rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return rows with the kept tokens moved to the left and padding behind them."""
    order = np.argsort(~kept, axis=1, kind="stable")
    return np.take_along_axis(np.where(kept, rows, PAD), order, axis=1)


def _numbers(of_items: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return one number per row of both, equal for equal rows; -1 for an empty part, and for one that no item has."""
    width = max(of_items.shape[1], found.shape[1])
    rows = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in (of_items, found)])
    numbers = np.where((rows != PAD).any(axis=1), group_of(rows), -1)
    return np.where(np.isin(numbers, numbers[: len(of_items)]), numbers, -1)


def _rows_in(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return bool [rows]: whether a row of numbers is one of the known rows."""
    groups = group_of(np.concatenate([known, rows]))
    return np.isin(groups[len(known) :], groups[: len(known)])
