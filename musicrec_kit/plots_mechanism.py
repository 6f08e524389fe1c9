"""Figures of the tokenizer's mechanism: what levels know, who pulls, z-hat against z_cf, churn; in plots.py's theme."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from musicrec_kit.plots import COLOURS, COLUMN, draw_bars, draw_line, new_panels, nothing, theme, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def levels_known(known: pd.DataFrame) -> "Figure":
    """Draw what each modality's z-hat knows after each level (`analysis.levels.known`), a panel per modality.

    Shared levels are on grey; the thin line is what the modality's own features tell of the other one.
    """
    with theme():
        names = list(known["z_hat"].unique())
        figure, axes = new_panels(len(names))
        for name, axis in zip(names, axes, strict=True):
            panel = known[known["z_hat"] == name]
            own = panel[panel["of"] == name]
            axis.axvspan(0.5, 0.5 + own["shared"].sum(), color="#f0f0f0", zorder=0)
            draw_line(axis, own["level"] + 1, own["decoded"], "itself, by the decoder", 0)
            for at, (other, rows) in enumerate(panel.groupby("of", sort=False), start=1):
                draw_line(axis, rows["level"] + 1, rows["r2"], f"{other}, by a linear probe", at)
                if other != name:
                    axis.axhline(rows["r2_features"].iloc[0], color=COLOURS[at % 8], linewidth=0.8)
            axis.set(xlabel="levels read", ylabel="R2", title=f"z-hat of {name}", xlim=(0.5, len(own) + 0.5))
            whole_numbers(axis)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names) + 1)
        return figure


def gradients(log: pd.DataFrame) -> "Figure":
    """Draw the norms of the weighted terms' gradients over epochs (log scale), a panel per trained part and side."""
    with theme():
        places = [(part, side) for part in log["part"].unique() for side in ("encoder", "codebooks")]
        if not any(str(name).startswith("gradient/") for name in log):
            return nothing("no gradients: this tokenizer is not trained")
        figure, axes = new_panels(len(places))
        for (part, side), axis in zip(places, axes, strict=True):
            names = [n for n in log.columns if n.startswith("gradient/") and n.endswith(f"/{side}")]
            for at, name in enumerate(names):
                rows = log[(log["part"] == part) & (log[name] > 0)]
                if len(rows):
                    draw_line(axis, rows["epoch"] + 1, rows[name], name.split("/")[1], at)
            words = {"encoder": "encoders", "codebooks": "codebooks"}[side]
            axis.set(xlabel="epoch", ylabel="norm", title=words if part == "all" else f"{words}, {part}", yscale="log")
            whole_numbers(axis)
            if axis.lines:
                axis.legend()
        return figure


def agreement(table: pd.DataFrame, form: str = "joint") -> "Figure":
    """Draw z-hat against z_cf for several tokenizers (`agreement_with_vectors`, with a column `change`), with chance.

    Args:
        form: which z-hat; for one modality alone, its name.
    """
    with theme():
        rows = table[table["z_hat"] == form]
        changes, parts = list(rows["change"].unique()), list(rows["part"].unique())
        figure, axes = new_panels(2, max(COLUMN, 1.2 + 0.8 * len(changes)))
        for axis, measure in zip(axes, ("neighbours", "spearman"), strict=True):
            for at, part in enumerate(parts):
                chosen = rows[rows["part"] == part].set_index("change").reindex(changes)
                places = np.arange(len(changes)) + (at - (len(parts) - 1) / 2) * 0.4
                reach = 2 * chosen[f"{measure}_spread"] if f"{measure}_spread" in chosen else np.zeros(len(changes))
                draw_bars(axis, places, chosen[measure], part, at, width=0.38)
                chance = chosen[f"{measure}_chance"]
                style: dict[str, Any] = {"fmt": "_", "color": "black", "markersize": 14, "linewidth": 1, "capsize": 3}
                axis.errorbar(places, chance, yerr=reach, label="" if at else "chance", **style)
            axis.set_xticks(range(len(changes)), changes, rotation=20, ha="right")
        axes[0].set(ylabel="nearest items in common", title=f"neighbours by z-hat ({form}) and z_cf")
        axes[1].set(ylabel="Spearman correlation", title="similarities by z-hat and z_cf")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure


def churn(table: pd.DataFrame) -> "Figure":
    """Draw the share of items whose code moves (`analysis.churn.churn_of_changes`): bars per change, with chance."""
    with theme():
        changes = list(table["change"].unique())
        places = list(dict.fromkeys(zip(table["stream"], table["level"], strict=True)))
        figure, (axis,) = new_panels(1, max(COLUMN, 1.2 + 0.35 * len(places) * len(changes)))
        width = 0.8 / len(changes)
        for at, change in enumerate(changes):
            rows = table[table["change"] == change].set_index(["stream", "level"]).reindex(places)
            x = np.arange(len(places)) + (at - (len(changes) - 1) / 2) * width
            draw_bars(axis, x, rows["moved"], change, at, width=0.9 * width)
            reach = [rows["moved"] - rows["moved low"], rows["moved high"] - rows["moved"]]
            axis.errorbar(x, rows["moved"], yerr=reach, fmt="none", color="black", capsize=2, linewidth=1)
            label = "" if at else "shuffled items"
            axis.plot(x, rows["moved_chance"], "_", color="black", markersize=9, label=label)
        axis.set_xticks(range(len(places)), [f"{stream}\nlevel {level + 1}" for stream, level in places])
        axis.set(ylabel="items whose code moves", ylim=(0, 1.05))
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure
