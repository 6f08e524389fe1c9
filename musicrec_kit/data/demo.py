"""The demo data set "shoppers" ("ours"): drawn products, generated shoppers, and what can be known about them.

`generate` writes into a folder, the same bytes for the same settings:
    images/<raw_id>.png, properties.parquet (the true properties), partners.parquet (items bought together),
    ceilings.json (the best that anyone can reach, computed before any training), world.json (settings, and what each
    modality shows).

Null worlds are settings: shuffled_pictures=True (pictures are irrelevant: every item shows another one's), copurchase=0
(nothing that only behaviour tells), all_shared=True (text and picture each show every property). With image_weight=0
pictures still show the kind, which matters: a second, independent look at what the text says, too.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from musicrec_kit import runs, seeds
from musicrec_kit.data.demo_pictures import COLOURS, PATTERNS, Look, write_pictures
from musicrec_kit.data.demo_process import (
    PARTNER_WEIGHTS,
    World,
    ceilings,
    draw_sequences,
    make_world,
    visible_properties,
)
from musicrec_kit.data.demo_texts import KINDS, MATERIALS, PURPOSES, write_text
from musicrec_kit.data.raw import INTERACTION_COLUMNS, ITEM_COLUMNS, RawTables
from musicrec_kit.params import DemoParams, Refused

log = logging.getLogger(__name__)

OPENING = 1_704_067_200  # seconds, 2024-01-01: the shop's first day
DAY = 86_400
NOISE = 0.05  # standard deviation of the noise in `property_matrix`


def generate(params: DemoParams, folder: Path) -> RawTables:
    """Draw the world, its ceilings, texts and pictures into `folder`, and return the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    world = make_world(params)
    properties = name_properties(world)
    sequences = draw_sequences(world)
    reachable = ceilings(world, sequences)
    shown = {name: list(visible) for name, visible in visible_properties(params).items()}
    # pattern and material are no part of the process, but the modalities show them
    shown["text"].append("material")
    shown["image"] += ["pattern", "material"]
    runs.write_json(folder / "ceilings.json", reachable)
    runs.write_json(folder / "world.json", {"params": params.model_dump(), "visible": shown})
    runs.write_table(folder / "properties.parquet", properties)
    runs.write_table(folder / "partners.parquet", _partners_table(world, properties))
    items = _items_table(properties, params)
    _draw(properties.iloc[pictured_items(params)], properties["raw_id"], params, folder / "images")
    log.info("demo: %d items and %d shoppers in %s", params.items, params.users, folder)
    about = {"source": "demo", "ceilings": reachable, "visible": shown, "demo": params.model_dump()}
    return RawTables(_interactions_table(sequences, properties, params), items, folder / "images", True, about)


def name_properties(world: World) -> pd.DataFrame:
    """Return raw_id, kind, purpose, colour, pattern, material and finish (how the material looks), in words."""
    kinds, purposes, colours = list(KINDS), list(PURPOSES), list(COLOURS)
    kind = [kinds[i] for i in world.properties["kind"]]
    material = [MATERIALS[name][i] for name, i in zip(kind, world.properties["material"], strict=True)]
    return pd.DataFrame(
        {
            "raw_id": [f"item-{i:0{len(str(world.params.items))}d}" for i in range(1, world.params.items + 1)],
            "kind": kind,
            "purpose": [purposes[i] for i in world.properties["purpose"]],
            "colour": [colours[i] for i in world.properties["colour"]],
            "pattern": [PATTERNS[i] for i in world.properties["pattern"]],
            "material": [word for word, _ in material],
            "finish": [finish for _, finish in material],
        }
    )


def pictured_items(params: DemoParams) -> np.ndarray:
    """Return int64[items]: whose picture an item shows. Its own, save in the null world of shuffled pictures."""
    if not params.shuffled_pictures:
        return np.arange(params.items)
    return seeds.generator(params.seed, "demo", "shuffled pictures").permutation(params.items)


def properties_of(folder: Path) -> pd.DataFrame:
    """Return the true properties of a generated folder: raw_id, kind, purpose, colour, pattern, material, finish."""
    path = folder / "properties.parquet"
    if not path.exists():
        raise Refused(f"true properties of the items: {path} does not exist; only the source demo knows them")
    return runs.read_table(path)


def property_matrix(
    folder: Path, modality: str, raw_ids: Sequence[str] | None = None, shown: Sequence[str] | None = None
) -> np.ndarray:
    """Return float32[items, dim]: one-hot true properties that the modality shows, with a little seeded noise.

    The encoder `properties` of fast tests: what a perfect frozen encoder would see, without weights.

    Args:
        raw_ids: the items of the rows; None gives all, in the order of `properties_of`.
        shown: the properties; None gives those that the demo shows by this modality.

    Raises:
        Refused: the folder is no demo data, the demo shows nothing by this modality, or it has no such property.
    """
    properties = properties_of(folder)
    about = runs.read_json(folder / "world.json")
    if unknown := sorted(set(shown or ()) - {"kind", "purpose", "colour"}):
        raise Refused(f"encoder properties: no property {', '.join(unknown)}; an item has kind, purpose and colour")
    if shown is None and modality not in about["visible"]:
        known = ", ".join(about["visible"])
        raise Refused(f"encoder properties for modality {modality}: the demo shows {known}; choose one of them")
    seen = properties.iloc[pictured_items(DemoParams(**about["params"]))] if modality == "image" else properties
    columns = [pd.get_dummies(seen[name]).to_numpy(np.float32) for name in shown or about["visible"][modality]]
    matrix = np.concatenate(columns, axis=1)
    rng = seeds.generator(about["params"]["seed"], "demo", "property_matrix", modality)
    matrix = (matrix + NOISE * rng.standard_normal(matrix.shape)).astype(np.float32)
    if raw_ids is None:
        return matrix
    rows = pd.Index(properties["raw_id"]).get_indexer(pd.Index(raw_ids))
    if (rows < 0).any():
        missing = raw_ids[int(np.flatnonzero(rows < 0)[0])]
        raise Refused(f"encoder properties: item {missing} is not in {folder}; use it only with the source demo")
    return matrix[rows]


def _items_table(properties: pd.DataFrame, params: DemoParams) -> pd.DataFrame:
    rows = []
    for row in properties.to_dict("records"):
        rng = seeds.generator(params.seed, "demo", "text", row["raw_id"])
        colour = row["colour"] if params.all_shared else None
        text = write_text(row["kind"], row["purpose"], row["material"], colour, rng)
        image = f"{row['raw_id']}.png"
        rows.append((row["raw_id"], text.title, text.description, text.brand, text.categories, image))
    return pd.DataFrame(rows, columns=list(ITEM_COLUMNS))


def _draw(looks_of: pd.DataFrame, raw_ids: pd.Series, params: DemoParams, folder: Path) -> None:
    """Draw a picture for every raw id, of the item in the same row of `looks_of`."""
    looks, names, rngs = [], [], []
    for raw_id, row in zip(raw_ids, looks_of.to_dict("records"), strict=True):
        purpose = row["purpose"] if params.all_shared else None
        looks.append(Look(row["kind"], row["colour"], row["pattern"], row["finish"], purpose))
        names.append(f"{raw_id}.png")
        rngs.append(seeds.generator(params.seed, "demo", "picture", raw_id))
    write_pictures(looks, names, folder, params.image_side, rngs)


def _partners_table(world: World, properties: pd.DataFrame) -> pd.DataFrame:
    """Return raw_id, partner, weight: three rows per item."""
    raw_ids = properties["raw_id"].to_numpy()
    return pd.DataFrame(
        {
            "raw_id": np.repeat(raw_ids, world.partners.shape[1]),
            "partner": raw_ids[world.partners.reshape(-1)],
            "weight": np.tile(PARTNER_WEIGHTS, len(raw_ids)),
        }
    )


def _interactions_table(sequences: list[np.ndarray], properties: pd.DataFrame, params: DemoParams) -> pd.DataFrame:
    """Return the interactions by shopper and time; a shopper starts within 300 days and returns after 1 .. 14 days."""
    rng = seeds.generator(params.seed, "demo", "times")
    lengths = np.array([len(items) for items in sequences])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    gaps = rng.integers(DAY, 14 * DAY, size=lengths.sum())
    gaps[starts] = rng.integers(0, 300 * DAY, size=len(lengths))
    total = np.cumsum(gaps)
    times = OPENING + total - np.repeat(total[starts] - gaps[starts], lengths)
    width = len(str(len(sequences)))
    users = np.array([f"shopper-{i:0{width}d}" for i in range(1, len(sequences) + 1)], dtype=object)
    frame = pd.DataFrame(
        {
            "raw_user": np.repeat(users, lengths),
            "raw_item": properties["raw_id"].to_numpy()[np.concatenate(sequences)],
            "rating": 5.0,
            "time": pd.array(times, dtype="Int64"),
            "order": np.arange(lengths.sum()),
        }
    )
    return frame[list(INTERACTION_COLUMNS)]
