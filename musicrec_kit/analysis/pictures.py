"""Pictures of items for people: thumbnails, placeholder tiles and HTML that no title can break out of."""

import base64
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from musicrec_kit.data import Dataset
from musicrec_kit.params import Refused

SIDE = 112  # pixels of a thumbnail's side
PLACEHOLDER, LINE = (236, 239, 241), (207, 214, 219)


def thumbnail(dataset: Dataset, item: int, side: int = SIDE) -> Image.Image:
    """Return an item's picture inside a white square of `side` pixels, or a placeholder where it has none."""
    name = dataset.items["image"].iloc[item]
    if name is None or not dataset.images.has(name):
        return placeholder(side)
    try:
        picture = dataset.images.open(name)
    except Refused:  # an unreadable picture is a fault of the data, reported by stage 01, not a reason to show nothing
        return placeholder(side)
    picture = ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def placeholder(side: int = SIDE) -> Image.Image:
    """Return the tile of an item without a picture: grey, with an empty frame."""
    tile = Image.new("RGB", (side, side), PLACEHOLDER)
    draw = ImageDraw.Draw(tile)
    low, high = side // 4, side - side // 4
    draw.rectangle((low, low, high, high), outline=LINE, width=max(1, side // 40))
    draw.line((low, high, high, low), fill=LINE, width=max(1, side // 40))
    return tile


def data_uri(picture: Image.Image) -> str:
    """Return a picture as a `data:` address, so that a notebook holds it without a file."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


class Thumbnails:
    """The thumbnails of one data set as `data:` addresses, the most recent thousand kept."""

    def __init__(self, dataset: Dataset, side: int = SIDE) -> None:
        """Keep the data set; nothing is read yet."""
        self.dataset = dataset
        self.side = side
        self.uri = lru_cache(maxsize=1024)(self._uri)
        self.empty = data_uri(placeholder(side))

    def _uri(self, item: int) -> str:
        name = self.dataset.items["image"].iloc[item]
        return self.empty if name is None else data_uri(thumbnail(self.dataset, item, self.side))

    def image(self, item: int, side: int | None = None) -> str:
        """Return an `<img>` of an item, its title as escaped alternative text."""
        size, label = side or self.side, escape(title_of(self.dataset, item))
        style = f"width:{size}px;height:{size}px;object-fit:contain;border-radius:6px;background:#fff"
        return f'<img src="{self.uri(int(item))}" alt="{label}" title="{label}" style="{style}">'

    def tile(self, item: int, caption: str = "", side: int | None = None) -> str:
        """Return a picture with its title and a small caption below, all escaped."""
        size, title = side or self.side, escape(shorten(title_of(self.dataset, item)))
        below = f'<div style="color:#5f6b73">{escape(caption)}</div>' if caption else ""
        box = f"display:inline-block;vertical-align:top;width:{size}px;margin:4px;font:11px/1.3 sans-serif"
        words = "overflow-wrap:anywhere;margin-top:3px"
        return f'<div style="{box}">{self.image(item, size)}<div style="{words}">{title}</div>{below}</div>'

    def row(self, items: Iterable[int], captions: Iterable[str] = (), side: int | None = None) -> str:
        """Return tiles side by side."""
        items, captions = list(items), list(captions)
        captions += [""] * (len(items) - len(captions))
        tiles = (self.tile(item, caption, side) for item, caption in zip(items, captions, strict=True))
        return f'<div style="display:flex;flex-wrap:wrap">{"".join(tiles)}</div>'


def title_of(dataset: Dataset, item: int) -> str:
    """Return an item's title, or its raw id where it has none."""
    row = dataset.items.iloc[int(item)]
    return str(row["title"]).strip() or f"item {row['raw_id']}"


def shorten(text: str, longest: int = 60) -> str:
    """Return text of at most `longest` characters, the rest as an ellipsis.

    >>> shorten("a blue teapot with stars", 12)
    'a blue teap…'
    """
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 1].rstrip() + "…"


def html(text: str) -> Any:
    """Return HTML that Jupyter displays."""
    from IPython.display import HTML

    return HTML(text)
