"""Rows of a sweep compared over the same users and seeds, and what that says about the orderings that a paper claims.

Results of a sweep (`sweep.results`) and its run folders in; means over seeds, paired comparisons and verdicts out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, runs, tables
from musicrec_kit.evaluation import compare, published
from musicrec_kit.params import Refused

MASKED = "/no_history"


# --- rows of a sweep --------------------------------------------------------------------------------------------------


def of_record(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `sweep.results` that belong to each run's list of record."""
    return results[results["list"] == results["main_list"]]


def over_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of every metric of the lists of record, with its 95 % interval over seeds (t law).

    Columns: dataset, row, metric, mean, low, high, seeds; the bounds are nan where there is one seed.
    """
    from scipy import stats

    grouped = of_record(results).groupby(["dataset", "row", "metric"], sort=False)["value"]
    table = grouped.agg(["mean", "std", "count"]).reset_index()
    reach = table["std"] / np.sqrt(table["count"]) * stats.t.ppf(0.975, np.maximum(table["count"] - 1, 1))
    table = table.assign(low=table["mean"] - reach, high=table["mean"] + reach, seeds=table["count"])
    return table[["dataset", "row", "metric", "mean", "low", "high", "seeds"]]


@dataclass(frozen=True)
class Ranks:
    """The targets' ranks in one row's lists of record: int [seeds, users], the same users in the same order.

    Attributes:
        seeds: of training, in order.
        plain: 0 where the target is not in the list.
        masked: the same, with the user's history masked.
    """

    seeds: tuple[int, ...]
    plain: np.ndarray
    masked: np.ndarray

    def values(self, metric: str, seeds: Sequence[int]) -> np.ndarray:
        """Return a metric ("hr@10", "hr@10/no_history") of some of the seeds, float64 [seeds, users]."""
        name, masked, _ = metric.partition(MASKED)
        ranks = (self.masked if masked else self.plain)[[self.seeds.index(seed) for seed in seeds]]
        return tables.metric_values(ranks.ravel(), name).reshape(ranks.shape)


def ranks_of(results: pd.DataFrame, runs_dir: Path | str, split: str = "test") -> dict[tuple[str, str], Ranks]:
    """Return (dataset, row) -> ranks of every user, read from the run folders that the results name.

    Raises:
        Refused: rows of one data set were made from different data, so that users cannot be paired.
    """
    found: dict[tuple[str, str], Ranks] = {}
    cells = of_record(results)[["dataset", "row", "seed", "run", "main_list", "fingerprint"]].drop_duplicates()
    for dataset, rows in cells.groupby("dataset", sort=False):
        if rows["fingerprint"].nunique() > 1:
            raise Refused(f"the rows of {dataset} have different data (fingerprints differ): nothing to pair")
        for row, of_row in rows.groupby("row", sort=False):
            trained = of_row.sort_values("seed")
            folders = zip(trained["run"], trained["main_list"], strict=True)
            ranks = [_ranks(methods.home() / runs_dir / folder, name, split) for folder, name in folders]
            plain, masked = (np.stack([pair[side] for pair in ranks]) for side in (0, 1))
            found[str(dataset), str(row)] = Ranks(tuple(trained["seed"]), plain, masked)
    return found


def _ranks(folder: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    users = runs.read_table(folder / "per_user.parquet")
    users = users[(users["split"] == split) & (users["list"] == name)].sort_values("user")
    plain, masked = (users[c].to_numpy(dtype=np.int64, na_value=0) for c in ("rank", "rank_no_history"))
    return plain, masked


def compared(first: Ranks, second: Ranks, metric: str) -> compare.Comparison:
    """Return the paired comparison of two rows over the same users and the seeds that both have.

    The t-test and the detectable effect are over users, each with the mean over its seeds, so that a user counts once;
    the bootstrap draws users and seeds.
    """
    common = [seed for seed in first.seeds if seed in second.seeds]
    a, b = (row.values(metric, common) for row in (first, second))
    each = compare.compare(a.mean(axis=0), b.mean(axis=0))
    low, high = compare.bootstrap_interval(a - b, seed=0)
    values = (each.mean_a, each.mean_b, each.difference, low, high, each.t, each.p, each.detectable, each.users)
    return compare.Comparison(*values)


# --- which orderings hold ---------------------------------------------------------------------------------------------

HOLDS, FAILS, UNTOLD, NOT_RUN = "holds", "does not hold", "cannot be told", "not run"


def verdict(result: compare.Comparison) -> str:
    """Return whether the first row is better, in words.

    It cannot be told where the interval crosses zero, or where the difference is below the effect that would be found
    four times in five.
    """
    if result.low <= 0 <= result.high or abs(result.difference) < result.detectable:
        return UNTOLD
    return HOLDS if result.difference > 0 else FAILS


def orderings(
    ranks: Mapping[tuple[str, str], Ranks], claims: Iterable[Mapping[str, Any]], metrics: Sequence[str], name: str = ""
) -> pd.DataFrame:
    """Return one line per data set, metric and ordering that is claimed: the paired difference and its verdict.

    Columns: claim, better, than (rows of ours), dataset, metric, first, second, difference, low, high, p, detectable,
    users, seeds, verdict, printed (in how many cells the paper's own table has this order, and the mean relative gain).

    Args:
        claims: `says`, `better` and `than` (a list), rows of ours or of the published table.
        name: of the published table, whose `rows` say which of ours is which of the paper's.
    """
    names = (published.read(name).get("rows") or {}) if name else {}
    lines = []
    for dataset in dict.fromkeys(dataset for dataset, _ in ranks):
        rows = [row for found, row in ranks if found == dataset]
        for claim in claims:
            for than in claim["than"]:
                told = {"claim": claim["says"], "dataset": dataset, "printed": _printed(name, claim["better"], than)}
                pairs = [(a, b) for a in _ours(claim["better"], rows, names) for b in _ours(than, rows, names)]
                if not pairs:
                    lines.append({**told, "better": claim["better"], "than": than, "verdict": NOT_RUN})
                for (a, b), metric in ((pair, metric) for pair in pairs for metric in metrics):
                    result = compared(ranks[dataset, a], ranks[dataset, b], metric)
                    told |= {"better": a, "than": b, "metric": metric, "verdict": verdict(result)}
                    told |= {"first": result.mean_a, "second": result.mean_b, **measured(result)}
                    lines.append({**told, "seeds": len(set(ranks[dataset, a].seeds) & set(ranks[dataset, b].seeds))})
    columns = (
        "claim better than dataset metric first second difference low high p detectable users seeds verdict printed"
    )
    return pd.DataFrame(lines, columns=columns.split())


def _ours(name: str, rows: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the rows of ours that a claim's row means; "codes#3/4" is the third of four rows `codes=...`."""
    stem, counted, place = name.partition("#")
    if counted:
        number, count = map(int, place.split("/"))
        of_axis = [row for row in rows if row.startswith(f"{stem}=")]
        return [of_axis[number - 1]] if len(of_axis) == count else []
    return [row for row in rows if names.get(row, row) == name]


def _printed(name: str, better: str, than: str) -> str:
    won, cells, gain = published.agreement(name, better, than) if name else (0, 0, 0.0)
    return f"{won} of {cells} cells, {gain:+.1%}" if cells else ""


def in_words(found: pd.DataFrame) -> str:
    """Return the verdicts on orderings as Markdown: first how many, then each with its numbers."""
    counts = found["verdict"].value_counts()
    words = {HOLDS: "hold", FAILS: "do not hold", UNTOLD: "cannot be told", NOT_RUN: "were not run"}
    told = ", ".join(f"{counts[kind]} {words[kind]}" for kind in words if kind in counts)
    lines = [f"Of {len(found)} comparisons that the claims imply, {told}.", ""]
    for (claim, metric), rows in found.fillna({"metric": ""}).groupby(["claim", "metric"], sort=False):
        lines.append(
            f"- “{claim}”{', ' + display_name(str(metric)) if metric else ''}: "
            + "; ".join(map(_sentence, (dict(row) for _, row in rows.iterrows())))
            + "."
        )
    return "\n".join(lines)


def _sentence(line: Mapping[str, Any]) -> str:
    pair = f"{line['better']} over {line['than']}"
    if line["verdict"] == NOT_RUN:
        return f"{pair} **{NOT_RUN}** here"
    text = f"{pair} **{line['verdict']}** ({line['difference']:+.4f} [{line['low']:+.4f}, {line['high']:+.4f}]"
    return text + (f", found from {line['detectable']:.4f})" if line["verdict"] == UNTOLD else ")")


def display_name(metric: str) -> str:
    """Return a metric as the kit's tables head it.

    >>> display_name("hr@10/no_history")
    'HR@10 new'
    """
    name, masked, _ = metric.partition(MASKED)
    return name.upper() + (tables.NEW if masked else "")


def measured(result: compare.Comparison) -> dict[str, float]:
    """Return what tables say of a comparison beside its two means."""
    names = ("difference", "low", "high", "p", "detectable", "users")
    return {name: getattr(result, name) for name in names}
