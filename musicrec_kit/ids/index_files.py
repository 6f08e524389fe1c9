"""Import and export of the lineage's `*.index.json(.gz)`: {"item": ["<a_170>", "<b_224>", ...]}, one file per view.

Read are the lineage's tokens (`<a_170>`, upper case for images) and both of ours (`vocabulary.py`; MGR's do not tell
which levels are shared). Imported IDs are never altered: collisions are counted and reported.
"""

import gzip
import json
import logging
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from musicrec_kit import runs
from musicrec_kit.ids.semantic_ids import NULL, SemanticIds, report
from musicrec_kit.ids.vocabulary import MGR_NAMES, Vocabulary
from musicrec_kit.params import IdsParams, Refused

log = logging.getLogger(__name__)

LINEAGE = re.compile(r"<([a-z])_(\d+)>", re.IGNORECASE)
MUSICREC = re.compile(r"<(?:([^:<>]+):)?(s\d+|[a-z])\.(\d+)>", re.IGNORECASE)
MGR = re.compile(r"<([^<>]+)-(\d+)-(\d+)>")
SUFFIX = re.compile(r"<dup:([^<>]+)\.(\d+)>")
SEPARATOR = re.compile(r"<sep\.\d+>")


class Token(NamedTuple):
    """A parsed token: which stream and level it stands for, and its code."""

    stream: str  # "" for a token that all streams share, SUFFIX_STREAM for a suffix
    level: int
    shared: bool
    code: int


SUFFIX_STREAM = "\0suffix"


def parse(token: str, view: str) -> Token | None:
    """Return what a written token stands for, or None for a separator.

    A lineage token does not tell its modality but by case, so its stream is the view that the file was named for.

    >>> parse("<b_224>", "text"), parse("<S1.7>", "image").stream, parse("<img-1-40>", "main").level
    (Token(stream='text', level=1, shared=False, code=224), 'image', 0)
    """
    if SEPARATOR.fullmatch(token):
        return None
    if found := SUFFIX.fullmatch(token):
        return Token(SUFFIX_STREAM, 0, False, int(found[2]))
    if found := LINEAGE.fullmatch(token):
        return Token(view, string.ascii_lowercase.index(found[1].lower()), False, int(found[2]))
    if found := MUSICREC.fullmatch(token):
        stream = found[1] or ("image" if found[2].isupper() else "text")
        shared = len(found[2]) > 1
        level = int(found[2][1:]) - 1 if shared else string.ascii_lowercase.index(found[2].lower())
        return Token(stream, level, shared, int(found[3]))
    if found := MGR.fullmatch(token):
        names = {short: stream for stream, short in MGR_NAMES.items()}
        return Token(names.get(found[1], found[1]), int(found[2]) - 1, False, int(found[3]))
    raise Refused(
        f"view {view}: {token!r} is no semantic ID token; expected <a_170>, <s1.7>, <a.3>, <txt-1-214> or alike"
    )


def import_index(
    paths: Mapping[str, Path], keys: Sequence[str], sizes: Mapping[str, tuple[int, ...]] | None = None
) -> SemanticIds:
    """Read the semantic IDs of every view from its file, as they are.

    Args:
        paths: view -> file.
        keys: the name that item i has in the files, i = 0, 1, ...: its raw id or its number there.
        sizes: view -> codes per level; without it every level of a view gets the smallest power of two that holds the
            view's largest code (the lineage's 256), since unused codes get tokens, too.

    Raises:
        Refused: a token that nobody writes, IDs of unlike levels, or a file without any of the items.
    """
    parts = {view: _read_view(Path(path), keys, view) for view, path in paths.items()}
    views = {view: codes for view, (codes, _, _, _) in parts.items()}
    widths = {view: _power_of_two(int(codes.max(initial=0)) + 1) for view, codes in views.items()}
    return SemanticIds(
        views=views,
        suffix={view: suffix for view, (_, suffix, _, _) in parts.items()},
        segments={view: segments for view, (_, _, segments, _) in parts.items()},
        sizes=dict(sizes) if sizes else {view: (widths[view],) * codes.shape[1] for view, codes in views.items()},
        shared_levels=max(shared for _, _, _, shared in parts.values()),
        collisions={view: report("imported", codes, codes, parts[view][1]) for view, codes in views.items()},
    )


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 1).bit_length()


def _read_view(
    path: Path, keys: Sequence[str], view: str
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, int], ...], int]:
    """Return (codes [items, levels], suffix [items], segments, shared levels) of one file."""
    index = _read_json(path)
    found = [key for key in keys if index.get(key)]
    if not found:
        raise Refused(
            f"{path} has IDs for none of the {len(keys)} items (it names items like {next(iter(index), None)!r})"
        )
    if len(found) < max(len(keys), len(index)):
        log.warning(
            "%s: IDs for %d of %d items; %d items of the file are unknown",
            path,
            len(found),
            len(keys),
            len(index) - len(found),
        )
    known: dict[str, Token | None] = {}
    rows = []
    for key in keys:
        tokens = index.get(key, [])
        known.update({token: parse(token, view) for token in tokens if token not in known})
        rows.append([part for token in tokens if (part := known[token]) is not None])
    shared = max((part.level + 1 for row in rows for part in row if part.shared), default=0)
    columns = _columns(path, rows, shared)
    codes, suffix = np.full((len(keys), len(columns)), NULL, np.int32), np.zeros(len(keys), np.int32)
    for item, row in enumerate(rows):
        for part in row:
            if part.stream == SUFFIX_STREAM:
                suffix[item] = part.code
            else:
                codes[item, columns[_place(part, shared)]] = part.code
    streams = [stream for stream, _ in columns]
    return codes, suffix, tuple((stream, streams.count(stream)) for stream in dict.fromkeys(streams)), shared


def _place(part: Token, shared: int) -> tuple[str, int]:
    """Return (stream, level in the segment): letters and numbers of specific levels start after the shared ones."""
    return part.stream, part.level + (0 if part.shared or not shared else shared)


def _columns(path: Path, rows: list[list[Token]], shared: int) -> dict[tuple[str, int], int]:
    """Return (stream, level) -> column, streams in the order of the IDs that have most of them."""
    depth: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: -len({part.stream for part in row})):
        places = [_place(part, shared) for part in row if part.stream != SUFFIX_STREAM]
        streams = list(dict.fromkeys(stream for stream, _ in places))
        if places != [(stream, level) for stream in streams for level in range(sum(s == stream for s, _ in places))]:
            raise Refused(f"{path}: the levels of an ID are not in order: {row}")
        for stream, level in places:
            depth[stream] = max(depth.get(stream, 0), level + 1)
    return {place: column for column, place in enumerate((s, level) for s, n in depth.items() for level in range(n))}


def export_index(
    ids: SemanticIds, folder: Path, params: IdsParams, keys: Sequence[str] | None = None, lineage: bool = False
) -> dict[str, Path]:
    """Write `<view>.index.json` for every view and return view -> path.

    Args:
        params: how tokens are written (`ids.tokens`, `ids.separators`).
        keys: the name of every item in the files; its number without it.
        lineage: write `<a_170>` (`<A_170>` for a view of images), a suffix as one level more, for the lineage's code.
    """
    # a tied token would not tell its modality or level
    vocabulary = Vocabulary.from_ids(ids, params.model_copy(update={"tie_shared_tokens": False, "tie_levels": False}))
    names = [str(item) for item in range(ids.n_items)] if keys is None else list(keys)
    paths = {}
    for view in ids.views:
        written = _lineage_names(ids, view) if lineage else _names(vocabulary, view)
        paths[view] = folder / f"{view}.index.json"
        runs.write_json(paths[view], {name: row for name, row in zip(names, written, strict=True) if row})
    return paths


def _names(vocabulary: Vocabulary, view: str) -> list[list[str]]:
    tokens, lengths = vocabulary.tokens_of(view)
    return [[vocabulary.names[token] for token in row[:n]] for row, n in zip(tokens.tolist(), lengths, strict=True)]


def _lineage_names(ids: SemanticIds, view: str) -> list[list[str]]:
    codes = ids.views[view]
    if ids.has_suffix(view):
        codes = np.where(ids.has_id(view)[:, None], np.column_stack([codes, ids.suffix[view]]), NULL)
    image = [stream == "image" for stream, levels in ids.segments[view] for _ in range(levels)]
    if codes.shape[1] > len(string.ascii_lowercase):
        raise Refused(f"view {view}: {codes.shape[1]} levels, and the lineage's tokens have a letter for 26")
    letters = [string.ascii_uppercase if upper else string.ascii_lowercase for upper in [*image, image[-1]]]
    return [[f"<{letters[at][at]}_{code}>" for at, code in enumerate(row) if code != NULL] for row in codes.tolist()]


def _read_json(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise Refused(f"there is no file {path}; ids.files names the files of published IDs, relative to the data root")
    data = path.read_bytes()
    try:
        index = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, ValueError) as error:
        raise Refused(f"{path} is not a readable index file ({error}); expected JSON, or JSON in gzip") from error
    if not isinstance(index, dict):
        raise Refused(f"{path} holds a {type(index).__name__}; expected {{item: [token, ...]}}")
    return index
