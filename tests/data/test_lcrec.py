"""The lineage's files: read, numbered as in the file, written and read again."""

import json

import numpy as np
import pytest

from musicrec_kit import data
from musicrec_kit.params import DataParams, Refused


def write(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return name


@pytest.fixture
def folder(tmp_path):
    # users out of numeric order; item 2 is never consumed, item 4 only item2id knows
    write(tmp_path, "x.inter.json", {"10": [3, 1, 0, 3], "2": [1, 3]})
    described = {"title": "Bow", "description": ["Long", "text"], "brand": "Mann", "categories": "Music,Strings"}
    write(tmp_path, "x.item.json", {"1": described, "3": {"title": "Case", "image": "../3.jpg"}})
    write(tmp_path, "x.item2id", "A0\t0\nA1\t1\nA2\t2\nA3\t3\nA4\t4\n")
    return tmp_path


def params(**changes):
    files = {"interactions": "x.inter.json", "items": "x.item.json", "item2id": "x.item2id"}
    return DataParams(source="lcrec", **{**files, "k_core": 0, **changes})


def test_numbers_are_those_of_the_files(folder):
    dataset = data.load_dataset(params(), "x", folder, folder)
    assert dataset.items["raw_id"].tolist() == ["A0", "A1", "A2", "A3", "A4"]
    assert dataset.items["title"].tolist() == ["", "Bow", "", "Case", ""]
    assert dataset.items["description"][1] == "Long text"
    assert dataset.items["categories"][1] == ["Music", "Strings"]
    assert dataset.items["image"].tolist() == [None] * 5
    assert dataset.interactions["item"].tolist() == [1, 3, 3, 1, 0]
    assert dataset.interactions["time"].isna().all()
    assert dataset.manifest["numbers_kept"]
    repeats = data.load_dataset(params(first_occurrence=False), "x", folder, folder)
    assert repeats.interactions["item"].tolist() == [1, 3, 3, 1, 0, 3]


def test_a_filter_that_drops_items_says_that_numbers_moved(folder):
    dataset = data.load_dataset(params(k_core=2), "x", folder, folder)
    assert dataset.items["raw_id"].tolist() == ["A1", "A3"]
    assert not dataset.manifest["numbers_kept"]
    texts = data.load_dataset(params(has_text=True), "x", folder, folder)
    assert texts.items["raw_id"].tolist() == ["A1", "A3"]


def test_raw_ids_without_item2id(folder):
    dataset = data.load_dataset(params(item2id=None), "x", folder, folder)
    assert dataset.items["raw_id"].tolist() == ["0", "1", "2", "3"]
    write(folder, "x.items.jsonl", '{"id": 1, "asin": "B1", "title": "t", "categories": [["a", "b"], ["a", "c"]]}\n')
    dataset = data.load_dataset(params(item2id=None, items="x.items.jsonl"), "x", folder, folder)
    assert dataset.items["raw_id"].tolist() == ["0", "B1", "2", "3"]
    assert dataset.items["categories"][1] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x.inter.json": {"0": [1, "B00"]}}, "'B00' is no item number"),
        ({"x.inter.json": {"0": [1, -1]}}, "-1 is no item number"),
        ({"x.inter.json": {"0": [0.5]}}, "0.5 is no item number"),
        ({"x.inter.json": {"0": [2**40]}}, "is no item number"),
        ({"x.inter.json": {"0": 1}}, "expected .*in time order"),
        ({"x.inter.json": [[1, 2]]}, "expected .*in time order"),
        ({"x.inter.json": '{"0": [1, 2'}, "cannot read .* as JSON"),
        ({"x.inter.json": {}}, "no interactions in x.inter.json"),
        ({"x.item.json": {"B00": {}}}, "'B00': expected an item number"),
        ({"x.item.json": []}, "expected {item number"),
        ({"x.item2id": "A0 0\n"}, "line 1 is 'A0 0': expected raw id TAB item number"),
        ({"x.item2id": "A0\t0\nA1\t0\n"}, "line 2 .* each number once"),
        ({"x.item2id": "A0\t0\nA0\t1\n"}, "1 raw ids stand for two item numbers, such as 'A0'"),
    ],
)
def test_bad_files_are_refused(files, message, folder):
    for name, value in files.items():
        write(folder, name, value)
    with pytest.raises(Refused, match=message):
        data.load_dataset(params(), "x", folder, folder)


def test_files_that_are_no_text_are_refused(folder):
    for name in ("x.inter.json", "x.item2id"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xff\xfe\x00 nothing")
        with pytest.raises(Refused, match=f"cannot read .*{name}"):
            data.load_dataset(params(), "x", folder, folder)
        (folder / name).write_bytes(before)


def test_export_and_read_again(folder, tmp_path):
    write(
        folder,
        "x.item.json",
        {"1": {"title": "Bow", "brand": "M", "categories": ["a, b", "c"]}, "3": {"title": "Case"}},
    )
    before = data.load_dataset(params(), "x", folder, folder)
    paths = data.export_lcrec(before, tmp_path / "out")
    assert {kind: path.name for kind, path in paths.items()} == {
        "inter": "x.inter.json",
        "item": "x.item.json",
        "item2id": "x.item2id",
    }
    after = data.load_dataset(params(), "x", tmp_path / "out", tmp_path)
    assert after.items.to_dict("records") == before.items.to_dict("records")
    assert after.interactions.equals(before.interactions)
    assert np.array_equal(after.sequences().items, before.sequences().items)
    assert after.manifest["fingerprint"] == before.manifest["fingerprint"]
    assert json.loads(paths["inter"].read_text()) == {"0": [1, 3], "1": [3, 1, 0]}
