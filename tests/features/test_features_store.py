"""Matrices: saved and loaded, read by row order or by id, and refused with a reason."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import runs
from musicrec_kit.features import Features, early_fusion, read_matrix
from musicrec_kit.features.store import shard_folder
from musicrec_kit.params import Refused

IDS = ["a", "b", "c"]
ROWS = np.array([[1, 2], [3, 4], [5, 7]], np.float32)


def saved(path: Path, matrix: np.ndarray) -> Path:
    np.save(path, matrix)
    return path


def test_features_come_back_as_they_were_and_shards_go(tmp_path: Path) -> None:
    features = Features("text", ROWS, np.array([True, False, True]), "noise")
    shard_folder(tmp_path, "text").mkdir()
    features.save(tmp_path)
    again = Features.load(tmp_path, "text")
    assert np.array_equal(again.matrix, ROWS) and np.array_equal(again.present, features.present)
    assert (again.encoder, again.dim) == ("noise", 2)
    assert [f.name for f in tmp_path.iterdir()] == ["text.safetensors"]


def test_rows_are_items_without_ids(tmp_path: Path) -> None:
    matrix, present = read_matrix(saved(tmp_path / "m.npy", ROWS.astype(np.float64)), IDS)
    assert matrix.dtype == np.float32 and np.array_equal(matrix, ROWS) and present.all()


@pytest.mark.parametrize("form", ["ids file", "safetensors", "parquet", "csv", "lists"])
def test_rows_find_their_items_by_id(tmp_path: Path, form: str) -> None:
    """Rows of items 30, 99 (no item) and 10; item 20 has none."""
    ids, raw_ids = ["30", "99", "10"], ["10", "20", "30"]
    path, ids_path = tmp_path / "m", None
    frame = pd.DataFrame({"id": ids, "x": ROWS[:, 0], "y": ROWS[:, 1]})
    if form == "ids file":
        path, ids_path = saved(tmp_path / "m.npy", ROWS), tmp_path / "ids.txt"
        ids_path.write_text("\n".join(ids) + "\n")
    elif form == "safetensors":
        path = tmp_path / "m.safetensors"
        runs.write_tensors(path, {"features": ROWS, "ids": np.array([30, 99, 10])})
    elif form == "parquet":
        path = tmp_path / "m.parquet"
        frame.to_parquet(path)
    elif form == "csv":
        path = tmp_path / "m.csv"
        frame.to_csv(path, index=False)
    else:
        path = tmp_path / "m.parquet"
        pd.DataFrame({"raw_id": ids, "vector": list(ROWS)}).to_parquet(path)
    matrix, present = read_matrix(path, raw_ids, ids_path)
    assert present.tolist() == [True, False, True]
    assert matrix.tolist() == [[5, 7], [0, 0], [1, 2]]


def test_own_file_is_read_back_with_its_mask(tmp_path: Path) -> None:
    path = Features("text", ROWS, np.array([True, False, True]), "x").save(tmp_path)
    matrix, present = read_matrix(path, IDS)
    assert present.tolist() == [True, False, True] and matrix[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        (ROWS[:2], None, "2 rows for 3 items"),
        (np.array([[1, 2], [np.nan, 0], [0, np.inf]]), None, "2 rows hold NaN or inf, first row 1"),
        (np.full((3, 2), 1e300), None, "3 rows hold NaN or inf"),
        (ROWS, ["a", "b"], "3 rows but 2 ids"),
        (ROWS, ["a", "a", "b"], "1 ids occur twice, first 'a'"),
        (ROWS, ["x", "y", "z"], "none of its ids is an item"),
        (ROWS[0], None, r"shape \(2,\)"),
        (np.array([["a"], ["b"], ["c"]]), None, "not numbers"),
        (np.zeros((3, 2)), None, "no item has this modality"),
    ],
)
def test_wrong_matrices_are_refused(tmp_path: Path, rows: np.ndarray, ids: list[str] | None, message: str) -> None:
    path, ids_path = saved(tmp_path / "m.npy", rows), None
    if ids is not None:
        ids_path = tmp_path / "ids.txt"
        ids_path.write_text("\n".join(ids))
    with pytest.raises(Refused, match=message):
        read_matrix(path, IDS, ids_path)


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not exist"):
        read_matrix(tmp_path / "none.npy", IDS)
    np.save(tmp_path / "o.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(Refused, match="not a plain array"):
        read_matrix(tmp_path / "o.npy", IDS)
    (tmp_path / "m.pkl").write_bytes(b"")
    with pytest.raises(Refused, match=r"cannot read \.pkl"):
        read_matrix(tmp_path / "m.pkl", IDS)


def test_zero_rows_are_missing_and_constant_columns_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, present = read_matrix(saved(tmp_path / "m.npy", np.array([[1, 2], [0, 0], [1, 3]])), IDS)
    assert present.tolist() == [True, False, True]
    assert "1 rows are all zero" in caplog.text and "1 of 2 columns are constant" in caplog.text


def test_fusion_of_equal_widths_is_the_mean_of_directions() -> None:
    """(3, 4) / 5 and (0, 2) / 2 give ((.6, .8) + (0, 1)) / 2; a missing modality leaves the other's direction."""
    text = Features("text", np.array([[3, 4], [3, 4], [0, 0]], np.float32), np.array([True, True, False]), "t")
    image = Features("image", np.array([[0, 2], [0, 0], [0, 0]], np.float32), np.array([True, False, False]), "i")
    joint = early_fusion({"text": text, "image": image})
    assert np.allclose(joint.matrix, [[0.3, 0.9], [0.6, 0.8], [0, 0]])
    assert joint.present.tolist() == [True, True, False] and joint.encoder == "mean(t, i)"


def test_the_weights_of_a_fusion_are_those_of_its_mean() -> None:
    text = Features("text", np.array([[3, 4], [3, 4], [0, 0]], np.float32), np.array([True, True, False]), "t")
    image = Features("image", np.array([[0, 2], [0, 0], [0, 5]], np.float32), np.array([True, False, True]), "i")
    joint = early_fusion({"text": text, "image": image}, weights=(3, 1))
    assert np.allclose(joint.matrix, [[0.45, 0.85], [0.6, 0.8], [0, 1]])
    alone = early_fusion({"text": text, "image": image}, weights=(1, 0))
    assert np.allclose(alone.matrix, [[0.6, 0.8], [0.6, 0.8], [0, 0]]) and alone.present.tolist() == [True, True, False]


def test_the_weights_of_unequal_widths_are_of_standard_deviations() -> None:
    rng = np.random.default_rng(0)
    text = Features("text", rng.standard_normal((200, 3)).astype(np.float32), np.ones(200, bool), "t")
    image = Features("image", rng.standard_normal((200, 5)).astype(np.float32), np.ones(200, bool), "i")
    joint = early_fusion({"text": text, "image": image}, weights=(1, 3))
    assert np.isclose(joint.matrix[:, :3].var(axis=0).sum(), 0.25, rtol=1e-4)  # weights sum to their number, 2
    assert np.isclose(joint.matrix[:, 3:].var(axis=0).sum(), 2.25, rtol=1e-4)


def test_fusion_of_unequal_widths_gives_each_modality_the_same_variance() -> None:
    rng = np.random.default_rng(0)
    present = np.arange(200) > 0
    text = Features("text", (100 * rng.standard_normal((200, 3)) + 7).astype(np.float32), present, "t")
    image = Features("image", rng.standard_normal((200, 5)).astype(np.float32), np.ones(200, bool), "i")
    joint = early_fusion({"text": text, "image": image}, "both")
    assert joint.modality == "both" and joint.dim == 8
    assert np.isclose(joint.matrix[1:, :3].var(axis=0).sum(), 1, rtol=1e-4)
    assert np.isclose(joint.matrix[:, 3:].var(axis=0).sum(), 1, rtol=1e-4)
    assert joint.matrix[0, :3].tolist() == [0, 0, 0] and joint.present.all()
