"""What every source gives: interactions and items in the source's own ids, before any filter."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

INTERACTION_COLUMNS = ("raw_user", "raw_item", "rating", "time", "order")
ITEM_COLUMNS = ("raw_id", "title", "description", "brand", "categories", "image")


@dataclass(frozen=True)
class RawTables:
    """Interactions and items as a source tells them.

    Attributes:
        interactions: raw_user str, raw_item str, rating float64 (NaN: unknown), time Int64 seconds (null: unknown),
            order int64 (row in the file; a user's rows of equal or unknown time stay in this order).
        items: raw_id str (unique), title str, description str, brand str (empty: unknown), categories list[str],
            image (name inside `images`, with / as separator, or None).
        images: folder or tar that holds the pictures, or None.
        numbered: the rows of `items` are the item numbers; an item without interactions then stays in the catalogue.
        about: facts for the manifest (JSON values), such as what was skipped while reading.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    images: Path | None = None
    numbered: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert tuple(self.interactions.columns) == INTERACTION_COLUMNS, list(self.interactions.columns)
        assert tuple(self.items.columns) == ITEM_COLUMNS, list(self.items.columns)
        assert self.items["raw_id"].is_unique
