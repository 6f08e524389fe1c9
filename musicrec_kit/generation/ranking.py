"""Ranking: every user's lists, one per view, `joint`, `merged` and `merged_lse`, plain and with the history masked.

A list is named by its view, or `main` where there is one view; lists of the task `direct` begin with that word.
`<list>/no_history` closes all earlier items of the user inside the search, so that as many items remain as the beam is
wide.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from musicrec_kit import distributed
from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.evaluation.protocol import NO_HISTORY, NOTHING, RankedList, history_entries
from musicrec_kit.generation import lists
from musicrec_kit.generation.beam_search import Found, capacity, search, watched_search
from musicrec_kit.generation.decoding import open_cache
from musicrec_kit.generation.exact import best_of, score_everything
from musicrec_kit.generation.fit import Generator
from musicrec_kit.generation.frozen import Frozen
from musicrec_kit.generation.legal import NOWHERE, Legal, make_legal
from musicrec_kit.generation.lists import ItemList
from musicrec_kit.generation.pairs import Pairs
from musicrec_kit.generation.tasks import Spans, Task
from musicrec_kit.params import RankParams

log = logging.getLogger(__name__)

STORED = 20  # places of a list that are kept


@dataclass(frozen=True)
class _Source:
    """A list that is decoded: its task, its moves, and the items of each ID in drawn order."""

    name: str
    task: Task
    legal: Legal
    leaf_items: Tensor


class _Masks(NamedTuple):
    """The histories of a batch: pairs (user in the batch, item), each once, and the same to be asked."""

    users: Tensor
    items: Tensor
    seen: Pairs


class Ranker:
    """Lists of a generator under one way of decoding.

    Attributes:
        invalid: after `rank`, list -> share of returned IDs that no item has (0 under rank.tree=joint).
    """

    def __init__(self, generator: Generator, sequences: Sequences, params: RankParams, seed: int = 0) -> None:
        self.generator, self.sequences, self.params = generator, sequences, params
        self.invalid: dict[str, float] = {}
        self._frozen: Frozen  # the weights as they are when `rank` begins
        self.n_items, self.width = generator.ids.n_items, max(params.beam, STORED)
        tasks = [task for word in ("next", "joint", "direct") for task in generator.tasks(word)]
        assert tasks, "no trained task gives a list: rank needs next, joint or direct"
        self.sources = [self._source(self._name(task), task, seed) for task in tasks]
        self.merging = [source.name for source in self.sources if source.task.name.startswith("next/")]
        self._classes = self._equal_ids()
        self._store = generator.store(sequences, tasks)

    def _name(self, task: Task) -> str:
        word, _, view = task.name.partition("/")
        if len(self.generator.ids.views) == 1:
            return "main" if word == "next" else word
        return {"next": view, "direct": f"direct_{view}"}.get(word, word)

    def _source(self, name: str, task: Task, seed: int) -> _Source:
        made = self.generator
        legal = make_legal(made.vocabulary, task.target, self.params.tree, made.device, made.params.softmax)
        return _Source(name, task, legal, lists.shuffled_leaves(legal, seed))

    @torch.inference_mode()
    def rank(self, examples: Examples, full_histories: Examples) -> dict[str, RankedList]:
        """Return every list of every example, plain and `/no_history`, in the order of the examples.

        Args:
            full_histories: the same users with all their earlier items, which `/no_history` masks.
        """
        assert np.array_equal(examples.users, full_histories.users), "examples and full histories are of other users"
        spans = [self._store.spans(source.task, examples) for source in self.sources]
        widest = np.max([self._store.source_widths(span) for span in spans], axis=0)
        order = np.argsort(widest, kind="stable")  # users with histories of like length together
        chunks = [order[i : i + self.params.batch] for i in range(0, len(order), self.params.batch)]
        returned = {source.name: np.zeros(2, np.int64) for source in self.sources}
        parts: dict[str, list[RankedList]] = {}
        self._frozen = Frozen.of(self.generator.model.eval(), self.params.precision)
        for chunk in tqdm(chunks, desc="ranking", unit="batch", mininterval=1.0, leave=False):
            some = [span.take(chunk) for span in spans]
            made = self._decode(some, self._masks(full_histories.take(chunk)), returned)
            targets = torch.from_numpy(examples.target[chunk].astype(np.int64)).to(self.generator.device)
            for name, part in self._lists(made, targets):
                parts.setdefault(name, []).append(part)
        self.invalid = {name: float(counts[0] / max(1, counts[1])) for name, counts in returned.items()}
        if self.params.tree != "joint":
            log.info("share of IDs that no item has: %s", {name: round(v, 4) for name, v in self.invalid.items()})
        inverse = np.argsort(order)
        whole = {name: joined(made) for name, made in parts.items()}
        return {
            name: RankedList(made.items[inverse], made.scores[inverse], made.target_rank[inverse])
            for name, made in whole.items()
        }

    def _masks(self, histories: Examples) -> _Masks:
        users, items, _ = history_entries(self.sequences, histories)
        keys = np.unique(users * self.n_items + items)
        pairs = torch.from_numpy(keys).to(self.generator.device)
        seen = Pairs.of(pairs, self.n_items, len(histories))
        return _Masks(pairs // self.n_items, pairs % self.n_items, seen)

    def _decode(
        self, spans: list[Spans], masks: _Masks, returned: dict[str, np.ndarray]
    ) -> dict[str, dict[str, ItemList]]:
        """Return "" and "/no_history" -> list name -> items, for a batch of users."""
        made: dict[str, dict[str, ItemList]] = {"": {}, NO_HISTORY: {}}
        for source, span in zip(self.sources, spans, strict=True):
            plain, masked = self._found(source, span, masks)
            live = torch.isfinite(plain.lineage)
            returned[source.name] += np.array([int((live & (plain.leaf == NOWHERE)).sum()), int(live.sum())])
            for suffix, found, seen in (("", plain, None), (NO_HISTORY, masked, masks.seen)):
                made[suffix][source.name] = lists.expand_items(found, source.legal, source.leaf_items, self.width, seen)
        return made

    def _found(self, source: _Source, spans: Spans, masks: _Masks) -> tuple[Found, Found]:
        """Return the best IDs, plain and without the history's."""
        model, legal, params = self.generator.model, source.legal, self.params
        width = int(self._store.source_widths(spans).max())
        tokens = self._store.sources(self._store.on_device(spans), width)
        closed = legal.closed(masks.users, masks.items, masks.seen.n_users)
        if params.exact:
            everything = score_everything(model, self.generator.vocabulary, legal, model.encode(tokens))
            best = (best_of(everything, legal, self.width, params.score, mask) for mask in (None, closed))
            return next(best), next(best)
        memory = self._frozen.encode(tokens)
        cache = open_cache(self._frozen, memory, capacity(legal, params.beam))
        plain, entered = watched_search(self._frozen, legal, memory, params.beam, params.score, None, closed, cache)
        again = entered.nonzero()[:, 0]
        if not len(again):
            return plain, plain
        memory, cache = type(memory)(*(part[again] for part in memory)), cache.take(again)
        found = search(self._frozen, legal, memory, params.beam, params.score, closed.take(again), cache)
        return plain, Found(*(old.index_copy(0, again, new) for old, new in zip(plain, found, strict=True)))

    def _lists(self, made: dict[str, dict[str, ItemList]], targets: Tensor) -> Iterator[tuple[str, RankedList]]:
        """Yield all lists of a batch by name."""
        for suffix, views in made.items():
            for name, part in views.items():
                scores = part.lineage if self.params.score == "lineage" else part.ours
                yield name + suffix, ranked_list(part.items, scores, targets, self._classes[name])
            if len(self.merging) > 1:
                walked = [lists.by_lineage(views[name]) for name in self.merging]
                merged = lists.merge_lineage([(view.items, view.lineage) for view in walked])
                yield "merged" + suffix, ranked_list(*merged, targets, self._classes["merged"])
                merged = lists.merge_lse([(view.items, view.ours) for view in walked])
                yield "merged_lse" + suffix, ranked_list(*merged, targets, self._classes["merged"])

    def _equal_ids(self) -> dict[str, Tensor]:
        """Return list name -> int64 [items], equal for items whose IDs are equal in all that the list is made of."""
        leaves = {source.name: source.legal.leaf_of_item(self.n_items)[:, None] for source in self.sources}
        if self.merging:
            leaves["merged"] = np.concatenate([leaves[name] for name in self.merging], axis=1)
        classes = {name: np.unique(table, axis=0, return_inverse=True)[1] for name, table in leaves.items()}
        return {name: torch.from_numpy(numbers.ravel()).to(self.generator.device) for name, numbers in classes.items()}


def ranked_list(items: Tensor, scores: Tensor, targets: Tensor, classes: Tensor) -> RankedList:
    """Return the first places of every list, and the target's rank in the whole of it."""
    rank = lists.ranks_of_targets(items, scores, targets, classes)
    kept, values = items[:, :STORED].to(torch.int32), scores[:, :STORED].to(torch.float32)
    if (room := STORED - items.shape[1]) > 0:
        kept = torch.nn.functional.pad(kept, (0, room), value=NOTHING)
        values = torch.nn.functional.pad(values, (0, room), value=-torch.inf)
    return RankedList(kept.cpu().numpy(), values.cpu().numpy(), rank.to(torch.int32).cpu().numpy())


def rank(
    generator: Generator,
    sequences: Sequences,
    examples: Examples,
    full_histories: Examples,
    params: RankParams,
    seed: int = 0,
) -> dict[str, RankedList]:
    """Return every list, plain and `/no_history` (`Ranker.rank`); the processes of torchrun share the users."""
    own = np.arange(len(examples))[distributed.own_rows(len(examples))]
    ranker = Ranker(generator, sequences, params, seed)
    parts = distributed.gather(ranker.rank(examples.take(own), full_histories.take(own)) if len(own) else {})
    found = [part for part in parts if part]
    return {name: joined([part[name] for part in found]) for name in found[0]} if len(parts) > 1 else parts[0]


def joined(parts: list[RankedList]) -> RankedList:
    """Return the lists of several groups of users as one, in their order."""
    columns = ((part.items, part.scores, part.target_rank) for part in parts)
    return RankedList(*(np.concatenate(column) for column in zip(*columns, strict=True)))
