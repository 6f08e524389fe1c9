"""Read a user's table files: CSV, TSV, Parquet, JSON lines, JSON, plain, gzipped or zst, only the columns asked for."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from musicrec_kit.data import streaming
from musicrec_kit.params import Refused
from musicrec_kit.settings_help import nearest

TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
NO_TIME = np.iinfo(np.int64).min
# stamps above this are in a finer unit: as seconds they would lie after the year 5000
SECONDS_BELOW = 100_000_000_000
LARGEST = 9e18


def located(root: Path, name: str | None, what: str) -> Path:
    """Return the path of a data set's file.

    Raises:
        Refused: no name is set, or nothing is there.
    """
    if not name:
        raise Refused(f"the data set names no {what}: set data.{what} to a file")
    path = root / Path(name).expanduser()
    if not path.exists():
        raise Refused(
            f"data.{what}={name}: nothing at {path}; give the folder that holds it with --data-root, or fix data.{what}"
        )
    return path


def kind_of(path: Path) -> str:
    """Return a file's suffix without `.gz` or `.zst`: `ratings.csv.gz` gives `.csv`."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    suffix = Path(name).suffix
    return {".ndjson": ".jsonl", ".pq": ".parquet", ".tab": ".tsv"}.get(suffix, suffix)


def read_json_file(path: Path) -> Any:
    """Read one JSON value from a plain, gzipped or zst file."""
    try:
        with _opened(path) as opened:
            return json.load(opened)
    except (ValueError, OSError, EOFError) as error:
        raise Refused(f"cannot read {path} as JSON: {error}; is the download complete?") from error


def read_text(path: Path) -> str:
    """Read a plain, gzipped or zst text file."""
    try:
        with _opened(path) as opened:
            return opened.read()
    except (ValueError, OSError, EOFError) as error:
        raise Refused(f"cannot read {path} as text: {error}; is it the right file?") from error


def read_json_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Give the objects of a JSON lines file one at a time; memory does not grow with the file."""
    number = 0
    try:
        with _opened(path) as opened:
            for line in opened:
                number += 1
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("expected an object")
                    yield record
    except (ValueError, OSError, EOFError) as error:
        raise Refused(f"cannot read line {number} of {path} as a JSON object: {error}") from error


def _opened(path: Path) -> IO[str]:
    return io.TextIOWrapper(io.BufferedReader(streaming.opened(path)), encoding="utf-8-sig")  # type: ignore


def column_names(path: Path, bad_lines: int = 0) -> list[str]:
    """Return the columns of a table file; of JSON lines, of which some may be bad, the keys of the first objects."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet

    kind = kind_of(path)
    try:
        if kind == ".parquet":
            return list(pa_parquet.read_schema(path).names)
        if kind == ".jsonl":
            return list(dict.fromkeys(key for record in streaming.first_objects(path, bad_lines) for key in record))
        if kind in TABLES:
            with pa_csv.open_csv(path, parse_options=_csv_options(kind)) as opened:
                return list(opened.schema.names)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"cannot read {path} as a {kind[1:]} table: {error}") from error
    raise Refused(f"cannot read {path}: expected one of {', '.join(TABLES)} (each may end in .gz or .zst)")


def _csv_options(kind: str) -> Any:
    import pyarrow.csv as pa_csv

    return pa_csv.ParseOptions(delimiter="\t" if kind == ".tsv" else ",", newlines_in_values=True)


def read_columns(
    path: Path,
    wanted: Mapping[str, str],
    required: Sequence[str],
    ids: Sequence[str] = (),
    bad_lines: streaming.BadLines | None = None,
) -> pd.DataFrame:
    """Read a table as text under our column names; numbers are parsed by `as_numbers` and `as_times`.

    Args:
        wanted: our column -> the file's column. One that is not in the file and not required is left out.
        required: our columns that must be there.
        ids: our columns that `as_ids` will be asked for; of large files they are read as categoricals.
        bad_lines: where the bad lines of a JSON lines file are counted.

    Raises:
        Refused: the file cannot be read, or a required column is missing (the nearest one is named).
    """
    chosen = _chosen(path, wanted, required, bad_lines)
    distinct = [chosen[ours] for ours in ids if ours in chosen]
    columns = _read(path, sorted(set(chosen.values())), distinct, bad_lines)
    return pd.DataFrame({ours: columns[theirs] for ours, theirs in chosen.items()})


def read_first(
    path: Path,
    wanted: Mapping[str, str],
    required: Sequence[str],
    key: str,
    bad_lines: streaming.BadLines | None = None,
) -> tuple[pd.DataFrame, int]:
    """Read a table as `read_columns` does, but of rows with one key the first is enough; return how many were left out.

    Of JSON lines only the first rows are ever in memory.
    """
    if kind_of(path) != ".jsonl":
        return read_columns(path, wanted, required), 0
    chosen = _chosen(path, wanted, required, bad_lines)
    names = sorted(set(chosen.values()))
    read = streaming.read_fields(path, names, first_of=chosen[key], bad_lines=bad_lines)
    return pd.DataFrame({ours: read.columns[theirs] for ours, theirs in chosen.items()}), read.left_out


def _chosen(
    path: Path, wanted: Mapping[str, str], required: Sequence[str], bad_lines: streaming.BadLines | None
) -> dict[str, str]:
    """Return our column -> the file's column of those that the file has."""
    names = column_names(path, bad_lines.limit if bad_lines else 0)
    if not names:
        raise Refused(f"{path} is empty: it holds no column; is it the right file?")
    for ours in required:
        if wanted[ours] not in names:
            hint = nearest(wanted[ours], names)
            did_you_mean = f"; did you mean {hint!r}?" if hint else ""
            raise Refused(
                f"{path} has no column {wanted[ours]!r} for {ours}; it has {', '.join(map(repr, names))}{did_you_mean} "
                f"Name it in data.columns, for example columns: {{{ours}: {hint or names[0]}}}"
            )
    return {ours: theirs for ours, theirs in wanted.items() if theirs in names}


def _read(
    path: Path, names: list[str], distinct: Sequence[str], bad_lines: streaming.BadLines | None
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet

    kind = kind_of(path)
    if kind == ".jsonl":
        return streaming.read_fields(path, names, distinct, bad_lines=bad_lines).columns
    try:
        if kind == ".parquet":
            table = pa_parquet.read_table(path, columns=names)
        else:
            # everything as text: an id such as 007 must keep its zeros
            types = {name: pa.dictionary(pa.int32(), pa.string()) for name in distinct}
            convert = pa_csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()) | types,
                null_values=[""],
                strings_can_be_null=True,
            )
            table = pa_csv.read_csv(path, parse_options=_csv_options(kind), convert_options=convert)
        return {name: table.column(name).to_pandas() for name in names}
    except (pa.ArrowInvalid, OSError) as error:
        raise Refused(f"cannot read {path} as a {kind[1:]} table: {error}") from error


def as_ids(values: pd.Series) -> pd.Series:
    """Return ids as a categorical of strings; null and empty ids become null, whole numbers gain no `.0`."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, uniques = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, uniques = pd.factorize(values, use_na_sentinel=True)
    numbers = [int(v) if isinstance(v, float) and v.is_integer() else v for v in uniques.tolist()]
    texts = pd.Series([str(v) for v in numbers], dtype=object)
    distinct, names = pd.factorize(texts)
    codes = np.where(codes >= 0, np.append(distinct, -1)[codes], -1)
    blank = np.flatnonzero(np.asarray(names, dtype=object) == "")
    codes = np.where(np.isin(codes, blank), -1, codes)
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object)))


def as_numbers(values: pd.Series, what: str, path: Path) -> np.ndarray:
    """Return float64 numbers, NaN where empty; text that is no number is refused."""
    numbers = _numeric(values)
    bad = np.flatnonzero(~np.isfinite(numbers) & _filled(values))
    if len(bad):
        found = f"{what} of row {bad[0] + 1} is {values.iloc[bad[0]]!r}, not a number ({len(bad)} such rows)"
        raise Refused(f"{path}: {found}; correct the file, or name another column in data.columns")
    return numbers


def _numeric(values: pd.Series) -> np.ndarray:
    """Return float64 numbers, NaN where there is none."""
    import pyarrow as pa

    try:
        # an order of magnitude faster on text than pandas, and all or nothing
        return pa.array(values, from_pandas=True).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def as_times(values: pd.Series, path: Path) -> np.ndarray:
    """Return int64 stamps in the file's resolution, `NO_TIME` where unknown.

    Numbers are Unix stamps; other text is read as ISO 8601 dates, UTC where no zone is given, to seconds.
    """
    filled = _filled(values)
    numbers = np.full(len(values), np.nan) if pd.api.types.is_datetime64_any_dtype(values) else _numeric(values)
    known = np.abs(numbers) < LARGEST
    if not (~known & filled).any():
        # a float holds whole milliseconds until the year 285,000
        return np.where(known, np.floor(np.where(known, numbers, 0)).astype(np.int64), NO_TIME)
    dates = pd.to_datetime(
        values.where(pd.Series(filled, index=values.index)), errors="coerce", utc=True, format="ISO8601"
    )
    bad = np.flatnonzero(dates.isna().to_numpy() & filled)
    if len(bad):
        raise Refused(
            f"{path}: time of row {bad[0] + 1} is {values.iloc[bad[0]]!r}: expected Unix seconds or an ISO 8601 date"
        )
    stamps = dates.dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return np.where(filled, stamps // 1000, NO_TIME)


def _is_text(values: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_datetime64_any_dtype(values)


def _filled(values: pd.Series) -> np.ndarray:
    filled = values.notna().to_numpy()
    return filled & (values != "").fillna(False).to_numpy(dtype=bool) if _is_text(values) else filled
