"""The lineage's own files (LC-Rec, LETTER, MQL4GRec): read them, and write a Dataset as them.

`*.inter.json` maps a user to item numbers in time order, `*.item.json` an item number to its fields, `*.item2id` holds
raw id TAB item number on each line. Numbers are kept: published semantic IDs and matrices line up by them.
"""

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.data import text
from musicrec_kit.data.dataset import Dataset
from musicrec_kit.data.images import ImageStore
from musicrec_kit.data.raw import INTERACTION_COLUMNS, ITEM_COLUMNS, RawTables
from musicrec_kit.data.reading import kind_of, located, read_json_file, read_json_lines, read_text
from musicrec_kit.params import DataParams, Refused

RAW_ID_KEYS = ("raw_id", "asin", "parent_asin", "source_id")
DESCRIPTION_KEYS = ("description", "plot")
MOST_ITEMS = np.iinfo(np.int32).max


def read(params: DataParams, root: Path) -> RawTables:
    """Return the tables of a data set in the lineage's files; the largest item number in any sets the catalogue."""
    interactions = located(root, params.interactions, "interactions")
    users, lengths, items = read_sequences(interactions)
    records = dict(item_records(located(root, params.items, "items"))) if params.items else {}
    raw_ids = read_item2id(located(root, params.item2id, "item2id")) if params.item2id else {}
    n_items = 1 + max([int(items.max(initial=-1)), *records, *raw_ids])
    table = item_table(((number, records.get(number, {})) for number in range(n_items)), raw_ids)
    store = ImageStore(located(root, params.images, "images")) if params.images else ImageStore(None)
    table["image"], lost = _images(table, store)
    rows = len(items)
    frame = pd.DataFrame(
        {
            "raw_user": pd.Categorical.from_codes(
                np.repeat(np.arange(len(users)), lengths), categories=pd.Index(users, dtype=object)
            ),
            "raw_item": pd.Categorical.from_codes(items, categories=pd.Index(table["raw_id"], dtype=object)),
            "rating": np.full(rows, np.nan),
            "time": pd.arrays.IntegerArray(np.zeros(rows, np.int64), np.ones(rows, bool)),
            "order": np.arange(rows),
        },
        columns=list(INTERACTION_COLUMNS),
    )
    about = {"items_described": len(records), "pictures_named_but_missing": lost}
    return RawTables(frame, table, store.root, numbered=True, about=about)


def _images(table: pd.DataFrame, store: ImageStore) -> tuple[pd.Series, int]:
    named, lost = store.existing(table["image"].tolist())
    found = [name or match for name, match in zip(named, store.match(table["raw_id"]), strict=True)]
    return pd.Series(found, dtype=object), lost if store.root else 0


def read_sequences(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return users (by number where they are numbers, else as in the file), their lengths, and all items joined."""
    content = read_json_file(path)
    if not isinstance(content, dict) or not all(isinstance(items, list) for items in content.values()):
        raise Refused(
            f"{path}: expected {{user: [item number, ...], ...}} in time order; for other shapes use source: table"
        )
    users = list(content)
    if all(user.isdecimal() for user in users):
        users.sort(key=int)
    lengths = np.fromiter((len(content[user]) for user in users), np.int64, len(users))
    values = list(chain.from_iterable(content[user] for user in users))
    items = np.asarray(values) if values else np.zeros(0, np.int64)
    if (
        items.dtype.kind not in "iu"
        or items.ndim != 1
        or items.min(initial=0) < 0
        or items.max(initial=0) >= MOST_ITEMS
    ):
        wrong = next(v for v in values if isinstance(v, bool) or not isinstance(v, int) or not 0 <= v < MOST_ITEMS)
        raise Refused(f"{path}: {wrong!r} is no item number (whole, from 0); for raw ids use source: table")
    return users, lengths, items.astype(np.int64)


def item_records(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    """Give (item number, fields) of a `*.item.json`, or of JSON lines with an `id`."""
    if kind_of(path) == ".jsonl":
        pairs: Iterable[tuple[Any, Any]] = (
            (record.get("id", row), record) for row, record in enumerate(read_json_lines(path))
        )
    else:
        content = read_json_file(path)
        if not isinstance(content, dict):
            raise Refused(
                f"{path}: expected {{item number: {{title: ..., ...}}, ...}}, found a {type(content).__name__}"
            )
        pairs = content.items()
    for key, record in pairs:
        number = str(key)
        if not number.isdecimal() or int(number) >= MOST_ITEMS or not isinstance(record, dict):
            raise Refused(f"{path}: {key!r}: expected an item number (whole, from 0) and its fields")
        yield int(number), record


def item_table(records: Iterable[tuple[int, dict[str, Any]]], raw_ids: dict[int, str]) -> pd.DataFrame:
    """Return the items table of records; a raw id is the given one, else the record's own, else the number."""
    rows = []
    for number, record in records:
        own = next((str(record[key]) for key in RAW_ID_KEYS if record.get(key) not in (None, "")), str(number))
        description = next((record[key] for key in DESCRIPTION_KEYS if record.get(key)), "")
        rows.append(
            (
                raw_ids.get(number, own),
                text.clean(record.get("title")),
                text.clean(description),
                text.clean(record.get("brand")),
                text.categories(record.get("categories")),
                record.get("image") or None,
            )
        )
    table = pd.DataFrame(rows, columns=list(ITEM_COLUMNS), dtype=object)
    twice = table["raw_id"][table["raw_id"].duplicated()].unique()
    if len(twice):
        raise Refused(f"items: {len(twice)} raw ids stand for two item numbers, such as {twice[0]!r}; correct them")
    return table


def read_item2id(path: Path) -> dict[int, str]:
    """Return item number -> raw id of a file with raw id TAB item number on each line."""
    found: dict[int, str] = {}
    for row, line in enumerate(read_text(path).splitlines(), 1):
        raw_id, tab, number = line.rpartition("\t")
        if not line.strip():
            continue
        if not tab or not number.strip().isdecimal() or int(number) in found:
            raise Refused(f"{path}: line {row} is {line!r}: expected raw id TAB item number, each number once")
        found[int(number)] = raw_id
    return found


def export_lcrec(dataset: Dataset, folder: Path) -> dict[str, Path]:
    """Write a Dataset as the lineage's files and return them by kind: inter, item, item2id. Times are lost."""
    items = dataset.items
    raw_ids = items["raw_id"].tolist()
    if any("\t" in raw_id or len(raw_id.splitlines()) != 1 for raw_id in raw_ids):
        raise Refused(
            "export: a raw id holds a tab or a line break, which *.item2id cannot write; rename it in the source"
        )
    paths = {kind: folder / f"{dataset.name}.{kind}" for kind in ("inter.json", "item.json", "item2id")}
    sequences = dataset.sequences()
    parts = np.split(sequences.items, sequences.offsets[1:-1])
    runs.write_text(paths["inter.json"], json.dumps({str(user): part.tolist() for user, part in enumerate(parts)}))
    records = {
        str(item): {
            "title": title,
            "description": description,
            "brand": brand,
            # the lineage joins categories by commas; one that holds a comma itself needs the list
            "categories": list(names) if any("," in name or "|" in name for name in names) else ",".join(names),
            **({"image": image} if image is not None else {}),
        }
        for item, title, description, brand, names, image in items[["item", *ITEM_COLUMNS[1:]]].itertuples(index=False)
    }
    runs.write_json(paths["item.json"], records)
    runs.write_text(paths["item2id"], "".join(f"{raw_id}\t{item}\n" for item, raw_id in enumerate(raw_ids)))
    return {kind.removesuffix(".json"): path for kind, path in paths.items()}
