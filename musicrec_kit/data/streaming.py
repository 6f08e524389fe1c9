"""Read the wanted fields of JSON lines of any size, plain, gzipped or zst; memory grows with what is wanted alone.

polars unpacks and reads on all cores. Where it refuses a line, or finds another type than the first objects have, the
file is read again in blocks, and what polars refuses of these line by line: so every bad line is known by its number.
"""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from musicrec_kit.params import Refused

log = logging.getLogger(__name__)

PACKED = {".gz": "gzip", ".zst": "zstd"}
BLOCK = 1 << 24  # bytes of unpacked text that are read at once
LOOKED_AT = 1000  # objects that say which fields there are, and of which type
SHOWN = 3  # bad lines that are named
BOM = b"\xef\xbb\xbf"


@dataclass
class BadLines:
    """Lines that are no JSON objects: how many, and the first few as (number from 1, what is wrong).

    Attributes:
        limit: more than these are refused.
    """

    path: Path
    limit: int = 0
    count: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, error: str) -> None:
        """Count a line.

        Raises:
            Refused: there are more than the limit.
        """
        self.count += 1
        if self.count <= SHOWN:
            self.first.append((number, error))
        if self.count > self.limit:
            at, why = self.first[0]
            more = f"; with line {number} these are more than the {self.limit} that may be left out" * (self.limit > 0)
            raise Refused(
                f"cannot read line {at} of {self.path} as a JSON object: {why}{more}; correct the file, or set "
                "data.bad_lines to how many may be left out"
            )

    def told(self) -> dict[str, Any]:
        """Return what the manifest says, and log it; nothing where no line is bad."""
        if not self.count:
            return {}
        shown = [f"line {number}: {error}" for number, error in self.first]
        log.warning("%s: %d lines are no JSON objects and left out; %s", self.path, self.count, "; ".join(shown))
        return {"bad_lines": self.count, "first_bad_lines": shown}


def opened(path: Path) -> IO[bytes]:
    """Open a plain, gzipped or zst file for reading bytes."""
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(path), compression=PACKED.get(path.suffix.lower()))
    return stream


@dataclass(frozen=True)
class Fields:
    """Columns of a JSON lines file.

    Attributes:
        columns: field -> values, null where an object lacks it.
        left_out: objects that were left out because their key had been seen or is null.
    """

    columns: dict[str, pd.Series]
    left_out: int = 0


def read_fields(
    path: Path,
    names: Sequence[str],
    distinct: Sequence[str] = (),
    first_of: str | None = None,
    bad_lines: BadLines | None = None,
) -> Fields:
    """Return one column per field, one row per JSON object.

    Values are those of `json.loads`, with two differences: a number in a column of texts becomes text, and of a key
    that stands twice in an object the first value may count.

    Args:
        names: fields that are wanted; all others cost no memory.
        distinct: those of `names` whose values repeat: they come as categoricals, in order of appearance.
        first_of: one of `names`; of objects with the same value there the first is kept, and none without a value.
        bad_lines: where lines that are no JSON objects are counted; left out: the first one is refused.

    Raises:
        Refused: the file cannot be read to its end, or too many lines are bad.
    """
    bad = BadLines(path) if bad_lines is None else bad_lines
    schema = _schema(first_objects(path, bad.limit), names)
    if len(schema) == len(names):
        with contextlib.suppress(_OtherwiseError):
            return _gathered(_streamed(path, schema), names, distinct, first_of)
    return _gathered(_by_blocks(path, names, schema, bad), names, distinct, first_of)


class _OtherwiseError(Exception):
    """The file is not what its first objects say."""


Columns = dict[str, Any]  # field -> arrow array; a list of Python values where these are of several types


def _gathered(parts: Iterable[Columns], names: Sequence[str], distinct: Sequence[str], first_of: str | None) -> Fields:
    """Return the columns of all parts, of repeated values one each."""
    gathered: dict[str, list[Any]] = {name: [] for name in names}
    seen: set[Any] = set()
    left_out = 0
    for part in parts:
        columns = part
        if first_of is not None:
            kept = _unseen(part[first_of], seen)
            left_out += len(part[first_of]) - len(kept)
            columns = {name: _taken(values, kept) for name, values in part.items()}
        for name, values in columns.items():
            encoded = name in distinct and not isinstance(values, list)
            gathered[name].append(values.dictionary_encode() if encoded else values)
    return Fields({name: _joined(gathered.pop(name)) for name in names}, left_out)


def first_objects(path: Path, limit: int = 0) -> list[dict[str, Any]]:
    """Return the first objects of a file, which say what fields there are; up to `limit` lines may be bad."""
    found: list[dict[str, Any]] = []
    bad = BadLines(path, limit)
    for number, block in _blocks(path, 1 << 20):
        for record in _objects(block, number, bad):
            found.append(record)
            if len(found) == LOOKED_AT:
                return found
    return found


def _schema(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, type]:
    """Return field -> type of those whose first values are plain text or numbers."""
    schema: dict[str, type] = {}
    for name in names:
        found = {type(record[name]) for record in records if record.get(name) is not None}
        kind = float if found == {int, float} else found.pop() if len(found) == 1 else None
        if kind in (str, int, float):
            schema[name] = kind
    return schema


def _polars() -> Any:
    """Import polars such that it reads files and does not map them: mapped pages count as memory of the process."""
    if "polars" in sys.modules:
        return sys.modules["polars"]
    name = "POLARS_FORCE_ASYNC"  # heard at import alone
    before = os.environ.get(name)
    os.environ[name] = before or "1"
    try:
        import polars

        return polars
    finally:
        if before is None:
            del os.environ[name]


def _polars_types(schema: Mapping[str, type]) -> dict[str, Any]:
    pl = _polars()

    types = {str: pl.String(), int: pl.Int64(), float: pl.Float64()}
    return {name: types[kind] for name, kind in schema.items()}


def _streamed(path: Path, schema: Mapping[str, type]) -> Iterator[Columns]:
    """Yield the columns of a file part by part."""
    pl = _polars()

    lines = 0
    try:
        for frame in pl.scan_ndjson(path, schema=_polars_types(schema)).collect_batches(maintain_order=True):
            lines += frame.height
            yield {name: frame[name].to_arrow() for name in schema}
    except pl.exceptions.PolarsError as error:
        raise _OtherwiseError from error
    except OSError as error:
        raise _broken(path, lines, error) from error


def _broken(path: Path, lines: int, error: OSError) -> Refused:
    return Refused(f"cannot read {path} to its end, only some {lines} lines: {error}; is the download complete?")


def _by_blocks(path: Path, names: Sequence[str], schema: Mapping[str, type], bad: BadLines) -> Iterator[Columns]:
    """Yield the same by blocks, those that polars refuses line by line."""
    pl = _polars()

    for number, block in _blocks(path):
        try:
            if len(schema) < len(names):
                raise pl.exceptions.PolarsError
            frame = pl.read_ndjson(block, schema=_polars_types(schema))
            yield {name: frame[name].to_arrow() for name in names}
        except pl.exceptions.PolarsError:
            yield _slow(block, number, bad, names, schema)


def _blocks(path: Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, whole lines)."""
    number, rest = 1, b""
    with opened(path) as stream:
        while True:
            try:
                block = stream.read(size)
            except OSError as error:
                raise _broken(path, number - 1, error) from error
            if not block:
                break
            block = rest + (block if number > 1 or rest else block.removeprefix(BOM))
            cut = block.rfind(b"\n") + 1
            if cut:
                yield number, block[:cut]
            number += block.count(b"\n")
            rest = block[cut:]
    if rest:
        yield number, rest


def _slow(block: bytes, number: int, bad: BadLines, names: Sequence[str], schema: Mapping[str, type]) -> Columns:
    """Return a block's columns line by line."""
    import pyarrow as pa

    types = {str: pa.large_string(), int: pa.int64(), float: pa.float64()}
    records = list(_objects(block, number, bad))
    columns: Columns = {}
    for name in names:
        columns[name] = [record.get(name) for record in records]
        # arrow itself would cut 2.5 down to a whole number
        if name in schema and {type(value) for value in columns[name]} <= {schema[name], type(None)}:
            with contextlib.suppress(pa.ArrowInvalid, UnicodeEncodeError, OverflowError):
                columns[name] = pa.array(columns[name], types[schema[name]])
    return columns


def _objects(block: bytes, number: int, bad: BadLines) -> Iterator[dict[str, Any]]:
    """Yield the objects of a block; other lines are counted as bad, but for blank ones."""
    for at, line in enumerate(block.split(b"\n"), start=number):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
        except ValueError as error:
            bad.add(at, str(error))
            continue
        if isinstance(record, dict):
            yield record
        else:
            bad.add(at, "expected an object")


def _unseen(values: Any, seen: set[Any]) -> np.ndarray:
    """Return the rows whose value is not null and was not seen before, and remember it."""
    kept = []
    for row, value in enumerate(values if isinstance(values, list) else values.to_pylist()):
        key = repr(value) if isinstance(value, list | dict) else value
        if value is not None and key not in seen:
            seen.add(key)
            kept.append(row)
    return np.array(kept, np.int64)


def _taken(values: Any, rows: np.ndarray) -> Any:
    return [values[row] for row in rows] if isinstance(values, list) else values.take(rows)


def _joined(parts: list[Any]) -> pd.Series:
    """Return the parts of a column in one; as Python objects where a part is a list."""
    import pyarrow as pa

    if not parts or any(isinstance(part, list) for part in parts):
        values = (part if isinstance(part, list) else part.to_pylist() for part in parts)
        return pd.Series([value for part in values for value in part], dtype=object)
    whole = pa.chunked_array(parts)
    if pa.types.is_dictionary(whole.type):
        chunks = whole.unify_dictionaries().chunks
        codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy() for chunk in chunks])
        return pd.Series(
            pd.Categorical.from_codes(codes, categories=pd.Index(chunks[0].dictionary.to_pylist(), dtype=object))
        )
    if pa.types.is_integer(whole.type) and whole.null_count:
        return pd.Series(pd.arrays.IntegerArray(whole.fill_null(0).to_numpy(), whole.is_null().to_numpy()))
    return pd.Series(whole.to_pylist(), dtype=object) if pa.types.is_large_string(whole.type) else whole.to_pandas()
