"""Protocol: full ranking over all items, ties against us, with and without the user's history.

Plain lists may hold items of the history; `/no_history` lists mask all earlier items of the user before the list is
cut, so that k items remain.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.evaluation import metrics

NO_HISTORY = "/no_history"
NOTHING = -1
SCORES_AT_ONCE = 1 << 26  # of one chunk: 256 MiB of float32

Score = Callable[[Examples], np.ndarray]


@dataclass(frozen=True)
class RankedList:
    """One ranked list per user.

    Attributes:
        items: int32 [users, k], best first; -1 where a list has no more.
        scores: float32 [users, k].
        target_rank: int32 [users], from 1; 0 where the target is not in the list.
    """

    items: np.ndarray
    scores: np.ndarray
    target_rank: np.ndarray


@dataclass(frozen=True)
class Rankings:
    """All lists of a run.

    Attributes:
        users: split -> int64 [users].
        targets: split -> int32 [users].
        lists: (split, list name) -> list; a name that ends in "/no_history" masks earlier items.
    """

    users: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    lists: dict[tuple[str, str], RankedList]

    def save(self, folder: Path) -> None:
        """Write `rankings.parquet` (user, list, split, rank, item, score) and `ranks.parquet` (the target's rank)."""
        runs.write_table(folder / "rankings.parquet", pd.concat(map(self._entries, self.lists), ignore_index=True))
        runs.write_table(folder / "ranks.parquet", pd.concat(map(self._ranks, self.lists), ignore_index=True))

    def _entries(self, key: tuple[str, str]) -> pd.DataFrame:
        ranked = self.lists[key]
        row, at = np.nonzero(ranked.items != NOTHING)
        found = {"rank": (at + 1).astype(np.int32), "item": ranked.items[row, at], "score": ranked.scores[row, at]}
        return pd.DataFrame({"user": self.users[key[0]][row], "list": key[1], "split": key[0], **found})

    def _ranks(self, key: tuple[str, str]) -> pd.DataFrame:
        split, ranked = key[0], self.lists[key]
        target = {"target": self.targets[split], "rank": ranked.target_rank, "width": ranked.items.shape[1]}
        return pd.DataFrame({"user": self.users[split], "list": key[1], "split": split, **target})

    @classmethod
    def load(cls, folder: Path) -> "Rankings":
        """Read what `save` wrote."""
        entries, ranks = (runs.read_table(folder / f"{name}.parquet") for name in ("rankings", "ranks"))
        by_list = dict(list(entries.groupby(["split", "list"], sort=False)))
        users, targets, lists = {}, {}, {}
        for key, table in ranks.groupby(["split", "list"], sort=False):
            split, name = map(str, key)  # type: ignore[arg-type]  # pandas calls a tuple of keys hashable
            users[split], targets[split] = table["user"].to_numpy(np.int64), table["target"].to_numpy(np.int32)
            shape = (len(table), int(table["width"].max()))
            items, scores = np.full(shape, NOTHING, np.int32), np.full(shape, -np.inf, np.float32)
            if key in by_list:
                rows = by_list[key]
                at = pd.Index(users[split]).get_indexer(rows["user"]), rows["rank"].to_numpy() - 1
                items[at], scores[at] = rows["item"], rows["score"]
            lists[split, name] = RankedList(items, scores, table["rank"].to_numpy(np.int32))
        return cls(users, targets, lists)


def history_entries(sequences: Sequences, examples: Examples, last: int | None = None) -> tuple[np.ndarray, ...]:
    """Return (row, item, back) of every item of the examples' histories; back = 0 is the newest of up to `last`."""
    lengths = examples.end - examples.start
    lengths = lengths if last is None else np.minimum(lengths, last)
    row = np.repeat(np.arange(len(examples)), lengths)
    back = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, sequences.items[examples.end[row] - 1 - back], back


def rank_by_scores(
    score: Score, examples: Examples, full_histories: Examples, sequences: Sequences, k: int = 20, chunk: int = 1024
) -> tuple[RankedList, RankedList]:
    """Return (plain, no_history) lists of the k best items under a score over all items.

    Args:
        score: examples -> scores [examples, items]; -inf where an item cannot be recommended.
        full_histories: the same users' examples with all earlier items, which no_history masks.
        chunk: most users scored at once; fewer where the catalogue is large.
    """
    assert np.array_equal(examples.users, full_histories.users), "histories of other users"
    chunk = max(1, min(chunk, SCORES_AT_ONCE // max(sequences.n_items, 1)))
    parts: tuple[list[RankedList], list[RankedList]] = ([], [])
    for start in range(0, max(len(examples), 1), chunk):
        part, full = (e.take(slice(start, start + chunk)) for e in (examples, full_histories))
        scores = np.array(score(part))
        assert not np.isnan(scores).any(), "a score is not a number"
        parts[0].append(_ranked(scores, part.target, k))
        row, item, _ = history_entries(sequences, full)
        scores[row, item] = -np.inf
        parts[1].append(_ranked(scores, part.target, k))
    return _joined(parts[0]), _joined(parts[1])


def _ranked(scores: np.ndarray, targets: np.ndarray, k: int) -> RankedList:
    target_score = scores[np.arange(len(scores)), targets]
    # the target itself is counted, too, so this is its rank with every tie before it
    rank = (scores >= target_score[:, None]).sum(axis=1)
    rank = np.where(np.isneginf(target_score) | (rank > k), 0, rank)
    items, best = top_k(scores, k)
    return RankedList(items, best.astype(np.float32), rank.astype(np.int32))


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (items int32, scores) [rows, k] of the best of each row; equal scores by item number; -1 for -inf.

    >>> top_k(np.array([[0.5, 2.0, 0.5, -np.inf]]), 2)[0].tolist(), top_k(np.array([[1.0, -np.inf]]), 2)[0].tolist()
    ([[1, 0]], [[0, -1]])
    """
    n_rows, n_items = scores.shape
    items, best = np.full((n_rows, k), NOTHING, np.int32), np.full((n_rows, k), -np.inf, scores.dtype)
    cut = min(k, n_items)
    bar = np.partition(scores, n_items - cut, axis=1)[:, n_items - cut, None]
    row, item = np.nonzero((scores >= bar) & ~np.isneginf(scores))
    order = np.lexsort([-scores[row, item], row])  # stable: items ascend among equal scores
    row, item = row[order], item[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    row, item, place = row[place < k], item[place < k], place[place < k]
    items[row, place], best[row, place] = item, scores[row, item]
    return items, best


def _joined(parts: list[RankedList]) -> RankedList:
    return RankedList(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("items", "scores", "target_rank")))


def ranks_in_lists(
    items: np.ndarray, scores: np.ndarray, targets: np.ndarray, ids: np.ndarray | None = None
) -> np.ndarray:
    """Return int32 [users]: the target's rank in a given list, 0 where it is not in it; ties stand before the target.

    Args:
        items, scores: [users, k], -1 where there is no item.
        ids: [users, k], equal where two items share one semantic ID: these tie by construction, and stand in the order
            of the list instead.
    """
    found = (items == np.asarray(targets)[:, None]) & (items != NOTHING)
    assert (found.sum(axis=1) <= 1).all(), "an item stands twice in a list"
    place = found.argmax(axis=1)[:, None]
    target_score = np.take_along_axis(scores, place, axis=1)
    ties = (scores == target_score) & ~found
    if ids is not None:
        same = ids == np.take_along_axis(ids, place, axis=1)
        ties &= ~same | (np.arange(items.shape[1]) < place)
    before = ((scores > target_score) | ties) & (items != NOTHING)
    return np.where(found.any(axis=1), 1 + before.sum(axis=1), 0).astype(np.int32)


def metric_key(split: str, list_name: str, metric: str) -> str:
    """Return the key of metrics.json: `<split>/<list>/<metric>`, with `/no_history` at its end where the list masks.

    >>> metric_key("test", "main/no_history", "hr@10")
    'test/main/hr@10/no_history'
    """
    masked = list_name.endswith(NO_HISTORY)
    return f"{split}/{list_name.removesuffix(NO_HISTORY)}/{metric}{NO_HISTORY if masked else ''}"


def summarize(rankings: Rankings) -> dict[str, float]:
    """Return the means over users of every metric of every list, under the keys of metrics.json.

    A list shorter than a cut-off counts what it holds.
    """
    return {
        metric_key(split, name, metric): float(metrics.per_user(ranked.target_rank, metric).mean())
        if len(ranked.items)
        else 0.0
        for (split, name), ranked in rankings.lists.items()
        for metric in metrics.names()
    }


def per_user_table(rankings: Rankings, sequences: Sequences) -> pd.DataFrame:
    """Return the contract's per_user table; cold marks a target that training has not seen."""
    return pd.concat(_user_rows(rankings, sequences.seen), ignore_index=True)


def _user_rows(rankings: Rankings, seen: np.ndarray) -> Iterator[pd.DataFrame]:
    for (split, name), ranked in rankings.lists.items():
        if name.endswith(NO_HISTORY):
            continue
        masked = rankings.lists.get((split, name + NO_HISTORY))
        without = masked.target_rank if masked else [None] * len(ranked.items)
        yield pd.DataFrame(
            {
                "user": rankings.users[split],
                "list": name,
                "split": split,
                "target": rankings.targets[split],
                "rank": ranked.target_rank,
                "rank_no_history": pd.array(without, "Int32"),
                "cold": ~seen[rankings.targets[split]],
            }
        )
