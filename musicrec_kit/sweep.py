"""Sweeps: a YAML file names axes of settings; every cell is a run, made one after the other and found again when done.

Data in: `params/sweeps/<name>.yaml`. Data out: finished runs, one table with a row per cell and list, and where the
sweep names a `contrast`, one of paired differences.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, runs, tables
from musicrec_kit.params import Refused, Size, merge
from musicrec_kit.pipeline import Job, StageFailed

log = logging.getLogger(__name__)

Place = tuple[tuple[str, Any], ...]  # (name of an axis, level), in order
KEYS = {"datasets", "size", "seeds", "settings", "axes", "skip", "contrast"}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the names of its levels on every axis, and what they ask for."""

    dataset: str
    method: str
    size: Size
    seed: int
    levels: dict[str, str]
    overrides: dict[str, Any]

    def name_without(self, axis: str) -> Place:
        """Return (name, value) of data set, seed and every axis but one: equal for cells that this axis tells apart."""
        levels = ((name, level) for name, level in self.levels.items() if name != axis)
        return (("dataset", self.dataset), ("seed", self.seed), *levels)

    def job(self, runs_dir: Path, data_root: str | None = None) -> Job:
        """Return the cell's job."""
        return Job(self.dataset, self.method, self.size, self.seed, runs_dir, data_root, self.overrides)


def read(name: str) -> dict[str, Any]:
    """Read a sweep's YAML file; unknown keys are refused."""
    raw = methods.read_yaml(methods.find("sweeps", name))
    if unknown := set(raw) - KEYS:
        raise Refused(f"sweep {name}: unknown key {', '.join(sorted(unknown))}; a sweep has {', '.join(sorted(KEYS))}")
    axes = levels_of_axes(raw)
    for axis, level in (raw.get("contrast") or {}).items():
        if level not in (levels := axes.get(axis, {})):
            raise Refused(f"sweep {name}: contrast {axis}: {level} is no level of an axis; there is {list(levels)}")
    return raw


def levels_of_axes(sweep: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return axis -> level -> settings. A level with `key` and `values` stands for one per value of the size file.

    >>> axes = {"row": {"codes": {"key": "tokenizer.codes", "values": "codes"}}}
    >>> levels_of_axes({"size": "smoke", "axes": axes})["row"]["codes=16"]
    {'tokenizer': {'codes': 16}}
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, levels in (sweep.get("axes") or {}).items():
        found[axis] = {}
        for level, settings in levels.items():
            rest = dict(settings or {})
            key, values = rest.pop("key", None), rest.pop("values", None)
            if key is None:
                found[axis][level] = rest
                continue
            for value in methods.sweep_values(sweep.get("size", "small"), values):
                found[axis][f"{level}={value}"] = merge(rest, methods.nested(key, value))
    return found


def _common(sweep: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """Return what `settings` gives every cell of a data set at the sweep's size."""
    asked = {"dataset": methods.dataset_name(dataset), "size": sweep.get("size", "small")}
    values: dict[str, Any] = {}
    for entry in sweep.get("settings") or []:
        if all(entry.get(name, value) == value for name, value in asked.items()):
            values = merge(values, entry["set"])
    return values


def cells(sweep: Mapping[str, Any]) -> Iterator[Cell]:
    """Give every cell of a sweep: data sets x axes x seeds, without those that `skip` names.

    An axis maps a level's name to settings; the key `method` among them is the cell's method. An entry of `skip` maps
    axes to levels, and leaves out the cells that match all of it. An entry of `settings` is given to every cell, if it
    names no data set or size but the cell's. Cells that ask for the same run under two names are both given.
    """
    axes = levels_of_axes(sweep)
    for dataset in sweep["datasets"]:
        common = _common(sweep, dataset)
        for chosen in product(*(axis.items() for axis in axes.values())):
            levels = {axis: level for axis, (level, _) in zip(axes, chosen, strict=True)}
            if any(all(levels[a] in _as_list(v) for a, v in skip.items()) for skip in sweep.get("skip") or []):
                continue
            values = common
            for _, settings in chosen:
                values = merge(values, settings)
            values = dict(values)
            method = values.pop("method", "musicrec")
            for seed in sweep.get("seeds", [0]):
                yield Cell(dataset, method, sweep.get("size", "small"), seed, levels, values)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def states(todo: list[Cell], runs_dir: Path, data_root: str | None = None) -> pd.DataFrame:
    """Return one row per cell: its levels, method, seed, and whether its run is done."""
    rows = []
    for cell in todo:
        job = cell.job(runs_dir, data_root)
        done = (job.run_folder / "metrics.json").is_file()
        rows.append({**cell.levels, "method": cell.method, "seed": cell.seed, "state": "done" if done else "to do"})
    return pd.DataFrame(rows)


def run(todo: list[Cell], runs_dir: Path, data_root: str | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Run every cell in turn; return the table, and cell -> reason for those that failed (the others go on).

    Columns: the axes, dataset, method, seed, fingerprint, main_list, list, metric, value, and `ceiling` (HR@10 of the
    best predictor that sees everything) where the data set knows it.
    """
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for number, cell in enumerate(todo, 1):
        job = cell.job(runs_dir, data_root)
        log.info("cell %d of %d: %s %s seed %d", number, len(todo), cell.method, cell.levels, cell.seed)
        try:
            metrics = job.metrics
        except StageFailed as error:
            log.error("cell %d failed: %s", number, error)
            failed[f"{cell.method} {cell.levels} seed {cell.seed}"] = str(error)
            continue
        common = {**cell.levels, "dataset": job.dataset_name, "method": cell.method, "seed": cell.seed}
        common |= {"fingerprint": metrics["fingerprint"][:12], "main_list": metrics["main_list"]}
        ceilings = (job.dataset.manifest.get("about") or {}).get("ceilings")
        common |= {"ceiling": ceilings["both"]["hr@10"]} if ceilings else {}
        rows += [
            {**common, "list": key.split("/", 2)[1], "metric": key.split("/", 2)[2], "value": value}
            for key, value in metrics.items()
            if key.startswith("test/")
        ]
    return pd.DataFrame(rows), failed


def summary(results: pd.DataFrame, axes: list[str], metric: str = "hr@10/no_history") -> pd.DataFrame:
    """Return the mean and the range of a metric of the lists of record, over seeds.

    One row per combination of the axes; an axis whose name ends in "seed" is averaged over.
    """
    if results.empty:
        return results
    chosen = results[(results.metric == metric) & (results.list == results.main_list)]
    kept = [axis for axis in axes if not axis.endswith("seed")]
    grouped = chosen.groupby(kept, sort=False)["value"]
    table = grouped.agg(["mean", "min", "max", "count"]).reset_index()
    return table.rename(columns={"mean": f"mean {metric}", "count": "runs"})


def wide(results: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `run` with a row per cell and list and a column per metric, in the order of the runs."""
    if results.empty:
        return results
    index = [column for column in results.columns if column not in ("metric", "value")]
    table = results.pivot(index=index, columns="metric", values="value")
    order = pd.MultiIndex.from_frame(results[index].drop_duplicates())
    return table.loc[order, results["metric"].unique()].reset_index().rename_axis(None, axis=1)


def contrasts(todo: list[Cell], contrast: Mapping[str, str], runs_dir: Path) -> pd.DataFrame:
    """Return how one level of an axis differs from each other level, over the same users, from runs that are done.

    HR@10 of the lists of record on test, without the history. Users are paired inside a cell's data; cells that differ
    in a seed alone (of training, or an axis whose name ends in "seed") are pooled.

    Columns: dataset, the other axes, the two means, difference with its 95 % interval over users and p of the paired
    t-test, the smallest and largest difference among the pooled cells, `detectable` (the effect that would be found
    four times in five), users, cells.

    Raises:
        Refused: the axis changes the data, so that users cannot be paired.
    """
    from musicrec_kit.evaluation.compare import compare

    ((axis, base),) = contrast.items()
    done: dict[Place, dict[str, runs.Run]] = {}
    for cell in todo:
        if ((folder := cell.job(runs_dir).run_folder) / "metrics.json").is_file():
            done.setdefault(cell.name_without(axis), {})[cell.levels[axis]] = runs.load_run(folder)
    pairs: dict[tuple[Place, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for place, found in done.items():
        kept = tuple((name, value) for name, value in place if not name.endswith("seed"))
        for level in found.keys() - {base} if base in found else ():
            values = tables.paired_values(found[base], found[level], "HR@10", no_history=True)
            pairs.setdefault((kept, level), []).append(values)
    rows = []
    for (kept, level), both in sorted(pairs.items(), key=str):
        first, second = (np.concatenate([pair[side] for pair in both]) for side in (0, 1))
        result = compare(first, second)
        apart = [float(a.mean() - b.mean()) for a, b in both]
        row = {**dict(kept), axis: f"{base} - {level}", "first": result.mean_a, "second": result.mean_b}
        row |= {"difference": result.difference, "low": result.low, "high": result.high, "p": result.p}
        row |= {"least": min(apart), "most": max(apart), "detectable": result.detectable}
        rows.append({**row, "users": result.users, "cells": len(both)})
    return pd.DataFrame(rows)
