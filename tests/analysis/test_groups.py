"""Groups and cases: pairs counted one by one, planted worlds, pictures found by rule."""

from itertools import combinations

import numpy as np
import pytest
import reference_generation as reference

from musicrec_kit.analysis import cases, groups
from musicrec_kit.analysis.dominance import as_weights_move, kept_of, nearest_to_last
from musicrec_kit.analysis.written_ids import read_written
from musicrec_kit.evaluation.protocol import ranks_in_lists
from musicrec_kit.features import Features, early_fusion
from musicrec_kit.ids.vocabulary import EOS, Vocabulary
from musicrec_kit.params import IdsParams

GROUPS = np.array([0, 0, 0, 1, 1, -1, 2])


def features_of(matrix, present=None):
    matrix = np.asarray(matrix, np.float32)
    return Features("image", matrix, np.ones(len(matrix), bool) if present is None else present, "test")


def test_pairs_are_those_counted_one_by_one():
    rng = np.random.default_rng(0)
    labels, colour = rng.integers(-1, 5, 60), [None if c == 3 else "rgb"[c] for c in rng.integers(0, 4, 60)]
    found = features_of(rng.normal(size=(60, 5)), rng.random(60) < 0.8)
    unit = groups.centred_unit(found)
    pairs = [(a, b) for a, b in combinations(range(60), 2) if labels[a] == labels[b] >= 0]
    assert groups.pairs_in(labels) == len(pairs)
    known = [colour[a] == colour[b] for a, b in pairs if colour[a] and colour[b]]
    assert groups.pairs_alike(labels, colour) == pytest.approx(np.mean(known))
    shown = [unit[a] @ unit[b] for a, b in pairs if found.present[a] and found.present[b]]
    assert groups.pairs_similarity(labels, found) == pytest.approx(np.mean(shown))


def test_groups_of_one_share_nothing():
    assert np.isnan(groups.pairs_alike(np.arange(4), list("aabb")))
    assert np.isnan(groups.pairs_similarity(np.arange(4), features_of(np.eye(4))))


def test_groups_of_codes_leave_out_items_without_an_id():
    codes = np.array([[0, 1], [0, 1], [0, 2], [-1, -1]])
    assert groups.groups_of(codes).tolist() == [1, 1, 2, -1] and groups.groups_of(codes, 1).tolist()[:3] == [1, 1, 1]


def test_what_groups_share_tells_planted_groupings_apart():
    rng = np.random.default_rng(1)
    kind, colour = rng.integers(0, 4, 400), rng.integers(0, 4, 400)
    table = groups.what_groups_share(
        {"by kind": kind, "by colour": colour},
        {"kind": kind.tolist(), "colour": colour.tolist()},
        {"image": features_of(np.eye(4)[colour])},
    ).set_index("grouping")
    assert table.loc["by kind", "same kind"] == table.loc["by colour", "same colour"] == 1
    assert table.loc["by kind", "same colour"] == pytest.approx(0.25, abs=0.02)
    assert table.loc["by colour", "image similarity"] == pytest.approx(1)
    assert table.loc["any two items", "image similarity"] == pytest.approx(0, abs=0.02)
    assert table.loc["any two items", "pairs"] == 400 * 399 / 2 and table.loc["by kind", "groups"] == 4


def test_unlike_pairs_are_the_most_different_of_one_group():
    matrix = [[1, 0], [0.9, 0.1], [-1, 0], [0, 1], [0, -1], [-0.9, -0.1], [0, 0]]  # of mean 0
    found = groups.unlike_pairs(GROUPS, features_of(matrix), n=5)
    # the worst of group 0 and the only one of group 1, equally bad
    assert found[["group", "a", "b", "similarity"]].values.tolist() == [[0, 0, 2, -1], [1, 3, 4, -1]]


def test_pivots_run_from_few_to_many_in_common():
    first = np.repeat([0, 1, 2], 10)
    second = np.concatenate([np.repeat(0, 10), np.tile([1, 2], 5), np.repeat([3, 1], 5)])
    table = groups.pivots(first, second, least=3)
    assert table["jaccard"].is_monotonic_increasing and len(table) == 3
    for row in table.itertuples():
        a, b = (set(np.flatnonzero(labels == labels[row.item])) for labels in (first, second))
        assert (row.first, row.second, row.common) == (len(a), len(b), len(a & b))
        assert row.jaccard == pytest.approx(len(a & b) / len(a | b))
    assert groups.pivots(first, np.arange(30)).empty


def test_members_are_drawn_from_the_group_without_the_pivot():
    drawn = groups.members(np.repeat([0, 1], 20), 3, n=5)
    assert len(set(drawn.tolist())) == 5 and drawn.max() < 20 and 3 not in drawn
    assert drawn.tolist() == groups.members(np.repeat([0, 1], 20), 3, n=5).tolist() == sorted(drawn.tolist())
    assert groups.members(GROUPS, 5).size == 0 and groups.members(GROUPS, 3).tolist() == [4]


def test_group_rows_name_every_picture():
    rows, table = cases.group_rows({"text": GROUPS, "image": GROUPS}, 0, {"image": features_of(np.eye(7))})
    assert [row.items for row in rows] == [[0, 1, 2]] * 2 and rows[0].captions == ["pivot", "", ""]
    assert table[["grouping", "item"]].values.tolist() == [["text", 1], ["text", 2], ["image", 1], ["image", 2]]


def test_pairs_of_one_id_stand_side_by_side():
    ids = reference.make_ids({"joint": np.array([[0, 1], [0, 1], [2, 2]])}, 4, suffix={"joint": np.array([0, 1, 0])})
    pairs = groups.unlike_pairs(groups.groups_of(ids.views["joint"]), features_of(np.eye(3)))
    row = cases.alike_row(pairs, ids)
    assert row.items == [0, 1]
    assert row.captions == ["pair 1\n<joint-1-0> <joint-2-1>", "pair 1\n<joint-1-0> <joint-2-1> <dup.1>"]


def test_wrong_parts_are_found_mismatches_first_and_shown_with_an_item_that_has_the_part():
    codes = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [1, 1, 3, 3], [1, 1, 2, 2]])
    ids = reference.make_ids({"item": codes}, 4, segments={"item": (("text", 2), ("image", 2))})
    vocabulary = Vocabulary.from_ids(ids, IdsParams(tokens="mgr"))
    written = np.array([[0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])
    tokens = np.pad(vocabulary.write("item", written)[0].astype(np.int64), ((0, 0), (0, 1)), constant_values=EOS)
    found = read_written(vocabulary, ("item",), tokens[:, None], np.array([0, 0, 0, 3, 2]))
    table = cases.part_wrong(found, vocabulary, n=5)
    # example 1 mismatches (image 3 is of item 2), 3 too (image 1 is of item 0), 0 wrote item 1, but target 0 is taken
    assert table[["example", "target", "kind", "shown"]].values.tolist() == [
        [1, 0, "mismatch", 2],
        [3, 3, "mismatch", 0],
        [4, 2, "invalid", -1],
    ]
    assert table.loc[0, "asked_for"] == "<txt-1-0><txt-2-0><img-1-1><img-2-1>"
    assert table.loc[0, "wrote"] == "<txt-1-0><txt-2-0><img-1-3><img-2-3>"
    row = cases.wrong_row(table)
    assert row.items == [0, 2, 3, 0, 2, -1] and len(row.captions) == 6
    assert row.captions[1] == "written: no item's ID\n<txt-1-0> <txt-2-0> <img-1-3> <img-2-3>"
    assert row.captions[5].startswith("written: no ID")


def test_the_nearest_to_the_last_item_are_ranked_and_the_last_left_out():
    rng = np.random.default_rng(0)
    found = features_of(rng.normal(size=(30, 4)))
    sequences = reference.random_sequences(12, 30)
    ranked = nearest_to_last(found, sequences)
    unit = groups.centred_unit(found)
    for user in range(12):
        *_, last, target = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
        order = sorted((i for i in range(30) if i != last), key=lambda i: -round(float(unit[i] @ unit[last]), 6))
        assert ranked.items[user].tolist() == order[:5]
        assert ranked.target_rank[user] == (order.index(target) + 1 if target in order[:5] else 0)
    targets = sequences.items[sequences.offsets[1:] - 1]
    assert ranks_in_lists(ranked.items, ranked.scores, targets).tolist() == ranked.target_rank.tolist()


def test_a_fusion_keeps_the_modality_that_weighs_more():
    rng = np.random.default_rng(3)
    groups_of = {name: rng.integers(0, 6, 240) for name in ("text", "image")}
    single = {
        name: Features(
            name, (np.eye(6)[g] + 0.1 * rng.normal(size=(240, 6))).astype(np.float32), np.ones(240, bool), ""
        )
        for name, g in groups_of.items()
    }
    sequences = reference.random_sequences(60, 240)
    described = {name: (found, groups_of[name]) for name, found in single.items()}
    rows = {
        w: kept_of((early_fusion(single, weights=(w, 1 - w)), groups_of["text"]), described, sequences)
        for w in (0.9, 0.1)
    }
    for measure in ("neighbours", "top item"):
        assert rows[0.9][f"{measure} text"] > rows[0.9][f"{measure} image"]
        assert rows[0.1][f"{measure} text"] < rows[0.1][f"{measure} image"]
    moved = as_weights_move({0.9: (early_fusion(single, weights=(9, 1)), groups_of["text"])}, described, sequences)
    assert moved.columns.tolist() == ["weight of text", "measure", "of", "kept"] and set(moved["of"]) == {
        "text",
        "image",
    }
    named = moved.set_index(["measure", "of"])["kept"]
    assert all(named[measure, of] == rows[0.9][f"{measure} {of}"] for measure, of in named.index)
    assert rows[0.9]["AMI text"] == pytest.approx(1) and rows[0.9]["AMI image"] == pytest.approx(0, abs=0.05)
    itself = kept_of(described["text"], described, sequences)
    assert itself["neighbours text"] == itself["top item text"] == itself["AMI text"] == 1
