"""Sources: the readers that turn a data set's files into RawTables. A user's own data need a YAML file and no code."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit.data import lcrec, reading, streaming, text
from musicrec_kit.data.images import ImageStore
from musicrec_kit.data.raw import INTERACTION_COLUMNS, ITEM_COLUMNS, RawTables
from musicrec_kit.params import DataParams, Refused
from musicrec_kit.settings_help import nearest

log = logging.getLogger(__name__)

MOVIELENS_RATINGS = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
TEXT_COLUMNS = ("title", "description", "brand", "categories")
TABLE_COLUMNS = ("user", "item", "rating", "time", "id", *TEXT_COLUMNS, "image")
# a film's tags that go into its description, most frequent first
TAGS_PER_ITEM = 20


def read(params: DataParams, data_root: Path | None, folder: Path) -> RawTables:
    """Return the raw tables of a data set.

    Args:
        data_root: where relative file names start; None: the current folder.
        folder: where source "demo" writes its pictures.

    Raises:
        Refused: a file or a column is missing, cannot be read, or is empty.
    """
    root = data_root or Path()
    if params.source == "demo":
        from musicrec_kit.data import demo

        raw = demo.generate(params.demo, folder)
    elif params.source == "lcrec":
        raw = lcrec.read(params, root)
    elif params.source == "movielens":
        raw = movielens(params, root)
    else:
        raw = table(params, root)
    if not len(raw.interactions):
        raise Refused(f"source {params.source}: no interactions in {params.interactions}; is it the right file?")
    return raw


def movielens(params: DataParams, root: Path) -> RawTables:
    """Return the tables of MovieLens as released: ratings.csv, movies.csv, tags.csv where given, `<movieId>.jpg`.

    A film's description is its plot (from `descriptions`, where given) and then its tags.
    """
    ratings = reading.located(root, params.interactions, "interactions")
    interactions, about = _interactions(ratings, MOVIELENS_RATINGS, ("user", "item", "rating"))
    movies = reading.located(root, params.items, "items")
    wanted = {"raw_id": "movieId", "title": "title", "categories": "genres"}
    items = reading.read_columns(movies, wanted, ("raw_id", "title"))
    items["categories"] = [
        [] if genre == "(no genres listed)" else genre
        for genre in items.get("categories", pd.Series([""] * len(items)))
    ]
    items["description"] = ""
    items["brand"] = ""
    if params.descriptions:
        _describe(items, reading.located(root, params.descriptions, "descriptions"))
    if params.tags:
        _add_tags(items, reading.located(root, params.tags, "tags"))
    return _raw(interactions, items, _store(params, root), about)


def _describe(items: pd.DataFrame, path: Path) -> None:
    """Fill descriptions and brands from an item file of the lineage's shape, by raw id."""
    described = lcrec.item_table(lcrec.item_records(path), {}).set_index("raw_id")
    raw_ids = reading.as_ids(items["raw_id"]).astype(object)
    items["description"] = raw_ids.map(described["description"]).fillna("")
    items["brand"] = raw_ids.map(described["brand"]).fillna("")


def _add_tags(items: pd.DataFrame, path: Path) -> None:
    """Add a film's distinct tags in lower case to its description: most frequent first, ties by first appearance."""
    tags = reading.read_columns(path, {"raw_id": "movieId", "tag": "tag"}, ("raw_id", "tag")).dropna()
    tags["tag"] = tags["tag"].astype(str).str.strip().str.lower()
    counts = tags.groupby(["raw_id", "tag"], sort=False).size().reset_index(name="count")
    counts = counts.sort_values("count", ascending=False, kind="stable")
    best = counts.groupby("raw_id", sort=False).head(TAGS_PER_ITEM)
    joined = best.groupby("raw_id", sort=False)["tag"].agg(", ".join)
    added = items["raw_id"].map("Tags: " + joined).fillna("")
    items["description"] = (items["description"].astype(str) + " " + added.astype(str)).str.strip()


def table(params: DataParams, root: Path) -> RawTables:
    """Return the tables of a user's own files: any CSV, TSV, Parquet or JSON lines, columns named by `data.columns`.

    Pictures are named by the column `image`, else by the item's id and any common extension. Without an items file,
    item columns are looked for in the interactions file, and an item's first row counts.
    """
    unknown = sorted(set(params.columns) - set(TABLE_COLUMNS))
    if unknown:
        hint = nearest(unknown[0], list(TABLE_COLUMNS))
        raise Refused(
            f"data.columns: unknown {unknown[0]!r}"
            + (f"; did you mean {hint!r}?" if hint else f"; known: {TABLE_COLUMNS}")
        )
    columns = {name: name for name in TABLE_COLUMNS} | params.columns
    path = reading.located(root, params.interactions, "interactions")
    events = {name: columns[name] for name in ("user", "item", "rating", "time")}
    given = [name for name in events if name in params.columns]
    bad_lines = streaming.BadLines(path, params.bad_lines)
    interactions, about = _interactions(path, events, ("user", "item", *given), bad_lines)
    about |= bad_lines.told()
    fields = {name: columns[name] for name in (*TEXT_COLUMNS, "image")}
    required = [name for name in fields if name in params.columns]
    said = set(fields.values()) & set(reading.column_names(path, params.bad_lines))
    if not (params.items or said or required):
        # the file says nothing of its items but their ids: it is not read twice
        ids = pd.DataFrame({"raw_id": [name for name in interactions["raw_item"].cat.categories if name]})
        repeated = len(interactions) + about["rows_without_user_or_item"] - len(ids)
        return _raw(interactions, ids, _store(params, root), about, repeated)
    fields["raw_id"] = columns["item"]
    if params.items:
        path = reading.located(root, params.items, "items")
        fields["raw_id"] = params.columns.get("id", columns["item"])
    bad_lines = streaming.BadLines(path, params.bad_lines)
    items, repeated = reading.read_first(path, fields, ("raw_id", *required), "raw_id", bad_lines)
    about |= {f"items_{key}": value for key, value in bad_lines.told().items()} if params.items else {}
    return _raw(interactions, items, _store(params, root), about, repeated)


def _store(params: DataParams, root: Path) -> ImageStore:
    return ImageStore(reading.located(root, params.images, "images")) if params.images else ImageStore(None)


def _interactions(
    path: Path, columns: dict[str, str], required: Sequence[str], bad_lines: streaming.BadLines | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the interactions of a table file and facts for the manifest; rows without user or item are left out."""
    read = reading.read_columns(path, columns, required, ("user", "item"), bad_lines)
    users, items = reading.as_ids(read["user"]), reading.as_ids(read["item"])
    rows = len(read)
    ratings = reading.as_numbers(read["rating"], "rating", path) if "rating" in read else np.full(rows, np.nan)
    times = reading.as_times(read["time"], path) if "time" in read else np.full(rows, reading.NO_TIME)
    seconds, order = _seconds(times)
    unknown = times == reading.NO_TIME
    frame = pd.DataFrame(
        {
            "raw_user": users,
            "raw_item": items,
            "rating": ratings,
            "time": pd.arrays.IntegerArray(np.where(unknown, 0, seconds), unknown),
            "order": order,
        },
        columns=list(INTERACTION_COLUMNS),
    )
    complete = users.notna().to_numpy() & items.notna().to_numpy()
    about = {"rows_without_user_or_item": int(rows - complete.sum())}
    return frame if complete.all() else frame.loc[complete].reset_index(drop=True), about


def _seconds(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps in seconds and the order of rows; milliseconds (Amazon 2023) or finer still decide the order."""
    known = times[times != reading.NO_TIME]
    order = np.arange(len(times))
    middle = np.median(known) if len(known) else 0
    unit = next(unit for unit in (1, 10**3, 10**6, 10**9, 10**12) if middle / unit <= reading.SECONDS_BELOW)
    if unit > 1:
        order[np.argsort(times, kind="stable")] = np.arange(len(times))
    return times // unit, order


def _raw(
    interactions: pd.DataFrame, items: pd.DataFrame, store: ImageStore, about: dict[str, Any], repeated: int = 0
) -> RawTables:
    """Return RawTables: items get clean fields and pictures, and those that only interactions know get a bare row.

    `repeated` says how many rows of known items were left out before.
    """
    raw_ids = reading.as_ids(items["raw_id"])
    first = (raw_ids.notna() & ~raw_ids.duplicated()).to_numpy()
    described = items.loc[first].assign(raw_id=raw_ids[first].astype(object).to_numpy())
    seen = pd.Index(interactions["raw_item"].unique().astype(object), dtype=object)
    known = pd.Index(described["raw_id"], dtype=object)
    bare = pd.DataFrame({"raw_id": seen[~seen.isin(known)]})
    # only what was interacted with: a published catalogue can be a hundred times larger
    described = described[known.isin(seen)]
    full = pd.concat([described, bare], ignore_index=True).reindex(columns=list(ITEM_COLUMNS))
    clean = pd.DataFrame(
        {
            "raw_id": full["raw_id"].astype(object),
            **{name: _filled(full[name], text.clean, str) for name in ("title", "description", "brand")},
            "categories": _filled(full["categories"], text.categories, list),
        }
    )
    clean["image"], lost = _pictures(full, store)
    about |= {
        "items_without_interactions": int(first.sum() - len(described)),
        "items_not_in_items_file": len(bare),
        "item_rows_repeated": repeated + int((~first).sum()),
        "pictures_named_but_missing": lost,
    }
    log.info("read %d interactions with %d items; %s", len(interactions), len(clean), about)
    return RawTables(interactions, clean[list(ITEM_COLUMNS)], store.root, about=about)


def _filled(values: pd.Series, made: Callable[[Any], Any], kind: type) -> list[Any]:
    """Return what is made of each value, and an empty one where there is none: a file of reviews names no titles."""
    return [made(value) if there else kind() for value, there in zip(values, values.notna(), strict=True)]


def _pictures(full: pd.DataFrame, store: ImageStore) -> tuple[pd.Series, int]:
    """Return each item's picture, by the image column or by raw id, and how many of those named are missing."""
    if store.root is None:
        return pd.Series([None] * len(full), dtype=object), 0
    given = [name if isinstance(name, str) and name else None for name in full["image"]]
    named, lost = store.existing(given)
    matched = store.match(full["raw_id"])
    found = [match if wanted is None else name for wanted, name, match in zip(given, named, matched, strict=True)]
    return pd.Series(found, dtype=object), lost
