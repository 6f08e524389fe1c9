"""Row `evaluation`: from the IDs that two views' decoders return to merged lists and metrics of every user.

The usual way is the lineage's (lineage.md sections 3.1 and 4): a dict from ID strings to items, a walk over the ranks
of both lists into a dict per user, `sorted`, and a function per metric, user and cut-off. Where it leaves a choice open
both ways follow the kit: colliding items stand in drawn order, and a target behind every item of equal score and
another ID. Its lists of strings are made before the clock starts, as its decoder's output is read from a file.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from musicrec_kit.evaluation import RankedList, Rankings, summarize
from musicrec_kit.evaluation.metrics import CUTOFFS
from musicrec_kit.generation import lists
from musicrec_kit.generation.beam_search import Found
from musicrec_kit.generation.legal import make_legal
from musicrec_kit.generation.ranking import ranked_list
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import IdsParams
from tests.benchmarks.harness import Row, Side
from tests.reference_generation import make_ids

USERS, ITEMS, BEAMS, LEVELS, CODES = 100_000, 6_250, 20, 4, 256
VIEWS = ("text", "image")
COLLIDING = 0.04  # share of the items whose ID in the text view another item has (lineage.md 2.2)
AT_ONCE = 2_048  # users
FIELDS = ("items", "scores", "target_rank")

Lists = dict[str, list[tuple[list[str], list[float]]]]
Results = tuple[dict[str, np.ndarray], dict[str, float]]


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the row of merging and metrics."""
    world = World(max(20, int(USERS * scale)))
    yield Row(
        name="evaluation",
        unit="users",
        units=world.n_users,
        data=f"{world.n_users:,} users, {len(VIEWS)} views of {BEAMS} IDs, {ITEMS:,} items",
        usual=Side("dicts, sorted(), a function per user", world.by_loops),
        ours=[Side("ranks as tensors", world.by_kit)],
        agree=_agree,
        targets={"ranks as tensors": 50},
    )


class World:
    """Made IDs with collisions, and what beam search found for made users: distinct IDs, distinct scores."""

    def __init__(self, n_users: int) -> None:
        """Draw it."""
        generator = np.random.default_rng(0)
        self.n_users = n_users
        vocabulary = Vocabulary.from_ids(make_ids(_codes(generator), CODES), IdsParams(), 0)
        self.legal = {view: make_legal(vocabulary, (view,), "joint") for view in VIEWS}
        self.leaf_items = {view: lists.shuffled_leaves(legal, 0) for view, legal in self.legal.items()}
        self.targets = torch.from_numpy(generator.integers(0, ITEMS, n_users))
        self.leaf_of = {view: legal.leaf_of_item(ITEMS) for view, legal in self.legal.items()}
        self.found = {view: self._found(view, generator) for view in VIEWS}
        both = np.stack([self.leaf_of[view] for view in VIEWS], axis=1)
        self.classes = {view: torch.from_numpy(leaf) for view, leaf in self.leaf_of.items()}
        self.classes["merged"] = torch.from_numpy(np.unique(both, axis=0, return_inverse=True)[1].ravel())
        self.strings = {view: self._strings(view) for view in VIEWS}
        self.items_of_string = {view: self._items_of_string(view) for view in VIEWS}

    def _found(self, view: str, generator: np.random.Generator) -> Found:
        """Return the best IDs of every user: mostly near the target, so that the views agree on some."""
        near = self.targets.numpy()[:, None] + generator.permuted(np.tile(np.arange(60), (self.n_users, 1)), axis=1)
        leaves = self.leaf_of[view][near % ITEMS]
        # an ID stands once in a list: colliding items give it twice
        order = np.argsort(leaves, axis=1, kind="stable")
        again = np.zeros(leaves.shape, bool)
        again[:, 1:] = np.diff(np.take_along_axis(leaves, order, axis=1), axis=1) == 0
        twice = np.zeros(leaves.shape, bool)
        np.put_along_axis(twice, order, again, axis=1)
        first = np.argsort(twice, axis=1, kind="stable")[:, :BEAMS]
        # whole steps of 2^-20 apart and below one: halves of sums are exact, so that both ways have the same ties
        steps = generator.choice(1 << 20, self.n_users * BEAMS, replace=self.n_users * BEAMS > 1 << 20)
        scores = -np.sort(steps.reshape(-1, BEAMS).astype(np.float32), axis=1) / np.float32(1 << 20) - np.float32(0.5)
        table = torch.from_numpy(scores)
        return Found(torch.from_numpy(np.take_along_axis(leaves, first, axis=1)), table, table)

    def _string_of_leaf(self, view: str, leaf: int) -> str:
        return f"<{view}{leaf}>"

    def _strings(self, view: str) -> list[tuple[list[str], list[float]]]:
        leaves, scores = self.found[view].leaf.tolist(), self.found[view].lineage.tolist()
        names = {leaf: self._string_of_leaf(view, leaf) for leaf in np.unique(self.leaf_of[view]).tolist()}
        return [([names[leaf] for leaf in row], values) for row, values in zip(leaves, scores, strict=True)]

    def _items_of_string(self, view: str) -> dict[str, list[int]]:
        leaf_items, first = self.leaf_items[view].tolist(), self.legal[view].tree.leaf_first.tolist()
        return {
            self._string_of_leaf(view, leaf): leaf_items[first[leaf] : first[leaf + 1]]
            for leaf in np.unique(self.leaf_of[view]).tolist()
        }

    def by_kit(self) -> Results:
        """Return items of every list, and the means of every metric, by the kit's tensors."""
        parts: dict[str, list[RankedList]] = {name: [] for name in (*VIEWS, "merged")}
        for start in range(0, self.n_users, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            walked = {}
            for view in VIEWS:
                found = Found(*(part[some] for part in self.found[view]))
                walked[view] = lists.expand_items(found, self.legal[view], self.leaf_items[view], BEAMS)
                parts[view].append(
                    ranked_list(walked[view].items, walked[view].lineage, self.targets[some], self.classes[view])
                )
            ordered = [lists.by_lineage(view) for view in walked.values()]
            merged = lists.merge_lineage([(view.items, view.lineage) for view in ordered])
            parts["merged"].append(ranked_list(*merged, self.targets[some], self.classes["merged"]))
        made = {
            name: RankedList(
                *(np.concatenate([getattr(part, field) for part in some]) for field in RankedList.__annotations__)
            )
            for name, some in parts.items()
        }
        users = np.arange(self.n_users)
        rankings = Rankings(
            {"test": users}, {"test": self.targets.numpy()}, {("test", name): ranked for name, ranked in made.items()}
        )
        return {name: ranked.items for name, ranked in made.items()}, summarize(rankings)

    def by_loops(self) -> Results:
        """Return the same by loops over users, as the lineage's scripts do."""
        items: dict[str, list[list[int]]] = {name: [] for name in (*VIEWS, "merged")}
        sums = {f"test/{name}/{metric}@{k}": 0.0 for name in items for metric in PER_USER for k in CUTOFFS}
        classes = {name: numbers.tolist() for name, numbers in self.classes.items()}
        for user, target in enumerate(self.targets.tolist()):
            ranked = {view: _expanded(*self.strings[view][user], self.items_of_string[view]) for view in VIEWS}
            ranked["merged"] = _merged([ranked[view] for view in VIEWS])
            for name, entries in ranked.items():
                items[name].append([item for item, _ in entries[:BEAMS]])
                place = _place(entries, target, classes[name])
                for metric, function in PER_USER.items():
                    for k in CUTOFFS:
                        sums[f"test/{name}/{metric}@{k}"] += function(place, k)
        means = {key: value / self.n_users for key, value in sums.items()}
        return {name: np.array(table, np.int32) for name, table in items.items()}, means


def _codes(generator: np.random.Generator) -> dict[str, np.ndarray]:
    flat = {view: generator.choice(CODES**LEVELS, ITEMS, replace=False) for view in VIEWS}
    moved = generator.permutation(ITEMS)[: int(COLLIDING * ITEMS)]
    flat["text"][moved] = flat["text"][generator.permutation(ITEMS)[: len(moved)]]
    return {view: np.stack(np.unravel_index(numbers, (CODES,) * LEVELS), axis=1) for view, numbers in flat.items()}


def _expanded(strings: list[str], scores: list[float], items_of: dict[str, list[int]]) -> list[tuple[int, float]]:
    entries = []
    for string, score in zip(strings, scores, strict=True):
        for item in items_of[string]:
            entries.append((item, score))
    return entries[:BEAMS]


def _merged(views: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    table: dict[int, float] = {}
    for rank in range(max(len(entries) for entries in views)):
        for entries in views:
            if rank < len(entries):
                item, score = entries[rank]
                if item in table:
                    table[item] = (table[item] + score) / 2 + 1
                else:
                    table[item] = score
    return sorted(table.items(), key=lambda entry: entry[1], reverse=True)


def _place(entries: list[tuple[int, float]], target: int, classes: list[int]) -> int:
    """Return the target's place from 1, behind items of equal score and another ID; 0 where it is not there."""
    for place, (item, score) in enumerate(entries):
        if item == target:
            later = 0
            for other, value in entries[place + 1 :]:
                if value < score:
                    break
                later += classes[other] != classes[target]
            return place + 1 + later
    return 0


def _hit(place: int, k: int) -> float:
    return 1.0 if 1 <= place <= k else 0.0


def _ndcg(place: int, k: int) -> float:
    return 1 / math.log2(place + 1) if 1 <= place <= k else 0.0


def _mrr(place: int, k: int) -> float:
    return 1 / place if 1 <= place <= k else 0.0


PER_USER = {"hr": _hit, "ndcg": _ndcg, "mrr": _mrr}


def _agree(usual: Results, ours: Results) -> str:
    """Items must be equal. Means may differ by the order of sums: 1e-9 is far below one user's weight of 1e-5."""
    for name, table in usual[0].items():
        assert np.array_equal(table, ours[0][name]), f"lists {name} differ"
    assert usual[1].keys() == ours[1].keys()
    worst = max(abs(usual[1][key] - ours[1][key]) for key in usual[1])
    assert worst < 1e-9, worst
    return f"lists equal, {len(usual[1])} metrics within {worst:.0e}"
