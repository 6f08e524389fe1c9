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
        first: int64 [windows], the first target that is asked for; None: all are.
    """

    items: np.ndarray
    start: np.ndarray
    end: np.ndarray
    first: np.ndarray | None = None

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


def overlapping_windows(items: np.ndarray, start: np.ndarray, end: np.ndarray, history: int) -> Windows:
    """Cut sequences items[start:end] as `cut_windows` does, but overlapping by half, each target asked for once.

    A target of a long sequence then has at least half of the history that ranking has, not one item in the worst case.

    >>> made = overlapping_windows(np.arange(8), np.array([0]), np.array([8]), history=4)
    >>> [(made.items[s:e].tolist(), int(f)) for s, e, f in zip(made.start, made.end, made.first)]
    [([0, 1, 2, 3], 1), ([1, 2, 3, 4, 5], 4), ([3, 4, 5, 6, 7], 6)]
    """
    stride = max(1, history // 2)
    targets = np.maximum(end - start - 1, 0)
    more = np.maximum(-(-(targets - history) // stride), 0)
    pieces = np.where(targets > 0, more + 1, 0)
    sequence = np.repeat(np.arange(len(start)), pieces)
    back = np.cumsum(pieces)[sequence] - 1 - np.arange(len(sequence))
    stop = end[sequence] - back * stride
    first = np.where(back == more[sequence], start[sequence] + 1, stop - stride)
    return Windows(items, np.maximum(start[sequence], stop - history - 1), stop, first)


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
    inputs, targets = padded(windows.items, start, end - 1, padding), padded(windows.items, start + 1, end, NO_TARGET)
    if windows.first is not None:
        asked = np.arange(targets.shape[1]) >= (windows.first[index] - start - 1)[:, None]
        targets = np.where(asked, targets, NO_TARGET)
    return inputs, targets


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


def prefixes(windows: Windows, history: int) -> Windows:
    """Return a window per target of the given ones, which ends with it and asks for nothing else.

    >>> one = Windows(np.arange(4), np.array([0]), np.array([4]))
    >>> made = prefixes(one, 2)
    >>> [(one.items[s:e].tolist(), int(f)) for s, e, f in zip(made.start, made.end, made.first)]
    [([0, 1], 1), ([0, 1, 2], 2), ([1, 2, 3], 3)]
    """
    targets = windows.end - windows.start - 1
    window = np.repeat(np.arange(len(windows)), targets)
    nth = np.arange(len(window)) - np.repeat(np.cumsum(targets) - targets, targets)
    end = windows.start[window] + nth + 2
    return Windows(windows.items, np.maximum(windows.start[window], end - history - 1), end, end - 1)


def masked_rows(
    windows: Windows,
    index: np.ndarray,
    padding: int,
    mask: int,
    share: float,
    last_share: float,
    rng: np.random.Generator,
    of_prefixes: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (inputs, targets) int64 [batch, longest] of BERT4Rec's Cloze task: masked items are the targets.

    Every item of a row is masked with probability `share`, and at least one; with probability `last_share` only the
    row's last item is, which is what ranking asks for.

    Args:
        of_prefixes: such a row ends anywhere behind its first item, drawn each time; else at its end, so that a history
            asks for the same item in every epoch.
    """
    start, end = windows.start[index], windows.end[index]
    items = padded(windows.items, start, end, padding)
    lengths = end - start
    place = np.arange(items.shape[1])
    inside = place < lengths[:, None]
    draws = np.where(inside, rng.random(items.shape), 2.0)
    hidden = (draws < share) | (draws == draws.min(axis=1, keepdims=True))
    only_last = rng.random(len(index)) < last_share
    if of_prefixes:
        lengths = np.where(only_last, 2 + (rng.random(len(index)) * (lengths - 1)).astype(np.int64), lengths)
        items = np.where(place < lengths[:, None], items, padding)
    hidden = np.where(only_last[:, None], place == lengths[:, None] - 1, hidden & inside)
    return np.where(hidden, mask, items), np.where(hidden, items, NO_TARGET)
