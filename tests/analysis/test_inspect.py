"""The inspector's logic, without a browser, on a catalogue small enough to check by eye."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from musicrec_kit.analysis.code_tree import CodeTree
from musicrec_kit.analysis.inspect import CodebookInspector
from musicrec_kit.analysis.labels import labels_of
from musicrec_kit.analysis.neighbours import Neighbours, shared_labels, shared_neighbours
from musicrec_kit.analysis.pictures import Thumbnails, placeholder, thumbnail
from musicrec_kit.data import Dataset, ImageStore, Sequences
from musicrec_kit.features import Features
from musicrec_kit.ids import SemanticIds

NASTY = '<script>window.bad=1</script><img src=x onerror="window.bad=1">'
TITLES = ["red mug", "blue mug", NASTY, "", "green pot", "red pot"]
# users' items in time order; the last two of each are held out
HISTORIES = [[0, 1, 4, 2, 3], [0, 1, 2, 3, 5], [1, 0, 5, 4, 3], [4, 5, 3, 0, 1]]
TEXT = np.array([[1, 2, 0], [1, 2, 1], [1, 3, 0], [1, 3, 0], [2, 0, 0], [-1, -1, -1]], np.int32)
IMAGE = np.array([[1, 0, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0], [2, 0, 1], [2, 0, 2]], np.int32)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for item, colour in enumerate(["red", "blue", "white"]):
        Image.new("RGB", (40, 20), colour).save(tmp_path / f"{item}.png")
    items = pd.DataFrame(
        {
            "item": range(6),
            "raw_id": [f"r{i}" for i in range(6)],
            "title": TITLES,
            "description": ["", "", NASTY, "", "", ""],
            "brand": ["", NASTY, "", "", "", ""],
            "categories": [["mugs"], ["mugs"], [NASTY], [], ["home", "pots"], ["home", "pots"]],
            "image": ["0.png", "1.png", "2.png", None, "lost.png", None],
        }
    )
    rows = [(u, i, None, p, "train") for u, history in enumerate(HISTORIES) for p, i in enumerate(history)]
    interactions = pd.DataFrame(rows, columns=["user", "item", "time", "position", "split"])
    return Dataset("toy", interactions, items, {"users": 4, "images": {"kind": "folder"}}, ImageStore(tmp_path))


@pytest.fixture
def ids() -> SemanticIds:
    suffix = {"text": np.array([0, 0, 0, 1, 0, 0]), "image": np.zeros(6, int)}
    segments = {"text": (("text", 3),), "image": (("image", 3),)}
    return SemanticIds({"text": TEXT, "image": IMAGE}, suffix, segments, {"text": (4,) * 3, "image": (4,) * 3}, 1)


@pytest.fixture
def features() -> dict[str, Features]:
    angles = np.deg2rad([0, 10, 30, 80, 180, 0])
    matrix = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * np.float32(3)
    return {"text": Features("text", matrix, np.array([True] * 5 + [False]), "by hand")}


@pytest.fixture
def inspector(dataset: Dataset, ids: SemanticIds, features: dict[str, Features]) -> CodebookInspector:
    return CodebookInspector(dataset, ids, features, dataset.sequences(), tiles=2)


def test_a_pattern_finds_its_items(ids: SemanticIds) -> None:
    tree = CodeTree(ids)
    assert tree.matching("text", (1,)).tolist() == [0, 1, 2, 3]
    assert tree.matching("text", (1, 3)).tolist() == [2, 3]
    assert tree.matching("text", (None, None, 0)).tolist() == [0, 2, 3, 4]
    assert tree.matching("text", ()).tolist() == [0, 1, 2, 3, 4], "an item without an ID is in no group"
    assert tree.matching("image", (0, 2, 0)).tolist() == [3]


def test_children_are_counted_most_items_first(ids: SemanticIds) -> None:
    tree = CodeTree(ids)
    first = tree.children("text", ())
    assert first.values.tolist() == [[1, "<s1.1>", 4], [2, "<s1.2>", 1]]
    assert tree.children("text", (1,)).values.tolist() == [[2, "<a.2>", 2], [3, "<a.3>", 2]]
    assert tree.children("image", (2, 0)).values.tolist() == [[1, "<B.1>", 1], [2, "<B.2>", 1]]
    assert len(tree.children("text", (1, 3, 0))) == 0


def test_every_item_is_reached_by_walking_down(ids: SemanticIds) -> None:
    tree = CodeTree(ids)
    for view in ids.views:
        found, stack = [], [()]
        while stack:
            pattern = stack.pop()
            below = tree.children(view, pattern)
            if len(pattern) == tree.levels(view):
                found += tree.matching(view, pattern).tolist()
            stack += [(*pattern, int(code)) for code in below["code"]]
        assert sorted(found) == np.flatnonzero(ids.has_id(view)).tolist()


def test_ids_are_written_as_in_the_paper(ids: SemanticIds) -> None:
    tree = CodeTree(ids)
    assert tree.written("text", 0) == "<s1.1><a.2><b.0>"
    assert tree.written("image", 0) == "<S1.1><A.0><B.0>"
    assert tree.written("text", 3) == "<s1.1><a.3><b.0><dup.1>"
    assert tree.written("text", 5) == ""


def test_neighbours_by_features_follow_the_angle(features: dict[str, Features]) -> None:
    near = Neighbours(Sequences.from_lists(HISTORIES), features)
    items, cosines = near.by_features(0, "text", 3)
    assert items.tolist() == [1, 2, 3], "the item itself and the one without text are not neighbours"
    assert cosines == pytest.approx(np.cos(np.deg2rad([10, 30, 80])), abs=1e-6)
    assert len(near.by_features(5, "text")[0]) == 0
    assert len(near.by_features(0, "sound")[0]) == 0


def test_neighbours_by_id_follow_the_longest_prefix(ids: SemanticIds) -> None:
    near = Neighbours(Sequences.from_lists(HISTORIES), {}, ids)
    items, prefixes = near.by_id(0, "text", 5)
    assert items.tolist() == [1, 2, 3, 4]
    assert prefixes.tolist() == [2, 1, 1, 0], "item 4 shares only a later level"


def test_neighbours_by_copurchase_see_the_training_part_alone() -> None:
    near = Neighbours(Sequences.from_lists(HISTORIES))
    # training parts: 0 1 4 | 0 1 2 | 1 0 5 | 4 5 3
    items, users = near.by_copurchase(0)
    assert list(zip(items.tolist(), users.tolist(), strict=True)) == [(1, 3), (2, 1), (4, 1), (5, 1)]


def test_neighbours_share_labels_where_features_tell_them(features: dict[str, Features]) -> None:
    # the angles 0 10 30 80 180: the nearest of each is 1, 0, 1, 2, 3; item 5 has no text
    table = shared_labels(features, {"half": ["a", "a", "b", "b", "b", "b"]}, k=1)
    assert table["text"].tolist() == pytest.approx([4 / 5])
    assert table["chance"].tolist() == pytest.approx([(2 * 1 + 4 * 3) / (6 * 5)])


def test_equal_matrices_share_all_neighbours() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((2000, 8)).astype(np.float32)
    assert shared_neighbours(first, first * 2, 5) == (1.0, 5 / 1999)
    share, chance = shared_neighbours(first, rng.standard_normal((2000, 8)).astype(np.float32), 50)
    assert share == pytest.approx(chance, rel=0.2)


def test_labels_are_the_last_categories(dataset: Dataset) -> None:
    assert labels_of(dataset) == {"category": ["mugs", "mugs", NASTY, None, "pots", "pots"]}


def test_choosing_view_level_and_code_shows_their_items(inspector: CodebookInspector) -> None:
    assert inspector.items.tolist() == [0, 1, 2, 3], "it opens at the fullest code of the first view"
    assert inspector.code.label == "<s1.1>   4 items"
    inspector.level.value = 3
    assert inspector.pattern == (None, None, 0) and inspector.items.tolist() == [0, 2, 3, 4]
    inspector.code.value = 1
    assert inspector.items.tolist() == [1]
    inspector.view.value = "image"
    assert inspector.level.value == 1 and inspector.items.tolist() == [0, 1, 2]


def test_walking_down_and_up(inspector: CodebookInspector) -> None:
    assert inspector.up_button.disabled
    inspector.down.value = 3
    assert inspector.pattern == (1, 3) and inspector.items.tolist() == [2, 3]
    assert [label for label, _ in inspector.down.options] == ["<b.0>   2 items"]
    inspector.down.value = 0
    assert inspector.pattern == (1, 3, 0) and inspector.down.options == ()
    inspector.up()
    inspector.up_button.click()
    assert inspector.pattern == (1,) and inspector.up_button.disabled
    inspector.up()
    assert inspector.pattern == (1,)


def test_pages_and_search(inspector: CodebookInspector) -> None:
    assert inspector.pages.value == "1 to 2 of 4" and inspector.earlier.disabled
    inspector.later.click()
    assert inspector.pages.value == "3 to 4 of 4" and inspector.later.disabled
    assert [tile["item"] for tile in inspector.grid] == [2, 3]
    inspector.find.value = "POT"
    assert inspector.items.tolist() == [4, 5]
    inspector.find.value = "r3"
    assert inspector.items.tolist() == [3] and inspector.grid[1]["box"].layout.display == "none"
    inspector.find.value = "no such thing"
    assert len(inspector.items) == 0 and inspector.pages.value == "no item"


def test_a_click_on_an_item_shows_its_ids_and_neighbours(inspector: CodebookInspector) -> None:
    inspector.grid[1]["button"].click()
    assert inspector.item == 1 and "blue mug" in inspector.about.value
    assert "&lt;a.2&gt;" in inspector.about.value and "&lt;A.1&gt;" in inspector.about.value
    assert list(inspector.rows) == ["by text", "by text ID", "by image ID", "by co-purchase"]
    assert [tile["item"] for tile in inspector.rows["by text"][:4]] == [0, 2, 3, 4]
    inspector.rows["by text"][1]["button"].click()
    assert inspector.item == 2
    inspector.pick(5)
    assert "no ID" in inspector.about.value
    assert inspector.rows["by text"][0]["box"].layout.display == "none", (
        "an item without text has no neighbours by text"
    )


def test_nothing_in_a_title_becomes_markup(inspector: CodebookInspector) -> None:
    import ipywidgets
    from ipywidgets.widgets.widget import _instances

    inspector.find.value = NASTY
    page = inspector.sheet("text", item=2).data
    for item in range(6):
        inspector.pick(item)
        page += "".join(w.value for w in _instances.values() if isinstance(w, ipywidgets.HTML))
    assert "&lt;script&gt;" in page
    assert "<script" not in page and "<img src=x" not in page


def test_the_sheet_shows_codes_items_and_neighbours(inspector: CodebookInspector) -> None:
    page = inspector.sheet("text", codes=2, item=0).data
    assert "&lt;s1.1&gt;" in page and "4 items, 66.7% of the catalogue" in page
    assert "One step down: 2 codes follow" in page and "by co-purchase" in page and "red mug" in page
    assert page.count("data:image/jpeg") >= 6


def test_items_without_a_picture_show_the_placeholder(dataset: Dataset) -> None:
    empty = np.asarray(placeholder())
    for item in (3, 4, 5):
        assert (np.asarray(thumbnail(dataset, item)) == empty).all()
    red = np.asarray(thumbnail(dataset, 0, 40))
    assert red.shape == (40, 40, 3) and red[20, 20].tolist() == [255, 0, 0] and red[1, 1].tolist() == [255, 255, 255]
    assert Thumbnails(dataset).uri(3) == Thumbnails(dataset).empty


def test_one_view_and_no_features(dataset: Dataset) -> None:
    main = {"main": np.concatenate([TEXT[:, :2], IMAGE[:, :1]], axis=1)}
    segments = {"main": (("text", 2), ("image", 1))}
    ids = SemanticIds(main, {"main": np.zeros(6, int)}, segments, {"main": (4, 4, 4)})
    inspector = CodebookInspector(dataset, ids, tokens="mgr")
    assert list(inspector.rows) == ["by ID", "by co-purchase"]
    assert inspector.tree.written("main", 0) == "<txt-1-1><txt-2-2><img-1-1>"
    assert inspector.tree.written("main", 5) == "<img-1-2>"
