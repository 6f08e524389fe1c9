"""Sweeps: a YAML file names axes of settings; every cell is a run, found again when it is done.

Data in: `params/sweeps/<name>.yaml` and finished runs. Data out: cells, one table with a row per cell, list and metric,
and where the sweep names a `contrast`, one of paired differences. `grid.py` builds the runs; a few, `ensure` does.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, runs, tables
from musicrec_kit.evaluation import compare
from musicrec_kit.orderings import measured
from musicrec_kit.params import Refused, Size, merge
from musicrec_kit.pipeline import Job

log = logging.getLogger(__name__)

Place = tuple[tuple[str, Any], ...]  # (name of an axis, level), in order
KEYS = {"base", "datasets", "size", "seeds", "split", "settings", "axes", "skip", "contrast"}
OF_SETTINGS = {"dataset", "size", "set"}


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
        return Job(**self.request(runs_dir, data_root))

    def request(self, runs_dir: Path, data_root: str | None = None) -> dict[str, Any]:
        """Return what the cell asks for, by the names of `Job`."""
        asked = {"dataset_ref": self.dataset, "method": self.method, "size": self.size, "seed": self.seed}
        return {**asked, "runs_dir": runs_dir, "data_root": data_root, "overrides": self.overrides}


def read(name: str) -> dict[str, Any]:
    """Read a sweep's YAML file, laid on the sweep that its `base:` names; `settings` and axes of both are kept.

    Settings of its own come last, and an axis of its own takes the place of the base's axis of that name.

    Raises:
        Refused: a key, or an axis or level that `skip` or `contrast` names, is unknown.
    """
    raw = methods.read_yaml(methods.find("sweeps", name))
    if unknown := set(raw) - KEYS:
        raise Refused(f"sweep {name}: unknown key {', '.join(sorted(unknown))}; a sweep has {', '.join(sorted(KEYS))}")
    for entry in raw.get("settings") or []:
        if "set" not in entry or set(entry) - OF_SETTINGS:
            raise Refused(f"sweep {name}: settings are of {{dataset: D, size: S, set: {{...}}}}, found {entry}")
    if base := raw.pop("base", None):
        below = read(base)
        settings = [*below.get("settings", []), *(raw.get("settings") or [])]
        raw = {**below, **raw, "settings": settings, "axes": {**below.get("axes", {}), **(raw.get("axes") or {})}}
    axes = levels_of_axes(raw)
    for axis, out in (pair for skip in raw.get("skip") or [] for pair in skip.items()):
        if lacking := set(_as_list(out)) - set(axes.get(axis, {})):
            raise Refused(f"sweep {name}: skip {axis}: {lacking} is no level of an axis; there is {list(axes)}")
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

    An axis maps a level's name to settings; the key `method` among them is the cell's method, and `datasets` the only
    ones that have this level. An entry of `skip` maps axes to levels, and leaves out the cells that match all of it. An
    entry of `settings` is given to every cell, if it names no data set or size but the cell's. Cells that ask for the
    same run under two names are both given.
    """
    axes = levels_of_axes(sweep)
    for dataset in sweep["datasets"]:
        common = _common(sweep, dataset)
        for place in product(*(axis.items() for axis in axes.values())):
            levels = {axis: level for axis, (level, _) in zip(axes, place, strict=True)}
            if any(all(levels[a] in _as_list(v) for a, v in skip.items()) for skip in sweep.get("skip") or []):
                continue
            values = common
            for _, settings in place:
                values = merge(values, settings)
            values = dict(values)
            method, only = values.pop("method", "musicrec"), values.pop("datasets", None)
            if only and methods.dataset_name(dataset) not in only:
                continue
            for seed in sweep.get("seeds", [0]):
                yield Cell(dataset, method, sweep.get("size", "small"), seed, levels, values)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def chosen(sweep: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Return a sweep with `datasets`, `size` or `seeds` in the place of its own, where they are given."""
    return {**sweep, **{key: value for key, value in given.items() if value}}


def jobs(todo: Sequence[Cell], runs_dir: Path, data_root: str | None = None) -> list[Job]:
    """Return the job of every cell; an input file that several read is fingerprinted once."""
    fingerprints: dict[Path, str] = {}
    return [Job(**cell.request(runs_dir, data_root), fingerprints=fingerprints) for cell in todo]


def is_done(job: Job) -> bool:
    """Say whether a job's run is there and consists of the stages that the job has now.

    Where the data's files are not on this machine, they are taken to be what the run's own stages have read.
    """
    folder = job.run_folder
    if not (folder / "metrics.json").is_file() or not (folder / "stages.json").is_file():
        return False
    stages = runs.read_json(folder / "stages.json")
    try:
        return stages == job.keys
    except Refused:
        return stages == replace(job, fingerprints=_recorded_fingerprints(job)).keys


def _recorded_fingerprints(job: Job) -> dict[Path, str]:
    run = runs.load_run(job.run_folder)
    recorded: dict[str, str] = {}
    for stage in run.stages:
        if (record := run.stage(stage) / "stage.json").is_file():
            inputs = runs.read_json(record)["inputs"]
            # a stage names its own file as other stages name that stage's key: features.text is both
            recorded |= {name: value for name, value in inputs.items() if name == stage or name not in run.stages}
    return {job.root / file: recorded[name] for name, file in job.named_files().items() if name in recorded}


def missing(todo: Sequence[Cell], runs_dir: Path, data_root: str | None = None) -> list[Cell]:
    """Return the cells whose run is not there, or not as the settings are now."""
    return [cell for cell, job in zip(todo, jobs(todo, runs_dir, data_root), strict=True) if not is_done(job)]


def finished(todo: Sequence[Cell], runs_dir: Path, data_root: str | None = None) -> list[tuple[Cell, runs.Run]]:
    """Return the cells whose run is done, each with its run."""
    found = zip(todo, jobs(todo, runs_dir, data_root), strict=True)
    return [(cell, runs.load_run(job.run_folder)) for cell, job in found if is_done(job)]


def results(todo: Sequence[Cell], runs_dir: Path, data_root: str | None = None, wanted: str = "test") -> pd.DataFrame:
    """Return one row per finished cell, list and metric (`hr@10`, `hr@10/no_history`) of the split that is wanted.

    Columns: those of results.parquet (`run` is the run's folder, seen from `runs_dir`), `main_list`, `encoders`, and
    the cell's level on every axis of the sweep.
    """
    rows: list[dict[str, Any]] = []
    for cell, run in finished(todo, runs_dir, data_root):
        extra = {"main_list": run.metrics["main_list"], "encoders": runs.encoders(run), **cell.levels}
        for row in runs.results_rows(run):
            split, _, metric = row["metric"].partition("/")
            if split == wanted:
                rows.append({**row, "metric": metric, **extra})
    axes = [axis for cell in todo for axis in cell.levels]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*runs.RESULTS_COLUMNS, "main_list", "encoders", *axes])))


def ensure(todo: Sequence[Cell], runs_dir: Path, data_root: str | None = None) -> pd.DataFrame:
    """Build the runs that are missing in turn, in this process, and return `results` of all."""
    lacking = missing(todo, runs_dir, data_root)
    for number, cell in enumerate(lacking, 1):
        log.info("run %d of %d: %s %s seed %d", number, len(lacking), cell.method, cell.levels, cell.seed)
        _ = cell.job(runs_dir, data_root).metrics
    return results(todo, runs_dir, data_root)


def summary(found: pd.DataFrame, axes: Sequence[str], metrics: Sequence[str] = ("hr@10", "ndcg@10")) -> pd.DataFrame:
    """Return mean, least and most of metrics of the lists of record over seeds, and the number of runs.

    One row per data set and combination of the axes; an axis whose name ends in "seed" is averaged over.
    """
    kept = list(dict.fromkeys(["dataset", *(axis for axis in axes if not axis.endswith("seed"))]))
    record = found[found["list"] == found["main_list"]]
    made = []
    for metric in metrics:
        grouped = record[record["metric"] == metric].groupby(kept, sort=False)["value"]
        names = {"mean": metric, "min": f"{metric} least", "max": f"{metric} most"}
        made.append(grouped.agg(["mean", "min", "max"]).rename(columns=names))
    return pd.concat([*made, grouped.size().rename("runs")], axis=1).reset_index()


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `results` with a row per cell and list and a column per metric, in the order of the runs."""
    if found.empty:
        return found
    index = [column for column in found.columns if column not in ("metric", "value")]
    table = found.pivot(index=index, columns="metric", values="value")
    order = pd.MultiIndex.from_frame(found[index].drop_duplicates())
    return table.loc[order, found["metric"].unique()].reset_index().rename_axis(None, axis=1)


def with_ceilings(table: pd.DataFrame, runs_dir: Path) -> pd.DataFrame:
    """Return the table with `ceiling`, HR@10 of the best predictor that sees everything, if the data sets know it."""
    best: dict[str, float] = {}
    for run in table["run"].unique() if len(table) else ():
        found = tables.ceilings(tables.data_manifest(runs.load_run(runs_dir / run)))
        best |= {run: found["both"]["hr@10"]} if found else {}
    return table.assign(ceiling=table["run"].map(best)) if best else table


Pair = tuple[np.ndarray, np.ndarray]  # two rows' values in one world, [repeats, users] each


def contrasts(
    todo: Sequence[Cell], contrast: Mapping[str, str], runs_dir: Path, data_root: str | None = None
) -> pd.DataFrame:
    """Return how one level of an axis differs from each other level, over the same users, from runs that are done.

    HR@10 of the lists of record on test, without the history. Users are paired inside a cell's data. Cells that differ
    in a seed alone are repeats: of training, or, where an axis whose name ends in "seed" draws other data, worlds.

    Columns: dataset, the other axes, the two means, those of `orderings.measured`, the smallest and largest difference
    among the repeats, cells.

    Raises:
        Refused: the axis changes the data, so that users cannot be paired.
    """
    ((axis, base),) = contrast.items()
    done: dict[Place, dict[str, dict[Place, runs.Run]]] = {}
    for cell, run in finished(todo, runs_dir, data_root):
        place = cell.name_without(axis)
        kept, repeat = (tuple(p for p in place if p[0].endswith("seed") == is_seed) for is_seed in (False, True))
        done.setdefault(kept, {}).setdefault(cell.levels[axis], {})[repeat] = run
    worlds = {
        (kept, level): _paired_worlds(levels[base], of_level)
        for kept, levels in done.items()
        for level, of_level in levels.items()
        if level != base and levels.get(base, {}).keys() & of_level.keys()
    }
    means = {kept: _table(worlds, kept) for kept, _ in worlds}
    of_worlds, rows = compare.spread_of(means.values()), []  # how far worlds differ is asked of all of them
    for (kept, level), pairs in sorted(worlds.items(), key=str):
        apart = _means(pairs, 0) - _means(pairs, 1)
        if len(pairs) == 1:
            result = compare.compare(*pairs[0], compare.spread_of([means[kept]]))
        else:
            result = compare.compare_worlds(pairs, of_worlds)
        row = {**dict(kept), axis: f"{base} - {level}", "first": result.mean_a, "second": result.mean_b}
        row |= {**measured(result), "least": apart.min(), "most": apart.max()}
        rows.append({**row, "cells": sum(len(first) for first, _ in pairs)})
    return pd.DataFrame(rows)


def _paired_worlds(first: Mapping[Place, runs.Run], second: Mapping[Place, runs.Run]) -> list[Pair]:
    """Return the two levels' values in every world, repeats of equal data together."""
    worlds: dict[str, list[Pair]] = {}
    for repeat in first:
        if repeat in second:
            values = tables.paired_values(first[repeat], second[repeat], "HR@10", no_history=True)
            worlds.setdefault(first[repeat].metrics["fingerprint"], []).append(values)
    return [(np.stack([a for a, _ in of_world]), np.stack([b for _, b in of_world])) for of_world in worlds.values()]


def _means(pairs: Sequence[Pair], side: int) -> np.ndarray:
    """Return one level's mean per repeat, or per world where there are several."""
    return pairs[0][side].mean(axis=1) if len(pairs) == 1 else np.array([pair[side].mean() for pair in pairs])


def _table(worlds: Mapping[tuple[Place, str], list[Pair]], kept: Place) -> np.ndarray:
    """Return the means [levels, repeats or worlds] of the levels of one place that have all of them, the base first."""
    made = [(_means(pairs, 0), _means(pairs, 1)) for (place, _), pairs in worlds.items() if place == kept]
    whole = [pair for pair in made if len(pair[0]) == max(len(first) for first, _ in made)]
    return np.stack([whole[0][0], *(second for _, second in whole)])
