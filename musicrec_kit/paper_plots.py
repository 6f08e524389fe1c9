"""The papers' figures from the results of a sweep, and pictures of their tables; `save` writes PNG, PDF, CSV and LaTeX.

Error bars and bands are 95 % intervals over seeds, small points are single seeds. Rows differ in marker or hatching as
well as in colour, so that a figure survives a grey-scale printer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from musicrec_kit import plots, runs
from musicrec_kit.evaluation import published
from musicrec_kit.orderings import FAILS, HOLDS, UNTOLD, display_name, of_record, over_seeds
from musicrec_kit.paper_tables import PaperTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#6b757c"
# verdict -> colour, marker, filled
VERDICTS = {HOLDS: ("#0072B2", "o", True), FAILS: ("#D55E00", "s", True), UNTOLD: (GREY, "D", False)}


# --- figures over an axis, and bars -----------------------------------------------------------------------------------


def values_of(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return what a figure draws: dataset, row, panel, level, metric (as printed), seed, value, mean, low, high,
    encoders.

    `panel` and `level` are the two sides of a row's name `alpha=0.1`; a row without "=" is its own level.
    """
    printed = {key: head for head, key in published.read(name)["metrics"].items()}
    one = of_record(results)[["dataset", "row", "metric", "seed", "value"]]
    table = one[one["metric"].isin(list(printed))].merge(over_seeds(results), on=["dataset", "row", "metric"])
    parts = table["row"].str.partition("=")
    bare = parts[1] == ""
    panel, level = parts[0].mask(bare, ""), parts[2].mask(bare, table["row"])
    table = table.assign(metric=table["metric"].map(printed), panel=panel, level=level)
    return table[["dataset", "row", "panel", "level", "metric", "seed", "value", "mean", "low", "high", "encoders"]]


def over_axes(values: pd.DataFrame, name: str) -> "Figure":
    """Draw metrics (rows) over the levels of every axis (columns), as MusicRec's Figures 3 and 4 and MGR's Figure 6.

    A dotted line marks the level that the paper calls best, where the sweep has it. An axis of words is drawn as bars.

    Args:
        values: of `values_of`.
        name: of the figure's file in params/published, whose `panels` say what the axes are.
    """
    raw = published.read(name)
    panels = {panel: about for panel, about in raw["panels"].items() if (values["panel"] == panel).any()}
    metrics = [metric for metric in raw["metrics"] if (values["metric"] == metric).any()]
    with plots.theme():
        size = (max(1, len(panels)) * plots.COLUMN, 0.5 + 2.2 * max(1, len(metrics)))
        figure = plots.new_figure(*size, layout="constrained")
        # bars start at zero, which would flatten lines beside them
        share: Any = False if any(about["scale"] == "words" for about in panels.values()) else "row"
        axes = figure.subplots(max(1, len(metrics)), max(1, len(panels)), squeeze=False, sharex="col", sharey=share)
        for column, (panel, about) in enumerate(panels.items()):
            rows = values[values["panel"] == panel]
            levels = list(dict.fromkeys(rows["level"]))
            for line, metric in enumerate(metrics):
                axis, chosen = axes[line, column], rows[rows["metric"] == metric]
                draw = _bars if about["scale"] == "words" else _lines
                draw(axis, chosen, levels, about["scale"])
                axis.set(ylabel=metric if column == 0 else "", xlabel=about["label"] if metric == metrics[-1] else "")
            axes[0, column].set_title(f"({'abcdef'[column]})" if len(panels) > 1 else "")
            _mark_best(axes[:, column], raw, panel, levels, about["scale"])
        _legend(figure, axes[0, 0], values)
        return figure


def _places(levels: list[str], scale: str) -> np.ndarray:
    return np.arange(len(levels)) if scale == "words" else np.array([float(level) for level in levels])


def _lines(axis: "Axes", rows: pd.DataFrame, levels: list[str], scale: str) -> None:
    """Draw one line per data set, its band over seeds, and the seeds as points."""
    places = dict(zip(levels, _places(levels, scale), strict=True))
    for at, (dataset, of_set) in enumerate(rows.groupby("dataset", sort=False)):
        colour = plots.COLOURS[at % 8]
        means = of_set.drop_duplicates("level").assign(x=lambda t: t["level"].map(places)).sort_values("x")
        axis.fill_between(means["x"], means["low"], means["high"], color=colour, alpha=0.15, linewidth=0)
        style: dict[str, Any] = {"color": colour, "linestyle": plots.DASHES[at % 8], "marker": plots.MARKERS[at % 8]}
        axis.plot(means["x"], means["mean"], label=str(dataset), markersize=6, **style)
        axis.plot(of_set["level"].map(places), of_set["value"], ".", color="black", markersize=3.5, alpha=0.7)
    if scale == "log":
        axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xticks(list(places.values()), [f"{float(level):g}".replace("e-0", "e-") for level in levels])


def _bars(axis: "Axes", rows: pd.DataFrame, levels: list[str], scale: str = "words") -> None:
    """Draw one bar per level and data set from zero, its interval over seeds, and the seeds as points."""
    datasets = list(dict.fromkeys(rows["dataset"]))
    width = 0.7 / max(1, len(datasets))
    for at, dataset in enumerate(datasets):
        for place, level in enumerate(levels):
            own = rows[(rows["dataset"] == dataset) & (rows["level"] == level)]
            if own.empty:
                continue
            x, mean = place + (at - (len(datasets) - 1) / 2) * width, own["mean"].iloc[0]
            look = at if len(datasets) > 1 else place
            plots.draw_bars(axis, x, mean, str(dataset) if place == 0 else "", look, width=width * 0.92)
            reach = np.nan_to_num([[mean - own["low"].iloc[0]], [own["high"].iloc[0] - mean]])
            axis.errorbar(x, mean, yerr=reach, color="black", capsize=3, linewidth=1)
            spread = np.linspace(-0.12, 0.12, len(own)) * width if len(own) > 1 else [0.0]
            axis.plot(x + np.asarray(spread), own["value"], "o", color="white", mec="black", mew=0.7, markersize=3.5)
    axis.set_xticks(range(len(levels)), levels)
    axis.set_ylim(0, None)


def _mark_best(axes: Any, raw: dict[str, Any], panel: str, levels: list[str], scale: str) -> None:
    """Mark the level that the first claim of the panel calls best."""
    better = next((c["better"] for c in raw["claims"] if c["better"].startswith((f"{panel}=", f"{panel}#"))), "")
    level = better.partition("=")[2]
    if counted := better.partition("#")[2]:
        place, count = map(int, counted.split("/"))
        level = levels[place - 1] if len(levels) == count else ""
    if level in levels:
        x = _places(levels, scale)[levels.index(level)]
        for axis in axes:
            axis.axvline(x, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
        place_of = {"xy": (x, 1.0), "xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        axes[0].annotate("best in the paper", **place_of, fontsize=7.5, color=GREY)


def _legend(figure: "Figure", axis: "Axes", values: pd.DataFrame) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if values["dataset"].nunique() > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def over_rows(values: pd.DataFrame, name: str) -> "Figure":
    """Draw a bar per row, a panel per metric, as MGR's Figure 5."""
    metrics = [metric for metric in published.read(name)["metrics"] if (values["metric"] == metric).any()]
    rows = list(dict.fromkeys(values["row"]))
    with plots.theme():
        figure, axes = plots.new_panels(max(1, len(metrics)), max(2.6, 0.55 * len(rows) + 0.9))
        for metric, axis in zip(metrics, axes, strict=False):
            _bars(axis, values[values["metric"] == metric], rows)
            axis.set_xticklabels(rows, rotation=25, ha="right", rotation_mode="anchor")
            axis.set_title(metric)
        _legend(figure, axes[0], values)
        return figure


# --- orderings --------------------------------------------------------------------------------------------------------


def differences(found: pd.DataFrame, labels: Sequence[str] = tuple(VERDICTS)) -> "Figure":
    """Draw every paired difference with its interval; grey bars are what would be missed one time in five or more.

    Args:
        found: of `orderings.orderings` or `against`; comparisons that were not run are left out.
        labels: words for the three verdicts.
    """
    found = found[found["verdict"].isin(list(VERDICTS))]
    if found.empty:
        return plots.nothing("none of the comparisons was run")
    metrics = list(dict.fromkeys(found["metric"]))
    pairs = list(dict.fromkeys(zip(found["dataset"], found["better"], found["than"], strict=True)))
    several = found["dataset"].nunique() > 1
    with plots.theme():
        figure = plots.new_figure(2.4 + 3.1 * len(metrics), 1.1 + 0.3 * len(pairs), layout="constrained")
        axes = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
        for metric, axis in zip(metrics, axes, strict=True):
            for row in found[found["metric"] == metric].to_dict("records"):
                at = pairs.index((row["dataset"], row["better"], row["than"]))
                _difference(axis, at, row)
            axis.axvline(0, color="black", linewidth=0.8)
            own = found[found["metric"] == metric]
            grey = own["detectable"].fillna(0).max()
            reach = [own["low"].min(), own["high"].max(), -grey, grey]
            edge = 0.04 * (max(reach) - min(reach)) or 1.0
            axis.set_xlim(min(reach) - edge, max(reach) + edge)
            axis.locator_params(axis="x", nbins=6)
            axis.grid(axis="x")
            axis.grid(axis="y", visible=False)
            axis.set(title=display_name(metric), xlabel="difference")
        axes[0].set_yticks(range(len(pairs)), [f"{a} over {b}" + (f" ({d})" if several else "") for d, a, b in pairs])
        axes[0].set_ylim(len(pairs) - 0.4, -0.6)
        _verdict_legend(figure, labels, "users and seeds" if found["seeds"].max() > 1 else "users; one seed")
        return figure


def _difference(axis: "Axes", at: int, row: dict[Any, Any]) -> None:
    colour, marker, filled = VERDICTS[row["verdict"]]
    axis.barh(at, 2 * row["detectable"], left=-row["detectable"], height=0.62, color="#e4e7e9", zorder=0)
    axis.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=1.6)
    axis.plot(row["difference"], at, marker, color=colour, mfc=colour if filled else "white", markersize=6)


def _verdict_legend(figure: "Figure", labels: Sequence[str], over: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, mfc=colour if filled else "white", label=label)
        for label, (colour, marker, filled) in zip(labels, VERDICTS.values(), strict=True)
    ]
    handles.append(Patch(color="#e4e7e9", label="too small to be found"))
    title = f"with 95 % intervals over {over}"
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=8)


# --- tables as pictures -----------------------------------------------------------------------------------------------


def picture_of(table: PaperTable) -> "Figure":
    """Draw a table as the paper prints it: rules above and below, best bold, second underlined."""
    panels = table.heads()
    body = table.grid(lambda number, mark: f"{mark}|{number}", lambda half: f"|±{half}")
    cells = [[line[0], *(_picture_cell(text) for text in line[1:])] for line in body]
    heads = [metric for metrics in panels.values() for metric in metrics]
    rules = [len(body) - 1] if len(table.improvement) else []
    return _drawn(cells, heads, list(panels.items()), rules, table.note())


def picture_of_text(frame: pd.DataFrame, note: str = "") -> "Figure":
    """Draw a table of words, such as MusicRec's Table 1; the index is the first column."""
    cells: list[list[Any]] = [
        [str(name), *((str(value), "", "") for value in row)]
        for name, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
    ]
    return _drawn(cells, [str(name) for name in frame.columns], [], [], note)


def _picture_cell(text: str) -> tuple[str, str, str]:
    """Return (number, mark, spread) of a cell of `picture_of`; the improvement row has no mark."""
    if "|" not in text:
        return text, "", ""
    mark, number, *spread = text.split("|")
    return number, mark, spread[0] if spread else ""


def _width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    return (
        float(
            TextPath((0, 0), text, size=size, prop=FontProperties(weight="bold" if bold else "normal"))
            .get_extents()
            .width
        )
        / 72
    )


def _drawn(
    cells: list[list[Any]], heads: list[str], panels: list[tuple[str, list[str]]], rules: list[int], note: str
) -> "Figure":
    import textwrap

    size, line, gap, narrowest = 9.0, 0.25, 0.3, 5.0
    first = max(_width(row[0], size) for row in cells) + gap
    parts = [[head, *(row[1 + at][0] + "  " + row[1 + at][2] for row in cells)] for at, head in enumerate(heads)]
    widths = [max(_width(text, size) for text in column) + gap for column in parts]
    if note:  # a note needs some width to be read
        wider = max(0.0, narrowest - first - sum(widths)) / len(widths)
        widths = [width + wider for width in widths]
    total = first + sum(widths)
    words = textwrap.wrap(note, int(total * 16))
    top, depth = (2 if panels else 1) * line, len(cells) * line
    height = top + depth + 0.12 + 0.17 * len(words)
    with plots.theme():
        figure = plots.new_figure(total, height)
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, total), ylim=(height, 0))
        axis.set_axis_off()
        rights = first + np.cumsum(widths)
        edge: dict[str, Any] = {"color": "black", "solid_capstyle": "butt"}
        for y, weight in ((0.02, 1.4), (top + 0.02, 0.8), (top + depth + 0.07, 1.4)):
            axis.plot([0, total], [y, y], linewidth=weight, **edge)
        at = 0
        for panel, metrics in panels:
            left, right = (rights[at] - widths[at], rights[at + len(metrics) - 1])
            axis.text((left + right) / 2, line / 2 + 0.03, panel, ha="center", va="center", weight="bold")
            axis.plot([left + 0.12, right - 0.05], [line + 0.02] * 2, linewidth=0.6, **edge)
            at += len(metrics)
        for head, right in zip(heads, rights, strict=True):
            axis.text(right - 0.1, top - line / 2 + 0.03, head, ha="right", va="center")
        for number, row in enumerate(cells):
            y = top + (number + 0.5) * line + 0.06
            if number in rules:
                axis.plot([0, total], [y - line / 2] * 2, linewidth=0.5, **edge)
            axis.text(0.03, y, row[0], ha="left", va="center")
            for cell, right in zip(row[1:], rights, strict=True):
                _cell(axis, right - 0.1, y, cell, size)
        for number, text in enumerate(words):
            axis.text(0.03, top + depth + 0.2 + 0.17 * number, text, va="center", fontsize=7.5, color="#3c4449")
        return figure


def _cell(axis: "Axes", right: float, y: float, cell: tuple[str, str, str], size: float) -> None:
    """Draw one cell flush right: the number with its mark, then its spread, smaller."""
    number, mark, spread = cell
    if spread:
        axis.text(right, y + 0.01, spread, ha="right", va="center", fontsize=size - 2, color="#3c4449")
        right -= _width(spread, size - 2) + 0.05
    bold = mark == "best"
    axis.text(right, y, number, ha="right", va="center", weight="bold" if bold else "normal", fontsize=size)
    if mark == "second":
        axis.plot([right - _width(number, size), right], [y + 0.085] * 2, color="black", linewidth=0.7)


def save_table(table: PaperTable, stem: str, folder: Path | None = None) -> Path:
    """Write a table as `<stem>.png`, `.pdf`, `.csv` (numbers) and `.tex`; return the PNG's path."""
    path = plots.save(picture_of(table), table.frame(), stem, folder)
    runs.write_text(path.with_suffix(".tex"), table.to_latex())
    return path
