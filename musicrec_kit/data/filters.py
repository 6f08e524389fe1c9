"""Order by time, and the filters: each keeps some interactions and says what it dropped.

Everything works on arrays with one entry per interaction, sorted by user and time (`time_order`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import seeds
from musicrec_kit.data.reading import NO_TIME
from musicrec_kit.params import DataParams, Refused


@dataclass(frozen=True)
class Events:
    """Interactions as arrays: user and item int64 (rows of the raw tables), rating float64, time and order int64."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: np.ndarray) -> "Events":
        """Return the interactions at an index or where a mask is true."""
        return Events(self.user[index], self.item[index], self.rating[index], self.time[index], self.order[index])


def time_order(events: Events, tie_order: str = "file", tie_seed: int = 0) -> np.ndarray:
    """Return the index that sorts by user, then time; equal times keep the file's order or are shuffled by a seed.

    A user with an unknown time keeps the file's order throughout: half-known times order nothing.
    """
    n_users = int(events.user.max(initial=-1)) + 1
    unordered = np.zeros(n_users, bool)
    unordered[events.user[events.time == NO_TIME]] = True
    by_file = unordered[events.user]
    time = np.where(by_file, 0, events.time)
    tie = events.order
    if tie_order == "shuffle":
        # drawn for the rows in file order: the result does not depend on how the rows arrive here
        ranks = np.argsort(np.argsort(events.order, kind="stable"), kind="stable")
        drawn = seeds.generator(tie_seed, "tie_order").permutation(len(events))[ranks]
        tie = np.where(by_file, events.order, drawn)
    if len(events) and (tie[1:] >= tie[:-1]).all():
        # rows that arrive in the order of their ties: one stable sort by user and time in one number does it
        first, span = int(time.min()), int(time.max()) - int(time.min()) + 1
        if span * n_users < np.iinfo(np.int64).max:
            return np.argsort(events.user * span + (time - first), kind="stable")
    return np.lexsort((tie, time, events.user))


def first_occurrence(events: Events) -> np.ndarray:
    """Return the mask of each user's first interaction with an item, in the order given.

    >>> one = np.zeros(4, int)
    >>> first_occurrence(Events(one, np.array([7, 5, 7, 5]), one, one, one)).tolist()
    [True, True, False, False]
    """
    width = int(events.item.max(initial=0)) + 1
    return ~pd.Series(events.user * width + events.item).duplicated().to_numpy()


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return the mask of the k-core: dropped until every user and every item has at least k interactions.

    The largest such set is unique, so the order of dropping does not matter.

    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), 2).tolist()
    [True, True, True, True, False]
    """
    mask = np.zeros(len(users), bool)
    alive = np.arange(len(users))
    while True:
        keep = (np.bincount(users) >= k)[users] & (np.bincount(items) >= k)[items]
        if keep.all():
            break
        alive, users, items = alive[keep], users[keep], items[keep]
    mask[alive] = True
    return mask


def apply(
    events: Events, params: DataParams, has_text: np.ndarray, has_image: np.ndarray
) -> tuple[Events, list[dict[str, Any]]]:
    """Return what the filters of the settings keep, and one report per filter.

    Args:
        events: interactions in time order.
        has_text, has_image: per row of the raw items.

    Returns:
        Interactions kept, and `{name, users, items, interactions, dropped_users, dropped_items, dropped_interactions}`.

    Raises:
        Refused: a filter needs what the data do not have, or leaves nothing.
    """
    reports = [_report("source", events, None)]
    for name in _active(params):
        if name == "min_rating":
            if np.isnan(events.rating).all():
                raise Refused(
                    "data.min_rating is set but no interaction has a rating; name its column, or set it to null"
                )
            mask = events.rating >= (params.min_rating or 0)
        elif name == "has_text":
            mask = has_text[events.item]
        elif name == "has_image":
            mask = has_image[events.item]
        elif name == "first_occurrence":
            mask = first_occurrence(events)
        else:
            mask = k_core(events.user, events.item, params.k_core)
        events = events.take(np.flatnonzero(mask))
        reports.append(_report(name, events, reports[-1]))
        if not len(events):
            trail = ", ".join(f"{r['name']}: {r['interactions']}" for r in reports)
            raise Refused(f"data: filter {name} leaves no interaction ({trail}); loosen data.{name}")
    return events, reports


def _active(params: DataParams) -> list[str]:
    switches = {
        "min_rating": params.min_rating is not None,
        "has_text": params.has_text,
        "has_image": params.has_image,
        "first_occurrence": params.first_occurrence,
        "k_core": params.k_core > 0,
    }
    return [name for name, on in switches.items() if on]


def _report(name: str, events: Events, before: dict[str, Any] | None) -> dict[str, Any]:
    counts = {
        "users": int(np.count_nonzero(np.bincount(events.user))),
        "items": int(np.count_nonzero(np.bincount(events.item))),
        "interactions": len(events),
    }
    dropped = {f"dropped_{key}": before[key] - count if before else 0 for key, count in counts.items()}
    return {"name": name, **counts, **dropped}
