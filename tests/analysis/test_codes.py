"""Health of codes: values by hand, and those published for the released IDs."""

import numpy as np
import pytest

from musicrec_kit.analysis.codes import (
    collisions_per_view,
    groups_under,
    items_under,
    usage,
    usage_per_view,
)
from musicrec_kit.ids.index_files import import_index
from musicrec_kit.ids.semantic_ids import make_ids
from musicrec_kit.params import IdsParams
from musicrec_kit.tokenizers.codes import ItemCodes

CODES = np.array([[0, 1], [0, 2], [0, 1], [3, 1], [-1, -1]], np.int32)


@pytest.fixture
def ids():
    codes = ItemCodes({"text": CODES, "image": CODES[::-1].copy()}, {"text": (4, 4), "image": (4, 4)})
    return make_ids(codes, {"main": ("text", "image"), "text": ("text",)}, IdsParams(collisions="suffix"), 0)


def test_usage_by_hand():
    table = usage(CODES, (4, 4))
    assert table["used"].tolist() == [2, 2]
    assert table["items"].tolist() == [4, 4]
    assert table["top_share"].tolist() == [0.75, 0.75]
    assert table["prefixes"].tolist() == [2, 3]
    bits = 0.75 * np.log2(4 / 3) + 0.25 * 2
    assert table["entropy"].tolist() == pytest.approx([bits, bits])
    assert table["perplexity"].tolist() == pytest.approx([2**bits] * 2)


def test_even_use_has_the_perplexity_of_its_size():
    table = usage(np.arange(64)[:, None] % 8, (8,))
    assert table.loc[0, ["used", "perplexity", "top_share"]].tolist() == pytest.approx([8, 8, 1 / 8])


def test_no_items_use_nothing():
    table = usage(np.full((3, 2), -1), (4, 4))
    assert table["used"].tolist() == table["prefixes"].tolist() == table["entropy"].tolist() == [0, 0]


def test_views_say_which_stream_a_level_is_of(ids):
    table = usage_per_view(ids)
    assert table["view"].tolist() == ["main"] * 4 + ["text"] * 2
    assert table["stream"].tolist() == ["text", "text", "image", "image", "text", "text"]


def test_collisions_are_told_before_and_after(ids):
    row = collisions_per_view(ids).set_index("view").loc["text"]
    assert row[["items", "distinct_before", "distinct_after", "rate_after", "suffixed"]].tolist() == [4, 3, 4, 0, 1]


def test_groups_walk_down_the_tree(ids):
    assert items_under(ids, "text", []).tolist() == [0, 1, 2, 3]
    assert items_under(ids, "text", [0, 1]).tolist() == [0, 2]
    assert items_under(ids, "text", [2]).tolist() == []
    table = groups_under(ids, "text", [0])
    assert table["code"].tolist() == [1, 2]
    assert table["items"].tolist() == [2, 1]
    assert table["share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert groups_under(ids, "text", [0, 1]).empty


def test_health_of_the_published_ids(real_data):
    folder = real_data / "instruments"
    paths = {"text": folder / "Instruments.index_lemb.json.gz", "image": folder / "Instruments.index_vitemb.json.gz"}
    table = usage_per_view(import_index(paths, [str(item) for item in range(6250)])).set_index(["view", "level"])
    assert table.loc["text", "prefixes"].tolist() == [126, 1708, 5012, 5988]
    assert table.loc["image", "prefixes"].tolist() == [172, 2907, 5290, 6250]
    assert table.loc[("text", 0), "top_share"] == pytest.approx(0.315, abs=0.0005)
    assert table.loc[("image", 0), "top_share"] == pytest.approx(0.168, abs=0.0005)
