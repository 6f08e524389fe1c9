"""Rows of a sweep compared over the same users and seeds, and what that says about the orderings that a paper claims.

Results of a sweep (`sweep.results`) and its run folders in; means over seeds, paired comparisons and verdicts out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, tables
from musicrec_kit.evaluation import compare, published
from musicrec_kit.params import Refused

MASKED = "/no_history"


# --- rows of a sweep --------------------------------------------------------------------------------------------------


def of_record(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `sweep.results` that belong to each run's list of record."""
    return results[results["list"] == results["main_list"]]


def over_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of every metric of the lists of record, with its 95 % interval over seeds (t law).

    Columns: dataset, row, metric, mean, low, high, seeds, encoders; the bounds are nan where there is one seed.
    """
    from scipy import stats

    grouped = of_record(results).groupby(["dataset", "row", "metric"], sort=False)
    table = grouped["value"].agg(["mean", "std", "count"]).assign(encoders=grouped["encoders"].first()).reset_index()
    reach = table["std"] / np.sqrt(table["count"]) * stats.t.ppf(0.975, np.maximum(table["count"] - 1, 1))
    table = table.assign(low=table["mean"] - reach, high=table["mean"] + reach, seeds=table["count"])
    return table[["dataset", "row", "metric", "mean", "low", "high", "seeds", "encoders"]]


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
            ranks = [tables.ranks_of_list(methods.home() / runs_dir / folder, name, split) for folder, name in folders]
            plain, masked = (np.stack([r[column].to_numpy() for r in ranks]) for column in ("rank", "rank_no_history"))
            found[str(dataset), str(row)] = Ranks(tuple(trained["seed"]), plain, masked)
    return found


def compared(
    ranks: Mapping[tuple[str, str], Ranks], dataset: str, first: str, second: str, metric: str
) -> compare.Comparison:
    """Return the paired comparison of two rows over the same users and the seeds that both have.

    How far trainings differ is asked of all rows of the data set that have these seeds.
    """
    one, other = ranks[dataset, first], ranks[dataset, second]
    common = [seed for seed in one.seeds if seed in other.seeds]
    all_of_them = [r for (of, _), r in ranks.items() if of == dataset and set(common) <= set(r.seeds)]
    means = np.unique([row.values(metric, common).mean(axis=1) for row in all_of_them], axis=0)  # a run may be two rows
    return compare.compare(one.values(metric, common), other.values(metric, common), compare.spread_of([means]))


# --- which orderings hold ---------------------------------------------------------------------------------------------

HOLDS, FAILS, UNTOLD, NOT_RUN = "holds", "does not hold", "cannot be told", "not run"
WORDS = {HOLDS: "hold", FAILS: "do not hold", UNTOLD: "cannot be told"}


def verdict(result: compare.Comparison) -> str:
    """Return whether the first row is better, in words.

    It cannot be told where there is one seed, where the interval holds zero, or where the difference is below the
    effect that would be found four times in five.
    """
    clear = result.low > 0 or result.high < 0
    if not clear or not abs(result.difference) >= result.detectable:  # nan: one seed
        return UNTOLD
    return HOLDS if result.difference > 0 else FAILS


def orderings(
    ranks: Mapping[tuple[str, str], Ranks], claims: Iterable[Mapping[str, Any]], metrics: Sequence[str], name: str = ""
) -> pd.DataFrame:
    """Return one line per data set, metric and ordering that is claimed: the paired difference and its verdict.

    Columns: claim, better, than (rows of ours), dataset, metric, first, second, those of `measured`, verdict, printed
    (in how many cells the paper's own table has this order, and the mean relative gain).

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
                told = {"claim": claim["says"], "dataset": dataset, "printed": ""}
                told["printed"] = published.agreement_in_words(name, claim["better"], than) if name else ""
                pairs = _readings(_ours(claim["better"], rows, names), _ours(than, rows, names))
                if not pairs:
                    lines.append({**told, "better": claim["better"], "than": than, "metric": "", "verdict": NOT_RUN})
                for (a, b), metric in ((pair, metric) for pair in pairs for metric in metrics):
                    result = compared(ranks, dataset, a, b, metric)
                    told |= {"better": a, "than": b, "metric": metric, "verdict": verdict(result)}
                    lines.append({**told, "first": result.mean_a, "second": result.mean_b, **measured(result)})
    columns = ["claim", "better", "than", "dataset", "metric", "first", "second", *MEASURED, "verdict", "printed"]
    return pd.DataFrame(lines, columns=columns)


def against(ranks: Mapping[tuple[str, str], Ranks], base: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Return every other row held against one, as `orderings` does, the largest gain first: a specification curve."""
    others = [row for row in dict.fromkeys(row for _, row in ranks) if row != base]
    found = orderings(
        ranks, [{"says": f"better than {base}", "better": row, "than": [base]} for row in others], metrics
    )
    gains = found[found["metric"] == metrics[0]].groupby("better")["difference"].mean()
    return found.sort_values("better", key=lambda rows: -rows.map(gains), kind="stable", ignore_index=True)


def named(claims: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the rows that claims name."""
    return {row for claim in claims for row in (claim["better"], *claim["than"])}


def _ours(name: str, rows: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the rows of ours that a claim's row means; "codes#3/4" is the third of four rows `codes=...`."""
    stem, counted, place = name.partition("#")
    if counted:
        number, count = map(int, place.split("/"))
        of_axis = [row for row in rows if row.startswith(f"{stem}=")]
        return [of_axis[number - 1]] if len(of_axis) == count else []
    return [row for row in rows if names.get(row, row) == name]


def _readings(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    """Return the pairs to compare: where both sides of a claim have several readings, each with its own."""
    several = len(first) == len(second) > 1
    return list(zip(first, second, strict=True)) if several else list(product(first, second))


def in_words(found: pd.DataFrame) -> str:
    """Return the verdicts on orderings as Markdown: how many of which, then claim by claim over whom."""
    lines = []
    for metric, rows in found[found["verdict"] != NOT_RUN].groupby("metric", sort=False):
        counts = rows["verdict"].value_counts()
        told = ", ".join(f"{counts[kind]} {words}" for kind, words in WORDS.items() if kind in counts)
        lines.append(f"**{display_name(str(metric))}**: of {len(rows)} comparisons that the claims imply, {told}.")
        if alone := int((rows["seeds"] < 2).sum()):
            lines[-1] += (
                f" {alone} of them have one seed: how far trainings differ is not known, and nothing can be told."
            )
    lines = ["  \n".join(lines), ""] if lines else ["None of the comparisons was run.", ""]
    for claim, rows in found.groupby("claim", sort=False):
        parts = [
            f"{display_name(str(metric)) + ': ' if metric else ''}**{kind}** for {_pairs(of_kind)}"
            for (metric, kind), of_kind in rows.groupby(["metric", "verdict"])
        ]
        lines.append(f"- “{claim}”. " + "; ".join(parts) + ".")
    return "\n".join(lines)


def _pairs(rows: pd.DataFrame) -> str:
    """Return "A over B, C; D over E"."""
    named = rows.groupby("better", sort=False)["than"].agg(
        lambda column: ", ".join(map(_quoted, dict.fromkeys(column)))
    )
    return "; ".join(f"{_quoted(str(better))} over {than}" for better, than in named.items())


def _quoted(row: str) -> str:
    return f"‘{row}’" if "," in row else row


def verdict_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ordering for reading: the difference with its interval and the verdict, per metric."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for line in found.to_dict("records"):
        place = (line["dataset"], line["better"], line["than"])
        row = rows.setdefault(place, {"ordering": f"{line['better']} over {line['than']}"})
        if line["verdict"] == NOT_RUN:
            row["verdict"] = NOT_RUN
            continue
        head = display_name(line["metric"])
        row[head] = f"{line['difference']:+.4f} [{line['low']:+.4f}, {line['high']:+.4f}]"
        row |= {f"{head} found from": f"{line['detectable']:.4f}", f"{head} verdict": line["verdict"]}
        row["the paper's own table"] = line["printed"]
    table = pd.DataFrame(list(rows.values())).fillna("")
    last = [name for name in ("the paper's own table", "verdict") if name in table]
    return table[[*(name for name in table if name not in last), *last]]


def display_name(metric: str) -> str:
    """Return a metric as the kit's tables head it.

    >>> display_name("hr@10/no_history")
    'HR@10 new'
    """
    name, masked, _ = metric.partition(MASKED)
    return name.upper() + (tables.NEW if masked else "")


MEASURED = "difference low high p detectable users seeds p_users bootstrap_low bootstrap_high".split()


def measured(result: compare.Comparison) -> dict[str, float]:
    """Return what tables say of a comparison beside its two means."""
    values = (*(getattr(result, name) for name in MEASURED[:-2]), *result.bootstrap)
    return dict(zip(MEASURED, values, strict=True))
