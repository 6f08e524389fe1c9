"""Published data sets give their published counts; skipped where the files are not."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from musicrec_kit import data, methods, params
from musicrec_kit.data import filters

NAMES = ("instruments", "games", "beauty", "ml_posters")


def settings(name: str, **changes) -> params.DataParams:
    values = methods.dataset_settings(methods.read_yaml(methods.find("datasets", name)))
    return params.build(params.merge(values, {"data": changes})).data


@pytest.fixture(scope="module")
def load(real_data, tmp_path_factory):
    made: dict[str, data.Dataset] = {}

    def one(name: str) -> data.Dataset:
        if name not in made:
            made[name] = data.load_dataset(settings(name), name, real_data, tmp_path_factory.mktemp(name))
        return made[name]

    return one


def read(path: Path):
    with gzip.open(path, "rt", encoding="utf-8") as opened:
        return json.load(opened)


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "prefixes"),
    [
        ("instruments", 17_112, 6_250, 136_226, 84_890),
        ("games", 42_259, 13_839, 373_514, 246_737),
        ("beauty", 22_363, 12_101, 198_502, 131_413),
        ("ml_posters", 601, 1_949, 41_186, 39_383),
    ],
)
def test_published_counts(name, users, items, interactions, prefixes, load):
    dataset = load(name)
    sequences = dataset.sequences()
    assert (sequences.n_users, sequences.n_items, len(sequences.items)) == (users, items, interactions)
    assert len(data.train_prefixes(sequences, 20)) == dataset.manifest["prefixes"] == prefixes
    assert len(data.held_out(sequences, "test", 20)) == users
    assert dataset.manifest["as_expected"] is True


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("instruments", "instruments/Instruments.inter.json.gz"),
        ("games", "games/Games.inter.derived.json.gz"),
        ("beauty", "beauty/Beauty.inter.json.gz"),
    ],
)
def test_lineage_numbers_are_kept(name, file, load, real_data):
    dataset = load(name)
    sequences = dataset.sequences()
    parts = np.split(sequences.items, sequences.offsets[1:-1])
    assert {str(user): part.tolist() for user, part in enumerate(parts)} == read(real_data / file)
    assert dataset.manifest["numbers_kept"]


@pytest.mark.parametrize("name", ["instruments", "games", "beauty"])
def test_a_published_five_core_is_one(name, load):
    sequences = load(name).sequences()
    assert filters.k_core(sequences.users, sequences.items, 5).all()


def test_cold_targets_of_instruments(load):
    # 0.19 % of 17,112 users, counted by others
    assert load("instruments").manifest["cold_targets"]["test"] == 33


def test_texts_and_raw_ids(load):
    beauty, games = load("beauty"), load("games")
    assert beauty.items["raw_id"][0] == "B004756YJA"
    assert beauty.items["categories"][0] == ["Beauty", "Makeup", "Nails", "Nail Polish"]
    assert (beauty.manifest["texts"], games.manifest["texts"]) == (12_101, 13_826)
    assert load("instruments").items["raw_id"].tolist()[:2] == ["B002SQJL9U", "B00D3QFHN8"]


def test_posters_from_released_files_give_the_derived_sequences(load, real_data):
    dataset = load("ml_posters")
    derived = read(real_data / "ml_posters/mlls_pos.item.json.gz")
    raw_id_of = {int(number): str(record["source_id"]) for number, record in derived.items()}
    raw_ids = dataset.items["raw_id"].to_numpy()
    sequences = dataset.sequences()
    ours = [raw_ids[part].tolist() for part in np.split(sequences.items, sequences.offsets[1:-1])]
    theirs = read(real_data / "ml_posters/mlls_pos.inter.json.gz")
    assert ours == [[raw_id_of[item] for item in theirs[user]] for user in sorted(theirs, key=int)]
    stamps = read(real_data / "ml_posters/mlls_pos.inter_ts.json.gz")
    assert dataset.interactions["time"].tolist() == [t for user in sorted(stamps, key=int) for t in stamps[user]]


def test_posters_have_texts_and_pictures(load, real_data):
    dataset = load("ml_posters")
    derived = {str(r["source_id"]): r for r in read(real_data / "ml_posters/mlls_pos.item.json.gz").values()}
    for row in dataset.items.itertuples():
        record = derived[row.raw_id]
        # one released title has two spaces inside
        assert (row.title, row.image) == (" ".join(record["title"].split()), record["image"])
        assert row.categories == [c for c in record["categories"].split(",") if c and c != "(no genres listed)"]
    assert dataset.manifest["images"]["items"] == dataset.manifest["texts"] == 1_949
    assert max(dataset.images.open(dataset.items["image"][0]).size) == 112
    first = dataset.items.set_index("raw_id").loc["1"]
    assert first["description"].startswith("A cowboy doll is profoundly threatened")
    assert first["description"].endswith("Tags: pixar, fun")


def test_a_shipped_file_without_its_data_says_what_to_do(tmp_path):
    for name in (*NAMES, "arts", "toys", "sports"):
        with pytest.raises(params.Refused, match=r"nothing at .* --data-root"):
            data.load_dataset(settings(name), name, tmp_path, tmp_path)
