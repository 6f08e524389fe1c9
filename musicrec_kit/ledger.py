"""The papers held against their own tables and against ours: every claim with a verdict, every printed cell with a gap.

Data in: `params/published` (cells, claims, statements as printed) and finished runs. Data out: the two tables of
notebook 90.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import yaml

from musicrec_kit import methods, runs, sweep, tables
from musicrec_kit.evaluation import published
from musicrec_kit.orderings import FAILS, HOLDS, NOT_RUN, UNTOLD, Ranks, orderings
from musicrec_kit.params import Size

AGREES, PARTLY, CONTRADICTS = "agrees", "in part", "contradicts"
UNTESTED = "cannot be tested here"
CLAIMS = ["paper", "place", "claim", "own table", "own table says", "here", "why"]
CELLS = ["table", "dataset", "row", "metric", "printed", "impossible", "ours", "gap", "reason", "run"]
ENOUGH = 0.01  # a printed mean gain may fall this far short of the one that is claimed: rounding


# --- what the printed table says of the claim that is made of it ------------------------------------------------------


def statements(name: str) -> list[dict[str, Any]]:
    """Return all that a paper says of one of its tables or figures: claims of orders, and other statements."""
    raw = published.read(name)
    return [*raw.get("claims", []), *raw.get("statements", [])]


def ordered(name: str) -> list[dict[str, Any]]:
    """Return the statements that our rows can be asked of: one row better than others."""
    return [statement for statement in statements(name) if "better" in statement]


def verdicts(name: str, ranks: Mapping[tuple[str, str], Ranks]) -> pd.DataFrame:
    """Return `orderings.orderings` of everything that a paper says of its table, asked of our rows.

    In the table's own metric: the last hit rate that it prints, or the last of the metrics that a statement names.
    """
    keys = published.read(name)["metrics"]
    usual = [key for key in keys.values() if key.startswith("hr@")][-1]
    asked = {says["says"]: keys[says["metrics"][-1]] if "metrics" in says else usual for says in ordered(name)}
    found = [orderings(ranks, [says], [asked[says["says"]]], name) for says in ordered(name)]
    return pd.concat(found, ignore_index=True)


def on_paper(name: str, statement: Mapping[str, Any]) -> tuple[str, str]:
    """Return whether a published table bears out what is said of it, and the arithmetic in words; ("", "") without any.

    A statement has one of these: `better` and `than` (rows), over all cells; or, and then it counts, `gain`
    {of, over, printed}, a mean relative gain, with `most` the largest; `best` {row, among}, over `datasets` and
    `metrics` where named, and not best in those of `except`; `greatest`, a column, in tables whose rows are data sets;
    `drop` {column, from}, the same; `improvement`, the table's own row of percentages.
    """
    tidy = published.table(name)
    if tidy.empty:
        return "", ""
    if "gain" in statement:
        return _gains(tidy, statement["gain"])
    if "improvement" in statement:
        return _improvement(name, tidy)
    if "best" in statement:
        return _best(tidy, statement)
    if "greatest" in statement:
        wide = tidy.pivot(index="dataset", columns="metric", values="value").astype(float)
        top = wide.idxmax(axis=1)
        return _of_all(top == statement["greatest"], [f"{d}: {top[d]}" for d in wide.index], "data sets")
    if "drop" in statement:
        wide = tidy.pivot(index="dataset", columns="metric", values="value").astype(float)
        parts = wide[statement["drop"]["from"]]
        change = (1 / parts.div(wide[statement["drop"]["column"]], axis=0) - 1).stack()
        each = [f"{dataset} from {column}: {c:+.0%}" for (dataset, column), c in change.to_dict().items()]
        return _of_all(change < 0, each, "places", always=True)
    return _orders(name, statement["better"], statement["than"]) if "better" in statement else ("", "")


def _orders(name: str, better: str, than: Iterable[str]) -> tuple[str, str]:
    counted = {row: published.agreement(name, better, row) for row in than}
    counted = {row: found for row, found in counted.items() if found[1]}
    if not counted:
        return "", ""
    won, cells = (sum(found[i] for found in counted.values()) for i in (0, 1))
    told = {row: f"over {row} in {w} of {c} cells, {gain:+.1%}" for row, (w, c, gain) in counted.items()}
    if won == cells and len(counted) > 2:
        gains = [gain for _, _, gain in counted.values()]
        told = {"": f"in all {cells} cells, by {min(gains):+.1%} to {max(gains):+.1%} on average over a row"}
    words = "; ".join(told.values())
    return AGREES if won == cells else PARTLY if won else CONTRADICTS, words


def _gains(tidy: pd.DataFrame, told: Mapping[str, Any]) -> tuple[str, str]:
    """Return whether a row's mean relative gain over each of others is the printed one, or with `most` the largest."""
    rows = tidy.assign(value=tidy["value"].astype(float)).groupby("method")["value"]
    of, words, reached = rows.get_group(told["of"]).to_numpy(), [], []
    for row in told["over"]:
        gain = of / rows.get_group(row).to_numpy() - 1
        spread = f"{gain.min():+.1%} to {gain.max():+.1%} in {len(gain)} cells"
        words.append(f"over {row} {gain.mean():+.1%} on average, {spread}")
        reached.append(gain.max() if told.get("most") else gain.mean())
    enough, some = (all(r >= least for r in reached) for least in (told["printed"] - ENOUGH, 0))
    verdict = AGREES if enough else PARTLY if some else CONTRADICTS
    return verdict, "; ".join([*words, f"claimed {'up to ' if told.get('most') else ''}{told['printed']:.0%}"])


def _improvement(name: str, tidy: pd.DataFrame) -> tuple[str, str]:
    """Return whether the printed row of improvements follows from the printed cells."""
    raw, right = published.read(name), []
    for dataset, percents in raw["improvement"].items():
        for metric, percent in zip(raw["metrics"], percents, strict=True):
            cells = tidy[(tidy["dataset"] == dataset) & (tidy["metric"] == metric)].set_index("method")["value"]
            gain = 100 * (float(cells[raw["main"]]) / float(cells.drop(raw["main"]).max()) - 1)
            right.append(abs(gain - percent) < 0.02)
    words = f"{sum(right)} of {len(right)} percentages follow from the cells"
    return AGREES if all(right) else PARTLY if any(right) else CONTRADICTS, words


def _best(tidy: pd.DataFrame, statement: Mapping[str, Any]) -> tuple[str, str]:
    told = statement["best"]
    rows = tidy[tidy["method"].isin([told["row"], *told["among"]])]
    rows = rows[rows["dataset"].isin(statement.get("datasets", rows["dataset"].unique()))]
    rows = rows[rows["metric"].isin(statement.get("metrics", rows["metric"].unique()))]
    wide = rows.assign(value=rows["value"].astype(float)).pivot(
        index=["dataset", "metric"], columns="method", values="value"
    )
    top = wide.idxmax(axis=1)
    but = [metric in statement.get("except", ()) for _, metric in wide.index]
    each = [f"{' '.join(place)}: {row}" for place, row in zip(wide.index.tolist(), top, strict=True)]
    return _of_all((top == told["row"]) ^ np.array(but), each, "cells")


def _of_all(so: pd.Series, each: list[str], what: str, always: bool = False) -> tuple[str, str]:
    """Return the verdict on a claim about several places, and in how many it is so; the others by name."""
    exceptions = [text for text, fine in zip(each, so, strict=True) if always or not fine]
    words = f"in {int(so.sum())} of {len(so)} {what}" + (f" ({'; '.join(exceptions)})" if exceptions else "")
    return AGREES if so.all() else PARTLY if so.any() else CONTRADICTS, words


# --- the claims ------------------------------------------------------------------------------------------------------


def claims(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per claim of both papers: what its own table says of it, and what is found here.

    Args:
        found: name of a published table -> `verdicts`; a name that is left out was not run.

    Columns: CLAIMS; `here` is one of the verdicts of `orderings`, "holds in part", or "cannot be tested here".
    """
    rows = []
    for name in methods.names("published"):
        raw = published.read(name)
        for statement in statements(name):
            own, words = on_paper(name, statement)
            words = "; ".join(filter(None, [words, statement.get("note", "")]))
            here, why = _here(statement, found.get(name))
            place = statement.get("where", raw["source"].rsplit(", ", 1)[-1])
            rows.append([raw["paper"], place, statement["says"], own, words, here, why])
    return pd.DataFrame(rows, columns=CLAIMS)


def _here(statement: Mapping[str, Any], found: pd.DataFrame | None) -> tuple[str, str]:
    if "verdict" in statement:
        return statement["verdict"], " ".join(statement["because"].split())
    if "better" not in statement:
        return UNTESTED, " ".join(statement.get("because", "no run of these data").split())
    if found is None:
        return NOT_RUN, ""
    mine = found[found["claim"] == statement["says"]]
    run, lacking = mine[mine["verdict"] != NOT_RUN], mine[mine["verdict"] == NOT_RUN]
    if run.empty:
        return NOT_RUN, ""
    words = [
        f"{line['better']} over {line['than']} {line['difference']:+.3f} [{line['low']:+.3f}, {line['high']:+.3f}]"
        for line in run.to_dict("records")
    ]
    words += [f"not run: {', '.join(dict.fromkeys(lacking['than']))}"] if len(lacking) else []
    why = "; ".join([*words, *([statement["caution"]] if "caution" in statement else [])])
    kinds = set(run["verdict"])
    if FAILS in kinds or HOLDS not in kinds:
        return FAILS if FAILS in kinds else UNTOLD, why
    enough = statement.get("gain", {}).get("printed", 0) - ENOUGH
    whole = kinds == {HOLDS} and lacking.empty and (run["first"] / run["second"] - 1 >= enough).all()
    return HOLDS if whole else f"{HOLDS} in part", why


# --- every printed cell ----------------------------------------------------------------------------------------------


def cells(runs_dir: Path | str, names: Iterable[str] = ()) -> pd.DataFrame:
    """Return every cell of the published tables beside our number, where there is one, and the reason where not.

    A number of ours stands beside a cell only where users, items and interactions are those of the paper's data. Of
    several runs of a row the largest size is taken, then the one that changes least; several seeds are averaged.

    Columns: CELLS; `gap` is ours less printed, `run` the run folders without their seeds.
    """
    found = runs.list_runs(methods.home() / runs_dir)
    rows = []
    for name in names or [name for name in methods.names("published") if published.read(name)["values"]]:
        raw = published.read(name)
        trained = _trained(name, raw, found)
        for cell in published.table(name).to_dict("records"):
            value, reason, where = _ours(raw, cell, trained.get((cell["dataset"], cell["method"]), []))
            gap = value - cell["value"] if isinstance(cell["value"], float) else np.nan
            place = [name, cell["dataset"], cell["method"], cell["metric"], cell["value"], cell["impossible"]]
            rows.append([*place, value, gap, reason, where])
    return pd.DataFrame(rows, columns=CELLS)


def _levels(name: str) -> dict[str, dict[str, Any]]:
    """Return row -> settings of the sweep that fills a published table; nothing where there is no such sweep."""
    return sweep.levels_of_axes(sweep.read(name)).get("row", {}) if name in methods.names("sweeps") else {}


# settings that say how much a row is trained, or whose IDs it starts from, and leave it the row that it is
BUDGET = {"ids.source"} | {f"sequential.{name}" for name in ("epochs", "most_steps", "patience", "longer")}
BUDGET |= {f"generator.{name}" for name in "steps epochs keep batch micro_batch lr precision patience".split()}


class Trained(NamedTuple):
    """A finished run, its resolved settings, and what its request changed in the method's file."""

    run: runs.Run
    settings: dict[str, Any]
    changes: dict[str, Any]


def _trained(name: str, raw: Mapping[str, Any], found: Iterable[runs.Run]) -> dict[tuple[str, str], list[Trained]]:
    """Return (the paper's data set, its row) -> the runs that are of both."""
    made: dict[tuple[str, str, str], list[Trained]] = {}
    levels = {level: settings for level, settings in _levels(name).items() if level in (raw.get("rows") or {})}
    # where a printed row has two readings, the one that bears its name comes first
    levels = dict(sorted(levels.items(), key=lambda item: item[0] != raw["rows"][item[0]]))
    same: dict[str, str | None] = {}  # of a data set here, by the key of its stage
    for run in found:
        key = run.stages["data"]
        if key not in same:
            same[key] = published.same_data(name, tables.data_manifest(run))[0]
        if (dataset := same[key]) is None:
            continue
        settings = yaml.safe_load((run.folder / "settings.yaml").read_text(encoding="utf-8"))
        one = Trained(run, settings, dict(methods.leaves(settings["request"]["overrides"])))
        for level, asked in levels.items():
            if _is_of(one, asked):
                place = dataset, raw["rows"][level]
                made.setdefault((*place, level), []).append(one)
    return {
        (dataset, row): made[dataset, row, level]
        for (dataset, row, level) in sorted(made, key=lambda key: -list(levels).index(key[2]))
    }


def _is_of(one: Trained, asked: Mapping[str, Any]) -> bool:
    """Return whether a run is of a sweep's row: of its method, with its changes and no others but of the budget."""
    changes = dict(methods.leaves({key: value for key, value in asked.items() if key != "method"}))
    method = methods.method_name(asked.get("method", "musicrec"))
    others = {key: value for key, value in one.changes.items() if key not in BUDGET}
    return one.run.method == method and {k: v for k, v in changes.items() if k not in BUDGET} == others


def _ours(raw: Mapping[str, Any], cell: Mapping[Any, Any], trained: list[Trained]) -> tuple[float, str, str]:
    """Return our number, or nan, the suspected reason of the gap, and the run."""
    dagger = "impossible as printed; " if cell["impossible"] else ""
    if not trained:
        lacking = (raw.get("absent") or {}).get(cell["dataset"], "not run")
        return np.nan, dagger + (raw.get("elsewhere") or lacking), ""
    best = max(trained, key=lambda one: (get_args(Size).index(one.run.size), -len(one.changes)))
    group = [run for run, _, _ in trained if (run.variant, run.size) == (best.run.variant, best.run.size)]
    values = [run.metrics[f"test/{run.metrics['main_list']}/{cell['key']}"] for run in group]
    return float(np.mean(values)), dagger + _budget(best, len(group)), best.run.name.rsplit("/", 1)[0]


def _budget(one: Trained, seeds: int) -> str:
    """Return how much a run was trained: what a gap at a small size is to be suspected of first."""
    words = [f"size {one.run.size}", f"{seeds} seed{'s' if seeds > 1 else ''}"]
    if "generator" in one.run.stages:
        g = one.settings["generator"]
        amount = f"{g['steps']:,} steps" if g.get("steps") else f"{g['epochs']} epochs"
        words += [f"T5 {g['backbone']}", amount]
    elif "recommender" in one.run.stages:
        words.append("trained until validation stopped it")
    return ", ".join(words)


# --- runs on data that nobody generated ------------------------------------------------------------------------------

SHOWN = ("hr@10", "ndcg@10", "hr@10/no_history", "ndcg@10/no_history")


def on_real_data(runs_dir: Path | str) -> pd.DataFrame:
    """Return one row per finished run on data that are not generated, seeds averaged, the counters' rows last.

    Columns: dataset, data (its fingerprint), row (method and variant), size, seeds, then test metrics of the list
    of record.
    """
    rows = []
    for run in runs.list_runs(methods.home() / runs_dir):
        manifest, metrics = tables.data_manifest(run), run.metrics
        if manifest.get("source") in (None, "demo"):
            continue
        # the counters are the same in every run of a data set
        for row, name, size in (
            (f"{run.method}{run.variant}", metrics["main_list"], run.size),
            ("counter: markov", "markov", ""),
            ("counter: popularity", "popularity", ""),
        ):
            values = {metric: metrics[f"test/{name}/{metric}"] for metric in SHOWN}
            place = {"dataset": run.dataset, "data": metrics["fingerprint"][:8], "row": row, "size": size}
            rows.append({**place, "seed": run.seed if size else 0, **values})
    table = pd.DataFrame(rows, columns=["dataset", "data", "row", "size", "seed", *SHOWN])
    grouped = table.groupby(["dataset", "data", "row", "size"], sort=False)
    means = grouped[list(SHOWN)].mean().assign(seeds=grouped["seed"].nunique()).reset_index()
    order = means.assign(last=means["size"] == "").sort_values(["dataset", "data", "last"], kind="stable")
    return order[["dataset", "data", "row", "size", "seeds", *SHOWN]].reset_index(drop=True)
