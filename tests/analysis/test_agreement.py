"""Agreement: AMI against scikit-learn, planted groupings with a known answer, overlap by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from musicrec_kit.analysis.agreement import (
    adjusted_mutual_information,
    against_labels,
    between_labels,
    between_seeds,
    between_streams,
    overlap,
    overlap_of,
    overlap_of_lists,
    streams_of,
)
from musicrec_kit.evaluation.protocol import RankedList, Rankings
from musicrec_kit.ids.semantic_ids import make_ids
from musicrec_kit.params import IdsParams
from musicrec_kit.tokenizers.codes import ItemCodes


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 80), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("average_method", ["arithmetic", "geometric", "min", "max"])
def test_scikit_learn_agrees(average_method, n_items, n_a, n_b, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, n_a, n_items)
    b = np.where(rng.random(n_items) < 0.5, a, rng.integers(0, n_b, n_items))
    ours = adjusted_mutual_information(a, b, average_method)
    if not np.isnan(ours):
        theirs = adjusted_mutual_info_score(a, b, average_method=average_method)
        assert ours == pytest.approx(theirs, abs=1e-7)


def test_many_small_groups_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    a = rng.zipf(1.5, 2000) % 400
    b = (a + (rng.random(2000) < 0.4) * rng.integers(0, 400, 2000)) % 400
    assert adjusted_mutual_information(a, b) == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-9)


def test_equal_groupings_agree_and_chance_does_not():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 10, 3000)
    assert adjusted_mutual_information(a, 9 - a) == pytest.approx(1)
    assert adjusted_mutual_information(a, rng.integers(0, 10, 3000)) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("labels", [np.zeros(20, int), np.arange(20)])
def test_labels_that_group_nothing_have_no_agreement(labels):
    assert np.isnan(adjusted_mutual_information(labels, labels))


def ids_of(streams, shared_levels=0, views=None):
    sizes = {name: (16,) * codes.shape[1] for name, codes in streams.items()}
    codes = ItemCodes({name: codes.astype(np.int32) for name, codes in streams.items()}, sizes, shared_levels)
    return make_ids(codes, views or {name: (name,) for name in streams}, IdsParams(collisions="keep"), 0)


@pytest.fixture
def planted():
    """Return codes whose level 0 is equal in both streams, level 1 is a relabelling, and level 2 is noise."""
    rng = np.random.default_rng(2)
    kind, group = rng.integers(0, 8, 1500), rng.integers(0, 8, 1500)
    noise = rng.integers(0, 8, (2, 1500))
    return {
        "text": np.stack([kind, group, noise[0]], axis=1),
        "image": np.stack([kind, 7 - group, noise[1]], axis=1),
    }


def test_planted_agreement_is_found_and_the_floor_is_chance(planted):
    table = between_streams(ids_of(planted)).set_index(["labels", "level"])
    assert table.loc["code", "ami"].tolist() == pytest.approx([1, 1, 0], abs=0.02)
    assert table.loc["prefix", "ami"].tolist()[:2] == pytest.approx([1, 1])
    assert 0.02 < table.loc[("prefix", 2), "ami"] < 0.98
    assert table["floor"].abs().max() < 0.02
    assert set(table["average_method"]) == {"arithmetic"}


def test_shared_levels_are_left_out(planted):
    table = between_streams(ids_of(planted, shared_levels=1))
    assert sorted(set(table["level"])) == [1, 2]
    prefix = table[(table["labels"] == "prefix") & (table["level"] == 2)]["ami"].item()
    specific = [adjusted_mutual_labels(planted[name][:, 1:]) for name in ("text", "image")]
    assert prefix == pytest.approx(adjusted_mutual_info_score(*specific))


def adjusted_mutual_labels(codes):
    return [str(row) for row in codes.tolist()]


def test_segments_of_one_view_are_compared_too(planted):
    joined = ids_of(planted, views={"main": ("text", "image")})
    assert list(streams_of(joined)) == ["text", "image"]
    pd.testing.assert_frame_equal(between_streams(joined), between_streams(ids_of(planted)))


def test_items_without_a_modality_are_left_out(planted):
    planted["image"][:500] = -1
    table = between_streams(ids_of(planted))
    assert set(table["items"]) == {1000}
    assert table.loc[0, "ami"] == pytest.approx(1)


def test_three_modalities_make_three_pairs(planted):
    table = between_streams(ids_of({**planted, "audio": planted["text"]}))
    assert table[["a", "b"]].drop_duplicates().to_numpy().tolist() == [
        ["text", "image"],
        ["text", "audio"],
        ["image", "audio"],
    ]


def test_another_seed_is_the_ceiling(planted):
    ids = ids_of(planted)
    assert between_seeds(ids, ids)["ami"].min() == pytest.approx(1)
    assert set(between_seeds(ids, ids)["b"]) == {"text, other seed", "image, other seed"}


def test_categories_and_their_gaps(planted):
    categories = [f"c{code}" if item % 3 else None for item, code in enumerate(planted["text"][:, 1])]
    table = against_labels(ids_of(planted), categories, "category").set_index(["a", "labels", "level"])
    assert table.loc[("text", "code", 1), "ami"] == pytest.approx(1)
    assert table.loc[("text", "code", 0), "ami"] == pytest.approx(0, abs=0.02)
    assert table["items"].unique().tolist() == [1000]
    assert table["b"].unique().tolist() == ["category"]


def test_the_same_seed_gives_the_same_floor(planted):
    ids = ids_of(planted)
    pd.testing.assert_frame_equal(between_streams(ids, seed=3), between_streams(ids, seed=3))
    assert (between_streams(ids, seed=3)["floor"] != between_streams(ids, seed=4)["floor"]).any()


def test_overlap_by_hand():
    found = overlap(np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0]))
    assert (found.both, found.either, found.jaccard, found.coefficient) == (2, 4, 0.5, 2 / 3)
    assert np.isnan(overlap(np.zeros(3), np.ones(3)).coefficient)
    assert np.isnan(overlap(np.zeros(3), np.zeros(3)).jaccard)


def test_overlap_of_lists():
    def ranked(ranks, top):
        return RankedList(np.array(top)[:, None], np.zeros((4, 1)), np.array(ranks))

    lists = {
        ("test", "text"): ranked([1, 5, 6, 0], [3, 1, 2, 2]),
        ("test", "image"): ranked([2, 0, 1, 0], [3, 1, 0, 0]),
    }
    users = {"test": np.arange(4)}
    row = overlap_of_lists(Rankings(users, {"test": np.zeros(4)}, lists), "test", ["text", "image"], k=5).loc[0]
    assert row[["both", "either", "same_top_item"]].tolist() == [1, 3, 0.5]


def test_overlap_by_chance_is_that_of_unrelated_users():
    rng = np.random.default_rng(0)
    ranks = [np.where(rng.random(200_000) < share, 1, 0) for share in (0.3, 0.1)]
    lists = {
        name: RankedList(np.zeros((200_000, 1)), np.zeros((200_000, 1)), r) for name, r in zip("ab", ranks, strict=True)
    }
    row = overlap_of(lists).iloc[0]
    assert row["jaccard_chance"] == pytest.approx(0.3 * 0.1 / (0.4 - 0.03), abs=0.002)
    assert row["jaccard"] == pytest.approx(row["jaccard_chance"], abs=0.003)


def test_between_labels_has_a_row_per_pair_and_a_ceiling_per_name_given_twice():
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 6, 800)
    noisy = [np.where(rng.random(800) < 0.7, kind, rng.integers(0, 6, 800)) for _ in range(2)]
    other = rng.integers(0, 6, 800)
    other[:5] = -1
    table = between_labels({"text": noisy, "image": [other]}).set_index(["a", "b"])
    assert list(table.index) == [("text", "text"), ("text", "image")]
    ceiling, cross = table.loc[("text", "text")], table.loc[("text", "image")]
    assert ceiling["ami"] == pytest.approx(adjusted_mutual_info_score(*noisy)) and ceiling["pairs"] == 1
    singles = [adjusted_mutual_info_score(labels[5:], other[5:]) for labels in noisy]
    assert cross["ami"] == pytest.approx(np.mean(singles)) and cross["items"] == 795
    assert (cross["lowest"], cross["highest"]) == (pytest.approx(min(singles)), pytest.approx(max(singles)))
    assert abs(cross["floor"]) < 0.02 and set(table["average_method"]) == {"arithmetic"}
