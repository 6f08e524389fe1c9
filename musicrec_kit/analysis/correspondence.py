"""Modality correspondence (MGR Findings 2 and 3): does the generator write the picture that belongs to the text?

Three measures. Teacher-forced, place by place: what is the next code worth to a model that was given the right ones
before it? Decoded: which parts of the written IDs are right, and do they belong together? And by the alignment task:
an item's ID in one modality in, its ID in the other out.

Each stands beside what knowing the catalogue alone would give, computed exactly, because IDs are neither all distinct
in one modality nor independent between two.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit import training
from musicrec_kit.analysis.written_ids import ITEM, KINDS, Written, parts_of, places_of, whole_task
from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.generation import tasks
from musicrec_kit.generation.beam_search import search
from musicrec_kit.generation.fit import WEIGHTS, Generator
from musicrec_kit.generation.legal import NOWHERE, make_legal
from musicrec_kit.generation.legal_softmax import LegalSoftmax
from musicrec_kit.generation.marks import Source
from musicrec_kit.generation.tasks import Task
from musicrec_kit.ids.collisions import group_of
from musicrec_kit.ids.vocabulary import PAD


def after_stages(generator: Generator, folder: Path) -> dict[str, Generator]:
    """Return the generator as it was after each training stage, by the stage's tasks ("align", "next").

    Args:
        folder: of stage 05, which keeps the weights of every training stage where there are several.
    """
    stages = generator.params.stages or (generator.params.tasks,)
    made = {}
    for number, words in enumerate(stages):
        model = generator.model
        if number + 1 < len(stages):
            model = copy.deepcopy(generator.model)
            training.load_weights(model, folder / f"stage_{number}" / WEIGHTS)
        made["+".join(words)] = replace(generator, model=model)
    return made


# --- teacher-forced --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def by_place(
    generator: Generator,
    sequences: Sequences,
    examples: Examples | None,
    task: Task | None = None,
    batch: int = 256,
) -> pd.DataFrame:
    """Return, for every place of the ID, how well the model tells its token when all before it are given.

    Columns: place; switch (the first code of a new modality); targets; cross_entropy (nats; over what the model was
    trained to tell a token from) and accuracy of the model; catalogue_entropy and catalogue_accuracy: the same of one
    who knows every ID by heart and nothing of the user, and takes a random item among those whose ID begins as given.
    A model above `catalogue_entropy` does not even know which codes go with those before them.

    Args:
        examples: histories and targets; None for a task that reads an item.
        task: None: the one that writes a whole ID.
    """
    task = task or whole_task(generator)
    places, of_token = places_of(generator.vocabulary, task.target)
    place_of = torch.from_numpy(of_token).to(generator.device)
    legal = LegalSoftmax(generator.vocabulary, generator.every_task, generator.device) if _is_legal(generator) else None
    shares = make_legal(generator.vocabulary, task.target, "joint", generator.device)
    below = torch.cat([shares.items_below, shares.items_below.new_zeros(1)])
    below[0] = len(shares.tree.leaf_items)
    store = generator.store(sequences, [task])
    spans = store.spans(task, examples)
    spans = spans.take(np.flatnonzero(spans.usable))
    sums = torch.zeros(len(places), 5, dtype=torch.float64, device=generator.device)
    generator.model.eval()
    for source, target in tasks.batches(store, spans, batch):
        errors, right = _told(generator, legal, source, target)
        share = _share_of_catalogue(shares, below, target)
        live = target != PAD
        columns = [torch.ones_like(errors), errors, right, -share.log(), share]
        sums.index_add_(0, place_of[target[live]], torch.stack([column[live].double() for column in columns], dim=1))
    counts, means = sums[:, 0].cpu().numpy(), (sums[:, 1:] / sums[:, :1].clamp(min=1)).cpu().numpy()
    names = ["cross_entropy", "accuracy", "catalogue_entropy", "catalogue_accuracy"]
    first = [at > 0 and place.part > 0 and places[at - 1].part != place.part for at, place in enumerate(places)]
    about = {"place": [place.name for place in places], "switch": first, "targets": counts.astype(np.int64)}
    table = pd.DataFrame({**about, **dict(zip(names, means.T, strict=True))})
    return table[table["targets"] > 0].reset_index(drop=True)


def _is_legal(generator: Generator) -> bool:
    return generator.params.softmax == "legal"


def _told(
    generator: Generator, legal: LegalSoftmax | None, source: Tensor | Source, target: Int[Tensor, "batch length"]
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """Return the cross-entropy of every target token, and whether it is the first choice (ties: it is not)."""
    logits = generator.model(source, target).float()
    own = logits.gather(-1, target[..., None])
    if legal is not None:
        token, there = legal.siblings(target)
        logits = logits.gather(-1, token).masked_fill(~there, torch.finfo(logits.dtype).min)
    return (logits.logsumexp(-1) - own[..., 0]), ((logits >= own).sum(-1) == 1).float()


def _share_of_catalogue(legal: Any, below: Tensor, target: Int[Tensor, "batch length"]) -> Tensor:
    """Return, for every target token, its share among the items whose ID begins like the target's."""
    node, shares = torch.zeros_like(target[:, 0]), []
    for token in target.unbind(1):
        after = legal.walk(node, token)
        shares.append(torch.where(token == PAD, 1.0, below[after] / below[node].clamp(min=1)))
        node = after
    return torch.stack(shares, dim=1)


# --- decoded ---------------------------------------------------------------------------------------------------------


def kinds_of(written: Written, k: int = 5) -> dict[str, float]:
    """Return the share of the first k written IDs that are some item's, mismatches, and invalid."""
    kinds = written.kinds[:, :k]
    counts = np.bincount(kinds.ravel(), minlength=len(KINDS))[: len(KINDS) - 1]
    return {name: float(count / max(1, counts.sum())) for name, count in zip(KINDS, counts, strict=False)}


def hits_by_part(written: Written, k: int = 5) -> dict[str, float]:
    """Return hits@k of each part and of the whole ID (MGR Table 3): has any of the first k written IDs the target's?

    A part's hit is the easier, the more items share it: it is a fact about the decoder only beside the whole ID's.
    """
    right = written.numbers[:, :k] == written.of_items[written.targets][:, None]
    right &= written.numbers[:, :k] >= 0
    hits = {part: float(right[:, :, p].any(axis=1).mean()) for p, part in enumerate(written.parts)}
    whole = written.items[:, :k] == written.leaf_of_item[written.targets][:, None]
    return {**hits, "whole": float((whole & (written.kinds[:, :k] == ITEM)).any(axis=1).mean())}


def by_place_after_stages(
    stages: Mapping[str, Mapping[str, Generator]], sequences: Sequences, examples: Examples
) -> pd.DataFrame:
    """Return `by_place` of several rows after each of their training stages, the columns `row` and `after` first.

    Args:
        stages: row -> tasks of a stage -> the generator after it (`after_stages`).
    """
    tables = [
        by_place(generator, sequences, examples).assign(row=row, after=after)
        for row, found in stages.items()
        for after, generator in found.items()
    ]
    return pd.concat(tables, ignore_index=True).set_index(["row", "after"]).reset_index()


def by_place_decoded(written: Written) -> pd.DataFrame:
    """Return, for every place of the target's ID, how often the first written ID has the same token at that position.

    Columns: place, targets, decoded (share right), decoded_given_right (the same, where all before it are right).
    """
    target, first = written.item_tokens[written.targets], written.tokens[:, 0]
    width = max(target.shape[1], first.shape[1])
    target, first = (np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (target, first))
    right = target == first
    before = np.cumprod(np.pad(right, ((0, 0), (1, 0)), constant_values=True)[:, :-1], axis=1).astype(bool)
    place = np.where(target == PAD, -1, written.place_of_token[target])
    rows = []
    for number, (name, _) in enumerate(written.places):
        asked = place == number
        if asked.any():
            rows.append((name, int(asked.sum()), _mean(right[asked]), _mean(right[asked & before])))
    return pd.DataFrame(rows, columns=["place", "targets", "decoded", "decoded_given_right"])


def over_places(told: Mapping[str, pd.DataFrame], decoded: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return tables of `by_place` and of `by_place_decoded`, by row, as one long table to draw.

    Columns: row ("(catalogue)": the yardstick), place (in order), switch, measure, value.
    """
    longest = max(told.values(), key=len)  # its places hold those of all others
    yardstick = longest[["place", "switch"]].assign(row="(catalogue)")
    yardstick = yardstick.assign(cross_entropy=longest["catalogue_entropy"], accuracy=longest["catalogue_accuracy"])
    parts = [found.merge(decoded[row], on="place", how="left").assign(row=row) for row, found in told.items()]
    names = {
        "cross_entropy": "cross-entropy (nats)",
        "accuracy": "accuracy, codes before it given",
        "decoded_given_right": "first written ID, if right so far",
    }
    wide = pd.concat([*parts, yardstick], ignore_index=True)
    long = wide.melt(["row", "place", "switch"], list(names), "measure", "value").dropna(subset=["value"])
    place = pd.Categorical(long["place"], longest["place"])
    return long.assign(measure=long["measure"].map(names), place=place).reset_index(drop=True)


def correspondence(written: Written, given: int = 0, asked: int = 1) -> dict[str, float]:
    """Return how often the `asked` part of the first written ID is right where its `given` part is right.

    Chance draws, for every such example, an item at random among those that share the target's given part (for
    `right`), or among all items (for `together`); it is computed, not drawn.

    Returns:
        examples; given_right: how many of them; together: share of these whose two parts some item has together;
        together_chance; right: share whose asked part is the target's, too; right_chance; chance_sd: standard deviation
        of `right` under chance.
    """
    target, first = written.of_items[written.targets], written.numbers[:, 0]
    rows = np.flatnonzero((first[:, given] == target[:, given]) & (target[:, [given, asked]] >= 0).all(axis=1))
    first, target = first[rows], target[rows]
    known = written.of_items[(written.of_items[:, [given, asked]] >= 0).all(axis=1)]
    pairs = {pair: n for pair, n in zip(*_distinct(known[:, [given, asked]]), strict=True)}
    of_given, of_asked = (dict(zip(*_distinct(known[:, [part]]), strict=True)) for part in (given, asked))
    partners: dict[tuple[int, ...], int] = {}
    for a, b in pairs:
        partners[a,] = partners.get((a,), 0) + of_asked[b,]
    right = np.array([pairs[a, b] / of_given[a,] for a, b in target[:, [given, asked]].tolist()])
    return {
        "examples": len(written.targets),
        "given_right": len(rows),
        "together": _mean([tuple(pair) in pairs for pair in first[:, [given, asked]].tolist()]),
        "together_chance": _mean([partners[a,] / len(known) for a in target[:, given].tolist()]),
        "right": _mean(first[:, asked] == target[:, asked]),
        "right_chance": _mean(right),
        "chance_sd": float(np.sqrt((right * (1 - right)).sum()) / len(rows)) if len(rows) else np.nan,
    }


def table(made: Mapping[tuple[str, str], Written], k: int = 5) -> pd.DataFrame:
    """Return `kinds_of` the first k and `correspondence` of the first written ID, one row per (row, tree)."""
    rows = [{"row": row, "tree": tree, **kinds_of(w, k), **correspondence(w)} for (row, tree), w in made.items()]
    return pd.DataFrame(rows)


def _distinct(rows: np.ndarray) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the distinct rows and how often each occurs."""
    found, counts = np.unique(rows, axis=0, return_counts=True)
    return [tuple(row) for row in found.tolist()], counts.tolist()


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# --- by the alignment task -------------------------------------------------------------------------------------------


@torch.inference_mode()
def alignment_accuracy(generator: Generator, sequences: Sequences, batch: int = 256, beam: int = 5) -> pd.DataFrame:
    """Return how often an item's ID in one modality is turned into its ID in another, over all items that have both.

    For views by modality and for one view of several modalities. The decoder is held to the IDs that the other modality
    has; the answer is the best of `beam`. A generator that never trained the task is asked without its prompt.

    Columns: source, target, trained, items, accuracy; blind: the most common answer of all; catalogue: a random item
    among those that share the source's ID; best: the most common answer of each source ID, which no method can beat.
    """
    trained = generator.tasks("align")
    asked = trained or [
        replace(task, prompt=-1)
        for family in tasks.expand(("align",), generator.ids.segments)["align"]
        for task in family
    ]
    store = generator.store(sequences, asked)
    model, rows = generator.model.eval(), []
    for task in asked:
        spans = store.spans(task, None)
        items = np.flatnonzero(spans.usable)
        legal = make_legal(generator.vocabulary, task.target, "joint", generator.device, generator.params.softmax)
        widths = store.source_widths(spans)[items]
        answer = np.zeros(len(items), np.int64)
        for index in tasks.order_in_batches(widths, np.zeros_like(widths), batch, None):
            source = store.sources(store.on_device(spans.take(items[index])), int(widths[index].max()))
            answer[index] = search(model, legal, model.encode(source), beam).leaf[:, 0].cpu().numpy()
        own = legal.leaf_of_item(generator.ids.n_items)[items]
        given = group_of(tasks.write(generator.vocabulary, task.source)[0][items])
        (source_name,), (target_name,) = (parts_of(generator.vocabulary, w) for w in (task.source, task.target))
        about = {"source": source_name, "target": target_name, "trained": bool(trained), "items": len(items)}
        right = (answer == own) & (answer != NOWHERE)
        rows.append({**about, "accuracy": _mean(right), **_guesses(given, own)})
    return pd.DataFrame(rows)


def _guesses(given: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Return the accuracy of the most common answer, of a random item of the same group, and of each group's best."""
    counts = pd.DataFrame({"given": given, "wanted": wanted}).value_counts().reset_index(name="n")
    whole = counts.groupby("given")["n"].agg(["sum", "max"])
    drawn = (counts["n"] ** 2 / whole["sum"].loc[counts["given"]].to_numpy()).sum()
    found = {"blind": np.bincount(wanted).max(initial=0), "catalogue": drawn, "best": whole["max"].sum()}
    return {name: float(right / max(1, len(given))) for name, right in found.items()}
