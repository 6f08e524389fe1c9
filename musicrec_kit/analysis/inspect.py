"""The codebook inspector: which items share a code, what lies below a prefix, and what is near an item.

`CodebookInspector(...)` is an ipywidgets panel in JupyterLab; `inspector.sheet()` shows the same as plain HTML where no
browser talks to a kernel (papermill, GitHub). All state is in the object, so that tests need no browser.
"""

from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from musicrec_kit.analysis.code_tree import CodeTree, Pattern
from musicrec_kit.analysis.neighbours import Neighbours
from musicrec_kit.analysis.pictures import Thumbnails, html, shorten, title_of
from musicrec_kit.data import Dataset, Sequences
from musicrec_kit.features import Features
from musicrec_kit.ids import SemanticIds

# a title takes up to three lines under its picture
STYLE = """<style>
.musicrec-tile .widget-html-content {line-height: 1.3}
.musicrec-tile .jupyter-button {white-space: normal; line-height: 1.15; font-size: 11px; padding: 0;
  text-align: left; display: flex; align-items: flex-start}
</style>"""


class CodebookInspector:
    """A panel to look into the codes of a data set.

    Choose a view, a level and a code: the items that share it appear as pictures. Choose below to walk down the tree.
    Click an item: its IDs in every view, and its neighbours by each modality, by ID and by co-purchase.

    Widgets that tests and notebooks may set: `view`, `level`, `code`, `down`, `find`; methods: `up()`, `turn(pages)`,
    `pick(item)`.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: SemanticIds,
        features: Mapping[str, Features] | None = None,
        sequences: Sequences | None = None,
        *,
        tokens: str = "musicrec",
        tiles: int = 18,
    ) -> None:
        """Make the panel; features and sequences are only needed for neighbours."""
        self.dataset = dataset
        self.tree = CodeTree(ids, tokens)
        self.near = Neighbours(sequences if sequences is not None else dataset.sequences(), features, ids)
        self.pictures = Thumbnails(dataset)
        self.items = np.zeros(0, np.int64)
        self.pattern: Pattern = ()
        self.page = 0
        self.item = -1
        self._quiet = False
        self._make_widgets(tiles)
        self._view_chosen()

    # --- what is shown -----------------------------------------------------------------------------------------------

    def neighbours(self, item: int, k: int = 6) -> dict[str, tuple[np.ndarray, list[str]]]:
        """Return sense -> (items, captions): one sense per modality with features, per view, and co-purchase."""
        found: dict[str, tuple[np.ndarray, list[str]]] = {}
        for modality in self.near.features:
            items, scores = self.near.by_features(item, modality, k)
            found[f"by {modality}"] = items, [f"cosine {score:.2f}" for score in scores]
        for view in self.tree.ids.views:
            items, scores = self.near.by_id(item, view, k)
            names = [f"{int(n)} of {self.tree.levels(view)} levels" for n in scores]
            found[f"by {view} ID" if len(self.tree.ids.views) > 1 else "by ID"] = items, names
        items, scores = self.near.by_copurchase(item, k)
        found["by co-purchase"] = items, [f"{int(n)} user{'s' if n > 1 else ''}" for n in scores]
        return found

    def summary(self, items: np.ndarray) -> str:
        """Return one line about a set of items: how many, their share, their most frequent categories."""
        share = len(items) / max(1, self.dataset.n_items)
        line = f"{_items(len(items))}, {share:.1%} of the catalogue"
        last = [names[-1] for names in self.dataset.items["categories"].iloc[items] if len(names)]
        common = ", ".join(f"{name} ({n})" for name, n in Counter(last).most_common(3))
        return line + (f"; most frequent: {common}" if common else "")

    def describe(self, item: int) -> str:
        """Return an item as HTML: picture, title, what is said of it, its ID in every view."""
        row = self.dataset.items.iloc[item]
        said = escape(shorten(" · ".join(filter(None, [row["brand"], *row["categories"]])), 120))
        more = escape(shorten(row["description"], 260))
        ids = "".join(
            f'<div><span style="display:inline-block;width:64px;color:#888">{escape(view)}</span>'
            f"{self.tree.chips(view, tuple(int(c) for c in codes[item]))}</div>"
            for view, codes in self.tree.ids.views.items()
        )
        return (
            f'<div style="display:flex;gap:14px;font:13px/1.5 sans-serif">{self.pictures.image(item, 150)}<div>'
            f'<div style="font-size:15px;font-weight:600">{escape(title_of(self.dataset, item))}</div>'
            f'<div style="color:#888">{said}</div><div style="max-width:640px">{more}</div>{ids}</div></div>'
        )

    def sheet(self, view: str | None = None, codes: int = 4, tiles: int = 8, item: int | None = None) -> Any:
        """Return a static page: the fullest codes of level 1, one of them walked down, one item and what is near it."""
        view = view or str(self.view.value)
        first = self.tree.children(view, ())
        parts = [_title(f"View {view}: the {min(codes, len(first))} fullest codes of level 1, {len(first)} in use")]
        parts += [self._group(view, (int(code),), tiles) for code in first["code"].head(codes)]
        if len(first) and self.tree.levels(view) > 1:
            start = (int(first["code"].iloc[0]),)
            below = self.tree.children(view, start)
            parts.append(_title(f"One step down: {len(below)} codes follow"))
            parts += [self._group(view, (*start, int(code)), tiles) for code in below["code"].head(codes)]
        with_id = self.tree.matching(view, ())
        if item is None and len(with_id):
            item = int(self.items[0]) if len(self.items) else int(with_id[0])
        if item is not None:
            parts += [_title("One item, and what is near it"), self.describe(item)]
            parts += [self._near_row(name, *found) for name, found in self.neighbours(item, tiles).items()]
        return html(f'<div style="font:13px/1.5 sans-serif">{"".join(parts)}</div>')

    def _group(self, view: str, pattern: Pattern, tiles: int) -> str:
        items = self.tree.matching(view, pattern)
        head = f"<div style='margin-top:8px'>{self.tree.chips(view, pattern)} {escape(self.summary(items))}</div>"
        return head + self.pictures.row(items[:tiles], side=84)

    def _near_row(self, name: str, items: np.ndarray, captions: list[str]) -> str:
        body = self.pictures.row(items, captions, side=84) if len(items) else "<i>nothing</i>"
        return f"<div style='margin-top:6px;font-weight:600'>{escape(name)}</div>{body}"

    # --- the panel ---------------------------------------------------------------------------------------------------

    def _make_widgets(self, tiles: int) -> None:
        import ipywidgets as w

        wide, narrow = w.Layout(width="230px"), w.Layout(width="40px")
        views, row = list(self.tree.ids.views), w.Layout(width="max-content")
        self.view = w.ToggleButtons(options=views, description="View", style={"button_width": "90px"}, layout=row)
        self.level = w.ToggleButtons(options=[1], description="Level", style={"button_width": "48px"}, layout=row)
        self.code = w.Dropdown(options=[], description="Code", layout=w.Layout(width="300px"))
        self.find = w.Text(placeholder="part of a title or raw id", description="Find", continuous_update=False)
        self.down = w.Select(options=[], rows=12, layout=wide)
        self.up_button = w.Button(description="one level up", icon="arrow-up", layout=wide)
        self.earlier = w.Button(icon="chevron-left", tooltip="earlier items", layout=narrow)
        self.later = w.Button(icon="chevron-right", tooltip="later items", layout=narrow)
        self.path, self.pages, self.about, self.near_box = w.HTML(), w.HTML(), w.HTML(), w.VBox([])
        self.grid = [self._tile(w, 112) for _ in range(tiles)]
        self.rows: dict[str, list[Any]] = {}
        self._connect()
        column = w.Layout(flex="0 0 246px", margin="0 12px 0 0")
        tree = w.VBox([w.HTML("<b>Walk down the tree</b>"), self.up_button, self.down], layout=column)
        pictures = w.Box([t["box"] for t in self.grid], layout=w.Layout(display="flex", flex_flow="row wrap"))
        turn = w.HBox([self.earlier, self.pages, self.later])
        shown = w.VBox([self.path, turn, pictures], layout=w.Layout(width="100%"))
        controls = [w.HBox([self.view, self.level]), w.HBox([self.code, self.find])]
        self.panel = w.VBox([w.HTML(STYLE), *controls, w.HBox([tree, shown]), self.about, self.near_box])
        self.panel.add_class("musicrec-inspector")

    def _connect(self) -> None:
        self.view.observe(lambda _: self._view_chosen(), names="value")
        self.level.observe(lambda _: self._level_chosen(), names="value")
        self.code.observe(lambda _: self._code_chosen(), names="value")
        self.down.observe(lambda _: self._walk(), names="value")
        self.find.observe(lambda _: self._search(), names="value")
        self.up_button.on_click(lambda _: self.up())
        self.earlier.on_click(lambda _: self.turn(-1))
        self.later.on_click(lambda _: self.turn(1))

    def _tile(self, w: Any, side: int) -> dict[str, Any]:
        picture, button = w.HTML(), w.Button(layout=w.Layout(width=f"{side}px", height="42px", margin="0"))
        button.style.button_color = "transparent"
        tile = {"picture": picture, "button": button, "item": -1, "side": side}
        tile["box"] = w.VBox([picture, button], layout=w.Layout(width=f"{side + 8}px", margin="2px"))
        tile["box"].add_class("musicrec-tile")
        button.on_click(lambda _: self.pick(tile["item"]))
        return tile

    def _fill(self, tiles: list[dict[str, Any]], items: np.ndarray, captions: list[str] | None = None) -> None:
        """Show items in the tiles that are there, and hide the tiles that are left."""
        for place, tile in enumerate(tiles):
            tile["box"].layout.display = "flex" if place < len(items) else "none"
            if place < len(items):
                tile["item"] = int(items[place])
                title = title_of(self.dataset, tile["item"])
                below = (
                    f'<div style="font:11px sans-serif;color:#888">{escape(captions[place])}</div>' if captions else ""
                )
                tile["picture"].value = self.pictures.image(tile["item"], tile["side"]) + below
                # a button writes its description as text, never as HTML
                tile["button"].description, tile["button"].tooltip = shorten(title, 40), title

    def _view_chosen(self) -> None:
        view = str(self.view.value)
        self._quiet = True
        self.level.options = list(range(1, self.tree.levels(view) + 1))
        self.level.value = 1
        self._quiet = False
        self._level_chosen()

    def _level_chosen(self) -> None:
        if self._quiet:
            return
        before: Pattern = (None,) * (int(self.level.value) - 1)
        found = self.tree.children(str(self.view.value), before)
        self._quiet = True
        options = zip(found["token"], found["items"], found["code"], strict=True)
        self.code.options = [(f"{token}   {_items(items)}", int(code)) for token, items, code in options]
        self.code.index = 0 if len(found) else None
        self._quiet = False
        self._code_chosen()

    def _code_chosen(self) -> None:
        if not self._quiet and self.code.value is not None:
            self.show((*(None,) * (int(self.level.value) - 1), int(self.code.value)))

    def _walk(self) -> None:
        if not self._quiet and self.down.value is not None:
            self.show((*self.pattern, int(self.down.value)))

    def _search(self) -> None:
        wanted = str(self.find.value).strip().lower()
        if wanted:
            table = self.dataset.items
            fits = table["title"].str.lower().str.contains(wanted, regex=False) | (
                table["raw_id"].str.lower() == wanted
            )
            self._set_items(np.flatnonzero(fits.to_numpy()), f"<b>{escape(wanted)}</b>")

    def show(self, pattern: Pattern) -> None:
        """Show the items that match a pattern and the codes that come next."""
        view, self.pattern = str(self.view.value), pattern
        below = self.tree.children(view, pattern)
        self._quiet = True
        options = zip(below["token"], below["items"], below["code"], strict=True)
        self.down.options = [(f"{token}   {_items(items)}", int(code)) for token, items, code in options]
        self.down.value = None
        self._quiet = False
        self.up_button.disabled = not any(code is not None for code in pattern[:-1])
        self._set_items(self.tree.matching(view, pattern), self.tree.chips(view, pattern))

    def up(self) -> None:
        """Go back to the prefix without its last code."""
        if any(code is not None for code in self.pattern[:-1]):
            self.show(self.pattern[:-1])

    def _set_items(self, items: np.ndarray, head: str) -> None:
        self.items, self.page = items, 0
        self.path.value = f'<div style="font:13px/1.8 sans-serif">{head} {escape(self.summary(items))}</div>'
        self.turn(0)
        if len(items):
            self.pick(int(items[0]))

    def turn(self, pages: int) -> None:
        """Show later (1) or earlier (-1) items of the same group."""
        size = len(self.grid)
        last = max(0, (len(self.items) - 1) // size)
        self.page = min(max(self.page + pages, 0), last)
        here = self.items[self.page * size : (self.page + 1) * size]
        self.earlier.disabled, self.later.disabled = self.page == 0, self.page == last
        first = self.page * size + 1
        self.pages.value = f"{first} to {first + len(here) - 1} of {len(self.items):,}" if len(here) else "no item"
        self._fill(self.grid, here)

    def pick(self, item: int) -> None:
        """Show an item's IDs and neighbours."""
        import ipywidgets as w

        self.item = int(item)
        self.about.value = "<hr>" + self.describe(self.item)
        found = self.neighbours(self.item, 8)
        if list(found) != list(self.rows):
            self.rows = {name: [self._tile(w, 88) for _ in range(8)] for name in found}
            label = '<div style="width:110px;font:600 12px sans-serif">{}</div>'
            boxes = [[w.HTML(label.format(escape(name)))] + [t["box"] for t in row] for name, row in self.rows.items()]
            self.near_box.children = [w.HBox(box, layout=w.Layout(margin="4px 0")) for box in boxes]
        for name, (items, captions) in found.items():
            self._fill(self.rows[name], items, captions)

    def _repr_mimebundle_(self, **arguments: Any) -> Any:
        return self.panel._repr_mimebundle_(**arguments)


def _items(n: int) -> str:
    return f"{n:,} item{'' if n == 1 else 's'}"


def _title(text: str) -> str:
    return f'<div style="margin-top:14px;font-size:15px;font-weight:600">{escape(text)}</div>'
