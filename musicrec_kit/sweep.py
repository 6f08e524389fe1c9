"""Sweeps: a YAML file names axes of settings; every cell is a run, made one after the other and found again when done.

Data in: `params/sweeps/<name>.yaml`. Data out: finished runs, and one table with a row per cell and list.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from musicrec_kit import methods
from musicrec_kit.params import Refused, Size, merge
from musicrec_kit.pipeline import Job, StageFailed

log = logging.getLogger(__name__)

KEYS = {"datasets", "size", "seeds", "axes", "skip"}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the names of its levels on every axis, and what they ask for."""

    dataset: str
    method: str
    size: Size
    seed: int
    levels: dict[str, str]
    overrides: dict[str, Any]

    def job(self, runs_dir: Path, data_root: str | None = None) -> Job:
        """Return the cell's job."""
        return Job(self.dataset, self.method, self.size, self.seed, runs_dir, data_root, self.overrides)


def read(name: str) -> dict[str, Any]:
    """Read a sweep's YAML file; unknown keys are refused."""
    raw = methods.read_yaml(methods.find("sweeps", name))
    if unknown := set(raw) - KEYS:
        raise Refused(f"sweep {name}: unknown key {', '.join(sorted(unknown))}; a sweep has {', '.join(sorted(KEYS))}")
    return raw


def cells(sweep: Mapping[str, Any]) -> Iterator[Cell]:
    """Give every cell of a sweep: data sets x axes x seeds, without those that `skip` names.

    An axis maps a level's name to settings; the key `method` among them is the cell's method. An entry of `skip` maps
    axes to levels, and leaves out the cells that match all of it.
    """
    axes = sweep.get("axes") or {}
    for dataset in sweep["datasets"]:
        for chosen in product(*(axis.items() for axis in axes.values())):
            levels = {axis: level for axis, (level, _) in zip(axes, chosen, strict=True)}
            if any(all(levels[a] in _as_list(v) for a, v in skip.items()) for skip in sweep.get("skip") or []):
                continue
            values: dict[str, Any] = {}
            for _, settings in chosen:
                values = merge(values, settings or {})
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
