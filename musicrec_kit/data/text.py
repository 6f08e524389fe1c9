"""Item fields as publishers write them, brought to plain strings and lists of categories."""

import ast
import html
import re
from collections.abc import Iterable
from typing import Any

TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
SPACE = re.compile(r"\s+")


def clean(value: Any) -> str:
    """Return a field as one line of plain text: lists joined, HTML entities and tags removed, spaces collapsed.

    >>> clean(["<b>Strings</b> &amp; picks", "  set of 3"])
    'Strings & picks set of 3'
    """
    joined = " ".join(_strings(value))
    return SPACE.sub(" ", TAG.sub(" ", html.unescape(joined))).strip()


def categories(value: Any, separator: str | None = None) -> list[str]:
    """Return distinct categories in order; nested lists are flattened, a string is split.

    A string is split at `separator`, else at `|` where it has one (MovieLens), else at `,` (LC-Rec).

    >>> categories([["Beauty", "Makeup"], ["Beauty", "Nails"]])
    ['Beauty', 'Makeup', 'Nails']
    >>> categories("Adventure|Film-Noir, old")
    ['Adventure', 'Film-Noir, old']
    """
    strings = list(_strings(value))
    if len(strings) == 1 and not isinstance(_unquoted(value), list | tuple):
        strings = strings[0].split(separator or ("|" if "|" in strings[0] else ","))
    return list(dict.fromkeys(name for name in map(clean, strings) if name))


def _unquoted(value: Any) -> Any:
    """Return the list that a string such as "['a', 'b']" stands for, else the value itself."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        return read if isinstance(read, list) else value
    return value


def _strings(value: Any) -> Iterable[str]:
    value = _unquoted(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
    # NaN is the one value that differs from itself
    elif value is not None and value == value:
        yield str(value)
