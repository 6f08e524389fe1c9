"""From a source's raw tables to a Dataset: order, filters, numbers, split, manifest."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import seeds
from musicrec_kit.data import filters
from musicrec_kit.data.dataset import (
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    Dataset,
    fingerprint,
    items_fingerprint,
    split_names,
    typed_items,
)
from musicrec_kit.data.filters import Events
from musicrec_kit.data.images import ImageStore
from musicrec_kit.data.raw import RawTables
from musicrec_kit.data.reading import NO_TIME
from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.params import DataParams, Refused

log = logging.getLogger(__name__)


def assemble(raw: RawTables, params: DataParams, name: str) -> Dataset:
    """Return the Dataset of raw tables under the settings.

    Raises:
        Refused: nothing is left after a filter, or an interaction names an item that the items table does not have.
    """
    events = _events(raw)
    events = events.take(filters.time_order(events, params.tie_order, params.tie_seed))
    has_text = (raw.items["title"].str.len() + raw.items["description"].str.len()).to_numpy(dtype=np.int64) > 0
    has_image = raw.items["image"].notna().to_numpy()
    events, reports = filters.apply(events, params, has_text, has_image)
    users, items, rows = _numbers(events, _catalogue(raw, params, events, has_text, has_image), params)
    order = np.argsort(users, kind="stable")
    events, users, items = events.take(order), users[order], items[order]
    sequences, cuts = _split(np.bincount(users), items, events.time, len(rows), params)
    table = _items(raw, rows)
    interactions = pd.DataFrame(
        {
            "user": users,
            "item": items,
            "time": pd.arrays.IntegerArray(np.where(events.time == NO_TIME, 0, events.time), events.time == NO_TIME),
            "position": np.arange(len(users)) - sequences.offsets[users],
            "split": split_names(sequences),
        },
        columns=list(INTERACTION_COLUMNS),
    )
    images = ImageStore(raw.images)
    manifest = _manifest(params, name, sequences, events, table, images)
    kept = raw.numbered and len(rows) == len(raw.items) and params.renumber == "keep"
    manifest |= {"filters": reports, "numbers_kept": bool(kept), "about": raw.about} | cuts
    _compare(manifest, params)
    return Dataset(name, interactions, table, manifest, images)


def _events(raw: RawTables) -> Events:
    users, _ = pd.factorize(raw.interactions["raw_user"])
    codes, raw_ids = pd.factorize(raw.interactions["raw_item"])
    row_of_code = pd.Index(raw.items["raw_id"].astype(object)).get_indexer(pd.Index(raw_ids).astype(object))
    if (row_of_code < 0).any():
        missing = np.asarray(raw_ids, dtype=object)[row_of_code < 0]
        raise Refused(f"data: {len(missing)} items of the interactions are not among the items, such as {missing[0]!r}")
    time = raw.interactions["time"].astype("Int64")
    return Events(
        users.astype(np.int64),
        row_of_code[codes].astype(np.int64),
        raw.interactions["rating"].to_numpy(dtype=np.float64),
        time.fillna(NO_TIME).to_numpy(dtype=np.int64),
        raw.interactions["order"].to_numpy(dtype=np.int64),
    )


def _numbers(events: Events, catalogue: np.ndarray, params: DataParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the user and item numbers of the interactions, and the raw items' rows in the order of their numbers."""
    _, users = np.unique(events.user, return_inverse=True)
    rows = catalogue
    if params.renumber == "shuffle":
        rows = catalogue[seeds.generator(params.tie_seed, "renumber", "items").permutation(len(catalogue))]
        users = seeds.generator(params.tie_seed, "renumber", "users").permutation(users.max() + 1)[users]
    number = np.full(int(rows.max()) + 1, -1)
    number[rows] = np.arange(len(rows))
    return users, number[events.item], rows


def _catalogue(
    raw: RawTables, params: DataParams, events: Events, has_text: np.ndarray, has_image: np.ndarray
) -> np.ndarray:
    """Return the rows of the items that stay: all that pass the filters if numbered, else by first appearance."""
    if raw.numbered and params.k_core == 0:
        return np.flatnonzero((has_text | (not params.has_text)) & (has_image | (not params.has_image)))
    seen, first = np.unique(events.item, return_index=True)
    return seen if raw.numbered else seen[np.argsort(first)]


def _split(
    counts: np.ndarray, items: np.ndarray, time: np.ndarray, n_items: int, params: DataParams
) -> tuple[Sequences, dict[str, Any]]:
    """Return the interactions with their split, and what the manifest says of cuts in time."""
    if params.protocol == "leave_one_out":
        return Sequences.from_counts(counts, items, n_items), {}
    if unknown := int((time == NO_TIME).sum()):
        raise Refused(
            f"data.protocol=temporal needs the time of every interaction, and {unknown} of {len(time)} have none; "
            "give a file with times, or set data.protocol=leave_one_out"
        )
    places = [int(share * len(time)) for share in params.cuts]
    first, second = np.sort(time)[places].tolist()
    sequences = Sequences.from_cuts(counts, items, time, (first, second), n_items)
    found = {split: len(held_out(sequences, split, 1)) for split in ("valid", "test")}
    if not sequences.in_training.any() or not all(found.values()):
        raise Refused(
            f"data.cuts={list(params.cuts)} leave {int(sequences.in_training.sum())} interactions to train on, "
            f"{found['valid']} validation and {found['test']} test targets; choose other shares"
        )
    about = {"first": first, "second": second, "targets": found, "later": int((sequences.splits == 3).sum())}
    unseen_users = sequences.test_at[sequences.train_end == sequences.offsets[:-1]] >= 0
    return sequences, {"protocol": "temporal", "cuts": about | {"test_users_not_in_training": int(unseen_users.sum())}}


def _items(raw: RawTables, rows: np.ndarray) -> pd.DataFrame:
    chosen = raw.items.iloc[rows].reset_index(drop=True)
    chosen.insert(0, "item", np.arange(len(rows)))
    return typed_items(chosen[list(ITEM_COLUMNS)])


def _manifest(
    params: DataParams, name: str, sequences: Sequences, events: Events, items: pd.DataFrame, images: ImageStore
) -> dict[str, Any]:
    pictures = int(items["image"].notna().sum())
    return {
        "name": name,
        "source": params.source,
        "users": sequences.n_users,
        "items": len(items),
        "interactions": len(sequences.items),
        "prefixes": int(np.maximum(sequences.train_end - sequences.offsets[:-1] - 1, 0).sum()),
        "held_out_users": int((sequences.test_at >= 0).sum()),
        "fingerprint": fingerprint(sequences, items["raw_id"].tolist()),
        "items_fingerprint": items_fingerprint(items),
        "tie_order": params.tie_order,
        "tie_seed": params.tie_seed,
        "ties": count_ties(sequences, events.time),
        "cold_targets": count_cold(sequences),
        "texts": int((items["title"].str.len() + items["description"].str.len() > 0).sum()),
        "images": {"kind": images.kind, "root": None if images.root is None else str(images.root), "items": pictures},
    }


def count_ties(sequences: Sequences, time: np.ndarray) -> dict[str, int]:
    """Return how many held-out users' targets hang on the tie rule.

    `valid_test`: the test target and the interaction before it have one known time; `train_valid`: the validation
    target and the one before it have.
    """
    known = time != NO_TIME
    test, valid = (held_out(sequences, split, 1).end for split in ("test", "valid"))
    return {
        "users_with_unknown_times": len(np.unique(sequences.users[~known])),
        "valid_test": int((known[test] & (time[test] == time[test - 1])).sum()),
        "train_valid": int((known[valid] & (time[valid] == time[valid - 1])).sum()),
    }


def count_cold(sequences: Sequences) -> dict[str, int]:
    """Return how many validation and test targets are in nobody's training part."""
    return {split: int((~sequences.seen[held_out(sequences, split, 1).target]).sum()) for split in ("valid", "test")}


def _compare(manifest: dict[str, Any], params: DataParams) -> None:
    """Put the published counts beside ours; a difference is said, not refused: other filters are a user's right."""
    found = {key: manifest.get(key) for key in params.expected}
    manifest["expected"] = dict(params.expected)
    manifest["as_expected"] = found == dict(params.expected) if params.expected else None
    if params.expected and not manifest["as_expected"]:
        log.warning("data set %s has %s where %s is published", manifest["name"], found, dict(params.expected))
