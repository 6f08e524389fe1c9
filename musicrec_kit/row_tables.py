"""Rows of a sweep beyond their mean: for whom they work, how they learn, and what they cost.

Results of a sweep (`sweep.results`), ranks (`orderings.ranks_of`) and run folders in; long tables out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, runs, tables
from musicrec_kit.evaluation.compare import holm, standard_error
from musicrec_kit.orderings import MEASURED, Ranks, compared, measured, of_record

PREPARED = ("data", "features")  # what rows share, and nobody's training
RANKED = ("rank", "evaluate")
COMPARED = [name for name in MEASURED if name != "seeds"]


def by_stratum(ranks: Mapping[tuple[str, str], Ranks], strata: pd.DataFrame, metric: str = "hr@10") -> pd.DataFrame:
    """Return one line per data set, row and stratum: users, the mean over seeds and users, and its interval over users.

    Columns: dataset, row, stratum, users, mean, low, high (95 %, normal law; nan with fewer than two users).

    Args:
        strata: bool [users, strata] (`evaluation.strata`), users in the order of the ranks.
    """
    lines = []
    for (dataset, row), found in ranks.items():
        values = found.values(metric, found.seeds).mean(axis=0)
        assert len(values) == len(strata), f"{len(strata)} users in strata, {len(values)} in {row}"
        for stratum in strata:
            chosen = values[strata[stratum].to_numpy()]
            mean = float(chosen.mean()) if len(chosen) else np.nan
            reach = tables.Z95 * standard_error(chosen) if len(chosen) > 1 else np.nan
            line = {"dataset": dataset, "row": row, "stratum": stratum, "users": len(chosen)}
            lines.append({**line, "mean": mean, "low": mean - reach, "high": mean + reach})
    return pd.DataFrame(lines, columns=["dataset", "row", "stratum", "users", "mean", "low", "high"])


def strata_layout(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `by_stratum` for reading: a line per row, a column per stratum, headed by its users."""
    heads = {stratum: f"{stratum} ({users})" for stratum, users in zip(table["stratum"], table["users"], strict=True)}
    wide = table.pivot(index="row", columns="stratum", values="mean")
    return wide.loc[list(dict.fromkeys(table["row"])), list(heads)].rename(columns=heads).rename_axis(None, axis=1)


def against_best(ranks: Mapping[tuple[str, str], Ranks], metric: str = "hr@10") -> pd.DataFrame:
    """Return each row's mean and deviation over seeds, held against the best other row of its data set.

    Columns: dataset, row, seeds, mean, deviation (over seeds; nan with one), best other (by its mean), and those of
    `orderings.measured`; p holm: p corrected for the number of rows of the data set. The best other is chosen by the
    same numbers, which no correction of this kind pays for: of tables with thirteen equal rows, one in twelve has a
    corrected p below .05 (simulated).
    """
    tables_of: list[pd.DataFrame] = []
    for dataset in dict.fromkeys(dataset for dataset, _ in ranks):
        means = {row: r.values(metric, r.seeds).mean(axis=1) for (of, row), r in ranks.items() if of == dataset}
        lines = []
        for row, values in means.items():
            others = [
                other
                for other in means
                if other != row and set(ranks[dataset, other].seeds) & set(ranks[dataset, row].seeds)
            ]
            deviation = values.std(ddof=1) if len(values) > 1 else np.nan
            line = {"dataset": dataset, "row": row, "mean": values.mean(), "deviation": deviation}
            if others:
                best = max(others, key=lambda other: means[other].mean())
                line |= {"best other": best, **measured(compared(ranks, dataset, row, best, metric))}
            lines.append({**line, "seeds": len(values)})
        table = pd.DataFrame(lines, columns=["dataset", "row", "seeds", "mean", "deviation", "best other", *COMPARED])
        tables_of.append(table.assign(**{"p holm": holm(table["p"].to_numpy(np.float64))}))
    return pd.concat(tables_of, ignore_index=True)


def costs(results: pd.DataFrame, runs_dir: Path | str) -> pd.DataFrame:
    """Return what each row's runs took, as their stages recorded it: means over seeds, and the most memory.

    Columns: row; train (s): of every stage between the features and the lists; rank (s): both splits, with and without
    the history; memory (MB): the peak of any of these stages. Rows that only count train nothing.
    """
    lines = []
    for (dataset, row), of_row in of_record(results).groupby(["dataset", "row"], sort=False):
        taken = [_taken(runs.load_run(methods.home() / runs_dir / run)) for run in of_row["run"].unique()]
        train, rank, memory = (np.array(column) for column in zip(*taken, strict=True))
        line = {"dataset": dataset, "row": row, "train (s)": train.mean(), "rank (s)": rank.mean()}
        lines.append({**line, "memory (MB)": memory.max()})
    return pd.DataFrame(lines, columns=["dataset", "row", "train (s)", "rank (s)", "memory (MB)"])


def _taken(run: runs.Run) -> tuple[float, float, float]:
    train = rank = memory = 0.0
    for stage in run.stages:
        record = runs.read_json(run.stage(stage) / "stage.json")
        if stage.split(".")[0] in PREPARED:
            continue
        memory = max(memory, float(record["peak_memory_mb"]))
        if stage in RANKED:
            rank += record["seconds"]
        else:
            train += record["seconds"]
    return train, rank, memory


def learning(results: pd.DataFrame, runs_dir: Path | str, value: str = "ndcg@10") -> pd.DataFrame:
    """Return how rows learnt: a line per evaluation on validation that a row's training has logged.

    Columns: dataset, row, seed, epoch (from 1), seconds since the training began (a first stage is counted), value.
    Rows whose training looks at something else, such as the generators' loss, have no line.
    """
    lines: list[dict[str, Any]] = []
    for (dataset, row, seed, run), _ in of_record(results).groupby(["dataset", "row", "seed", "run"], sort=False):
        found = runs.load_run(methods.home() / runs_dir / str(run))
        if "recommender" not in found.stages:
            continue
        log = tables.training_log(found.stage("recommender"))
        if value not in log:
            continue
        before = log.loc[log["part"] == "pretraining", "seconds"].max()  # of a first stage, whose clock is its own
        for record in log[log["part"] == "all"].dropna(subset=[value]).to_dict("records"):
            line = {"dataset": dataset, "row": row, "seed": seed, "epoch": record["epoch"] + 1}
            seconds = record["seconds"] + (0.0 if np.isnan(before) else before)
            lines.append({**line, "seconds": seconds, value: record[value]})
    return pd.DataFrame(lines, columns=["dataset", "row", "seed", "epoch", "seconds", value])
