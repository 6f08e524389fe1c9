"""Leave-one-out: the last item of a user is the test target, the one before validates, the rest trains.

Histories are slices of one array, so the training prefixes of ten million interactions cost three integers each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SPLITS = ("train", "valid", "test")
HELD_OUT = 2


@dataclass(frozen=True)
class Sequences:
    """All users' items in time order, one after the other.

    Attributes:
        offsets: int64 [users + 1]; user u has `items[offsets[u]:offsets[u + 1]]`.
        items: int32 [interactions].
        held_out: int64 [users], how many of a user's last items are targets: 2, or 0 with fewer than 3 interactions
            (then all of them train).
        n_items: items in the catalogue; left out: the largest number + 1.
    """

    offsets: np.ndarray
    items: np.ndarray
    held_out: np.ndarray
    n_items: int = -1

    def __post_init__(self) -> None:
        if self.n_items < 0:
            object.__setattr__(self, "n_items", int(self.items.max(initial=-1)) + 1)
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
        """Return int8 [interactions]: 0 train, 1 valid, 2 test (index into SPLITS)."""
        return np.maximum(np.arange(len(self.items)) - self.train_end[self.users] + 1, 0).astype(np.int8)


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
    """Return one example for each user with held-out items: their validation or test target after all that came before.

    >>> examples = held_out(Sequences.from_lists([[4, 5, 6, 7], [4, 5]]), "test", history=2)
    >>> examples.users.tolist(), examples.start.tolist(), examples.end.tolist(), examples.target.tolist()
    ([0], [1], [3], [7])
    """
    assert split in ("valid", "test"), split
    users = np.flatnonzero(sequences.held_out)
    end = sequences.train_end[users] + (split == "test")
    return _examples(sequences, users, end, history)


def _examples(sequences: Sequences, users: np.ndarray, end: np.ndarray, history: int) -> Examples:
    start = np.maximum(sequences.offsets[users], end - history)
    return Examples(users.astype(np.int64), start, end.astype(np.int64), sequences.items[end])
