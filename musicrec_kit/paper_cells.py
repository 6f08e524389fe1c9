"""Which cells of a sweep a notebook shows: every seed that a grid has finished, and the seed that it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from musicrec_kit import methods, sweep
from musicrec_kit.params import Size


def shown(
    name: str,
    dataset: str,
    size: Size,
    seed: int,
    runs_dir: Path | str,
    data_root: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    rows: Callable[[str], bool] = bool,
) -> list[sweep.Cell]:
    """Return the cells of a sweep that a notebook shows: of `seed` all, of the sweep's other seeds those that are done.

    Rows that a notebook does not speak of count, too: they tell how far trainings differ.

    Args:
        name: of the sweep, whose data sets and size are replaced by the notebook's.
        overrides: settings given to every cell, under those of its row.
        rows: which rows are shown whether they are done or not; all that have a name unless given.
    """
    spec = sweep.read(name)
    common = [*(spec.get("settings") or []), *([{"set": overrides}] if overrides else [])]
    seeds = list(dict.fromkeys([seed, *spec.get("seeds", [])]))
    here = sweep.chosen(spec, datasets=[dataset], size=size, seeds=seeds, settings=common)
    cells = list(sweep.cells(here))
    others = [cell for cell in cells if cell.seed != seed or not rows(cell.levels["row"])]
    lacking = sweep.missing(others, Path(runs_dir), data_root)
    return [cell for cell in cells if cell not in lacking]


def asked(cells: Sequence[sweep.Cell]) -> pd.DataFrame:
    """Return one row per row of a sweep: row, method, what differs from the method's file, seeds."""
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        differs = ", ".join(f"{key}={value}" for key, value in methods.leaves(cell.overrides))
        row = {"row": cell.levels["row"], "method": cell.method, "differs": differs}
        rows.setdefault(cell.levels["row"], {**row, "seeds": []})["seeds"].append(cell.seed)
    return pd.DataFrame(list(rows.values()), columns=["row", "method", "differs", "seeds"])
