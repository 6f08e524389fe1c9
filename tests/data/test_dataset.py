"""Assembly, manifest, fingerprint, saving and loading, on tables small enough to follow by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from musicrec_kit.data import Dataset, RawTables, load_dataset, source_files
from musicrec_kit.data.assemble import assemble
from musicrec_kit.data.dataset import fingerprint
from musicrec_kit.data.splits import Sequences
from musicrec_kit.params import DataParams, DemoParams, Refused
from musicrec_kit.tables import data_report


def raw_tables(rows, images=None, pictures=(), numbered=False):
    """Rows of (user, item, time); items in alphabetical order."""
    users, items, times = zip(*rows, strict=True)
    interactions = pd.DataFrame(
        {
            "raw_user": users,
            "raw_item": items,
            "rating": np.full(len(rows), np.nan),
            "time": pd.array(times, dtype="Int64"),
            "order": np.arange(len(rows)),
        }
    )
    raw_ids = sorted(set(items))
    table = pd.DataFrame(
        {
            "raw_id": raw_ids,
            "title": [f"title {raw_id}" for raw_id in raw_ids],
            "description": "",
            "brand": "",
            "categories": [["x", raw_id] for raw_id in raw_ids],
            "image": pd.Series([f"{r}.png" if r in pictures else None for r in raw_ids], dtype=object),
        }
    )
    return RawTables(interactions, table, images, numbered)


ROWS = [
    ("u", "c", 1),
    ("u", "a", 2),
    ("u", "b", 2),
    ("u", "d", 2),
    ("w", "a", 1),
    ("w", "b", 2),
    ("w", "c", 3),
    ("v", "b", 9),
]


def test_the_manifest_counts():
    dataset = assemble(raw_tables(ROWS), DataParams(k_core=0, expected={"users": 3, "items": 5}), "tiny")
    manifest = dataset.manifest
    assert (manifest["users"], manifest["items"], manifest["interactions"]) == (3, 4, 8)
    # training parts: u has c a, w has a, v has b
    assert (manifest["prefixes"], manifest["held_out_users"]) == (1, 2)
    assert manifest["ties"] == {"users_with_unknown_times": 0, "valid_test": 1, "train_valid": 1}
    # validation: b (v trains on it), b; test: d (cold), c
    assert manifest["cold_targets"] == {"valid": 0, "test": 1}
    assert manifest["as_expected"] is False
    assert json.loads(json.dumps(manifest)) == manifest
    assert dataset.sequences().n_items == dataset.n_items == 4
    assert dataset.items["raw_id"].tolist() == ["c", "a", "b", "d"]
    assert dataset.interactions["item"].tolist() == [0, 1, 2, 3, 1, 2, 0, 2]


def test_the_fingerprint_is_written_out():
    # python -c "hashlib.sha256(...)" of the lines that the docstring of fingerprint names
    import hashlib

    lines = ['0\t"b"', '2\t"a"\t"b"\t"c"', '2\t"c"\t"a"\t"b"\t"d"', "", '"a"', '"b"', '"c"', '"d"']
    expected = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    assert assemble(raw_tables(ROWS), DataParams(k_core=0), "tiny").manifest["fingerprint"] == expected


def test_renumbering_changes_numbers_and_nothing_else():
    rows = [(f"u{u}", f"i{(u * 7 + k * k) % 23}", k) for u in range(30) for k in range(6)]
    kept = assemble(raw_tables(rows), DataParams(k_core=2), "x")
    moved, again = (
        assemble(raw_tables(rows), DataParams(k_core=2, renumber="shuffle", tie_seed=3), "x") for _ in range(2)
    )
    assert moved.items["raw_id"].tolist() == again.items["raw_id"].tolist() != kept.items["raw_id"].tolist()
    assert moved.interactions.equals(again.interactions)
    assert moved.manifest["fingerprint"] == kept.manifest["fingerprint"]
    assert moved.manifest["items_fingerprint"] != kept.manifest["items_fingerprint"]

    def told(dataset):
        raw_ids = dataset.items["raw_id"].to_numpy()
        sequences = dataset.sequences()
        return sorted(tuple(raw_ids[part]) for part in np.split(sequences.items, sequences.offsets[1:-1]))

    assert told(moved) == told(kept)
    assert (moved.interactions["user"].diff().dropna() >= 0).all()


@pytest.mark.parametrize(
    "change",
    [
        [("u", "c", 1), ("u", "a", 2), ("u", "d", 2), ("u", "b", 2), *ROWS[4:]],
        [*ROWS, ("v", "a", 10)],
        [*ROWS[:-1], ("v", "d", 9)],
    ],
)
def test_the_fingerprint_sees_order_users_and_items(change):
    prints = {assemble(raw_tables(rows), DataParams(k_core=0), "x").manifest["fingerprint"] for rows in (ROWS, change)}
    assert len(prints) == 2


def test_the_fingerprint_sees_split_and_catalogue():
    sequences = Sequences.from_lists([[0, 1, 2]])
    all_train = Sequences(sequences.offsets, sequences.items, np.zeros(1, np.int64), 3)
    assert len({fingerprint(sequences, "abc"), fingerprint(all_train, "abc"), fingerprint(sequences, "abcd")}) == 3
    # ids with separators inside do not run into each other
    assert fingerprint(sequences, ["a\tb", "c", "d"]) != fingerprint(sequences, ["a", "b\tc", "d"])


def test_shuffled_ties_change_targets_and_say_so():
    rows = [(f"u{u}", f"i{k}", 5) for u in range(20) for k in range(8)]
    by_file = assemble(raw_tables(rows), DataParams(k_core=0), "x")
    shuffled = assemble(raw_tables(rows), DataParams(k_core=0, tie_order="shuffle", tie_seed=1), "x")
    assert by_file.manifest["ties"]["valid_test"] == 20
    assert (shuffled.manifest["tie_order"], shuffled.manifest["tie_seed"]) == ("shuffle", 1)
    assert shuffled.manifest["fingerprint"] != by_file.manifest["fingerprint"]


@pytest.mark.parametrize("inside", [True, False])
def test_save_and_load(inside, tmp_path):
    folder = tmp_path / "stage"
    root = (folder if inside else tmp_path) / "pictures"
    root.mkdir(parents=True)
    Image.new("RGB", (2, 2), (9, 8, 7)).save(root / "a.png")
    dataset = assemble(raw_tables(ROWS, root, pictures=("a",)), DataParams(k_core=0), "tiny")
    dataset.save(folder)
    if inside:
        folder = folder.rename(tmp_path / "moved")
    loaded = Dataset.load(folder)
    assert loaded.items.to_dict("records") == dataset.items.to_dict("records")
    assert loaded.items["image"].tolist() == [None, "a.png", None, None]
    pd.testing.assert_frame_equal(loaded.interactions, dataset.interactions)
    assert {k: v for k, v in loaded.manifest.items() if k != "images"} == {
        k: v for k, v in dataset.manifest.items() if k != "images"
    }
    assert loaded.images.open("a.png").getpixel((0, 0)) == (9, 8, 7)
    assert (loaded.n_users, loaded.n_items) == (3, 4)
    if not inside:
        # saved once more: the pictures are still found
        loaded.save(tmp_path / "copy")
        assert Dataset.load(tmp_path / "copy").images.has("a.png")


def test_a_changed_table_is_refused(tmp_path):
    dataset = assemble(raw_tables(ROWS), DataParams(k_core=0), "tiny")
    dataset.save(tmp_path)
    swapped = dataset.interactions.assign(item=dataset.interactions["item"].to_numpy()[::-1])
    swapped.to_parquet(tmp_path / "interactions.parquet", index=False)
    with pytest.raises(Refused, match="do not have the fingerprint"):
        Dataset.load(tmp_path)
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(Refused, match=r"items\.parquet is missing"):
        Dataset.load(tmp_path)


def test_types_are_those_of_the_contract():
    dataset = assemble(raw_tables(ROWS), DataParams(k_core=0), "tiny")
    assert [str(t) for t in dataset.interactions.dtypes[:4]] == ["int64", "int64", "Int64", "int64"]
    assert list(dataset.interactions) == ["user", "item", "time", "position", "split"]
    assert list(dataset.items) == ["item", "raw_id", "title", "description", "brand", "categories", "image"]
    assert dataset.items["categories"][0] == ["x", "c"]


def test_an_item_that_the_items_do_not_have_is_refused():
    raw = raw_tables(ROWS)
    short = RawTables(raw.interactions, raw.items.iloc[1:].reset_index(drop=True))
    with pytest.raises(Refused, match="1 items of the interactions are not among the items, such as 'a'"):
        assemble(short, DataParams(k_core=0), "x")


def test_source_files(tmp_path):
    params = DataParams(source="movielens", interactions="r.csv", items="m.csv", images="p.tar")
    assert source_files(params, tmp_path) == [tmp_path / "r.csv", tmp_path / "m.csv", tmp_path / "p.tar"]


def test_the_demo_is_a_data_set_like_any_other(tmp_path):
    demo = DemoParams(items=24, users=30, image_side=32)
    folder = tmp_path / "stage"
    dataset = load_dataset(DataParams(source="demo", demo=demo, k_core=0), "demo", None, folder)
    assert (dataset.n_users, dataset.n_items) == (30, 24)
    assert dataset.interactions["time"].notna().all()
    assert dataset.manifest["images"]["items"] == dataset.manifest["texts"] == 24
    dataset.save(folder)
    loaded = Dataset.load(folder.rename(tmp_path / "moved"))
    assert loaded.images.open(loaded.items["image"][0]).size == (32, 32)


def temporal(rows, **more):
    return assemble(raw_tables(rows), DataParams(k_core=0, protocol="temporal", **more), "cut")


# times 1 .. 10; with cuts at .5 and .8 what is older than 6 trains, and tests begin at 9
LONG = [
    ("u", "a", 1), ("u", "b", 2), ("u", "c", 6), ("u", "d", 7), ("u", "e", 9),
    ("w", "a", 3), ("w", "c", 10),
    ("v", "b", 4), ("v", "a", 5),
    ("x", "c", 8),
]  # fmt: skip


def test_a_cut_in_time_by_hand(tmp_path):
    dataset = temporal(LONG, cuts=(0.5, 0.8))
    table = dataset.interactions
    users = {name: number for number, name in enumerate("uwvx")}
    found = {(user, split): g["time"].tolist() for (user, split), g in table.groupby(["user", "split"])}
    assert found == {
        (users["u"], "train"): [1, 2],
        (users["u"], "valid"): [6],
        (users["u"], "later"): [7],
        (users["u"], "test"): [9],
        (users["w"], "train"): [3],
        (users["w"], "test"): [10],
        (users["v"], "train"): [4, 5],
        (users["x"], "later"): [8],
    }
    manifest = dataset.manifest
    assert manifest["protocol"] == "temporal" and manifest["held_out_users"] == 2
    # c, d and e are in nobody's training part: the validation target c, the test targets e and c
    assert manifest["cold_targets"] == {"valid": 1, "test": 2}
    assert manifest["cuts"] == {
        "first": 6, "second": 9, "targets": {"valid": 1, "test": 2}, "later": 2, "test_users_not_in_training": 0
    }  # fmt: skip
    assert manifest["ties"] == {"users_with_unknown_times": 0, "valid_test": 0, "train_valid": 0}
    report = data_report(dataset).set_index("quantity")["here"]
    assert report["test from"] == "1970-01-01" and report["validation targets"] == 1
    dataset.save(tmp_path)
    again = Dataset.load(tmp_path).sequences()
    assert np.array_equal(again.splits, dataset.sequences().splits)
    prints = {temporal(LONG, cuts=cuts).manifest["fingerprint"] for cuts in ((0.5, 0.8), (0.4, 0.8), (0.5, 0.9))}
    assert len({*prints, assemble(raw_tables(LONG), DataParams(k_core=0), "cut").manifest["fingerprint"]}) == 4


def test_cuts_that_cannot_be_made_are_refused():
    with pytest.raises(Refused, match="1 of 8 have none"):
        temporal([*ROWS[:-1], ("v", "b", None)])
    with pytest.raises(Refused, match="0 interactions to train on"):
        temporal([("u", i, 5) for i in "abcd"])
    with pytest.raises(ValueError, match="two ascending shares"):
        DataParams(cuts=(0.9, 0.8))
