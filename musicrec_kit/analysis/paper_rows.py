"""Rows of ours in the layout of a printed table, below the paper's: other data, so nothing is subtracted."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from musicrec_kit.data import Dataset
from musicrec_kit.evaluation import published


def below_printed(name: str, ours: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a published table as printed with rows of ours below it: from (paper or here), row, the paper's columns.

    Args:
        ours: row -> column as printed -> value; columns that the paper does not have stand behind its own.
    """
    printed = published.as_printed(name).rename_axis("row").reset_index()
    rows: list[dict[Any, Any]] = [{"from": "paper", **row} for row in printed.to_dict("records")]
    rows += [{"from": "here", "row": row, **values} for row, values in ours.items()]
    return pd.DataFrame([{column: _text(value) for column, value in row.items()} for row in rows]).fillna("")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4f}"
    return str(value) if isinstance(value, str) else f"{value:,}"


def pairs_as_row(table: pd.DataFrame, value: str) -> dict[str, float]:
    """Return a table of pairs (columns a, b) as one row of a printed table: "a vs. b" -> value, without a = b."""
    apart = table[table["a"] != table["b"]]
    return {f"{a} vs. {b}": float(v) for a, b, v in zip(apart["a"], apart["b"], apart[value], strict=True)}


def split_statistics(dataset: Dataset) -> dict[str, Any]:
    """Return users, items, interactions, the mean length of a user's sequence, and the shares of train, valid and test.

    Under leave-one-out every user has one validation and one test item, so a share of 10 % means ten items a user.
    """
    shares = dataset.interactions["split"].value_counts(normalize=True)
    n, counts = len(dataset.interactions), {"users": dataset.n_users, "items": dataset.n_items}
    split = {name: float(shares.get(name, 0.0)) for name in ("train", "valid", "test")}
    return {**counts, "interactions": n, "mean length": n / max(dataset.n_users, 1), **split}
