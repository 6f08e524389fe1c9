"""One matrix per modality: how it is kept, and how a matrix that a user brings is read and checked."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.params import Refused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """The frozen encoder's output for every item.

    Attributes:
        modality: the name under which tokenizers and views know it.
        matrix: float32 [items, dim]; rows of items without the modality are zero and mean nothing.
        present: bool [items]; whether the item has the modality.
        encoder: printable name of what made the rows, for tables.
    """

    modality: str
    matrix: np.ndarray
    present: np.ndarray
    encoder: str

    def __post_init__(self) -> None:
        assert self.matrix.dtype == np.float32 and self.matrix.ndim == 2, (self.matrix.dtype, self.matrix.shape)
        assert self.present.dtype == np.bool_ and self.present.shape == self.matrix.shape[:1], self.present.shape

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        return self.matrix.shape[1]

    def save(self, folder: Path) -> Path:
        """Write `<modality>.safetensors`, drop the shards of the extraction, and return the file's path."""
        path = folder / f"{self.modality}.safetensors"
        tensors = {"features": self.matrix, "present": self.present}
        # one entry only: safetensors writes several in no fixed order, and equal features should be equal bytes
        runs.write_tensors(path, tensors, {"encoder": self.encoder})
        shutil.rmtree(shard_folder(folder, self.modality), ignore_errors=True)
        return path

    @classmethod
    def load(cls, folder: Path, modality: str) -> "Features":
        """Read what `save` wrote."""
        path = folder / f"{modality}.safetensors"
        tensors = runs.read_tensors(path)
        return cls(modality, tensors["features"], tensors["present"], runs.read_tensor_metadata(path)["encoder"])


def shard_folder(folder: Path, modality: str) -> Path:
    """Return the folder where an extraction keeps what it has done so far."""
    return folder / f"{modality}.shards"


def read_matrix(path: Path, raw_ids: Sequence[str], ids: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a user's matrix and return (matrix float32 [items, dim], present bool [items]) in item order.

    Rows are in item order unless ids come with them: a text file with one raw id per row, a tensor `ids` of whole
    numbers in the safetensors file, or a first column `id` (or `raw_id`) in a parquet or csv file. With ids, rows of
    other items are left out, and items without a row lack the modality.

    Raises:
        Refused: no such file or kind of file, wrong number of rows, NaN or inf, an id twice, no id known.
    """
    if not path.is_file():
        raise Refused(
            f"features file {path} does not exist; give its path relative to the data root, or an absolute one"
        )
    matrix, found_ids, present = _read(path)
    if matrix.ndim != 2 or not len(matrix):
        raise Refused(f"{path} holds an array of shape {matrix.shape}; a matrix [items, dim] is needed")
    _refuse_not_finite(path, matrix)
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    _refuse_not_finite(path, matrix)  # a float64 beyond float32 becomes inf only here
    if ids is not None:
        found_ids = _read_ids(ids)
    present = np.ones(len(matrix), bool) if present is None else present.astype(bool)
    if found_ids is not None:
        matrix, present = _by_id(path, matrix, present, found_ids, raw_ids)
    elif len(matrix) != len(raw_ids):
        raise Refused(
            f"{path} has {len(matrix):,} rows for {len(raw_ids):,} items; give one row per item in item order, "
            "or the raw ids of the rows (features.<modality>.ids)"
        )
    empty = present & ~matrix.any(axis=1)
    if empty.any():
        log.warning("%s: %d rows are all zero and are taken as missing", path.name, int(empty.sum()))
    return checked(matrix, present & ~empty, path.name)


def checked(matrix: np.ndarray, present: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix with zero rows where it is missing; refuse an empty modality, warn of constant columns."""
    assert np.isfinite(matrix[present]).all(), f"{source}: NaN or inf"
    if not present.any():
        raise Refused(f"{source}: no item has this modality; leave it out of `modalities`, or check the item files")
    matrix = np.where(present[:, None], matrix, np.float32(0))
    rows = matrix[present]
    constant = int((rows == rows[0]).all(axis=0).sum())
    if constant and len(rows) > 1:
        log.warning("%s: %d of %d columns are constant", source, constant, matrix.shape[1])
    doubles = len(rows) - len({hash(row.tobytes()) for row in rows})
    if doubles:
        log.info("%s: %d of %d rows repeat another row", source, doubles, len(rows))
    if not present.all():
        log.info("%s: %d of %d items lack it", source, int((~present).sum()), len(present))
    return matrix, present


def _read(path: Path) -> tuple[np.ndarray, list[str] | None, np.ndarray | None]:
    """Return (matrix, raw ids or None, present or None) of a file."""
    if path.suffix == ".npy":
        return _floats(path, _plain_array(path)), None, None
    if path.suffix == ".safetensors":
        tensors = runs.read_tensors(path)
        ids, present = tensors.pop("ids", None), tensors.pop("present", None)
        if "features" not in tensors and len(tensors) != 1:
            raise Refused(f"{path} holds {sorted(tensors)}; one tensor, or one named 'features', is needed")
        matrix = tensors["features"] if "features" in tensors else next(iter(tensors.values()))
        return _floats(path, matrix), None if ids is None else [str(i) for i in ids.tolist()], present
    if path.suffix in (".parquet", ".csv"):
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        column = next((name for name in ("id", "raw_id") if name in frame.columns), None)
        ids_column = None if column is None else [str(i) for i in frame.pop(column)]
        wide = frame.iloc[:, 0].map(np.ndim).gt(0).all()  # one column of lists, or one column per dimension
        values = np.stack(frame.iloc[:, 0].to_list()) if wide else frame.to_numpy()
        return _floats(path, values), ids_column, None
    raise Refused(
        f"{path}: cannot read {path.suffix or 'a file without suffix'}; give .npy, .safetensors, .parquet or .csv"
    )


def _plain_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Refused(f"{path} is not a plain array ({error}); save it with numpy.save as float32") from error


def _floats(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise Refused(f"{path} holds {array.dtype}, not numbers; give a float matrix [items, dim]")
    return array


def _refuse_not_finite(path: Path, matrix: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise Refused(
            f"{path}: {len(bad):,} rows hold NaN or inf, first row {bad[0]}; "
            "make them finite, or leave the rows out and give ids"
        )


def _read_ids(path: Path) -> list[str]:
    if not path.is_file():
        raise Refused(f"ids file {path} does not exist; it holds one raw id per row of the matrix")
    return path.read_text(encoding="utf-8").splitlines()


def _by_id(
    path: Path, matrix: np.ndarray, present: np.ndarray, ids: Sequence[str], raw_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and mask in item order."""
    if len(ids) != len(matrix):
        raise Refused(f"{path} has {len(matrix):,} rows but {len(ids):,} ids; give one id per row")
    row_of = pd.Series(np.arange(len(ids)), index=pd.Index(ids))
    if not row_of.index.is_unique:
        twice = row_of.index[row_of.index.duplicated()].unique()
        raise Refused(f"{path}: {len(twice)} ids occur twice, first {twice[0]!r}; keep one row per item")
    rows = row_of.reindex(list(raw_ids)).to_numpy()
    known = ~np.isnan(rows)
    if not known.any():
        raise Refused(f"{path}: none of its ids is an item; first id {ids[0]!r}, first item {raw_ids[0]!r}")
    if known.sum() < len(ids):
        log.info("%s: %d rows belong to no item of the data set", path.name, len(ids) - int(known.sum()))
    index = np.where(known, rows, 0).astype(np.int64)
    return np.where(known[:, None], matrix[index], np.float32(0)), known & present[index]
