"""JSON lines read in parts against `json.loads` line by line, and files that end too early or hold bad lines."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit import data
from musicrec_kit.data import reading, streaming
from musicrec_kit.params import DataParams, Refused

PACK = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
NAMES = ("user", "item", "stars", "time")


def written(folder: Path, content: bytes, suffix: str = "") -> Path:
    path = folder / f"reviews.jsonl{suffix}"
    path.write_bytes(PACK[suffix](content))
    return path


def lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def reviews(n: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [
        {"user": f"A{number % 7}", "item": f"{number % 5:03d}", "text": "na\u00efve \u201cwords\u201d \n" * 9,
         "extra": {"item": [1]}, "stars": float(generator.integers(1, 6)), "time": int(generator.integers(0, 10**9))}
        for number in range(n)
    ]  # fmt: skip


def plain(values: pd.Series) -> list[Any]:
    """Return a column as Python values, null as None."""
    return [None if missing else value for value, missing in zip(values.tolist(), values.isna(), strict=True)]


def slow(path: Path, names: tuple[str, ...] = NAMES) -> dict[str, list[Any]]:
    records = list(reading.read_json_lines(path))
    return {name: [record.get(name) for record in records] for name in names}


def read(path: Path, **wishes: Any) -> dict[str, list[Any]]:
    found = streaming.read_fields(path, NAMES, **wishes).columns
    return {name: plain(values) for name, values in found.items()}


@pytest.mark.parametrize("suffix", PACK)
def test_fields_are_those_of_json_line_by_line(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path, lines(reviews(3000)), suffix)
    assert read(path) == read(path, distinct=["user", "item"]) == slow(path)
    columns = streaming.read_fields(path, NAMES, distinct=["user", "item"]).columns
    assert columns["user"].cat.categories.tolist() == [f"A{number}" for number in range(7)]
    assert columns["stars"].dtype == np.float64 and columns["time"].dtype == np.int64


VALUES = st.one_of(
    st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.lists(st.integers(0, 3), max_size=2),
)  # fmt: skip
TYPED = {
    "user": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "item": st.integers(0, 4),
    "stars": st.floats(allow_nan=False, allow_infinity=False),
    "time": st.integers(-(2**63), 2**63 - 1),
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({}, optional=TYPED), max_size=20),
    st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(("item", "time"), VALUES)), max_size=3),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
)
def test_any_file_of_objects_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, typed: list[Any], wild: list[Any], end: str, mark: bool
) -> None:
    content = b"\xef\xbb\xbf" * mark + lines(typed + wild).replace(b"\n", end.encode())
    path = written(tmp_path_factory.mktemp("any"), content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BLOCK", 64)
        patch.setattr(streaming, "LOOKED_AT", max(1, len(typed)))
        assert read(path) == read(path, distinct=["item"]) == slow(path)


def test_types_that_change_later_are_kept_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LOOKED_AT", 2)
    records = [{"user": "a", "item": 1, "time": 1}, {"user": "b", "item": 2}, {"user": "c", "item": "x", "time": 2.5}]
    path = written(tmp_path, lines(records))
    assert read(path) == slow(path)


@pytest.mark.parametrize("names", [NAMES, ("user", "extra")])
def test_first_of_keeps_the_first_of_each(names: tuple[str, ...], tmp_path: Path) -> None:
    records = [{}, *reviews(40), {"user": None, "item": "z"}]
    path = written(tmp_path, lines(records))
    found = streaming.read_fields(path, names, first_of="user")
    assert plain(found.columns["user"]) == [f"A{number}" for number in range(7)] and found.left_out == 35
    if "time" in names:
        assert plain(found.columns["time"]) == [record["time"] for record in records[1:8]]


@pytest.mark.parametrize(
    "bad", [b'{"user": ', b"[1]", b"null", b"{'user': 1}", b'{"user": "\xff"}', b'{"user": "a"} {}']
)
def test_bad_lines_are_counted_and_named_up_to_a_limit(
    bad: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = lines(reviews(5))
    path = written(tmp_path, good + bad + b"\n\n" + good + bad + b"\n" + good)
    counted = streaming.BadLines(path, limit=2)
    found = read(path, bad_lines=counted)
    assert found == {name: values * 3 for name, values in slow(written(tmp_path / "..", good)).items()}
    assert counted.count == 2 and [number for number, _ in counted.first] == [6, 13]
    told = counted.told()
    assert told["bad_lines"] == 2 and told["first_bad_lines"][0].startswith("line 6: ") and "line 13" in caplog.text
    with pytest.raises(Refused, match=r"cannot read line 6 of .*reviews.jsonl as a JSON object: .*set data.bad_lines"):
        read(path)
    with pytest.raises(Refused, match=r"line 6 of .*; with line 13 these are more than the 1 that may be left out"):
        read(path, bad_lines=streaming.BadLines(path, limit=1))


def test_bad_lines_late_in_a_file_are_named_by_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 1000)
    path = written(tmp_path, lines(reviews(2000)) + b"oops\n" + lines(reviews(3)), ".gz")
    with pytest.raises(Refused, match="cannot read line 2001 of"):
        read(path)
    assert len(read(path, bad_lines=streaming.BadLines(path, 1))["user"]) == 2003


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("rows", [5, 5000])
def test_files_that_end_too_early_or_are_damaged_are_refused(suffix: str, rows: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = written(tmp_path, lines([{"user": str(n), "item": "i"} for n in generator.random(rows)]), suffix)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-3]):
        path.write_bytes(damaged)
        for first in ("user", "nested"):
            with pytest.raises(Refused, match=r"cannot read .*reviews.jsonl.* to its end.*is the download complete"):
                streaming.read_fields(path, [first, "item"])


def shop(path: Path, folder: Path, **changes: Any) -> data.Dataset:
    columns = {"user": "user", "item": "item", "rating": "stars", "time": "time"}
    params = DataParams(source="table", interactions=path.name, columns=columns, k_core=0, **changes)
    return data.load_dataset(params, "shop", folder, folder)


def test_an_empty_file_and_absent_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"reviews.jsonl is empty"):
        shop(written(tmp_path, b"\n \n"), tmp_path)
    with pytest.raises(Refused, match="no column 'stars' for rating; it has 'user', 'item', 'star', 'time'"):
        shop(written(tmp_path, lines([{"user": 1, "item": 2, "star": 3, "time": 4}])), tmp_path)


def test_a_data_set_says_how_many_lines_were_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, lines(reviews(50)) + b"oops\n" + lines([{"user": "A0"}, {"item": "y", "title": "Yes"}]))
    dataset = shop(path, tmp_path, bad_lines=1)
    about = dataset.manifest["about"]
    assert about["bad_lines"] == 1 and about["first_bad_lines"][0].startswith("line 51: ")
    assert about["rows_without_user_or_item"] == 2 and about["item_rows_repeated"] == 46
    assert about["items_without_interactions"] == 1 and about["items_not_in_items_file"] == 0


def test_one_and_two_readings_of_a_file_give_the_same(tmp_path: Path) -> None:
    """With a field that tells of items (here empty) the file is read twice, without one once."""
    records = reviews(60)
    once = shop(written(tmp_path, lines([{"item": "w"}, {}, *records])), tmp_path)
    twice = shop(written(tmp_path, lines([{"item": "w", "title": ""}, {}, *records])), tmp_path)
    assert once.manifest == twice.manifest and once.items.equals(twice.items)
    assert once.interactions.equals(twice.interactions)


def test_an_items_first_row_gives_its_title(tmp_path: Path) -> None:
    records = [{"user": "u", "item": "ab"[n % 2], "stars": 1.0, "time": n, "title": f"title {n}"} for n in range(6)]
    assert shop(written(tmp_path, lines(records)), tmp_path).items["title"].tolist() == ["title 0", "title 1"]
