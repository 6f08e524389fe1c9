"""Dataset: the interactions and items that everything later works on, with a manifest and a fingerprint."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.data.images import ImageStore
from musicrec_kit.data.splits import SPLITS, Sequences
from musicrec_kit.params import Refused

INTERACTION_COLUMNS = ("user", "item", "time", "position", "split")
ITEM_COLUMNS = ("item", "raw_id", "title", "description", "brand", "categories", "image")
FILES = ("interactions.parquet", "items.parquet", "manifest.json")


@dataclass(frozen=True)
class Dataset:
    """One data set after its filters, users and items numbered from 0.

    Attributes:
        interactions: user int64, item int64, time Int64 (seconds, null where unknown), position int64, split (train,
            valid, test, later); sorted by user and position.
        items: item int64, raw_id, title, description, brand str, categories (list of str), image (name inside `images`
            or None); row = item.
        manifest: counts, filters, fingerprint, tie rule (`data/assemble.py`).
        images: where pictures are read from.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    manifest: dict[str, Any]
    images: ImageStore

    def __post_init__(self) -> None:
        assert tuple(self.interactions.columns) == INTERACTION_COLUMNS, list(self.interactions.columns)
        assert tuple(self.items.columns) == ITEM_COLUMNS, list(self.items.columns)

    @property
    def n_users(self) -> int:
        """Return the number of users."""
        return int(self.manifest["users"])

    @property
    def n_items(self) -> int:
        """Return the number of items in the catalogue."""
        return len(self.items)

    @cached_property
    def _sequences(self) -> Sequences:
        counts = np.bincount(self.interactions["user"].to_numpy(), minlength=self.n_users)
        splits = pd.Index(SPLITS).get_indexer(pd.Index(self.interactions["split"])).astype(np.int8)
        return Sequences.from_splits(counts, self.interactions["item"].to_numpy(), splits, self.n_items)

    def sequences(self) -> Sequences:
        """Return all users' items in time order with their split."""
        return self._sequences

    def save(self, folder: Path) -> None:
        """Write the two tables and the manifest; pictures stay where they are and are pointed to."""
        runs.write_table(folder / FILES[0], self.interactions)
        runs.write_table(folder / FILES[1], self.items)
        root = self.images.root
        place = None
        if root is not None:
            # a stage folder can be moved with the pictures inside it
            inside = root.resolve().is_relative_to(folder.resolve())
            place = root.resolve().relative_to(folder.resolve()).as_posix() if inside else str(root.resolve())
        images = self.manifest["images"] | {"root": place}
        runs.write_json(folder / FILES[2], self.manifest | {"images": images})

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read a saved data set.

        Raises:
            Refused: a file is missing, or the tables are not those that the manifest's fingerprint was made from.
        """
        for name in FILES:
            if not (folder / name).is_file():
                raise Refused(f"no data set in {folder}: {name} is missing; run the data stage again")
        manifest = runs.read_json(folder / FILES[2])
        root = manifest["images"]["root"]
        items = typed_items(runs.read_table(folder / FILES[1]))
        interactions = runs.read_table(folder / FILES[0])
        dataset = cls(
            manifest["name"], interactions, items, manifest, ImageStore(None if root is None else folder / root)
        )
        if fingerprint(dataset.sequences(), items["raw_id"].tolist()) != manifest["fingerprint"]:
            raise Refused(
                f"the tables in {folder} do not have the fingerprint of their manifest; run the data stage again"
            )
        return dataset


def typed_items(items: pd.DataFrame) -> pd.DataFrame:
    """Return an items table with Python values however it was stored: str, list of str, None for no picture."""
    typed = items[list(ITEM_COLUMNS)].copy()
    for name in ("raw_id", "title", "description", "brand"):
        typed[name] = pd.Series([str(value) for value in items[name]], dtype=object, index=items.index)
    typed["categories"] = pd.Series(
        [list(map(str, value)) for value in items["categories"]], dtype=object, index=items.index
    )
    images = [value if isinstance(value, str) else None for value in items["image"]]
    typed["image"] = pd.Series(images, dtype=object, index=items.index)
    return typed


def fingerprint(sequences: Sequences, raw_ids: Iterable[str]) -> str:
    """Return the hex sha256 of who consumed what in which order, of the split, and of the catalogue.

    Hashed are lines in UTF-8, sorted: per user the number of held-out items (where these are not split leave-one-out,
    followed by the positions of the targets, -1 for none) and the raw ids in order as JSON strings, joined by tabs;
    then an empty line and the catalogue's raw ids, one a line, sorted. Numbers of users and items do
    not enter: renumbering changes nothing.
    """
    names = [json.dumps(str(raw_id)) for raw_id in raw_ids]
    of_event = np.array(names, dtype=object)[sequences.items] if names else np.zeros(0, object)
    bounds, held = sequences.offsets.tolist(), list(map(str, sequences.held_out.tolist()))
    if not sequences.leave_one_out:
        places = (np.maximum(at - sequences.offsets[:-1], -1) for at in (sequences.valid_at, sequences.test_at))
        held = [" ".join(map(str, each)) for each in zip(held, *(place.tolist() for place in places), strict=True)]
    lines = sorted(
        "\t".join([split, *of_event[start:stop]]) for split, start, stop in zip(held, bounds, bounds[1:], strict=False)
    )
    return hashlib.sha256("\n".join([*lines, "", *sorted(names), ""]).encode()).hexdigest()


def items_fingerprint(items: pd.DataFrame) -> str:
    """Return the hex sha256 of what items say: raw ids, texts, categories and names of pictures, in item order."""
    digest, encode = hashlib.sha256(), json.JSONEncoder(ensure_ascii=True, default=int).encode
    for row in items[list(ITEM_COLUMNS)].itertuples(index=False, name=None):
        digest.update(f"{encode(row)}\n".encode())
    return digest.hexdigest()


def split_names(sequences: Sequences) -> pd.Series:
    """Return the split of each interaction by name."""
    return pd.Series(pd.Categorical.from_codes(sequences.splits, categories=pd.Index(SPLITS))).astype(str)
