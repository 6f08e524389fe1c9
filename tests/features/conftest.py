"""A catalogue of ten items: some without text, some without a picture, one with a broken picture."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from musicrec_kit.data.dataset import Dataset
from musicrec_kit.data.images import ImageStore

TITLES = ["kalimba", "red guitar", "", "oak drum", "harp", "guitar strap", "flute of bamboo", "bow", "reed", "tuner"]
DESCRIPTIONS = ["seventeen keys", "", "", "a drum of oak", "", "wide strap", "soft tone", "for cello", "size two", ""]
NO_PICTURE, BROKEN, ABSENT = 3, 5, 6


@pytest.fixture
def catalogue(tmp_path: Path) -> Dataset:
    folder = tmp_path / "world" / "images"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for item in range(10):
        size = (int(rng.integers(40, 90)), int(rng.integers(40, 90)))
        picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size)
        picture.save(folder / f"{item}.png")
    (folder / f"{BROKEN}.png").write_bytes(b"no picture at all")
    (folder / f"{ABSENT}.png").unlink()
    items = pd.DataFrame(
        {
            "item": np.arange(10),
            "raw_id": [f"B{item:03d}" for item in range(10)],
            "title": TITLES,
            "description": DESCRIPTIONS,
            "brand": "",
            "categories": [["a", "b"]] * 10,
            "image": [None if item == NO_PICTURE else f"{item}.png" for item in range(10)],
        }
    )
    interactions = pd.DataFrame(columns=["user", "item", "time", "position", "split"])
    return Dataset("ten", interactions, items, {"users": 0, "fingerprint": "f"}, ImageStore(folder))
