"""CLIP's two towers, from open_clip or from transformers; both towers end in the same space, rows un-normalised.

The papers use ViT-L/14 (768-d). OpenAI's weights want the names with `-quickgelu` (open_clip's plain names use GELU).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from musicrec_kit import runs
from musicrec_kit.features.image import ImageEncoder
from musicrec_kit.features.text import TextEncoder, load_model, model_folder
from musicrec_kit.params import FeatureParams, Refused

log = logging.getLogger(__name__)

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def open_clip_text(params: FeatureParams, data_root: Path | None, device: str) -> TextEncoder:
    """Return open_clip's text tower; longer texts are cut at its limit, CLIP's 77 tokens (lineage.md row 54)."""
    import open_clip

    model, _, name = _open_clip(params, data_root, device)
    tokenizer = open_clip.get_tokenizer(_schema_or_name(params))

    def encode(texts: list[str]) -> np.ndarray:
        return model.encode_text(tokenizer(texts).to(device)).float().cpu().numpy()

    return TextEncoder(name, encode)


def open_clip_image(params: FeatureParams, data_root: Path | None, device: str) -> ImageEncoder:
    """Return open_clip's image tower behind the model's own preprocessing."""
    model, transform, name = _open_clip(params, data_root, device)

    def encode(pictures: list[np.ndarray]) -> np.ndarray:
        return model.encode_image(torch.from_numpy(np.stack(pictures)).to(device)).float().cpu().numpy()

    return ImageEncoder(name, lambda image: transform(image).numpy(), encode)


def _schema_or_name(params: FeatureParams) -> str:
    assert params.model is not None
    return params.model


def _open_clip(
    params: FeatureParams, data_root: Path | None, device: str
) -> tuple[Any, Callable[[Image.Image], Any], str]:
    """Return (model in evaluation mode, its preprocessing, printable name)."""
    import open_clip

    how = (
        "set features.<modality>.model to a name of open_clip.list_models(), such as ViT-L-14, and "
        "features.<modality>.pretrained to a local checkpoint file, or to a tag such as laion2b_s32b_b82k (downloads)"
    )
    local_folder = (params.model or "").startswith("local-dir:")
    if params.model is None or (params.pretrained is None and not local_folder):
        raise Refused(f"encoder open_clip has no weights (model {params.model}, pretrained {params.pretrained}): {how}")
    if not local_folder and params.model not in open_clip.list_models():
        raise Refused(f"open_clip knows no model {params.model!r}: {how}")
    pretrained = None if local_folder else _checkpoint_or_tag(params, data_root)
    try:
        model, _, transform = open_clip.create_model_and_transforms(params.model, pretrained=pretrained, device=device)
    except Exception as error:
        raise Refused(f"open_clip cannot load {params.model} with {pretrained}: {error}; {how}") from error
    label = params.model if local_folder else f"{params.model} ({Path(str(pretrained)).name})"
    return model.eval(), transform, f"open_clip {label}"


def _checkpoint_or_tag(params: FeatureParams, data_root: Path | None) -> str:
    """Return the path of a local checkpoint, or a tag that open_clip will download; anything else is refused."""
    import open_clip

    assert params.pretrained is not None and params.model is not None
    path = Path(params.pretrained) if data_root is None else data_root / params.pretrained
    if path.is_file():
        return str(path)
    tags = open_clip.list_pretrained_tags_by_model(params.model)
    if params.pretrained not in tags:
        raise Refused(
            f"open_clip: {params.pretrained!r} is neither a file (looked for {path}) "
            f"nor a pretrained tag of {params.model}; tags: {', '.join(tags) or 'none'}"
        )
    log.info("open_clip: weights %s of %s are downloaded unless they are in its cache", params.pretrained, params.model)
    return params.pretrained


def hf_clip_text(params: FeatureParams, data_root: Path | None, device: str) -> TextEncoder:
    """Return the text tower of a transformers CLIPModel in a local folder, projected."""
    from transformers import AutoTokenizer

    folder, model = _hf_clip(params, data_root, device)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    limit = model.config.text_config.max_position_embeddings

    def encode(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(device)
        pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return model.text_projection(pooled).float().cpu().numpy()

    return TextEncoder(f"hf_clip {folder.name}", encode)


def hf_clip_image(params: FeatureParams, data_root: Path | None, device: str) -> ImageEncoder:
    """Return the image tower of a transformers CLIPModel in a local folder, projected."""
    folder, model = _hf_clip(params, data_root, device)
    found = folder / "preprocessor_config.json"
    config = runs.read_json(found) if found.is_file() else {}
    mean = np.array(config.get("image_mean", OPENAI_MEAN), np.float32)
    std = np.array(config.get("image_std", OPENAI_STD), np.float32)
    side = model.config.vision_config.image_size

    def encode(pictures: list[np.ndarray]) -> np.ndarray:
        pixels = (np.stack(pictures).astype(np.float32) / 255 - mean) / std
        pooled = model.vision_model(pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)).pooler_output
        return model.visual_projection(pooled).float().cpu().numpy()

    return ImageEncoder(f"hf_clip {folder.name}", lambda image: centre_square(image, side), encode)


def centre_square(image: Image.Image, side: int) -> np.ndarray:
    """Return uint8 [side, side, 3]: the shorter side brought to `side` (bicubic), the middle cut out, as CLIP does."""
    width, height = image.size
    shorter = min(width, height)
    width, height = int(side * width / shorter), int(side * height / shorter)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.uint8)


def _hf_clip(params: FeatureParams, data_root: Path | None, device: str) -> tuple[Path, Any]:
    from transformers import CLIPModel

    folder = model_folder(params, data_root, "the weights of a transformers CLIPModel")
    return folder, load_model(CLIPModel, folder, device)
