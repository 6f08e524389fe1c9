"""The papers' own numbers: tables as printed (`params/published`), and ours beside them where the data are the same.

Nothing here is ever corrected: a cell that one relevant item per user makes impossible is marked, not mended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods

COUNTS = ("users", "items", "interactions")


def read(name: str) -> dict[str, Any]:
    """Return a published table's file: paper, source, caption, metrics, datasets, values, rows, claims."""
    return methods.read_yaml(methods.find("published", name))


def table(name: str) -> pd.DataFrame:
    """Return a published table, tidy: method, dataset, metric (as printed), key (the kit's name), value, impossible.

    `method` is empty in tables whose rows are data sets, `dataset` in those that have none; the order is the paper's.
    """
    raw = read(name)
    marked = {
        (row, dataset, metric)
        for metric, rows in (raw.get("impossible") or {}).items()
        for row, datasets in rows.items()
        for dataset in datasets
    }
    rows = []
    for row, given in raw["values"].items():
        panels = given if isinstance(given, dict) else {"": given}
        for panel, values in panels.items():
            method, dataset = ("", row) if row in raw["datasets"] else (row, panel)
            for (metric, key), value in zip(raw["metrics"].items(), values, strict=True):
                place = {"method": method, "dataset": dataset, "metric": metric, "key": key, "value": value}
                rows.append({**place, "impossible": (method, dataset, metric) in marked})
    return pd.DataFrame(rows, columns=["method", "dataset", "metric", "key", "value", "impossible"])


def as_printed(name: str) -> pd.DataFrame:
    """Return a published table in the paper's layout: a row per method (or data set), a panel of columns per data set.

    Impossible cells carry a `†`.
    """
    tidy = table(name)
    numeric = [f"{v:.4f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in tidy["value"]]
    tidy = tidy.assign(value=[f"{v}†" if i else v for v, i in zip(numeric, tidy["impossible"], strict=True)])
    index = "method" if tidy["method"].any() else "dataset"
    panels = tidy["dataset"].unique() if index == "method" else [""]
    blocks = {}
    for panel in panels:
        rows = tidy[tidy["dataset"] == panel] if index == "method" else tidy
        blocks[panel] = rows.pivot(index=index, columns="metric", values="value").reindex(
            index=tidy[index].unique(), columns=tidy["metric"].unique()
        )
    wide = pd.concat(blocks, axis=1) if any(panels) else blocks[panels[0]]
    panel_names: Any = [None] * wide.columns.nlevels
    return wide.rename_axis(index=None, columns=panel_names)


def same_data(name: str, manifest: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the paper's data set that ours is, by its counts, or None; and the finding in words.

    Every count that is known of the paper's set must be equal: users and items, and interactions where printed. Both
    papers split leave-one-out.
    """
    if manifest.get("protocol"):
        return None, "Targets behind a cut in time are not the papers': kept apart, no number is compared."
    here = {count: manifest.get(count) for count in COUNTS}
    datasets = read(name)["datasets"]
    for dataset, counts in datasets.items():
        if counts and all(here[count] == value for count, value in counts.items()):
            return dataset, f"Same data as {dataset}: {_words(counts)}."
    named = {dataset.lower(): dataset for dataset in datasets}
    ours = str(manifest.get("name", "these data"))
    if (paper := named.get(ours.lower())) is not None:
        differ = [
            f"{count} {'not counted' if here[count] is None else f'{here[count]:,}'} here, {value:,} there"
            for count, value in datasets[paper].items()
            if here[count] != value
        ]
        return None, f"{ours} is not the paper's {paper} ({'; '.join(differ)}): kept apart, no number is compared."
    known = ", ".join(datasets) or "none"
    return None, f"{ours} ({_words(here)}) is no data set of the paper ({known}): kept apart, no number is compared."


def _words(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in counts.items() if value is not None)


@dataclass(frozen=True)
class Beside:
    """Our numbers beside the paper's.

    Attributes:
        same: the paper's data set that ours is; None where the counts differ.
        says: the finding in words.
        rows: row, published row, metric, ours, published, difference, relative, impossible; empty where `same` is None.
    """

    same: str | None
    says: str
    rows: pd.DataFrame


def beside(ours: pd.DataFrame, name: str, manifest: Mapping[str, Any]) -> Beside:
    """Join our numbers with a published table, by row and metric, if the data are the same.

    Args:
        ours: row (of the sweep), metric (the kit's key, such as "hr@10"), value; several values of a row are averaged.
        manifest: our data set's manifest: name, users, items, interactions.
    """
    columns = ["row", "published row", "metric", "ours", "published", "difference", "relative", "impossible"]
    same, says = same_data(name, manifest)
    if same is None:
        return Beside(None, says, pd.DataFrame(columns=columns))
    names = read(name).get("rows") or {}
    means = ours.groupby(["row", "metric"], sort=False)["value"].mean().rename("ours").reset_index()
    means["published row"] = means["row"].map(names)
    printed = table(name)
    printed = printed[printed["dataset"] == same].rename(columns={"method": "published row", "value": "published"})
    joined = means.merge(
        printed, left_on=["published row", "metric"], right_on=["published row", "key"], suffixes=("_ours", "")
    )
    joined["difference"] = joined["ours"] - joined["published"]
    joined["relative"] = joined["difference"] / joined["published"]
    apart = [row for row in means["row"].unique() if names.get(row) not in set(printed["published row"])]
    if apart:
        says += f" Rows that the paper does not have: {', '.join(apart)}."
    if joined["impossible"].any():
        says += " † marks printed values that no evaluation with one relevant item per user can give."
    return Beside(same, says, joined[columns])


def impossible(values: Mapping[str, float], places: int = 4) -> bool:
    """Return whether printed metrics of one row contradict each other, whatever the digits that rounding cut off.

    With one relevant item a user whose rank is 6 to 10 adds 1 to HR@10 - HR@5, and between 1 / log2(11) and 1 / log2(7)
    to NDCG@10 - NDCG@5 (lineage section 4).

    >>> impossible({"hr@5": 0.1121, "hr@10": 0.1451, "ndcg@5": 0.0895, "ndcg@10": 0.1049})
    True
    """
    if not {"hr@5", "hr@10", "ndcg@5", "ndcg@10"} <= set(values):
        return False
    slack = 10.0**-places  # half a unit in each of two values
    hits = values["hr@10"] - values["hr@5"]
    gain = values["ndcg@10"] - values["ndcg@5"]
    return bool(gain + slack < (hits - slack) / np.log2(11) or gain - slack > (hits + slack) / np.log2(7))


def agreement(name: str, better: str, than: str) -> tuple[int, int, float]:
    """Return in how many of a table's cells one printed row beats another, of how many, and by how much on average.

    The last is the mean of the relative differences; (0, 0, nan) where the table does not hold both rows.
    """
    tidy = table(name)
    if tidy.empty or not {better, than} <= set(tidy["method"]):
        return 0, 0, float("nan")
    first, second = (tidy.loc[tidy["method"] == row, "value"].to_numpy(dtype=float) for row in (better, than))
    return int((first > second).sum()), len(first), float((first / second - 1).mean())


def agreement_in_words(name: str, better: str, than: str) -> str:
    """Return how a printed table orders two rows, such as "6 of 9 cells, -0.3% on average"; "" where it lacks one."""
    won, cells, gain = agreement(name, better, than)
    return f"{won} of {cells} cells, {gain:+.1%} on average" if cells else ""
