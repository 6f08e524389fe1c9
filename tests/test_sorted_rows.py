"""Sorted rows: packed keys against numpy's own lexicographic sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from musicrec_kit import sorted_rows
from musicrec_kit.sorted_rows import sort_rows

tables = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(-3, 3))


def _check(table: np.ndarray) -> None:
    found = sort_rows(table)
    assert found.order.tolist() == np.lexsort(table.T[::-1]).tolist()
    ordered = table[found.order]
    for column in range(table.shape[1]):
        expected = [True] + [
            bool((a[: column + 1] != b[: column + 1]).any()) for a, b in zip(ordered[:-1], ordered[1:], strict=True)
        ]
        assert found.begins[column].tolist() == expected
        sizes = np.unique(table[:, : column + 1], axis=0, return_counts=True)[1]
        assert found.sizes(column).tolist() == sizes.tolist()


# keys that hold the row's place, keys that do not, and rows whose keys would not fit
@pytest.mark.parametrize("bits", [63, 9, 3, 0])
@settings(max_examples=40, deadline=None)
@given(table=tables)
def test_rows_are_in_the_order_of_lexsort(bits: int, table: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_rows, "BITS", bits)
        _check(table)


def test_wide_rows_do_not_fit_into_a_key() -> None:
    rng = np.random.default_rng(0)
    _check(rng.integers(-(2**31), 2**31, (40, 3))[rng.integers(40, size=60)])
    _check(rng.integers(0, 256, (50, 8))[rng.integers(50, size=90)].astype(np.int32))


def test_no_rows_and_no_columns() -> None:
    assert sort_rows(np.zeros((0, 3), int)).sizes().tolist() == []
    assert sort_rows(np.zeros((4, 0), int)).sizes().tolist() == [4]
    assert sort_rows(np.zeros((0, 0), int)).sizes().tolist() == []
