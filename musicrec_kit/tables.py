"""Tables for people: a run, a grid of runs, two runs side by side, a data set. Results in, DataFrame out.

Metrics are fractions per user. "HR@10" is plain, "HR@10 new" is `/no_history`: earlier items of the user are masked.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, runs
from musicrec_kit.data import Dataset
from musicrec_kit.params import Refused, Settings

METRICS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
COUNTERS = ("markov", "popularity")
NEW = " new"  # suffix of the columns where items of the history are masked
Z95 = 1.959964  # two-sided 95 % of the normal law


# --- one run ---------------------------------------------------------------------------------------------------------


def run_table(run_folder: Path | str, split: str = "test") -> pd.DataFrame:
    """Return one row per list of a run and per counter, the list of record first.

    Columns: list; HR@5, HR@10, NDCG@5, NDCG@10, plain and new (`/no_history`); `HR@10 low`, `HR@10 high` and the same
    new: the 95 % interval over users (Wilson); where the data set knows its ceilings, `of both`, `of text`, ...: HR@10
    new over the best HR@10 that what a modality shows allows; encoders.
    """
    run = runs.load_run(run_folder)
    per_user = runs.read_table(run.folder / "per_user.parquet")
    per_user = per_user[per_user["split"] == split]
    main, found = run.metrics["main_list"], list(per_user["list"].unique())
    order = [main, *[n for n in found if n != main and n not in COUNTERS], *[n for n in COUNTERS if n in found]]
    rows = [{"list": name, **_row(per_user[per_user["list"] == name])} for name in order if name in found]
    table = pd.DataFrame(rows)
    for name, best in ceilings(data_manifest(run)).items():
        if name in ("both", "text", "image"):
            table[f"of {name}"] = table["HR@10 new"] / best["hr@10"]
    return table.assign(encoders=runs.encoders(run))


def _row(users: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of one list from its rows of per_user.parquet."""
    row: dict[str, float] = {}
    for end, column in (("", "rank"), (NEW, "rank_no_history")):
        ranks = _ranks(users[column])
        row |= {f"{name}{end}": float(metric_values(ranks, name).mean()) for name in METRICS}
        row["HR@10 low" + end], row["HR@10 high" + end] = wilson(row["HR@10" + end], len(ranks))
    return row


def _ranks(column: pd.Series) -> np.ndarray:
    """Return ranks as plain numbers; unknown (no masked list was made) counts as absent."""
    return column.to_numpy(dtype=np.int64, na_value=0)


def metric_values(ranks: np.ndarray, name: str) -> np.ndarray:
    """Return each user's value of a metric such as "NDCG@10" from the target's rank (from 1; 0: not in the list).

    >>> metric_values(np.array([1, 3, 0, 11]), "HR@10").tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    from musicrec_kit.evaluation import metrics

    return metrics.per_user(np.asarray(ranks), name.lower())


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share counted on n users (Wilson 1927: it stays sensible near 0).

    >>> [round(bound, 4) for bound in wilson(0.1, 100)]
    [0.0552, 0.1744]
    """
    if n == 0:
        return 0.0, 1.0
    centre = share + Z95**2 / (2 * n)
    reach = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    return max(0.0, float((centre - reach) / scale)), min(1.0, float((centre + reach) / scale))


def data_manifest(run: runs.Run) -> dict[str, Any]:
    """Return the manifest of the data set that a run was made from."""
    path = run.stage("data") / "manifest.json"
    return runs.read_json(path) if path.is_file() else {}


def ceilings(manifest: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return predictor -> metric -> the best value that can be expected; empty for data sets that nobody generated.

    They are of each shopper's last item, and so not of targets behind a cut in time.
    """
    if manifest.get("protocol"):
        return {}
    return manifest.get("ceilings") or (manifest.get("about") or {}).get("ceilings") or {}


def ceilings_table(manifest: Mapping[str, Any], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Return one row per predictor of a generated data set: what it may know, and the best that it can reach."""
    knows = {
        "both": "process, text and picture",
        "text": "process and text",
        "image": "process and picture",
        "copurchase": "process, no property",
        "popularity": "counts of the training part",
        "random": "nothing",
    }
    found = ceilings(manifest)
    rows = [{"predictor": n, "knows": knows.get(n, ""), **{m: v[m.lower()] for m in metrics}} for n, v in found.items()]
    return pd.DataFrame(rows, columns=["predictor", "knows", *metrics])


# --- several runs ----------------------------------------------------------------------------------------------------


def results_wide(table: pd.DataFrame, metrics: Sequence[str], axes: Sequence[str] = ()) -> pd.DataFrame:
    """Return a results table with one row per run and list, a sweep's axes first, and one column per metric."""
    about = list(dict.fromkeys([*axes, "dataset", "method", "variant", "size", "seed", "list"]))
    chosen = table[table["metric"].isin(list(metrics))]
    wide = chosen.pivot_table(index=about, columns="metric", values="value", sort=False).reset_index()
    wide.columns.name = None
    return wide.reindex(columns=[*about, *metrics])


def differing_settings(first: runs.Run, second: runs.Run) -> pd.DataFrame:
    """Return the settings in which two runs differ: setting, and one column per run.

    A setting that was not there yet when a run was made has its default, which leaves the old behaviour.
    """
    defaults = dict(methods.leaves(Settings().model_dump(mode="json")))
    one, other = (
        defaults | dict(methods.leaves(methods.read_yaml(run.folder / "settings.yaml"))) for run in (first, second)
    )
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    names = _two_names(first, second)
    rows = [(key, _plain(one.get(key)), _plain(other.get(key))) for key in keys]
    return pd.DataFrame(rows, columns=["setting", *names])


def paired(first: runs.Run, second: runs.Run, split: str = "test", seed: int = 0) -> pd.DataFrame:
    """Return a paired comparison over users of the two runs' lists of record.

    Columns: metric; the mean of each run; difference (first - second) with its 95 % bootstrap interval over users; p of
    the paired t-test.

    Raises:
        Refused: the runs are of different data, so that users cannot be paired.
    """
    from musicrec_kit.evaluation import compare

    names = _two_names(first, second)
    rows = []
    for end, no_history in (("", False), (NEW, True)):
        for metric in ("HR@10", "NDCG@10"):
            a, b = paired_values(first, second, metric, no_history, split)
            low, high = compare.bootstrap_interval(a - b, seed)
            row = {"metric": metric + end, names[0]: a.mean(), names[1]: b.mean(), "difference": a.mean() - b.mean()}
            rows.append({**row, "difference low": low, "difference high": high, "p": compare.paired_test(a, b)[1]})
    return pd.DataFrame(rows)


def paired_values(
    first: runs.Run, second: runs.Run, metric: str, no_history: bool, split: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric of both runs' lists of record, float64 [users] each, the same users in the same order.

    Raises:
        Refused: the runs are of different data, so that users cannot be paired.
    """
    if first.metrics["fingerprint"] != second.metrics["fingerprint"]:
        raise Refused(f"{first.name} and {second.name} have different data (fingerprints differ): nothing to pair")
    one, other = (ranks_of_list(run.folder, run.metrics["main_list"], split) for run in (first, second))
    both = one.merge(other, on="user", suffixes=("_1", "_2"), validate="one_to_one")
    column = "rank_no_history" if no_history else "rank"
    a, b = (metric_values(both[f"{column}_{i}"].to_numpy(), metric) for i in (1, 2))
    return a, b


def _two_names(first: runs.Run, second: runs.Run) -> list[str]:
    """Return the runs' names without the parts in which they agree."""
    parts = [run.name.split("/") for run in (first, second)]
    differ = [a != b for a, b in zip(*parts, strict=True)]
    names = ["/".join(p for p, d in zip(part, differ, strict=True) if d) for part in parts]
    return names if names[0] != names[1] else ["first", "second"]


def ranks_of_list(run_folder: Path, name: str, split: str = "test") -> pd.DataFrame:
    """Return where the targets stand in one list of a run, by user: user, rank, rank_no_history (0: absent)."""
    users = runs.read_table(run_folder / "per_user.parquet")
    rows = users[(users["split"] == split) & (users["list"] == name)].sort_values("user")
    return rows[["user"]].assign(rank=_ranks(rows["rank"]), rank_no_history=_ranks(rows["rank_no_history"]))


# --- data and training -----------------------------------------------------------------------------------------------


def data_report(dataset: Dataset, expected: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return what a data set holds beside what was published: quantity, here, published, agrees."""
    manifest, published = dataset.manifest, dict(expected or {})
    lengths = np.diff(dataset.sequences().offsets)
    ties, cold = manifest.get("ties", {}), manifest.get("cold_targets", {})
    here: dict[str, Any] = {name: manifest.get(name) for name in ("users", "items", "interactions", "prefixes")}
    here |= {
        "held-out users": manifest.get("held_out_users"),
        "shortest history": int(lengths.min(initial=10**9)),
        "longest history": int(lengths.max(initial=0)),
        "items with text": manifest.get("texts"),
        "items with a picture": int(dataset.items["image"].notna().sum()),
        "targets decided by the tie rule": ties.get("valid_test"),
        "test targets unseen in training": cold.get("test"),
    }
    if cuts := manifest.get("cuts"):
        day: Any = lambda time: str(pd.Timestamp(time, unit="s").date())
        here |= {
            "validation from": day(cuts["first"]),
            "test from": day(cuts["second"]),
            "validation targets": cuts["targets"]["valid"],
            "interactions behind a cut that are no target": cuts["later"],
            "test users unseen in training": cuts["test_users_not_in_training"],
        }
    rows = []
    for name, value in here.items():
        known = published.get(name)
        agrees = "" if known is None else "yes" if known == value else "no"
        rows.append({"quantity": name, "here": value, "published": "" if known is None else known, "agrees": agrees})
    return pd.DataFrame(rows)


def filter_report(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per filter of a data set: what it left and what it dropped."""
    columns = ["name", "users", "items", "interactions", "dropped_users", "dropped_items", "dropped_interactions"]
    table = pd.DataFrame(manifest.get("filters", []))
    return table.reindex(columns=columns).rename(columns={"name": "filter"})


def training_log(folder: Path) -> pd.DataFrame:
    """Return a stage's `metrics.jsonl` files (one per trained part, found at any depth) as one table, `part` first."""
    tables = []
    for path in sorted(folder.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        part = path.parent.relative_to(folder).as_posix()
        tables.append(pd.DataFrame(lines).assign(part="all" if part == "." else part))
    if not tables:
        return pd.DataFrame({"part": [], "step": [], "epoch": [], "loss": []})
    table = pd.concat(tables, ignore_index=True)
    return table[["part", *[name for name in table.columns if name != "part"]]]


def settings_table(settings: Any, sections: Iterable[str] = ()) -> pd.DataFrame:
    """Return the resolved settings of some sections (none named: all), one row per setting."""
    values = settings.model_dump(mode="json")
    chosen = {name: values[name] for name in (sections or values) if name in values}
    rows = [(key, _plain(value)) for key, value in methods.leaves(chosen) if value not in (None, {}, [], "")]
    return pd.DataFrame(rows, columns=["setting", "value"])


# --- printing --------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def intervals_joined(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each pair of columns `x low`, `x high` as one column of text, behind `x`."""
    shown = pd.DataFrame(index=frame.index)
    for name in frame.columns:
        stem, mark, end = str(name).partition(" low")
        if mark and f"{stem} high{end}" in frame:
            bounds = zip(frame[name], frame[f"{stem} high{end}"], strict=True)
            shown[f"{stem}{end} 95%"] = [f"{_number(low)} to {_number(high)}" for low, high in bounds]
        elif " high" not in str(name):
            shown[name] = frame[name]
    return shown


def _number(value: Any) -> str:
    if isinstance(value, float):
        text = "" if np.isnan(value) else f"{value:.4f}"
        return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
    return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)


def _share(value: Any) -> str:
    return f"{value:.0%}" if isinstance(value, float) and not np.isnan(value) else ""


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table as text for reading: four decimals, shares of ceilings in percent, intervals in one column.

    Levels are counted from 0 in results and from 1 here, as tokens are.
    """
    joined = intervals_joined(frame.assign(level=frame["level"] + 1) if "level" in frame else frame)
    text = {
        name: [(_share if str(name).startswith("of ") else _number)(value) for value in column.tolist()]
        for name, column in joined.items()
    }
    return pd.DataFrame(text, index=frame.index)


def show(frame: pd.DataFrame, width: int = 110) -> str:
    """Return a table as lines of text; one wider than `width` goes on below, its first column repeated."""
    if not len(frame):
        return "(empty table: " + ", ".join(map(str, frame.columns)) + ")"
    table = shown(frame)
    if "encoders" in table and table["encoders"].nunique() == 1:
        note = f"encoders: {table['encoders'].iloc[0]}"
        return show(frame.drop(columns="encoders"), width) + f"\n{note}"
    sizes = [max(len(str(name)), *(len(value) for value in table[name])) + 2 for name in table.columns]
    blocks, used = [[0]], sizes[0]
    for place, size in enumerate(sizes[1:], start=1):
        if used + size > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = sizes[0]
        blocks[-1].append(place)
        used += size
    return "\n\n".join(table.iloc[:, block].to_string(index=False) for block in blocks)


def to_latex(frame: pd.DataFrame, columns: Sequence[str] = METRICS, caption: str = "", label: str = "") -> str:
    """Return a LaTeX table (booktabs): in each of `columns` the best value bold, the second best underlined."""
    table, text = intervals_joined(frame), shown(frame)
    for name in columns:
        if name not in table:
            continue
        best = sorted({round(value, 4) for value in table[name] if not np.isnan(value)}, reverse=True)[:2]
        marks = dict(zip(best, ("textbf", "underline"), strict=False))
        values = zip(text[name], table[name], strict=True)
        text[name] = [f"\\{marks[round(v, 4)]}{{{t}}}" if round(v, 4) in marks else t for t, v in values]
    marked = set(columns)
    body = [
        " & ".join(value if name in marked else latex_escaped(value) for name, value in row.items()) + r" \\"
        for row in text.to_dict("records")
    ]
    head = " & ".join(latex_escaped(str(name)) for name in text.columns) + r" \\"
    layout = "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in text.columns)
    lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    if caption or label:
        more = ([rf"\caption{{{latex_escaped(caption)}}}"] if caption else []) + (
            [rf"\label{{{label}}}"] if label else []
        )
        lines = [r"\begin{table}", r"\centering", *lines, *more, r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex_escaped(text: str) -> str:
    """Return text with LaTeX's special characters escaped.

    >>> latex_escaped("50 % of a_b")
    '50 \\\\% of a\\\\_b'
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)
