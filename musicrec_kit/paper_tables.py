"""The papers' tables from the results of a sweep, in the papers' own layout: best bold, second underlined, improvement.

Results of a sweep (`sweep.results`) in, a `PaperTable` out: means over seeds with their interval, and a paired test of
the paper's own row against the best other one over the same users.
"""

import html
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import methods, tables
from musicrec_kit.evaluation import published
from musicrec_kit.orderings import Ranks, compared, measured, over_seeds
from musicrec_kit.params import Settings, Size

SURE = 0.05  # the papers' level of significance


# --- tables in the papers' layout -------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class PaperTable:
    """One table in the paper's layout.

    Attributes:
        name: of the published table, such as "musicrec_table3".
        main: the paper's own row among ours, "" where it was not run.
        cells: dataset, row, metric (as the paper prints it), mean, low, high, seeds, encoders, mark ("best", "second"
            or "").
        improvement: dataset, metric, percent of `main` over the best other row, p, difference, its interval over users
            and seeds, detectable; empty where there is nothing to compare.
    """

    name: str
    main: str
    cells: pd.DataFrame
    improvement: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """Return the table as numbers, one line per cell, with the improvement row below."""
        # the row's percent; its interval is of the difference in the metric
        last = self.improvement.rename(columns={"percent": "mean", "low": "difference low", "high": "difference high"})
        last = last.assign(row="Imp. (%)")
        return pd.concat([self.cells, last], ignore_index=True) if len(last) else self.cells

    def grid(self, marked: Callable[[str, str], str], spread: Callable[[str], str]) -> list[list[str]]:
        """Return the body as text: a line per row, its name first, then the cells, panel by panel.

        Args:
            marked: (number, mark) -> text.
            spread: half width of the interval over seeds -> text.
        """
        columns = list(dict.fromkeys(zip(self.cells["dataset"], self.cells["metric"], strict=True)))
        lines = {row: [row, *[""] * len(columns)] for row in dict.fromkeys(self.cells["row"])}
        for cell in self.cells.to_dict("records"):
            half = (cell["high"] - cell["low"]) / 2
            text = marked(_number(cell["mean"]), cell["mark"])
            text += "" if np.isnan(half) else spread(_number(half))
            lines[cell["row"]][1 + columns.index((cell["dataset"], cell["metric"]))] = text
        body = list(lines.values())
        if len(self.improvement):
            last = ["Imp. (%)", *[""] * len(columns)]
            for cell in self.improvement.to_dict("records"):
                star = "*" if cell["p"] < SURE and cell["percent"] > 0 else ""
                last[1 + columns.index((cell["dataset"], cell["metric"]))] = f"{cell['percent']:+.2f}{star}"
            body.append(last)
        return body

    def heads(self) -> dict[str, list[str]]:
        """Return data set -> metrics as the paper prints them, in order."""
        panels: dict[str, list[str]] = {}
        for dataset, metric in dict.fromkeys(zip(self.cells["dataset"], self.cells["metric"], strict=True)):
            panels.setdefault(dataset, []).append(metric)
        return panels

    def note(self) -> str:
        """Return what a reader must know to read the table."""
        counts = sorted(set(self.cells["seeds"]))
        seeds = " to ".join(str(int(n)) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
        spread = "± is the 95 % interval over seeds" if counts and counts[-1] > 1 else "one seed has no interval"
        note = f"Mean over {seeds} seed{'' if seeds == '1' else 's'}; {spread}. Best bold, second underlined."
        if len(self.improvement):
            note += f" Imp.: {self.main} over the best other row; * p < .05, t-test over users and seeds, paired."
            found = self.improvement["detectable"].dropna()
            least, most = (_number(value) for value in (found.min(), found.max()))
            note += (
                f" Differences below {least} to {most} (by column) would be missed one time in five or more."
                if len(found)
                else " With one seed no difference can be told from that between two trainings."
            )
        made = dict.fromkeys(part for told in self.cells["encoders"] for part in told.split(", ") if part != "none")
        return note + (f" Encoders: {'; '.join(made)}." if made else "")

    def to_html(self) -> str:
        """Return the table as HTML."""
        marks = {"best": "<b>{}</b>", "second": "<u>{}</u>", "": "{}"}
        body = self.grid(lambda n, mark: marks[mark].format(n), lambda n: f" <small>±{n}</small>")
        panels = self.heads()
        top = "".join(
            f'<th colspan="{len(m)}" style="text-align:center">{html.escape(d)}</th>' for d, m in panels.items()
        )
        heads = "".join(f"<th>{html.escape(m)}</th>" for metrics in panels.values() for m in metrics)
        lines = [
            f'<tr><th style="text-align:left">{html.escape(line[0])}</th>'
            + "".join(f"<td>{cell}</td>" for cell in line[1:])
            + "</tr>"
            for line in body
        ]
        return (
            f"<table><thead><tr><th></th>{top}</tr><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
            f"<p><small>{html.escape(self.note())}</small></p>"
        )

    _repr_html_ = to_html

    def to_text(self) -> str:
        """Return the table as lines of text: *best*, _second_."""
        marks = {"best": "*{}*", "second": "_{}_", "": "{}"}
        body = self.grid(lambda n, mark: marks[mark].format(n), lambda n: f" ±{n}")
        heads = ["", *(f"{d} {m}" for d, metrics in self.heads().items() for m in metrics)]
        return pd.DataFrame(body, columns=heads).to_string(index=False) + "\n" + self.note()

    __repr__ = to_text

    def to_latex(self) -> str:
        """Return the table as LaTeX (booktabs)."""
        marks = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
        body = self.grid(lambda n, mark: marks[mark].format(n), lambda n: rf" {{\scriptsize$\pm${n}}}")
        panels, escaped = self.heads(), tables.latex_escaped
        top, rules, at = [""], [], 2
        for dataset, metrics in panels.items():
            top.append(rf"\multicolumn{{{len(metrics)}}}{{c}}{{{escaped(dataset)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + len(metrics) - 1}}}")
            at += len(metrics)
        heads = ["", *(escaped(m) for metrics in panels.values() for m in metrics)]
        lines = [" & ".join([escaped(line[0]), *line[1:]]) + r" \\" for line in body]
        if len(self.improvement):
            lines.insert(-1, r"\midrule")
        begin = [rf"\begin{{tabular}}{{l{'r' * (at - 2)}}}", r"\toprule", " & ".join(top) + r" \\", "".join(rules)]
        caption = r"\caption{" + escaped(self.note()).replace("±", r"$\pm$") + "}"
        parts = [*begin, " & ".join(heads) + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", caption]
        return "\n".join([r"\begin{table}", r"\centering", *parts, r"\end{table}"]) + "\n"


def _number(value: float) -> str:
    """Return a fraction as the papers print it.

    >>> _number(0.12345)
    '0.1235'
    """
    return f"{value:.4f}"


def paper_table(results: pd.DataFrame, name: str, ranks: Mapping[tuple[str, str], Ranks]) -> PaperTable:
    """Return a published table's layout filled with the results of a sweep.

    Args:
        results: of `sweep.results`; the sweep's axis is `row`, its order is kept.
        name: of the published table: its metrics are shown under the names that it prints.
        ranks: of `ranks_of`.
    """
    raw = published.read(name)
    printed = {key: head for head, key in raw["metrics"].items()}
    means = over_seeds(results)
    means = means[means["metric"].isin(list(printed))]
    order = means["metric"].map(list(printed).index)
    means = means.assign(order=order).sort_values("order", kind="stable").drop(columns="order")
    found = dict.fromkeys(means["row"])
    main = next((ours for ours in found if (raw.get("rows") or {}).get(ours, ours) == raw.get("main")), "")
    cells, last = [], []
    for dataset in dict.fromkeys(means["dataset"]):
        for key, head in printed.items():
            rows = means[(means["dataset"] == dataset) & (means["metric"] == key)]
            cells.append(rows.assign(metric=head, mark=_marks(rows["mean"])))
            others = rows[rows["row"] != main]
            if len(others) and len(others) < len(rows):
                best = others.loc[others["mean"].idxmax(), "row"]
                last.append({"dataset": dataset, "metric": head, **_gain(ranks, dataset, main, best, key)})
    return PaperTable(name, main, pd.concat(cells, ignore_index=True), pd.DataFrame(last))


def _marks(means: pd.Series) -> list[str]:
    """Return "best" and "second" of a column, equal printed numbers equally marked."""
    shown = [round(value, 4) for value in means]
    ranked = dict(zip(sorted(set(shown), reverse=True), ("best", "second"), strict=False))
    return [ranked.get(value, "") for value in shown]


def _gain(ranks: Mapping[tuple[str, str], Ranks], dataset: str, main: str, best: str, metric: str) -> dict[str, Any]:
    result = compared(ranks, dataset, main, best, metric)
    percent = 100 * result.difference / result.mean_b if result.mean_b else np.nan
    return {"percent": percent, "over": best, **measured(result)}


# --- MusicRec Table 1 ------------------------------------------------------------------------------------------------


def axes_of(settings: Settings) -> dict[str, str]:
    """Return the four columns of MusicRec's Table 1 as a method's resolved settings have them."""
    generative, reads = settings.family == "generative", settings.family != "heuristic"
    modalities = settings.modalities if generative else settings.encoded
    used = [settings.features[name] for name in modalities if name in settings.features]
    fused = any(len(params.of) > 1 for params in used)  # one matrix made of several modalities
    several = fused or len(modalities) > 1
    joined = settings.tokenizer.kind.startswith("shared_specific") and settings.tokenizer.shared_levels > 0
    fusion = "combined" if generative and (joined or fused) else "discrete"
    # z_cf or co-occurrence enters the tokenizer; a method that generates nothing learns from who took what
    tokenizer, made = settings.tokenizer, settings.ids.source == "tokenizer"
    collaborative = made and (tokenizer.alpha > 0 or tokenizer.beta > 0 or not tokenizer.reads_features)
    collaborative |= not generative
    tick = {True: "✓", False: "✗"}
    return {
        "imm": tick[several and reads],
        "fusion": fusion if several and reads else "-",
        "collaborative": tick[collaborative],
        "gr": tick[generative],
    }


def axes_layout(axes: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `axes_table` for printing: each method's row, and below it the printed one."""
    heads = [str(name).removesuffix(" printed") for name in axes if str(name).endswith(" printed")]
    rows: dict[str, list[str]] = {}
    for line in axes.to_dict("records"):
        rows[line["method"]] = [line[head] for head in heads]
        if line["published row"]:
            rows[f"   printed: {line['published row']}"] = [line[f"{head} printed"] for head in heads]
    return pd.DataFrame.from_dict(rows, orient="index", columns=heads)


def axes_table(names: Iterable[str], dataset: str, size: Size, published_name: str = "musicrec_table1") -> pd.DataFrame:
    """Return MusicRec's Table 1 generated from methods' settings, the printed cells beside it.

    Columns: method, published row, and per column of the paper ours and `... printed`; differs: what differs, and why.
    """
    raw = published.read(published_name)
    printed = published.table(published_name).set_index(["method", "metric"])["value"].to_dict()
    lines = []
    for name in names:
        ours, row = axes_of(methods.resolve(dataset, name, size)), raw["rows"].get(name, "")
        line, differs = {"method": name, "published row": row}, []
        for head, key in raw["metrics"].items():
            said = printed.get((row, head), "")
            line |= {head: ours[key], f"{head} printed": said}
            if said and said != ours[key]:
                differs.append(f"{head}: " + raw["differences"].get(row, {}).get(head, "not explained"))
        lines.append({**line, "differs": "; ".join(differs)})
    return pd.DataFrame(lines)
