"""One call for every frozen encoder: items of a data set in, Features out."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from musicrec_kit import runs, seeds
from musicrec_kit.features.shards import encode_in_shards
from musicrec_kit.features.store import Features, checked, read_matrix, shard_folder
from musicrec_kit.params import FeatureParams, Refused

if TYPE_CHECKING:
    from musicrec_kit.data.dataset import Dataset

log = logging.getLogger(__name__)

Kind = Literal["text", "image"]
KIND_WORDS: dict[Kind, tuple[str, ...]] = {
    "text": ("text", "title", "description", "txt"),
    "image": ("image", "img", "picture", "poster", "photo", "visual"),
}
# what an encoder reads -> module and function that makes it; modules are imported when asked for, torch with them
MODELS: dict[str, dict[Kind, tuple[str, str]]] = {
    "minilm": {"text": ("text", "minilm")},
    "sentence": {"text": ("text", "sentence")},
    "llama": {"text": ("text", "llama")},
    "efficientnet_lite0": {"image": ("image", "efficientnet_lite0")},
    "open_clip": {"text": ("clip", "open_clip_text"), "image": ("clip", "open_clip_image")},
    "hf_clip": {"text": ("clip", "hf_clip_text"), "image": ("clip", "hf_clip_image")},
}


def extract(
    dataset: "Dataset",
    modality: str,
    params: FeatureParams,
    folder: Path | None = None,
    device: str = "cpu",
    data_root: Path | None = None,
) -> Features:
    """Return the features of one modality for every item of a data set.

    Args:
        modality: the name of the result; it also tells text from image when `params.kind` is auto.
        folder: where a long extraction keeps its shards: called again after a kill, it continues to equal bytes.
            `Features.save` into the same folder removes them.
        data_root: what relative paths in the settings start from; else the working folder.

    Raises:
        Refused: weights, packages or files are missing or wrong; no item has the modality.
    """
    direct = {"file": _from_file, "properties": _from_properties, "noise": _from_noise}
    if params.encoder in direct:
        return direct[params.encoder](dataset, modality, params, data_root)
    kind = kind_of(modality, params)
    encode_kind = _from_text if kind == "text" else _from_images
    matrix, present, name = encode_kind(dataset, modality, params, folder, device, data_root)
    return Features(modality, *checked(matrix, present, f"{modality} by {name}"), name)


def kind_of(modality: str, params: FeatureParams) -> Kind:
    """Return whether a modality's encoder reads text or images; refuse what cannot be told."""
    able = list(MODELS[params.encoder])
    kind: Kind
    if params.kind != "auto":
        kind = params.kind
    elif len(able) == 1:
        kind = able[0]
    else:
        named = [k for k, words in KIND_WORDS.items() if any(word in modality.lower() for word in words)]
        if len(named) != 1:
            raise Refused(f"encoder {params.encoder} reads text or images: set features.{modality}.kind to one of them")
        kind = named[0]
    if kind not in able:
        raise Refused(
            f"encoder {params.encoder} reads {able[0]}s, not {kind}s; choose another features.{modality}.encoder"
        )
    return kind


def _load(kind: Kind, params: FeatureParams, data_root: Path | None, device: str) -> Any:
    import importlib

    module, function = MODELS[params.encoder][kind]
    make: Callable[..., Any] = getattr(importlib.import_module(f"musicrec_kit.features.{module}"), function)
    return make(params, data_root, device)


def _from_text(
    dataset: "Dataset", modality: str, params: FeatureParams, folder: Path | None, device: str, data_root: Path | None
) -> tuple[np.ndarray, np.ndarray, str]:
    import torch

    from musicrec_kit.features.text import encode_items, item_texts

    texts = item_texts(dataset.items, params.fields, params.pool)
    encoder = _load("text", params, data_root, device)
    # long texts first: little padding in a batch, and too large a batch shows at once
    order = np.array(
        sorted((i for i, t in enumerate(texts) if t), key=lambda i: -sum(map(len, texts[i]))), dtype=np.int64
    )

    def encode(ready: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            return encode_items(ready, encoder), np.ones(len(ready), bool)

    read = lambda items: [texts[i] for i in items]
    request = _request(params, encoder.name, ["\x1f".join(strings) for strings in texts])
    shards = None if folder is None else shard_folder(folder, modality)
    return *encode_in_shards(order, params.batch, read, encode, len(texts), shards, request, modality), encoder.name


def _from_images(
    dataset: "Dataset", modality: str, params: FeatureParams, folder: Path | None, device: str, data_root: Path | None
) -> tuple[np.ndarray, np.ndarray, str]:
    import torch

    names = [name if isinstance(name, str) and name else None for name in dataset.items["image"]]
    encoder = _load("image", params, data_root, device)
    order = np.array([i for i, name in enumerate(names) if name is not None], dtype=np.int64)
    unreadable: list[str] = []

    def read(items: np.ndarray) -> list[np.ndarray | None]:
        pictures: list[np.ndarray | None] = []
        for name in (names[i] for i in items):
            assert name is not None
            try:
                pictures.append(encoder.prepare(dataset.images.open(name)))
            except Refused as error:
                log.debug("%s", error)
                unreadable.append(name)
                pictures.append(None)
        return pictures

    def encode(pictures: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        good = [picture for picture in pictures if picture is not None]
        present = np.array([picture is not None for picture in pictures])
        with torch.inference_mode():
            rows = encoder.encode(good or [encoder.prepare(_blank())])
        matrix = np.zeros((len(pictures), rows.shape[1]), np.float32)
        matrix[present] = rows[: len(good)]
        return matrix, present

    request = _request(params, encoder.name, [dataset.manifest.get("fingerprint", ""), *(name or "" for name in names)])
    shards = None if folder is None else shard_folder(folder, modality)
    result = encode_in_shards(order, params.batch, read, encode, len(names), shards, request, modality)
    if unreadable:
        log.warning(
            "%s: %d pictures cannot be read and are taken as missing, first %s",
            modality,
            len(unreadable),
            unreadable[0],
        )
    return *result, encoder.name


def _blank() -> Any:
    """Return a picture that only tells the width of a row, where a whole batch is unreadable."""
    from PIL import Image

    return Image.new("RGB", (64, 64))


def _request(params: FeatureParams, encoder: str, inputs: Sequence[str]) -> str:
    """Return a key of what is asked: settings, encoder and inputs."""
    digest = hashlib.sha256("\x1e".join(inputs).encode("utf-8", "surrogatepass")).hexdigest()
    return runs.key_of({"params": params.model_dump(), "encoder": encoder, "inputs": digest})


def _resolve(path: str, data_root: Path | None) -> Path:
    return Path(path) if data_root is None else data_root / path


def _from_file(dataset: "Dataset", modality: str, params: FeatureParams, data_root: Path | None) -> Features:
    """Return a matrix that the user brings; nothing is encoded."""
    if params.file is None:
        raise Refused(f"features.{modality} has no encoder and no file; set features.{modality}.file or .encoder")
    path = _resolve(params.file, data_root)
    ids = None if params.ids is None else _resolve(params.ids, data_root)
    return Features(modality, *read_matrix(path, dataset.items["raw_id"].tolist(), ids), f"file {path.name}")


def _from_properties(dataset: "Dataset", modality: str, params: FeatureParams, data_root: Path | None) -> Features:
    """Return the properties that a demo item shows in this modality, as drawn: what a perfect encoder would read."""
    from musicrec_kit.data.demo import property_matrix

    shown = None if params.fields == FeatureParams().fields else params.fields
    if dataset.images.root is None:
        raise Refused("encoder properties reads the demo's own properties, and this data set has no demo folder")
    matrix = property_matrix(dataset.images.root.parent, modality, dataset.items["raw_id"].tolist(), shown)
    return Features(modality, *checked(matrix, np.ones(len(matrix), bool), f"{modality} by properties"), "properties")


def _from_noise(dataset: "Dataset", modality: str, params: FeatureParams, data_root: Path | None) -> Features:
    """Return N(0, 1) rows that know nothing: the control of every claim about features."""
    matrix = seeds.generator(params.seed, "noise", modality).standard_normal((dataset.n_items, params.dim), np.float32)
    return Features(modality, matrix, np.ones(len(matrix), bool), f"noise {params.dim}-d")
