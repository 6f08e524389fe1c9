"""From IDs to lists of items: colliding items, merging the views' lists, and where the target stands.

Notation: users of a batch, width = places of a list; an empty place has item -1 and score -inf.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from musicrec_kit import seeds
from musicrec_kit.evaluation.protocol import NOTHING
from musicrec_kit.generation.beam_search import Found
from musicrec_kit.generation.legal import NOWHERE, Legal


class ItemList(NamedTuple):
    """A list of items per user, best first, with the scores of their IDs in one view."""

    items: Int[Tensor, "users width"]
    lineage: Float[Tensor, "users width"]
    ours: Float[Tensor, "users width"]


class Merged(NamedTuple):
    """A list of items per user, best first, with one score."""

    items: Int[Tensor, "users width"]
    scores: Float[Tensor, "users width"]


def shuffled_leaves(legal: Legal, seed: int) -> Int[Tensor, " items"]:
    """Return the tree's items, leaf by leaf, in an order inside each leaf that the seed draws."""
    items = legal.tree.leaf_items.cpu().numpy()
    leaf = np.repeat(np.arange(legal.tree.n_nodes), legal.tree.leaf_first.diff().cpu().numpy())
    order = np.lexsort([seeds.generator(seed, "collisions").random(len(items)), leaf])
    return torch.from_numpy(items[order]).to(legal.first.device)


def expand_items(
    found: Found,
    legal: Legal,
    leaf_items: Int[Tensor, " items"],
    width: int,
    seen: Bool[Tensor, "users catalogue"] | None = None,
) -> ItemList:
    """Return the items of the IDs in order, at most `width`; items that a user has `seen` are left out.

    Args:
        leaf_items: as `shuffled_leaves` gives them; colliding items stand together in that order.
    """
    users = len(found.leaf)
    sizes = legal.tree.leaf_first.diff()
    # more of one ID cannot be wanted: its seen items, and as many as the list is wide
    most = width + (int(seen.sum(dim=1).max()) if seen is not None and seen.numel() else 0)
    deepest = max(1, min(int(sizes.max()), most))
    leaf, offset = found.leaf.clamp(min=0)[..., None], torch.arange(deepest, device=found.leaf.device)
    place = (legal.tree.leaf_first[leaf] + offset).clamp(max=len(leaf_items) - 1)
    items = leaf_items[place].flatten(1)
    there = ((offset < sizes[leaf]) & (found.leaf != NOWHERE)[..., None]).flatten(1)
    if seen is not None:
        there &= ~seen.gather(1, items)
    order = (~there).byte().argsort(dim=1, stable=True)[:, :width]
    there, rank = there.gather(1, order), order // deepest
    scores = (part.gather(1, rank).masked_fill(~there, -torch.inf) for part in (found.lineage, found.ours))
    made = ItemList(items.gather(1, order).masked_fill(~there, NOTHING), *scores)
    assert made.items.shape[0] == users
    return made


def by_lineage(items: ItemList) -> ItemList:
    """Return the list ordered by the lineage's score; equal scores stay as they stand."""
    order = items.lineage.argsort(dim=1, descending=True, stable=True)
    return ItemList(*(part.gather(1, order) for part in items))


def merge_lineage(lists: list[tuple[Tensor, Tensor]]) -> Merged:
    """Return the lineage's merged list of the views' (items, scores): `ensemble.py` of MQL4GRec (lineage.md 3.1).

    The lists are walked rank by rank, views in order. An item that is already there gets (old + new) / 2 + 1, any other
    its own score; then a stable sort by score. With scores of at most 0 nearly every item that two views found stands
    above all that one view found.
    """
    grouped = _group(lists)
    n_views, scores = len(lists), grouped.scores
    for turn in range(1, n_views):
        before = torch.nn.functional.pad(scores[:, :-1], (1, 0))
        scores = torch.where(grouped.turn == turn, (before + grouped.scores) / 2 + 1, scores)
    # an item's last turn holds its score, and its first turn says where it entered the walk
    following = torch.nn.functional.pad(grouped.turn[:, 1:], (0, 1))
    last = (following == 0) & (grouped.items != NOTHING)
    position = torch.arange(scores.shape[1], device=scores.device)
    entered = grouped.column.gather(1, position - grouped.turn)
    return _sorted(grouped.items, scores, last, entered)


def merge_lse(lists: list[tuple[Tensor, Tensor]]) -> Merged:
    """Return the items of all views by the log-sum-exp of their log-probabilities in the views (ours).

    In a list that lacks the item its probability is unknown but at most that of the list's last ID, which stands in for
    it. Equal scores are in order of item numbers.
    """
    grouped = _group(lists)
    users, places = grouped.items.shape
    lowest = [scores.masked_fill(items == NOTHING, torch.inf).min(dim=1).values for items, scores in lists]
    floor = torch.stack(lowest, dim=1)
    floor = floor.masked_fill(torch.isinf(floor), -torch.inf)[:, None, :]
    table = floor.expand(users, places, len(lists)).flatten(1).clone()
    position = torch.arange(places, device=table.device)
    cell = (position - grouped.turn) * len(lists) + grouped.column % len(lists)
    kept = grouped.items != NOTHING
    table = table.scatter(1, cell, torch.where(kept, grouped.scores, table.gather(1, cell)))
    scores = table.view(users, places, -1).logsumexp(dim=-1)
    return _sorted(grouped.items, scores, kept & (grouped.turn == 0), position.expand(users, places))


class _Grouped(NamedTuple):
    """All places of all lists, equal items side by side in the order of the walk."""

    items: Tensor
    scores: Tensor
    column: Tensor  # place in the walk: rank * views + view
    turn: Tensor  # how many places of the same item stand before


def _group(lists: list[tuple[Tensor, Tensor]]) -> _Grouped:
    width = max(items.shape[1] for items, _ in lists)
    pad = torch.nn.functional.pad
    items = torch.stack([pad(i, (0, width - i.shape[1]), value=NOTHING) for i, _ in lists], dim=2).flatten(1)
    scores = torch.stack([pad(s, (0, width - s.shape[1]), value=-torch.inf) for _, s in lists], dim=2).flatten(1)
    column = items.argsort(dim=1, stable=True)
    items, scores = items.gather(1, column), scores.gather(1, column)
    same = pad((items[:, 1:] == items[:, :-1]) & (items[:, 1:] != NOTHING), (1, 0))
    turn = torch.zeros_like(items)
    for number in range(1, len(lists)):
        turn = torch.where(same & (pad(turn[:, :-1], (1, 0)) == number - 1), number, turn)
    return _Grouped(items, scores, column, turn)


def _sorted(items: Tensor, scores: Tensor, kept: Tensor, minor: Tensor) -> Merged:
    """Return the kept places by score, best first; equal scores by `minor`, lowest first."""
    scores = scores.masked_fill(~kept, -torch.inf)
    order = torch.where(kept, minor, minor.shape[1] + 1).argsort(dim=1, stable=True)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return Merged(items.masked_fill(~kept, NOTHING).gather(1, order), scores.gather(1, order))


def ranks_of_targets(
    items: Int[Tensor, "users width"],
    scores: Float[Tensor, "users width"],
    targets: Int[Tensor, " users"],
    classes: Int[Tensor, " catalogue"],
) -> Int[Tensor, " users"]:
    """Return where each target stands, from 1; 0 where it is not in the list.

    Behind every item of equal score and another ID; among items of one ID the list's own order, which was drawn, holds.

    Args:
        classes: equal numbers for items with equal IDs.
    """
    hit = (items == targets[:, None]) & (items != NOTHING)
    place = hit.byte().argmax(dim=1, keepdim=True)
    own = scores.gather(1, place)
    equal = (scores == own) & (items != NOTHING)
    same_id = classes[items.clamp(min=0)] == classes[targets.clamp(min=0)][:, None]
    earlier = torch.arange(items.shape[1], device=items.device) < place
    ahead = ((scores > own) & (items != NOTHING)) | (equal & ~same_id) | (equal & same_id & earlier)
    return torch.where(hit.any(dim=1), 1 + ahead.sum(dim=1), 0)
