"""musicrec_kit: multimodal generative recommendation, from raw items to ranked recommendations."""

from musicrec_kit import torchvision_hook

torchvision_hook.install()

__version__ = "0.1.0"
