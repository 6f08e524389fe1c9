"""Semantic IDs: the codes of every item, per view, with collisions resolved and counted.

A view writes an item as one or several *segments*, one per stream (= modality): MusicRec has a view per modality,
MGR-LF one view of two segments. The segments of a view stand side by side in one matrix of codes.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import runs, seeds
from musicrec_kit.ids import collisions
from musicrec_kit.params import IdsParams, Refused
from musicrec_kit.tokenizers.codes import ItemCodes

log = logging.getLogger(__name__)

TABLE, ABOUT = "semantic_ids.parquet", "ids.json"
NULL = -1
NUMBERS = "numbers"  # view and stream of IDs that are numbers


@dataclass(frozen=True)
class SemanticIds:
    """The semantic ID of every item in every view.

    Attributes:
        views: view -> codes int32 [items, levels]; -1 where a level is null (all of them: the item has no ID here).
        suffix: view -> int32 [items], 0 where not needed; a view writes suffix tokens only if any is above 0.
        segments: view -> ((stream, levels), ...) in the order in which they are written.
        sizes: view -> codes per level.
        shared_levels: first levels of every segment that are equal in all streams.
        collisions: view -> {"method", "before", "after", "changed"}, see `collisions.count`.
    """

    views: dict[str, np.ndarray]
    suffix: dict[str, np.ndarray]
    segments: dict[str, tuple[tuple[str, int], ...]]
    sizes: dict[str, tuple[int, ...]]
    shared_levels: int = 0
    collisions: dict[str, Any] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """Return the number of items, with or without an ID."""
        return len(next(iter(self.views.values())))

    def has_id(self, view: str) -> np.ndarray:
        """Return bool [items]: whether the item has an ID in the view."""
        return collisions.has_code(self.views[view])

    def has_suffix(self, view: str) -> bool:
        """Return whether IDs of the view end in a suffix token."""
        return bool((self.suffix[view] > 0).any())

    def save(self, folder: Path) -> None:
        """Write `semantic_ids.parquet` (the contract's columns) and `ids.json`."""
        width = max(codes.shape[1] for codes in self.views.values())
        frames = [self._frame(view, width) for view in self.views]
        runs.write_table(folder / TABLE, pd.concat(frames, ignore_index=True))
        names = ("segments", "sizes", "shared_levels", "collisions")
        runs.write_json(folder / ABOUT, {"views": list(self.views), **{name: getattr(self, name) for name in names}})

    def _frame(self, view: str, width: int) -> pd.DataFrame:
        codes = self.views[view]
        columns: dict[str, Any] = {"item": np.arange(len(codes), dtype=np.int64), "view": view}
        for level in range(width):
            values = codes[:, level] if level < codes.shape[1] else np.full(len(codes), NULL)
            columns[f"level_{level}"] = pd.arrays.IntegerArray(values.astype(np.int16), values == NULL)
        return pd.DataFrame({**columns, "suffix": self.suffix[view].astype(np.int16)})

    @classmethod
    def load(cls, folder: Path) -> "SemanticIds":
        """Read what `save` wrote."""
        about, table = runs.read_json(folder / ABOUT), runs.read_table(folder / TABLE)
        segments = {v: tuple((str(stream), int(n)) for stream, n in about["segments"][v]) for v in about["views"]}
        views, suffix = {}, {}
        for view in about["views"]:
            rows = table[table["view"] == view].sort_values("item")
            columns = [f"level_{level}" for level in range(sum(n for _, n in segments[view]))]
            views[view] = rows[columns].fillna(NULL).to_numpy(np.int32)
            suffix[view] = rows["suffix"].to_numpy(np.int32)
        sizes = {view: tuple(about["sizes"][view]) for view in about["views"]}
        return cls(views, suffix, segments, sizes, about["shared_levels"], about["collisions"])


def make_ids(codes: ItemCodes, views: Mapping[str, tuple[str, ...]], params: IdsParams, seed: int) -> SemanticIds:
    """Return the semantic IDs of `views` (view -> streams), collisions resolved as `params.collisions` says.

    A view of one stream is resolved by the named procedure on that stream's specific levels. A view of several streams
    keeps the streams' codes and is resolved on the whole ID by a suffix (lineage row 56), unless the choice is "keep".
    The order inside a suffixed group is drawn from `seed`: item numbers may tell when an item first appears.
    """
    missing = sorted({stream for streams in views.values() for stream in streams} - set(codes.codes))
    if missing:
        raise Refused(
            f"ids.views asks for {', '.join(missing)}; the item tokenizer gives codes for {', '.join(codes.codes)}"
        )
    made, suffix, counts = {}, {}, {}
    for view, streams in views.items():
        before = np.concatenate([codes.codes[stream] for stream in streams], axis=1).astype(np.int32)
        method = params.collisions if len(streams) == 1 or params.collisions == "keep" else "suffix"
        after = _resolve(codes, streams[0], method) if method in ("distance", "sinkhorn") else before
        suffix[view] = np.zeros(len(after), np.int32)
        if method in ("distance", "suffix"):  # distance leaves collisions only where it finds no free code
            suffix[view] = collisions.suffixes(after, seeds.generator(seed, "ids", "suffix", view))
        made[view] = after
        counts[view] = report(method, before, after, suffix[view])
        log.info("ids of view %s: %s", view, counts[view])
    segments = {v: tuple((stream, codes.codes[stream].shape[1]) for stream in streams) for v, streams in views.items()}
    sizes = {view: tuple(n for stream in streams for n in codes.sizes[stream]) for view, streams in views.items()}
    return SemanticIds(made, suffix, segments, sizes, codes.shared_levels, counts)


def number_items(n_items: int, params: IdsParams, seed: int) -> SemanticIds:
    """Return numbers from 1 on as IDs: decimal digits, a level each, without leading zeros (P5, VIP5).

    Numbers are drawn, or with `params.numbering` "order" the data's own, which tell who first took what: to guess that
    n + 1 follows n then finds targets without any model (`baselines.md` finding 8).
    """
    draw = seeds.generator(seed, "ids", "numbers")
    numbers = 1 + (draw.permutation(n_items) if params.numbering == "random" else np.arange(n_items))
    width = len(str(n_items))
    digits = numbers.astype(f"<U{width}").view("<U1").reshape(n_items, width)
    codes = np.where(digits == "", str(NULL), digits).astype(np.int32)
    suffix = np.zeros(n_items, np.int32)
    counts = {NUMBERS: report("keep", codes, codes, suffix)}
    return SemanticIds(
        {NUMBERS: codes}, {NUMBERS: suffix}, {NUMBERS: ((NUMBERS, width),)}, {NUMBERS: (10,) * width}, 0, counts
    )


def _resolve(codes: ItemCodes, stream: str, method: str) -> np.ndarray:
    matrix, sizes = codes.codes[stream].astype(np.int32), codes.sizes[stream]
    items, distances = codes.distances.get(
        stream, (np.zeros(0, np.int64), np.zeros((0, len(sizes), max(sizes)), np.float32))
    )
    if method == "sinkhorn":
        return collisions.by_sinkhorn(matrix, items, distances, sizes)
    free_levels = min(2, len(sizes) - codes.shared_levels)
    return collisions.by_distance(matrix, items, distances, sizes, free_levels)


def report(method: str, before: np.ndarray, after: np.ndarray, suffix: np.ndarray) -> dict[str, Any]:
    """Return the record of one view's collisions: counts before and after, items that changed or got a suffix."""
    whole = np.concatenate([after, suffix[:, None]], axis=1)
    return {
        "method": method,
        "before": collisions.count(before),
        "after": collisions.count(whole, with_id=collisions.has_code(after)),
        "changed": 0 if before is after else int((before != after).any(axis=1).sum()),
        "suffixed": int((suffix > 0).sum()),
    }
