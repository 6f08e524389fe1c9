"""Semantic IDs: views, what each way of resolving collisions does, and the table on disk."""

import numpy as np
import pandas as pd
import pytest

from musicrec_kit.ids.collisions import count
from musicrec_kit.ids.index_files import export_index, import_index
from musicrec_kit.ids.semantic_ids import SemanticIds, make_ids, number_items
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import IdsParams, Refused
from musicrec_kit.tokenizers.codes import ItemCodes

VIEWS = {"text": ("text",), "image": ("image",)}


def colliding_codes(n_items=60, n_codes=4, shared_levels=2, levels=4, seed=0):
    """Return shared-specific codes with many collisions and the distances of those that collide."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, n_codes, (n_items, shared_levels))
    codes, distances = {}, {}
    for stream in ("text", "image"):
        specific = rng.integers(0, 2, (n_items, levels - shared_levels))
        codes[stream] = np.concatenate([shared, specific], axis=1).astype(np.int32)
        codes[stream][: 3 if stream == "image" else 0] = -1
        inside = pd.DataFrame(codes[stream]).duplicated(keep=False).to_numpy() & (codes[stream] >= 0).all(axis=1)
        items = np.flatnonzero(inside)
        table = rng.random((len(items), levels, n_codes)).astype(np.float32) + 0.1
        np.put_along_axis(table, codes[stream][items][:, :, None], 0, axis=2)
        distances[stream] = (items, table)
    return ItemCodes(codes, {s: (n_codes,) * levels for s in codes}, shared_levels, distances)


def whole(ids, view):
    return np.column_stack([ids.views[view], ids.suffix[view]])[ids.has_id(view)]


@pytest.mark.parametrize("method", ["distance", "suffix"])
@pytest.mark.parametrize("views", [VIEWS, {"main": ("text", "image")}, {**VIEWS, "main": ("image", "text")}])
def test_no_id_is_given_twice(method, views):
    ids = make_ids(colliding_codes(), views, IdsParams(collisions=method), seed=0)
    for view in views:
        assert count(whole(ids, view))["rate"] == 0
        assert ids.collisions[view]["before"] == count(
            np.concatenate([colliding_codes().codes[s] for s in views[view]], 1)
        )
        assert ids.collisions[view]["after"]["rate"] == 0


def test_distance_changes_specific_levels_alone():
    codes = colliding_codes()
    ids = make_ids(codes, VIEWS, IdsParams(collisions="distance"), seed=0)
    for view in VIEWS:
        assert (ids.views[view][:, :2] == codes.codes[view][:, :2]).all()
        changed = (ids.views[view] != codes.codes[view]).any(axis=1)
        assert changed.sum() == ids.collisions[view]["changed"] > 0
        assert not ids.has_suffix(view)


def test_one_specific_level_falls_back_to_a_suffix_where_it_is_full():
    codes = colliding_codes(n_items=100, shared_levels=2, levels=3)
    ids = make_ids(codes, VIEWS, IdsParams(collisions="distance"), seed=0)
    assert (ids.views["text"][:, :2] == codes.codes["text"][:, :2]).all()
    assert ids.has_suffix("text")
    assert count(whole(ids, "text"))["rate"] == 0
    # the last level is full wherever a suffix was needed
    suffixed = ids.views["text"][ids.suffix["text"] > 0]
    for prefix in np.unique(suffixed[:, :2], axis=0):
        assert len(np.unique(ids.views["text"][(ids.views["text"][:, :2] == prefix).all(axis=1), 2])) == 4


def test_several_streams_keep_their_codes_and_get_a_suffix():
    codes = colliding_codes()
    ids = make_ids(codes, {"main": ("text", "image")}, IdsParams(collisions="distance"), seed=0)
    assert (ids.views["main"] == np.concatenate([codes.codes["text"], codes.codes["image"]], axis=1)).all()
    assert ids.segments["main"] == (("text", 4), ("image", 4))
    assert ids.collisions["main"]["method"] == "suffix"


def test_keep_alters_nothing():
    codes = colliding_codes()
    ids = make_ids(codes, VIEWS, IdsParams(collisions="keep"), seed=0)
    assert all((ids.views[view] == codes.codes[view]).all() and not ids.suffix[view].any() for view in VIEWS)
    assert ids.collisions["text"]["before"] == ids.collisions["text"]["after"]


def test_sinkhorn_lowers_the_collisions_of_its_stream():
    ids = make_ids(colliding_codes(), VIEWS, IdsParams(collisions="sinkhorn"), seed=0)
    assert ids.collisions["text"]["after"]["rate"] < ids.collisions["text"]["before"]["rate"]
    assert not ids.has_suffix("text")


@pytest.mark.parametrize("method", ["distance", "suffix", "sinkhorn", "keep"])
def test_the_same_seed_gives_the_same_ids(method):
    one, two = (make_ids(colliding_codes(), VIEWS, IdsParams(collisions=method), seed=7) for _ in range(2))
    assert all((one.views[v] == two.views[v]).all() and (one.suffix[v] == two.suffix[v]).all() for v in VIEWS)


def test_items_without_a_modality_have_no_id_in_its_view(tmp_path):
    ids = make_ids(colliding_codes(), VIEWS, IdsParams(), seed=0)
    assert ids.has_id("image").tolist() == [False] * 3 + [True] * 57
    assert ids.has_id("text").all()
    assert ids.collisions["image"]["before"]["items"] == 57


def test_a_view_of_unknown_streams_is_refused():
    with pytest.raises(Refused, match="audio"):
        make_ids(colliding_codes(), {"audio": ("audio",)}, IdsParams(), seed=0)


def test_save_and_load_give_the_same(tmp_path):
    views = {"image": ("image",), "main": ("text", "image")}
    ids = make_ids(colliding_codes(), views, IdsParams(collisions="suffix"), seed=0)
    ids.save(tmp_path)
    loaded = SemanticIds.load(tmp_path)
    assert list(loaded.views) == list(views)
    for view in views:
        assert (loaded.views[view] == ids.views[view]).all()
        assert loaded.views[view].dtype == loaded.suffix[view].dtype == np.int32
        assert (loaded.suffix[view] == ids.suffix[view]).all()
    for name in ("segments", "sizes", "shared_levels", "collisions"):
        assert getattr(loaded, name) == getattr(ids, name)


def test_the_table_has_the_columns_of_the_contract(tmp_path):
    make_ids(colliding_codes(), {"image": ("image",), "main": ("text", "image")}, IdsParams(), seed=0).save(tmp_path)
    table = pd.read_parquet(tmp_path / "semantic_ids.parquet")
    assert list(table.columns) == ["item", "view", *(f"level_{level}" for level in range(8)), "suffix"]
    assert table[table["view"] == "image"]["level_4"].isna().all()
    assert str(table["level_0"].dtype) == "Int16"
    assert str(table["suffix"].dtype) == "int16"


def test_item_codes_save_and_load_give_the_same(tmp_path):
    codes = colliding_codes()
    codes.save(tmp_path)
    loaded = ItemCodes.load(tmp_path)
    assert list(loaded.codes) == list(codes.codes)
    assert all((loaded.codes[s] == codes.codes[s]).all() for s in codes.codes)
    assert all(
        (a == b).all() for s in codes.codes for a, b in zip(loaded.distances[s], codes.distances[s], strict=True)
    )
    assert (loaded.sizes, loaded.shared_levels) == (codes.sizes, codes.shared_levels)


def test_numbers_are_digits_without_leading_zeros_each_once(tmp_path):
    ids = number_items(120, IdsParams(), seed=0)
    assert ids.segments == {"numbers": (("numbers", 3),)} and ids.sizes == {"numbers": (10, 10, 10)}
    numbers = ["".join(str(d) for d in row if d >= 0) for row in ids.views["numbers"].tolist()]
    assert sorted(map(int, numbers)) == list(range(1, 121)) and all(str(int(n)) == n for n in numbers)
    assert all((row[row.argmin() :] == -1).all() for row in ids.views["numbers"] if row.min() < 0), "nulls at the end"
    again, other = number_items(120, IdsParams(), seed=0), number_items(120, IdsParams(), seed=1)
    assert np.array_equal(ids.views["numbers"], again.views["numbers"])
    assert not np.array_equal(ids.views["numbers"], other.views["numbers"])
    ordered = number_items(120, IdsParams(numbering="order"), seed=0)
    assert ordered.views["numbers"][[0, 8, 9, 119]].tolist() == [[1, -1, -1], [9, -1, -1], [1, 0, -1], [1, 2, 0]]
    ids.save(tmp_path)
    assert np.array_equal(SemanticIds.load(tmp_path).views["numbers"], ids.views["numbers"])


def test_drawn_numbers_do_not_tell_neighbours():
    """Finding 8: with the data's own numbers, n + 1 follows n; with drawn ones, no more often than by chance."""
    for numbering, expected in (("order", 119), ("random", 1)):
        codes = number_items(120, IdsParams(numbering=numbering), seed=0).views["numbers"]
        numbers = np.array([int("".join(str(d) for d in row if d >= 0)) for row in codes.tolist()])
        follows = int((np.diff(numbers) == 1).sum())
        assert follows == expected if numbering == "order" else follows <= 5


def test_digits_share_their_tokens_and_exported_numbers_can_be_read_again(tmp_path):
    ids = number_items(120, IdsParams(), seed=0)
    params = IdsParams(tie_levels=True)
    vocabulary = Vocabulary.from_ids(ids, params)
    assert vocabulary.size == 2 + 10
    tokens, lengths = vocabulary.tokens_of("numbers")
    assert (tokens[lengths == 3].max() < 12) and sorted(np.bincount(lengths)[1:].tolist()) == [9, 21, 90]
    path = export_index(ids, tmp_path, params)["numbers"]
    read = import_index({"numbers": path}, [str(item) for item in range(120)])
    assert np.array_equal(read.views["numbers"], ids.views["numbers"])
