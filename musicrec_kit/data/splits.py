"""Which interactions train, validate and test: leave-one-out, or a cut in time that is the same for all users.

Leave-one-out: the last item of a user is the test target, the one before validates, the rest trains. Cuts in time
(science.md section 5): what is older than the first cut trains; a user's first item after the first cut validates, the
first after the second is the test target, each after all that the user took before it.

Histories are slices of one array, so the training prefixes of ten million interactions cost three integers each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

SPLITS = ("train", "valid", "test", "later")  # later: behind a cut and no target; of histories alone
HELD_OUT = 2
NO_PLACE = -1


@dataclass(frozen=True)
class Sequences:
    """All users' items in time order, one after the other.

    Attributes:
        offsets: int64 [users + 1]; user u has `items[offsets[u]:offsets[u + 1]]`.
        items: int32 [interactions].
        held_out: int64 [users], how many of a user's last items are not in the training part; of leave-one-out 2, or 0
            with fewer than 3 interactions (then all of them train).
        n_items: items in the catalogue; left out: the largest number + 1.
        valid_at, test_at: int64 [users], where in `items` the target stands; -1: none. Left out: leave-one-out.
    """

    offsets: np.ndarray
    items: np.ndarray
    held_out: np.ndarray
    n_items: int = -1
    valid_at: np.ndarray = field(default=None)  # type: ignore  # made below
    test_at: np.ndarray = field(default=None)  # type: ignore

    def __post_init__(self) -> None:
        if self.n_items < 0:
            object.__setattr__(self, "n_items", int(self.items.max(initial=-1)) + 1)
        for name, place in self._last_two().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, place)
        assert len(self.held_out) == self.n_users and self.offsets[-1] == len(self.items)
        assert self.items.max(initial=-1) < self.n_items

    @classmethod
    def from_counts(cls, counts: np.ndarray, items: np.ndarray, n_items: int = -1) -> "Sequences":
        """Return sequences of users with `counts` items each, leave-one-out."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        held_out = np.where(np.diff(offsets) > HELD_OUT, HELD_OUT, 0).astype(np.int64)
        return cls(offsets, np.asarray(items, dtype=np.int32), held_out, n_items)

    @classmethod
    def from_lists(cls, histories: Iterable[Sequence[int]], n_items: int = -1) -> "Sequences":
        """Return sequences of one list of items per user.

        >>> Sequences.from_lists([[0, 1, 2, 3], [2]]).train_end.tolist()
        [2, 5]
        """
        parts = [np.asarray(history, dtype=np.int32) for history in histories]
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        return cls.from_counts(counts, np.concatenate([np.zeros(0, np.int32), *parts]), n_items)

    @classmethod
    def from_splits(cls, counts: np.ndarray, items: np.ndarray, splits: np.ndarray, n_items: int = -1) -> "Sequences":
        """Return sequences of users with `counts` items each, whose splits (index into SPLITS) are given."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        user = np.repeat(np.arange(len(counts)), counts)
        held_out = np.bincount(user[splits > 0], minlength=len(counts)).astype(np.int64)
        places = []
        for number in (1, 2):
            place = np.flatnonzero(splits == number)
            at = np.full(len(counts), NO_PLACE, np.int64)
            at[user[place]] = place
            places.append(at)
        made = cls(offsets, np.asarray(items, dtype=np.int32), held_out, n_items, *places)
        assert np.array_equal(made.splits, splits), "a training item behind a target, or two targets of one user"
        return made

    @classmethod
    def from_cuts(
        cls, counts: np.ndarray, items: np.ndarray, time: np.ndarray, cuts: tuple[int, int], n_items: int = -1
    ) -> "Sequences":
        """Return sequences that are cut in time: what is older than the first cut trains ("ours").

        A target has at least one item before it. Items between the cuts that are no target are in the histories of test
        targets alone; those behind a test target are in none.

        Args:
            time: int64 [interactions], ascending for each user.

        >>> time = np.array([1, 2, 3, 4, 5, 1, 5])
        >>> Sequences.from_cuts(np.array([5, 2]), np.arange(7), time, (3, 5)).splits.tolist()
        [0, 0, 1, 3, 2, 0, 2]
        """
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        user = np.repeat(np.arange(len(counts)), counts)
        older = [np.bincount(user[time < cut], minlength=len(counts)) for cut in cuts]
        for_valid, for_test = (older[0] > 0) & (older[0] < older[1]), (older[1] > 0) & (older[1] < counts)
        return cls(
            offsets,
            np.asarray(items, dtype=np.int32),
            (counts - older[0]).astype(np.int64),
            n_items,
            np.where(for_valid, offsets[:-1] + older[0], NO_PLACE),
            np.where(for_test, offsets[:-1] + older[1], NO_PLACE),
        )

    def _last_two(self) -> dict[str, np.ndarray]:
        """Return where the targets of leave-one-out stand."""
        some = self.held_out > 0
        return {
            "valid_at": np.where(some, self.train_end, NO_PLACE),
            "test_at": np.where(some, self.train_end + 1, NO_PLACE),
        }

    @property
    def leave_one_out(self) -> bool:
        """Return whether the targets are the last two items of each user who has any."""
        return all(np.array_equal(getattr(self, name), place) for name, place in self._last_two().items())

    @property
    def n_users(self) -> int:
        """Return the number of users."""
        return len(self.offsets) - 1

    @cached_property
    def train_end(self) -> np.ndarray:
        """Return int64 [users]: where in `items` a user's training part ends."""
        return self.offsets[1:] - self.held_out

    @cached_property
    def users(self) -> np.ndarray:
        """Return int64 [interactions]: the user of each entry of `items`."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    @cached_property
    def in_training(self) -> np.ndarray:
        """Return bool [interactions]: true in the training part."""
        return np.arange(len(self.items)) < self.train_end[self.users]

    @cached_property
    def seen(self) -> np.ndarray:
        """Return bool [n_items]: true for an item of anybody's training part; others are cold."""
        seen = np.zeros(self.n_items, bool)
        seen[self.items[self.in_training]] = True
        return seen

    @property
    def splits(self) -> np.ndarray:
        """Return int8 [interactions]: 0 train, 1 valid, 2 test, 3 later (index into SPLITS)."""
        found = np.where(self.in_training, 0, 3).astype(np.int8)
        for number, at in ((1, self.valid_at), (2, self.test_at)):
            found[at[at != NO_PLACE]] = number
        return found

    def before(self, split: str) -> "Sequences":
        """Return what may be learnt from before a split is looked at: `valid`, `test` or what comes later is not there.

        Before `valid` stands the training part, before `test` that and the validation targets. What is learnt gets no
        more than this, so that no mistake in it can read a target.

        >>> whole = Sequences.from_lists([[4, 5, 6, 7], [4, 5]])
        >>> whole.before("test").items.tolist(), whole.before("valid").items.tolist()
        ([4, 5, 6, 4, 5], [4, 5, 4, 5])
        """
        kept = self.splits < SPLITS.index(split)
        counts = np.bincount(self.users[kept], minlength=self.n_users)
        return Sequences.from_splits(counts, self.items[kept], self.splits[kept], self.n_items)


@dataclass(frozen=True)
class Examples:
    """Pairs of history and target; the history is `sequences.items[start:end]`.

    Attributes:
        users, start, end: int64 [examples].
        target: int32 [examples].
    """

    users: np.ndarray
    start: np.ndarray
    end: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, index: np.ndarray | slice) -> "Examples":
        """Return the examples at an index, in its order."""
        return Examples(self.users[index], self.start[index], self.end[index], self.target[index])


def train_prefixes(sequences: Sequences, history: int) -> Examples:
    """Return every position of the training parts but the first as a target, after at most `history` items.

    >>> examples = train_prefixes(Sequences.from_lists([[4, 5, 6, 7, 8]]), history=1)
    >>> examples.start.tolist(), examples.end.tolist(), examples.target.tolist()
    ([0, 1], [1, 2], [5, 6])
    """
    end = np.flatnonzero(sequences.in_training)
    users = sequences.users[end]
    later = end > sequences.offsets[users]
    return _examples(sequences, users[later], end[later], history)


def held_out(sequences: Sequences, split: str, history: int) -> Examples:
    """Return one example for each user with a target in a split: it, and the history of all that came before.

    >>> examples = held_out(Sequences.from_lists([[4, 5, 6, 7], [4, 5]]), "test", history=2)
    >>> examples.users.tolist(), examples.start.tolist(), examples.end.tolist(), examples.target.tolist()
    ([0], [1], [3], [7])
    """
    assert split in ("valid", "test"), split
    at = sequences.valid_at if split == "valid" else sequences.test_at
    users = np.flatnonzero(at != NO_PLACE)
    return _examples(sequences, users, at[users], history)


def _examples(sequences: Sequences, users: np.ndarray, end: np.ndarray, history: int) -> Examples:
    start = np.maximum(sequences.offsets[users], end - history)
    return Examples(users.astype(np.int64), start, end.astype(np.int64), sequences.items[end])
