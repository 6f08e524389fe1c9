"""Figures: a tidy table in, a figure out, in one theme; `save` writes PNG, PDF and the CSV that drew them.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; lines also differ in dash and marker,
bars in hatching, so that a figure survives a black-and-white printer.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from musicrec_kit import methods, runs
from musicrec_kit.analysis.pictures import placeholder, shorten, thumbnail, title_of
from musicrec_kit.data import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "\\\\\\", "...", "xxx", "++", "oo", "**")
COLUMN = 4.2  # inches: the width of one panel
MOST_MARKERS = 40  # longer lines are told apart by dashes alone

STYLE: Mapping[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    # type 42 keeps text as text: it can be searched and edited, and journals ask for it
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


def theme() -> AbstractContextManager[Any]:
    """Return a context in which figures are drawn in the kit's theme."""
    import matplotlib as mpl

    return mpl.rc_context(cast(Any, dict(STYLE)))


def new_figure(width: float, height: float, **more: Any) -> "Figure":
    """Return a figure that is no part of pyplot's global state, and that a notebook shows as a picture all the same."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **more)
    setattr(figure, "_repr_png_", lambda: _png(figure))  # noqa: B010  (no class of ours: matplotlib is imported late)
    return figure


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=STYLE["figure.dpi"], bbox_inches="tight")
    return buffer.getvalue()


def new_panels(columns: int, width: float = COLUMN, height: float = 3.0) -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels side by side, and its panels; sizes in inches, the width that of one panel."""
    figure = new_figure(width * columns, height, layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def learning_curve(log: pd.DataFrame, columns: Sequence[str] = ("loss", "valid"), title: str = "") -> "Figure":
    """Draw columns of a training log (`tables.training_log`) over epochs, one panel per trained part."""
    with theme():
        parts = list(dict.fromkeys(log["part"])) or ["no epochs"]
        figure, axes = new_panels(len(parts))
        for part, axis in zip(parts, axes, strict=True):
            rows = log[log["part"] == part]
            names = [name for name in columns if name in rows and rows[name].notna().any()]
            for at, name in enumerate(names):
                line = rows[["epoch", name]].dropna()
                draw_line(axis, line["epoch"] + 1, line[name], name, at)
            axis.set(xlabel="epoch", ylabel="value", title=title or part)
            whole_numbers(axis)
            if names:
                axis.legend()
        return figure


def draw_line(axis: "Axes", x: Any, y: Any, label: str, at: int) -> None:
    """Draw the line of a figure's `at`-th row, told from the others by colour, dash and marker."""
    shift = at + at // 8  # a ninth row has the first's colour, and neither its dash nor its marker
    marker = MARKERS[shift % len(MARKERS)] if len(x) <= MOST_MARKERS else ""
    axis.plot(x, y, label=label, color=COLOURS[at % 8], linestyle=DASHES[shift % 8], marker=marker)


def lines(table: pd.DataFrame, x: str, y: str, by: str, panel: str, xlabel: str = "", ylabel: str = "") -> "Figure":
    """Draw one column of a long table over another, a line per value of `by`, a panel per value of `panel`.

    An `x` of words is drawn in their order of first appearance, or in that of its categories. A name that begins with
    "(" is a yardstick: a thin grey line.
    """
    with theme():
        names = list(dict.fromkeys(table[panel]))
        figure, axes = new_panels(len(names), 3.6)
        order = table[x].cat.categories if isinstance(table[x].dtype, pd.CategoricalDtype) else table[x].unique()
        words = None if pd.api.types.is_numeric_dtype(table[x]) else list(order)
        for name, axis in zip(names, axes, strict=True):
            for at, label in enumerate(dict.fromkeys(table[by])):
                rows = table[(table[panel] == name) & (table[by] == label)].dropna(subset=[y])
                places = rows[x] if words is None else [words.index(word) for word in rows[x]]
                if str(label).startswith("("):
                    axis.plot(places, rows[y], label=label, color="#7f8b92", linestyle="--", linewidth=1.2, zorder=1)
                else:
                    draw_line(axis, places, rows[y], str(label), at)
            axis.set(title=name, xlabel=xlabel or x)
            if words is not None:
                axis.set_xticks(range(len(words)), words, rotation=30, ha="right")
        axes[0].set_ylabel(ylabel)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
        return figure


def loss_terms(log: pd.DataFrame, terms: Sequence[str], title: str = "", ylabel: str = "value") -> "Figure":
    """Draw the terms of a loss (or their gradient norms) over epochs, on a log scale; terms that are 0 are left out."""
    with theme():
        figure, (axis,) = new_panels(1, COLUMN * 1.5)
        found = [name for name in terms if name in log and (log[name] > 0).any()]
        for at, name in enumerate(found):
            rows = log[log[name] > 0]
            draw_line(axis, rows["epoch"] + 1, rows[name], name, at)
        axis.set(xlabel="epoch", ylabel=ylabel, title=title)
        whole_numbers(axis)
        if found:
            axis.set_yscale("log")
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


def codebook_usage(usage: pd.DataFrame) -> "Figure":
    """Draw the share of the codes in use and of the perplexity, per view and level (analysis.codes.usage_per_view)."""
    with theme():
        views = list(dict.fromkeys(usage["view"]))
        figure, axes = new_panels(len(views), 3.2)
        for view, axis in zip(views, axes, strict=True):
            rows = usage[usage["view"] == view]
            levels = np.arange(len(rows))
            bars = (("codes in use", rows["used"] / rows["size"]), ("perplexity", rows["perplexity"] / rows["size"]))
            for at, (name, share) in enumerate(bars):
                draw_bars(axis, levels + (at - 0.5) * 0.38, share, name, at, width=0.36)
            axis.set(xticks=levels, xticklabels=[f"level {n + 1}" for n in rows["level"]], ylim=(0, 1.05))
            axis.set(title=view, ylabel="share of the codebook")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return figure


def whole_numbers(axis: "Axes") -> None:
    """Let the x axis show whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_bars(axis: "Axes", x: Any, height: Any, label: str, at: int, **more: Any) -> None:
    """Draw the bars of a figure's `at`-th row, told from the others by colour and hatching."""
    style = {"color": COLOURS[at % 8], "hatch": HATCHES[at % 8], "edgecolor": "white", "linewidth": 0}
    axis.bar(x, height, label=label, **{**style, **more})


def heat_map(frame: pd.DataFrame, title: str = "", label: str = "AMI") -> "Figure":
    """Draw a table of numbers as a heat map with the numbers written in; empty cells stay white."""
    with theme():
        if not frame.size:
            return nothing("nothing to compare")
        values = frame.to_numpy(dtype=float)
        figure, (axis,) = new_panels(1, 1.4 + 0.75 * frame.shape[1], 1.0 + 0.42 * frame.shape[0])
        top = max(0.05, float(np.nanmax(values, initial=0)))
        image = axis.imshow(values, cmap="cividis", vmin=min(0.0, float(np.nanmin(values, initial=0))), vmax=top)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > 0.6 * top else "white"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        axis.set_xticks(range(frame.shape[1]), [str(name) for name in frame.columns], rotation=30, ha="right")
        axis.set_yticks(range(frame.shape[0]), [str(name) for name in frame.index])
        axis.grid(False)
        axis.set_title(title)
        figure.colorbar(image, ax=axis, shrink=0.8, label=label)
        return figure


def ami_map(table: pd.DataFrame, labels: str = "prefix", title: str = "") -> "Figure":
    """Draw tables of `analysis.agreement` as a heat map: rows are the levels of a modality, columns its partners.

    Args:
        labels: "code" for single levels, "prefix" for all levels up to one.
    """
    rows = table[table["labels"] == labels] if len(table) else pd.DataFrame({"a": [], "b": [], "level": [], "ami": []})
    wide = rows.pivot_table(index=["a", "level"], columns="b", values="ami", sort=False)
    order = sorted(wide.index, key=lambda place: (list(rows["a"].unique()).index(place[0]), place[1]))
    wide = wide.reindex(order).set_axis([f"{name}, level {int(level) + 1}" for name, level in order])
    return heat_map(wide.rename_axis(columns=None), title)


def metric_bars(
    table: pd.DataFrame, metric: str = "HR@10 new", ceilings: Mapping[str, float] | None = None
) -> "Figure":
    """Draw one metric of every list of a run (`tables.run_table`) with its interval, and known ceilings."""
    with theme():
        figure, (axis,) = new_panels(1, max(COLUMN, 1.2 + 0.75 * len(table)), 3.2)
        stem, _, end = metric.partition(" ")
        low, high = f"{stem} low{' ' + end if end else ''}", f"{stem} high{' ' + end if end else ''}"
        for at, (_, row) in enumerate(table.iterrows()):
            counted = row["list"] in ("markov", "popularity")
            draw_bars(
                axis, at, row[metric], "", 7 if counted else 0, color="#9aa5ab" if counted else COLOURS[0], hatch=""
            )
            if low in table:
                reach = [[row[metric] - row[low]], [row[high] - row[metric]]]
                axis.errorbar(at, row[metric], yerr=reach, color="black", capsize=3, linewidth=1)
        for at, (name, value) in enumerate((ceilings or {}).items()):
            axis.axhline(value, color=COLOURS[5 - at], linestyle=DASHES[1 + at], linewidth=1.3, zorder=1)
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
            axis.annotate(f"ceiling {name}", (1.01, value), **place)
        axis.set_xticks(range(len(table)), list(table["list"]), rotation=20, ha="right")
        axis.set(ylabel=metric.replace(" new", ", history masked"), ylim=(0, None))
        return figure


def nothing(why: str) -> "Figure":
    """Draw an empty panel that says why there is nothing to see."""
    figure, (axis,) = new_panels(1, COLUMN, 0.8)
    axis.set_axis_off()
    axis.text(0.5, 0.5, why, ha="center", va="center", color="#5f6b73")
    return figure


def histogram(values: Iterable[float], xlabel: str, title: str = "", ylabel: str = "count") -> "Figure":
    """Draw how often whole numbers occur, such as lengths of histories."""
    with theme():
        figure, (axis,) = new_panels(1)
        numbers = np.asarray(list(values))
        low, high = (numbers.min(), numbers.max()) if len(numbers) else (0, 0)
        bins: Any = np.arange(low, high + 2) - 0.5
        axis.hist(numbers, bins=bins if len(bins) <= 61 else 60, color=COLOURS[0], edgecolor="white", linewidth=0.4)
        axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
        whole_numbers(axis)
        return figure


def picture_grid(
    dataset: Dataset, items: Iterable[int], captions: Sequence[str] = (), columns: int = 6, side: int = 160
) -> "Figure":
    """Draw items as pictures with their titles; an item without a picture is a grey tile."""
    import textwrap

    items = [int(item) for item in items]
    rows = max(1, -(-len(items) // columns))
    with theme():
        figure = new_figure(1.6 * columns, 2.05 * rows)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.2 / rows, wspace=0.08, hspace=0.3)
        for at, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axis.set_axis_off()
            if at < len(items):
                axis.imshow(np.asarray(thumbnail(dataset, items[at], side)))
                words = textwrap.wrap(shorten(title_of(dataset, items[at]), 48), 23)
                # a dollar sign would start mathematics
                text = "\n".join([*words, *captions[at : at + 1]]).replace("$", r"\$")
                axis.set_title(text, fontsize=7, fontweight="normal", loc="center", y=-0.06, va="top")
        return figure


def picture_rows(
    dataset: Dataset, rows: Sequence[tuple[str, Sequence[int], Sequence[str]]], columns: int = 0, side: int = 160
) -> "Figure":
    """Draw rows of items, (heading, items, captions) each, as pictures; item -1 is an empty tile.

    Args:
        columns: pictures that a row has room for; 0: as many as the longest has.
    """
    columns = max([columns, 1, *(len(items) for _, items, _ in rows)])
    told = [[_caption(dataset, *pair) for pair in zip_longest(items, says[: len(items)])] for _, items, says in rows]
    inches = [1.95 + 0.13 * max([1, *(text.count("\n") + 1 for text in texts)]) for texts in told]
    with theme():
        figure = new_figure(1.6 * columns, sum(inches) or 2.0, layout="constrained")
        bands = figure.subfigures(max(1, len(rows)), 1, squeeze=False, height_ratios=inches or None)[:, 0]
        for band, (heading, items, _), texts in zip(bands, rows, told, strict=False):
            band.suptitle(heading.replace("$", r"\$"), x=0.01, ha="left", fontsize=9, fontweight="bold")
            for at, axis in enumerate(band.subplots(1, columns, squeeze=False)[0]):
                axis.set_axis_off()
                axis.set_anchor("N")  # what is left of the height stays below the captions
                if at < len(items):
                    item = int(items[at])
                    axis.imshow(np.asarray(thumbnail(dataset, item, side) if item >= 0 else placeholder(side)))
                    axis.text(0.5, -0.05, texts[at], transform=axis.transAxes, fontsize=7, ha="center", va="top")
        return figure


def _caption(dataset: Dataset, item: int, says: str | None) -> str:
    """Return an item's title and what is said of it, in lines that fit under a picture."""
    words = textwrap.wrap(shorten(title_of(dataset, item), 48), 23) if int(item) >= 0 else ["no item"]
    lines = [*words, *(line for line in (says or "").split("\n") if line)]
    wrapped = [part for line in lines for part in textwrap.wrap(line, 26, break_on_hyphens=False)]
    return "\n".join(wrapped).replace("$", r"\$")


def stem(job: Any, name: str) -> str:
    """Return a figure's file name for a job: `<dataset>_<method>_<size>_seed<k>_<name>`, fit for a file name."""
    words = (job.dataset_name, f"{job.method_name}{job.variant}", job.size, f"seed{job.seed}", name)
    return "_".join("".join(c if c.isalnum() or c in "-+=.," else "-" for c in word) for word in words)


PICTURES_DPI = 90  # of figures made of small pictures: more would only enlarge the files


def save(figure: "Figure", frame: pd.DataFrame, stem: str, folder: Path | None = None, dpi: int | None = None) -> Path:
    """Write `<stem>.png`, `<stem>.pdf` and the table that drew them, `<stem>.csv`; equal input gives equal bytes.

    Args:
        folder: None: `figures/` of the checkout or of the current folder.
        dpi: of the PNG, and of pictures inside the PDF; None: the theme's.

    Returns:
        The path of the PNG.
    """
    folder = methods.home() / "figures" if folder is None else folder
    with theme():
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with runs.atomic(folder / f"{stem}.{ending}") as part:
                figure.savefig(part, format=ending, metadata=metadata, dpi=dpi or STYLE["savefig.dpi"])
    save_csv(frame, stem, folder)
    return folder / f"{stem}.png"


def save_csv(frame: pd.DataFrame, stem: str, folder: Path | None = None) -> Path:
    """Write `<stem>.csv` where `save` would, and return its path."""
    folder = methods.home() / "figures" if folder is None else folder
    with runs.atomic(folder / f"{stem}.csv") as part:
        frame.to_csv(part, index=not isinstance(frame.index, pd.RangeIndex), lineterminator="\n")
    return folder / f"{stem}.csv"


def folder_for_pictures(dataset: Dataset, job: Any) -> Path | None:
    """Return the folder of `save` for a figure that shows items: the run's, where the pictures are somebody else's."""
    return None if dataset.manifest.get("source") == "demo" else Path(job.run_folder) / "figures"
