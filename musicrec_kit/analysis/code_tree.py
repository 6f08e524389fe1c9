"""Semantic IDs as a tree of codes: who matches a pattern, which codes come next, and how both are written."""

from html import escape

import numpy as np
import pandas as pd

from musicrec_kit.ids.semantic_ids import NULL, SemanticIds
from musicrec_kit.ids.vocabulary import code_name

Pattern = tuple[int | None, ...]  # one entry per level from the first: a code, or None for any

SHARED, SPECIFIC, FREE = "#cde3f5", "#fbe0c3", "#e6e6e6"  # grounds of tokens, all readable under black
CHIP = "display:inline-block;padding:1px 7px;margin:1px 2px;border-radius:9px;color:#111;font:12px/1.5 monospace"


class CodeTree:
    """Semantic IDs seen as a tree of codes: who matches a pattern, and which codes come next."""

    def __init__(self, ids: SemanticIds, tokens: str = "musicrec") -> None:
        """Keep the IDs; `tokens` says how codes are written (`ids.tokens`)."""
        self.ids = ids
        self.tokens = tokens
        self.places = {v: [(stream, level) for stream, n in s for level in range(n)] for v, s in ids.segments.items()}

    def levels(self, view: str) -> int:
        """Return the number of levels of a view."""
        return self.ids.views[view].shape[1]

    def name(self, view: str, level: int, code: int) -> str:
        """Return the token of a code at a level counted from 0, such as `<s1.7>`."""
        stream, at = self.places[view][level]
        return code_name(stream, at, code, self.ids.shared_levels, self.tokens)

    def is_shared(self, view: str, level: int) -> bool:
        """Return whether a level is one of those that all modalities share."""
        return self.places[view][level][1] < self.ids.shared_levels

    def matching(self, view: str, pattern: Pattern) -> np.ndarray:
        """Return the items (int64, ascending) whose codes agree with every given entry of the pattern."""
        codes = self.ids.views[view]
        fits = (codes != NULL).any(axis=1)
        for level, code in enumerate(pattern):
            if code is not None:
                fits &= codes[:, level] == code
        return np.flatnonzero(fits)

    def children(self, view: str, pattern: Pattern) -> pd.DataFrame:
        """Return the codes of the level behind the pattern: code, token, items; most items first. Empty at the end."""
        level = len(pattern)
        if level >= self.levels(view):
            return pd.DataFrame({"code": [], "token": [], "items": []})
        found = self.ids.views[view][self.matching(view, pattern), level]
        codes, counts = np.unique(found[found != NULL], return_counts=True)
        order = np.lexsort((codes, -counts))
        names = [self.name(view, level, int(code)) for code in codes[order]]
        return pd.DataFrame({"code": codes[order], "token": names, "items": counts[order]})

    def written(self, view: str, item: int) -> str:
        """Return an item's ID in a view, such as `<s1.1><s2.2><a.3><b.4>`, or an empty string."""
        codes, extra = self.ids.views[view][item], int(self.ids.suffix[view][item])
        names = [self.name(view, level, int(code)) for level, code in enumerate(codes) if code != NULL]
        return "".join(names) + (f"<dup.{extra}>" if extra and names else "")

    def chips(self, view: str, pattern: Pattern) -> str:
        """Return a pattern as coloured HTML tokens: blue where modalities share the level, orange where not."""
        parts = []
        for level, code in enumerate(pattern):
            if code == NULL:
                continue
            ground = FREE if code is None else SHARED if self.is_shared(view, level) else SPECIFIC
            label = "any" if code is None else self.name(view, level, int(code))
            parts.append(f'<span style="{CHIP};background:{ground}">{escape(label)}</span>')
        return "".join(parts) or '<span style="color:#888">no ID</span>'
