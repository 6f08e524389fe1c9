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


def run(sweep: Mapping[str, Any], runs_dir: Path, data_root: str | None = None) -> pd.DataFrame:
    """Run every cell in turn and return one row per cell, list and metric; a cell that fails is named and passed over.

    Columns: the axes, dataset, method, seed, list, metric, value, and `ceiling_<which>` where the data set knows them.
    """
    rows: list[dict[str, Any]] = []
    todo = list(cells(sweep))
    for number, cell in enumerate(todo, 1):
        job = cell.job(runs_dir, data_root)
        log.info("cell %d of %d: %s %s seed %d", number, len(todo), cell.method, cell.levels, cell.seed)
        try:
            metrics = job.metrics
        except StageFailed as error:
            log.error("cell %d failed: %s", number, error)
            continue
        common = {**cell.levels, "dataset": job.dataset_name, "method": cell.method, "seed": cell.seed}
        common["fingerprint"] = metrics["fingerprint"][:12]
        common |= {"main_list": metrics["main_list"]}
        rows += [
            {**common, "list": key.split("/", 2)[1], "metric": key.split("/", 2)[2], "value": value}
            for key, value in metrics.items()
            if key.startswith("test/")
        ]
    return pd.DataFrame(rows)
