"""Readers: the same small shop told in every file format, and files that must be refused."""

import gzip
import io
import json
import tarfile

import pandas as pd
import pytest
from PIL import Image

from musicrec_kit import data
from musicrec_kit.data import text
from musicrec_kit.params import DataParams, Refused

EVENTS = [
    # user, item, stars, time (out of order on purpose; the last row has no item)
    ("u2", "007", 5.0, 30),
    ("u1", "007", 4.0, 20),
    ("u1", "b", 3.0, 10),
    ("u2", "b", 1.0, 40),
    ("u2", "c", 5.0, 10),
    ("u3", None, 5.0, 1),
]
ITEMS = [
    {"item": "007", "title": "Strings &amp; picks", "categories": "Music, Strings", "extra": 1},
    {"item": "b", "title": "A <b>bow</b>", "categories": "Music"},
    {"item": "z", "title": "Never bought", "categories": ""},
    {"item": "b", "title": "Repeated", "categories": ""},
]
COLUMNS = {"user": "who", "item": "item", "rating": "stars", "time": "ts", "title": "title"}


@pytest.fixture
def frame():
    return pd.DataFrame(EVENTS, columns=["who", "item", "stars", "ts"])


def write(frame, path):
    if path.name.endswith(".parquet"):
        frame.to_parquet(path)
    elif ".jsonl" in path.name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "parquet", "jsonl", "jsonl.gz"])
def test_every_table_format_gives_the_same(suffix, frame, tmp_path):
    write(frame, tmp_path / f"events.{suffix}")
    write(pd.DataFrame(ITEMS), tmp_path / f"items.{suffix}")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "pictures" / "007.webp")
    params = DataParams(
        source="table",
        interactions=f"events.{suffix}",
        items=f"items.{suffix}",
        images="pictures",
        columns=COLUMNS,
        k_core=0,
    )
    dataset = data.load_dataset(params, "shop", tmp_path, tmp_path)
    # u2 is the first user of the file, and c the first item of u2's sequence
    assert dataset.items["raw_id"].tolist() == ["c", "007", "b"]
    assert dataset.interactions["user"].tolist() == [0, 0, 0, 1, 1]
    assert dataset.interactions["item"].tolist() == [0, 1, 2, 2, 1]
    assert dataset.interactions["time"].tolist() == [10, 30, 40, 10, 20]
    assert dataset.interactions["position"].tolist() == [0, 1, 2, 0, 1]
    assert dataset.interactions["split"].tolist() == ["train", "valid", "test", "train", "train"]
    assert dataset.items["title"].tolist() == ["", "Strings & picks", "A bow"]
    assert dataset.items["categories"].tolist() == [[], ["Music", "Strings"], ["Music"]]
    assert dataset.items["image"].tolist() == [None, "007.webp", None]
    about = dataset.manifest["about"]
    assert about["rows_without_user_or_item"] == 1
    assert about["items_without_interactions"] == 1
    assert about["items_not_in_items_file"] == 1
    assert about["item_rows_repeated"] == 1
    assert dataset.manifest["images"]["items"] == 1


def test_numbers_as_ids_keep_their_digits(tmp_path):
    big = 2**62 + 1
    pd.DataFrame({"user": [1, 1], "item": [big, 7]}).to_parquet(tmp_path / "events.parquet")
    dataset = data.load_dataset(
        DataParams(source="table", interactions="events.parquet", k_core=0), "x", tmp_path, tmp_path
    )
    assert dataset.items["raw_id"].tolist() == [str(big), "7"]
    with_gap = pd.DataFrame({"user": [1.0, None, 1.0], "item": [3, 4, 5]})
    with_gap.to_parquet(tmp_path / "events.parquet")
    dataset = data.load_dataset(
        DataParams(source="table", interactions="events.parquet", k_core=0), "x", tmp_path, tmp_path
    )
    assert dataset.items["raw_id"].tolist() == ["3", "5"]


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        ([1_500_000_002, 1_500_000_001, None], None),
        ([1_500_000_000_900, 1_500_000_000_100, 1_400_000_000_000], [1_400_000_000, 1_500_000_000, 1_500_000_000]),
        ([1.5e18 + 9e8, 1.5e18 + 1e8, 1.4e18], [1_400_000_000, 1_500_000_000, 1_500_000_000]),
        (["2020-01-02", "2020-01-01T00:00:30Z", "2019-12-31 23:59:59"], [1577836799, 1577836830, 1577923200]),
    ],
)
def test_times_are_stamps_milliseconds_or_dates(stamps, seconds, tmp_path):
    pd.DataFrame({"user": "u", "item": ["a", "b", "c"], "time": stamps}).to_csv(tmp_path / "events.csv", index=False)
    params = DataParams(source="table", interactions="events.csv", k_core=0)
    found = data.load_dataset(params, "x", tmp_path, tmp_path).interactions
    if seconds is None:
        # one time is unknown: the user keeps the file's order
        assert found["item"].tolist() == [0, 1, 2] and found["time"].isna().tolist() == [False, False, True]
        assert found["time"].tolist()[:2] == stamps[:2]
    else:
        assert found["time"].tolist() == seconds
        raw_ids = data.load_dataset(params, "x", tmp_path, tmp_path).items["raw_id"].tolist()
        assert raw_ids == ["c", "b", "a"]


def test_pictures_by_column_never_leave_the_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/front.png", "outside.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    rows = [("u", "a", "front.png"), ("u", "b", "../outside.png"), ("u", "c", "gone.png"), ("u", "front", "")]
    pd.DataFrame(rows, columns=["user", "item", "photo"]).to_csv(tmp_path / "events.csv", index=False)
    params = DataParams(
        source="table", interactions="events.csv", images="pictures", columns={"image": "photo"}, k_core=0
    )
    dataset = data.load_dataset(params, "x", tmp_path, tmp_path)
    assert dataset.items["image"].tolist() == ["front.png", None, None, "front.png"]
    assert dataset.manifest["about"]["pictures_named_but_missing"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interactions": None}, "names no interactions"),
        ({"interactions": "gone.csv"}, "nothing at .*gone.csv; give the folder that holds it with --data-root"),
        ({"columns": {"user": "whom"}}, "no column 'whom' for user; it has 'who', .* did you mean 'who'"),
        ({"columns": {**COLUMNS, "time": "when"}}, "no column 'when' for time"),
        ({"columns": {**COLUMNS, "titel": "x"}}, "data.columns: unknown 'titel'; did you mean 'title'"),
        ({"interactions": "words.csv"}, "rating of row 2 is 'good', not a number"),
        ({"interactions": "dates.csv"}, "time of row 1 is 'soon': expected Unix seconds or an ISO"),
        ({"columns": {"user": "who", "rating": "item"}}, "rating of row 3 is 'b', not a number"),
        ({"interactions": "empty.csv"}, "cannot read .*empty.csv"),
        ({"interactions": "header.csv"}, "no interactions in header.csv"),
        ({"interactions": "ragged.csv"}, "cannot read .*ragged.csv as a csv table"),
        ({"interactions": "cut.csv.gz"}, "cannot read .*cut.csv.gz as a csv table"),
        ({"interactions": "broken.jsonl"}, "cannot read line 2 of .*broken.jsonl as a JSON object"),
        ({"interactions": "broken.parquet"}, "cannot read .*broken.parquet as a parquet table"),
        ({"interactions": "sheet.xlsx"}, "expected one of .csv"),
        ({"images": "gone"}, "nothing at .*gone"),
    ],
)
def test_bad_requests_are_refused(changes, message, frame, tmp_path):
    write(frame, tmp_path / "events.csv")
    write(frame.assign(stars=["1", "good", "2", "3", "4", "5"]), tmp_path / "words.csv")
    write(frame.assign(ts=["soon", "1", "2", "3", "4", "5"]), tmp_path / "dates.csv")
    write(frame.head(0), tmp_path / "header.csv")
    for name, content in {"empty.csv": "", "ragged.csv": "who,item,stars,ts,title\na,b\n", "sheet.xlsx": "PK"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"who,item,stars,ts\nu,i,1,1\n" * 50)[:40])
    (tmp_path / "broken.jsonl").write_text('{"who": "a"}\n{"who": \n')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    columns = {name: column for name, column in COLUMNS.items() if name != "title"}
    params = DataParams(source="table", interactions="events.csv", columns=columns, k_core=0).model_copy(update=changes)
    with pytest.raises(Refused, match=message):
        data.load_dataset(params, "x", tmp_path, tmp_path)


@pytest.fixture
def movies(tmp_path):
    """A MovieLens of four films: film 3 has no poster, film 4 no good rating."""
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,4.0,5\n1,2,4.5,5\n1,3,5,6\n2,2,4,1\n2,4,3.5,2\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n2,"Heat, The (1995)",Action|Film-Noir\n3,Three,Drama\n4,Four,(no genres listed)\n'
        "10,Ten,(no genres listed)\n"
    )
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,2,slow,1\n1,2,Mafia,1\n2,2,mafia ,1\n")
    (tmp_path / "plots.json").write_text(
        json.dumps({"0": {"title": "x", "description": "A plot.", "brand": "Mann", "source_id": 2}})
    )
    with tarfile.open(tmp_path / "posters.tar", "w") as archive:
        for number in (2, 4, 10):
            buffer = io.BytesIO()
            Image.new("RGB", (2, 2)).save(buffer, "jpeg")
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(buffer.getvalue())
            buffer.seek(0)
            archive.addfile(member, buffer)
    return tmp_path


def test_movielens_as_released(movies):
    params = DataParams(
        source="movielens",
        interactions="ratings.csv",
        items="movies.csv",
        tags="tags.csv",
        descriptions="plots.json",
        images="posters.tar",
        min_rating=4,
        has_image=True,
        k_core=0,
    )
    dataset = data.load_dataset(params, "films", movies, movies)
    assert dataset.items["raw_id"].tolist() == ["10", "2"]
    # one time for both: the file's order
    assert dataset.interactions["item"].tolist() == [0, 1, 1]
    assert dataset.items["title"].tolist() == ["Ten", "Heat, The (1995)"]
    assert dataset.items["description"].tolist() == ["", "A plot. Tags: mafia, slow"]
    assert dataset.items["brand"].tolist() == ["", "Mann"]
    assert dataset.items["categories"].tolist() == [[], ["Action", "Film-Noir"]]
    assert dataset.images.open("2.jpg").size == (2, 2)


def test_text_of_publishers():
    assert text.clean("['first part', 'second  part']") == "first part second part"
    assert text.clean(float("nan")) == text.clean(None) == text.clean([]) == ""
    assert text.clean("1 < 2 and [sic]") == "1 < 2 and [sic]"
    assert text.categories(None) == text.categories("") == []
    assert text.categories(["Strings, nylon", "Music"]) == ["Strings, nylon", "Music"]
    assert text.categories(["Strings, nylon"]) == ["Strings, nylon"]
