"""The networks round a quantiser: MLP and input scaling."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between them and none at the end; xavier-normal weights, zero biases (LC-Rec)."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network is trained: products in bf16, or as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def near_identity(dim: int) -> nn.Linear:
    """Return Linear(dim -> dim) that starts near the identity: 1 % of xavier noise on it, zero bias."""
    linear = nn.Linear(dim, dim)
    nn.init.xavier_normal_(linear.weight, gain=0.01)
    with torch.no_grad():
        linear.weight += torch.eye(dim)
    nn.init.zeros_(linear.bias)
    return linear


def to_cf(width: int, cf_dim: int | None) -> nn.Module:
    """Return a learned linear map onto z_cf's width for the alignment loss, or nothing where the widths agree."""
    return nn.Identity() if cf_dim is None or width == cf_dim else nn.Linear(width, cf_dim, bias=False)


class Scaling(nn.Module):
    """(x - mean) / scale with statistics of the items that have the modality; saved, so that new items pass alike."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def measure(
        self,
        features: Float[Tensor, "items dim"],
        present: Bool[Tensor, " items"],
        scaling: str = "columns",
        unit_norm: bool = False,
    ) -> None:
        """Take the mean and the scale: each column's deviation, or one number for a mean square of 1 ("modality").

        A column that does not vary keeps scale 1. With `unit_norm` one more factor makes the mean squared norm 1.
        """
        rows = features[present].double()
        mean, scale = rows.mean(0), torch.ones_like(rows[0])
        if scaling == "columns":
            deviation = rows.std(0, correction=0)
            # relative to the column's size: the rounding of a constant column must not be blown up
            scale = torch.where(deviation > 1e-6 * rows.abs().amax(0).clamp_min(1e-30), deviation, 1.0)
        if unit_norm or scaling == "modality":
            squares = ((rows - mean) / scale).square()
            norm = (squares.sum(1).mean() if unit_norm else squares.mean()).sqrt()
            scale = scale * torch.where(norm > 0, norm, 1.0)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return (features - self.mean) / self.scale

    def undo(self, scaled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return scaled features in their own units."""
        return scaled * self.scale + self.mean
