"""The generated folder: the same bytes for the same seed, and modalities that show what they should and no more."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from musicrec_kit import runs
from musicrec_kit.data.demo import generate, pictured_items, properties_of, property_matrix
from musicrec_kit.data.demo_emblems import EMBLEMS
from musicrec_kit.data.demo_kinds import KINDS
from musicrec_kit.data.demo_pictures import COLOURS, FINISHES, PATTERNS, Look, draw_picture
from musicrec_kit.data.demo_texts import KINDS as WORDS
from musicrec_kit.data.demo_texts import MATERIALS, PURPOSES, write_text
from musicrec_kit.data.raw import RawTables
from musicrec_kit.params import DemoParams, Refused

SMALL = DemoParams(items=30, users=20, purposes=5, colours=4, kinds=6, image_side=48)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RawTables, Path]]:
    folder = tmp_path_factory.mktemp("demo")
    yield generate(SMALL, folder), folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes(made: tuple[RawTables, Path], tmp_path: Path) -> None:
    tables, folder = made
    again = generate(SMALL, tmp_path / "again")
    assert digests(folder) == digests(tmp_path / "again")
    pd.testing.assert_frame_equal(tables.items, again.items)
    pd.testing.assert_frame_equal(tables.interactions, again.interactions)
    other = generate(SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not other.interactions.equals(tables.interactions)
    assert not set(digests(folder).values()) & set(digests(tmp_path / "other").values())


def test_tables_are_what_a_source_gives(made: tuple[RawTables, Path]) -> None:
    tables, folder = made
    assert tables.numbered
    assert len(tables.items) == 30
    assert tables.interactions["raw_user"].nunique() == 20
    assert set(tables.interactions["raw_item"]) <= set(tables.items["raw_id"])
    by_shopper = tables.interactions.groupby("raw_user")
    assert by_shopper.size().min() >= 5
    assert by_shopper["time"].apply(lambda times: times.is_monotonic_increasing and times.is_unique).all()
    for name in tables.items["image"]:
        with Image.open(folder / "images" / name) as picture:
            assert picture.size == (48, 48)
            assert picture.mode == "RGB"
    assert runs.read_json(folder / "ceilings.json") == tables.about["ceilings"]


def test_text_names_no_colour_and_no_pattern() -> None:
    rng = np.random.default_rng(0)
    words = [*COLOURS, *PATTERNS, "silver", "golden?", "white", "brown", "grey"]
    hidden = re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)
    for kind in WORDS:
        for purpose in PURPOSES:
            for material, _ in MATERIALS[kind]:
                text = write_text(kind, purpose, material, None, rng)
                everything = " ".join([text.title, text.description, *text.categories])
                assert not hidden.search(everything), everything
                assert "colour" in write_text(kind, purpose, material, "blue", rng).description


def test_title_and_description_both_tell_the_purpose() -> None:
    rng = np.random.default_rng(0)
    for purpose, (endings, uses) in PURPOSES.items():
        text = write_text("mug", purpose, "steel", None, rng)
        assert any(text.title.endswith(ending) for ending in endings)
        assert sum(sentence in text.description for sentence in uses) == 3


def test_rooms_agree_on_values() -> None:
    assert list(KINDS) == list(WORDS) == list(MATERIALS)
    assert list(EMBLEMS) == list(PURPOSES)
    assert {finish for materials in MATERIALS.values() for _, finish in materials} == set(FINISHES)
    assert (len(KINDS), len(PURPOSES), len(COLOURS)) == (15, 10, 8)


@pytest.mark.parametrize("kind", list(KINDS))
def test_pictures_show_kind_colour_and_pattern_and_stay_inside(kind: str) -> None:
    def draw(look: Look) -> np.ndarray:
        return np.asarray(draw_picture(look, 64, np.random.default_rng(1)), dtype=np.float64)

    plain = draw(Look(kind, "blue", "plain", "gloss"))
    # same random numbers: only the painted product differs
    assert np.abs(plain - draw(Look(kind, "red", "plain", "gloss"))).max() > 80
    for pattern in PATTERNS[1:]:
        assert np.abs(plain - draw(Look(kind, "blue", pattern, "gloss"))).mean() > 0.3, pattern
    badge = np.abs(plain - draw(Look(kind, "blue", "plain", "gloss", "sailing"))).mean(axis=2)
    assert badge[48:60, 48:60].mean() > 20
    edge = np.concatenate([plain[0], plain[-1], plain[:, 0], plain[:, -1]])
    assert edge.std(axis=0).max() < 12, "the product touches the border"


def test_a_picture_of_any_size_is_the_same_picture() -> None:
    look = Look("teapot", "green", "dots", "gloss")
    large = draw_picture(look, 192, np.random.default_rng(2)).resize((64, 64), Image.Resampling.BOX)
    small = draw_picture(look, 64, np.random.default_rng(2))
    assert np.abs(np.asarray(large, dtype=float) - np.asarray(small, dtype=float)).mean() < 4


def test_property_matrix_shows_a_modality_its_own(made: tuple[RawTables, Path]) -> None:
    tables, folder = made
    properties = properties_of(folder)
    text = property_matrix(folder, "text")
    np.testing.assert_array_equal(text, property_matrix(folder, "text"))
    assert text.dtype == np.float32
    kinds, purposes = (sorted(properties[name].unique()) for name in ("kind", "purpose"))
    assert [kinds[i] for i in text[:, : len(kinds)].argmax(axis=1)] == properties["kind"].tolist()
    part = text[:, len(kinds) : len(kinds) + len(purposes)]
    assert [purposes[i] for i in part.argmax(axis=1)] == properties["purpose"].tolist()
    some = tables.items["raw_id"].tolist()[7:3:-1]
    np.testing.assert_array_equal(property_matrix(folder, "image", some), property_matrix(folder, "image")[7:3:-1])


def test_property_matrix_shows_what_it_is_asked_for(made: tuple[RawTables, Path]) -> None:
    properties = properties_of(made[1])
    colours = sorted(properties["colour"].unique())
    third = property_matrix(made[1], "third", shown=["colour"])
    assert [colours[i] for i in third.argmax(axis=1)] == properties["colour"].tolist()
    with pytest.raises(Refused, match="no property smell"):
        property_matrix(made[1], "third", shown=["smell"])


def test_property_matrix_refuses_what_it_cannot_know(made: tuple[RawTables, Path], tmp_path: Path) -> None:
    _, folder = made
    with pytest.raises(Refused, match=r"modality sound.*text, image"):
        property_matrix(folder, "sound")
    with pytest.raises(Refused, match=r"item nobody"):
        property_matrix(folder, "text", ["nobody"])
    with pytest.raises(Refused, match=r"does not exist"):
        properties_of(tmp_path)


def test_all_shared_tells_everything_twice(tmp_path: Path) -> None:
    params = SMALL.model_copy(update={"all_shared": True, "items": 8, "users": 8})
    tables = generate(params, tmp_path)
    for row, colour in zip(tables.items.itertuples(), properties_of(tmp_path)["colour"], strict=True):
        assert colour.title() in row.title
        assert f"strong {colour}" in row.description
    assert set(tables.about["visible"]["text"]) == {"kind", "purpose", "colour", "material"}
    assert {"kind", "purpose", "colour"} <= set(tables.about["visible"]["image"])


def test_shuffled_pictures_tell_nothing_of_their_item(tmp_path: Path) -> None:
    params = SMALL.model_copy(update={"shuffled_pictures": True})
    generate(params, tmp_path / "shuffled")
    generate(SMALL, tmp_path / "own")
    whose = pictured_items(params)
    assert sorted(whose) == list(range(params.items)) and (whose != np.arange(params.items)).mean() > 0.9
    properties, about = properties_of(tmp_path / "shuffled"), runs.read_json(tmp_path / "shuffled" / "world.json")
    pd.testing.assert_frame_equal(properties, properties_of(tmp_path / "own"))
    assert about["visible"]["image"] == ["pattern", "material"]  # no property of the process
    image = property_matrix(tmp_path / "shuffled", "image")
    patterns = sorted(properties["pattern"].unique())
    assert [patterns[i] for i in image[:, : len(patterns)].argmax(axis=1)] == properties["pattern"][whose].tolist()
    blue = properties["colour"].iloc[whose].to_numpy() == "blue"
    assert blue.any()
    corners = [np.asarray(Image.open(f))[0, 0] for f in sorted((tmp_path / "shuffled" / "images").iterdir())]
    # the wall is washed with the colour of the item that is shown
    assert all(corner[2] > corner[0] for corner, is_blue in zip(corners, blue, strict=True) if is_blue)


@pytest.mark.parametrize("name", ["demo", "demo_tiny"])
def test_shipped_settings_are_valid(name: str) -> None:
    settings = yaml.safe_load((Path(__file__).parents[2] / "params" / "datasets" / f"{name}.yaml").read_text())
    params = DemoParams(**settings["demo"])
    assert set(settings["demo"]) == set(DemoParams.model_fields)
    if name == "demo":
        assert params == DemoParams()
