"""Rows of small integers in order, by one sort of packed keys.

Codes and tokens are small: a row's columns, and its place, fit into the bits of one integer, and a million of those are
sorted in the time in which a lexicographic sort has looked at one column.
"""

from typing import NamedTuple

import numpy as np

BITS = 63  # of a key that stays positive


class SortedRows(NamedTuple):
    """Rows in lexicographic order, equal ones in the order in which they stand.

    Attributes:
        order: int64 [rows]; the rows' places in the table.
        begins: bool [columns, rows]; whether a row differs from the one before it in its first column + 1 columns.
    """

    order: np.ndarray
    begins: np.ndarray

    def sizes(self, column: int = -1) -> np.ndarray:
        """Return how many rows each group of rows with equal first columns has, in order."""
        begins = self.begins[column] if len(self.begins) else np.arange(len(self.order)) == 0
        return np.diff(np.append(np.flatnonzero(begins), len(self.order)))


def sort_rows(table: np.ndarray) -> SortedRows:
    """Sort the rows of integers [rows, columns].

    >>> found = sort_rows(np.array([[1, 2], [0, 5], [1, 2], [1, -1]]))
    >>> found.order.tolist(), found.begins.tolist(), found.sizes(0).tolist()
    ([1, 3, 0, 2], [[True, True, False, False], [True, True, True, False]], [1, 3])
    """
    n, columns = table.shape
    if not n or not columns:
        return SortedRows(np.arange(n), np.zeros((columns, n), bool))
    apart = np.ascontiguousarray(table.T)
    low = [int(column.min()) for column in apart]
    widths = [(int(column.max()) - least).bit_length() for column, least in zip(apart, low, strict=True)]
    if sum(widths) > BITS:
        order = np.lexsort(table.T[::-1])
        ordered = table[order]
        differs = np.concatenate([np.ones((1, columns), bool), ordered[1:] != ordered[:-1]])
        return SortedRows(order, np.ascontiguousarray(np.logical_or.accumulate(differs, axis=1).T))
    key = np.zeros(n, np.int64)
    for column, least, width in zip(apart, low, widths, strict=True):
        key <<= width
        key += column
        key -= least
    place = (n - 1).bit_length()
    if sum(widths) + place <= BITS:
        key <<= place
        key |= np.arange(n)
        key.sort()
        order = key & ((1 << place) - 1)
        key >>= place
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    begins = np.ones((columns, n), bool)
    for column in reversed(range(columns)):
        np.not_equal(key[1:], key[:-1], out=begins[column, 1:])
        key >>= widths[column]
    return SortedRows(order, begins)
