"""Training sequences cut to the length that the model reads, in batches of similar length."""

from dataclasses import dataclass

import numpy as np

from musicrec_kit import seeds
from musicrec_kit.data.splits import Examples, Sequences

NO_TARGET = -1


@dataclass(frozen=True)
class Windows:
    """Pieces of `items`: all items of a piece but the last are read, all but the first are targets.

    Attributes:
        items: int32 [interactions], as in Sequences.
        start, end: int64 [windows], with end - start from 2 to history + 1.
    """

    items: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def cut_windows(items: np.ndarray, start: np.ndarray, end: np.ndarray, history: int) -> Windows:
    """Cut sequences items[start:end] from their ends backwards, so that each item but the first is a target once.

    >>> windows = cut_windows(np.arange(6), np.array([0]), np.array([6]), history=2)
    >>> [windows.items[s:e].tolist() for s, e in zip(windows.start, windows.end)]
    [[0, 1], [1, 2, 3], [3, 4, 5]]
    """
    pieces = np.maximum(-(-(end - start - 1) // history), 0)
    sequence = np.repeat(np.arange(len(start)), pieces)
    back = np.cumsum(pieces)[sequence] - 1 - np.arange(len(sequence))
    stop = end[sequence] - back * history
    return Windows(items, np.maximum(start[sequence], stop - history - 1), stop)


def bucketed(windows: Windows, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return an epoch's batches as indices of windows: similar lengths together, everything else drawn by the seed."""
    rng = seeds.generator(seed, "windows", epoch)
    order = rng.permutation(len(windows))
    order = order[np.argsort((windows.end - windows.start)[order], kind="stable")]
    batches = [order[first : first + batch] for first in range(0, len(order), batch)]
    return [batches[index] for index in rng.permutation(len(batches))]


def padded(items: np.ndarray, start: np.ndarray, end: np.ndarray, fill: int) -> np.ndarray:
    """Return int64 [rows, longest] of items[start:end], filled up on the right; no wider than the longest row."""
    lengths = end - start
    place = np.arange(max(1, int(lengths.max(initial=0))))
    inside = place < lengths[:, None]
    index = np.where(inside, start[:, None] + place, 0)
    return np.where(inside, items[index] if len(items) else 0, fill).astype(np.int64)


def training_rows(windows: Windows, index: np.ndarray, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (inputs, targets) int64 [batch, longest]; targets are -1 where the input is padding."""
    start, end = windows.start[index], windows.end[index]
    return padded(windows.items, start, end - 1, padding), padded(windows.items, start + 1, end, NO_TARGET)


def hold_back(sequences: Sequences, history: int, share: float, most: int, seed: int) -> tuple[Windows, Examples]:
    """Return training windows and examples to choose an epoch by, both out of the training part alone ("ours").

    The examples' targets are the last training items of some users, drawn by the seed, and are left out of the windows;
    an item that would have no other place in training stays there.
    """
    lengths = sequences.train_end - sequences.offsets[:-1]
    able = np.flatnonzero(lengths >= 3)
    drawn = seeds.generator(seed, "hold_back").permutation(able)[: min(most, int(share * len(able)))]
    targets = sequences.items[sequences.train_end[drawn] - 1]
    count = np.bincount(sequences.items[sequences.in_training], minlength=sequences.n_items)
    left = count - np.bincount(targets, minlength=sequences.n_items)
    users = np.sort(drawn[left[targets] > 0])
    ends = sequences.train_end.copy()
    ends[users] -= 1
    end = ends[users]
    start = np.maximum(sequences.offsets[users], end - history)
    examples = Examples(users, start, end, sequences.items[end])
    return cut_windows(sequences.items, sequences.offsets[:-1], ends, history), examples
