"""From IDs to lists of items: colliding items, merging the views' lists, and where the target stands.

Notation: users of a batch, width = places of a list; an empty place has item -1 and score -inf.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit import seeds
from musicrec_kit.evaluation.protocol import NOTHING
from musicrec_kit.generation.beam_search import Found
from musicrec_kit.generation.legal import NOWHERE, Legal
from musicrec_kit.generation.pairs import Pairs

UPPER = 1 << 32  # packed sorting keys: the upper half decides, the lower one is a place in the row
PLACE = UPPER - 1


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
    seen: Pairs | None = None,
) -> ItemList:
    """Return the items of the IDs in order, at most `width`; items that a user has `seen` are left out.

    Args:
        leaf_items: as `shuffled_leaves` gives them; colliding items stand together in that order.
    """
    # more of one ID cannot be wanted: its seen items, and as many as the list is wide
    most = width + (seen.most if seen is not None else 0)
    users, beams = found.leaf.shape
    leaf = found.leaf.clamp(min=0).flatten()
    begin, stop = (legal.tree.leaf_first.index_select(0, at) for at in (leaf, leaf + 1))
    sizes = (stop - begin).clamp_(max=most).view(users, beams).mul_(found.leaf != NOWHERE)
    first = leaf_items.index_select(0, begin.clamp(max=len(leaf_items) - 1))
    counted = sizes > 0 if seen is None else (sizes > 0) & ~seen.hold(first.view(users, beams))
    # the other items of the few IDs that have more than one: an entry each, in the order of their IDs
    at = (sizes > 1).flatten().nonzero()[:, 0]
    more = sizes.flatten().index_select(0, at) - 1
    entry = torch.repeat_interleave(at, more)
    number = torch.arange(len(entry), device=leaf.device)
    offset = 1 + number - torch.repeat_interleave(more.cumsum(0) - more, more)
    others = leaf_items.index_select(0, begin.index_select(0, entry) + offset)
    if seen is not None:
        kept = ~seen.holds(entry // beams, others)
        entry, others, number = entry[kept], others[kept], number[: int(kept.sum())]
    # an entry's place is how many stand before it; what does not fit goes behind the last user
    counts = counted.long()
    counts.view(-1).scatter_add_(0, entry, torch.ones_like(entry))
    start = counts.cumsum(dim=1) - counts
    row, behind = torch.arange(users, device=leaf.device)[:, None] * width, users * width
    place = torch.where(counted & (start < width), row + start, behind).flatten()
    turn = number - torch.searchsorted(entry, entry)
    after = start.flatten().index_select(0, entry) + counted.flatten().index_select(0, entry) + turn
    place_after = torch.where(after < width, entry // beams * width + after, behind)

    def placed(empty: float, firsts: Tensor, rest: Tensor) -> Tensor:
        table = firsts.new_full((behind + 1,), empty).scatter_(0, place, firsts).scatter_(0, place_after, rest)
        return table[:-1].view(users, width)

    scores = [part.flatten() for part in (found.lineage, found.ours)]
    return ItemList(
        placed(NOTHING, first, others), *(placed(-torch.inf, part, part.index_select(0, entry)) for part in scores)
    )


def by_lineage(items: ItemList) -> ItemList:
    """Return the list ordered by the lineage's score; equal scores stay as they stand."""
    if (items.lineage[:, 1:] <= items.lineage[:, :-1]).all():
        return items
    order = items.lineage.argsort(dim=1, descending=True, stable=True)
    return ItemList(*(part.gather(1, order) for part in items))


def merge_lineage(lists: list[tuple[Tensor, Tensor]]) -> Merged:
    """Return the lineage's merged list of the views' (items, scores): `ensemble.py` of MQL4GRec (lineage.md 3.1).

    The lists are walked rank by rank, views in order. An item that is already there gets (old + new) / 2 + 1, any other
    its own score; then a stable sort by score. With scores of at most 0 nearly every item that two views found stands
    above all that one view found.
    """
    walk, grouped = _group(lists)
    scores, column = grouped.scores, grouped.column
    for again in grouped.again:
        scores = torch.where(again, (_before(scores) + grouped.scores).div_(2).add_(1), scores)
        # where it entered the walk; its last turn holds its score
        column = torch.where(again, _before(column), column)
    last = grouped.items != NOTHING
    last[:, :-1] &= ~grouped.same[:, 1:]
    return _sorted(walk, scores, last, column)


def merge_lse(lists: list[tuple[Tensor, Tensor]]) -> Merged:
    """Return the items of all views by the log-sum-exp of their log-probabilities in the views (ours).

    In a list that lacks the item its probability is unknown but at most that of the list's last ID, which stands in for
    it. Equal scores are in order of item numbers.
    """
    _, grouped = _group(lists)
    users, places = grouped.items.shape
    lowest = [scores.masked_fill(items == NOTHING, torch.inf).min(dim=1).values for items, scores in lists]
    floor = torch.stack(lowest, dim=1)
    floor = floor.masked_fill(torch.isinf(floor), -torch.inf)[:, None, :]
    table = floor.expand(users, places, len(lists)).flatten(1).clone()
    position = torch.arange(places, device=table.device)
    turn = sum((again * number for number, again in enumerate(grouped.again, start=1)), torch.zeros_like(grouped.items))
    cell = (position - turn) * len(lists) + grouped.column % len(lists)
    kept = grouped.items != NOTHING
    table = table.scatter(1, cell, torch.where(kept, grouped.scores, table.gather(1, cell)))
    scores = table.view(users, places, -1).logsumexp(dim=-1)
    return _sorted(grouped.items, scores, kept & ~grouped.same, position.expand(users, places))


class _Grouped(NamedTuple):
    """All places of all lists, equal items side by side in the order of the walk."""

    items: Tensor
    scores: Tensor
    column: Tensor  # place in the walk: rank * views + view
    same: Tensor  # as the place before
    again: list[Tensor]  # where exactly 1, 2, ... places of the same item stand before


def _group(lists: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, _Grouped]:
    """Return the items of all places in the order of the walk, and the places grouped."""
    walk, scores = (_walk([pair[part] for pair in lists], empty) for part, empty in ((0, NOTHING), (1, -torch.inf)))
    position = torch.arange(walk.shape[1], device=walk.device)
    column = sorted_rows(torch.add(position, walk.long(), alpha=UPPER)) & PLACE
    items = walk.gather(1, column)
    same = torch.zeros_like(items, dtype=torch.bool)
    torch.eq(items[:, 1:], items[:, :-1], out=same[:, 1:])
    same &= items != NOTHING
    deep = [same]  # where at least 1, 2, ... stand before
    while len(deep) < len(lists) - 1:
        deep.append(same & _before(deep[-1]))
    again = [at_least & ~more for at_least, more in pairwise([*deep, torch.zeros_like(same)])]
    return walk, _Grouped(items, scores.gather(1, column), column, same, again)


def _walk(parts: list[Tensor], empty: float) -> Tensor:
    """Return the lists' values rank by rank, views in order; shorter lists are filled up."""
    width = max(part.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    full = [part if part.shape[1] == width else pad(part, (0, width - part.shape[1]), value=empty) for part in parts]
    return torch.stack(full, dim=2).flatten(1)


def _before(values: Tensor) -> Tensor:
    """Return each place's left neighbour; what the first place gets means nothing."""
    return values.roll(1, dims=1)


def _sorted(items: Tensor, scores: Tensor, kept: Tensor, minor: Tensor) -> Merged:
    """Return the kept places by score, best first; equal scores by `minor`, lowest first, their places in `items`."""
    behind = torch.iinfo(torch.int32).max  # every score
    packed = sorted_rows(torch.add(minor, torch.where(kept, _descending(scores), behind), alpha=UPPER))
    order = (packed >> 32).int()
    there = order != behind
    scores = torch.where(there, _descending(order, back=True), -torch.inf)
    return Merged(torch.where(there, items.gather(1, packed & PLACE), NOTHING), scores)


def sorted_rows(keys: Int[Tensor, "rows width"]) -> Int[Tensor, "rows width"]:
    """Return each row ascending. On a CPU by numpy, whose sort of whole numbers is vectorised: eight times as fast."""
    return torch.from_numpy(np.sort(keys.numpy(), axis=1)) if keys.device.type == "cpu" else keys.sort(dim=1).values


def _descending(values: Tensor, back: bool = False) -> Tensor:
    """Return int32 numbers that ascend where float32 scores descend, equal for equal scores; `back` undoes it."""
    # floats of one sign are ordered as their bits are; those below zero the other way round
    bits = ~values if back else (values.float() + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    turned = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return turned.view(torch.float32) if back else ~turned


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
    hit = items == targets[:, None]
    user = (hit.any(dim=1) & (targets != NOTHING)).nonzero()[:, 0]
    place = hit.index_select(0, user).byte().argmax(dim=1, keepdim=True)
    row, score = items.index_select(0, user), scores.index_select(0, user)
    own = score.gather(1, place)
    ids = classes.index_select(0, row.clamp(min=0).flatten()).view(row.shape)
    earlier = torch.arange(items.shape[1], device=items.device) < place
    tied = (score == own) & ((ids != ids.gather(1, place)) | earlier)
    ahead = ((score > own) | tied) & (row != NOTHING)
    ranks = torch.zeros(len(items), dtype=torch.int64, device=items.device)
    return ranks.index_copy(0, user, 1 + ahead.sum(dim=1))
