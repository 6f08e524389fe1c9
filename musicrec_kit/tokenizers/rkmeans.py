"""RK-means: layer-wise k-means on residuals, without networks or gradients (GRID's recommended tokenizer).

Each modality is centred and divided by one number (by its columns' deviations first, where `scaling` says so), such
that the mean squared norm of an item is 1: in the shared-specific form every modality then has the same say in the
joint latent [x_t; x_i], whatever its width. No PCA: the split parts keep their widths. An item without a
modality enters with the modality's mean, 0; the shared-specific form gives it codes in every stream, the separate form
-1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.mlp import Scaling
from musicrec_kit.tokenizers.split_residual import SplitResidual


class RKMeans(nn.Module):
    """One modality, or several with shared levels. `init`, `epochs` and all losses' weights are not read."""

    def __init__(self, dims: dict[str, int], params: TokenizerParams):
        super().__init__()
        self.names, self.params = tuple(dims), params
        self.gives_missing_codes = params.kind == "shared_specific_rkmeans"
        levels = (params.shared_levels, params.specific_levels) if self.gives_missing_codes else (0, params.levels)
        self.scalings = nn.ModuleList(Scaling(width) for width in dims.values())
        self.quantizer = SplitResidual(dims, params.codes, *levels)
        self.requires_grad_(False)

    def latents(self, items: Items) -> Float[Tensor, "batch dim"]:
        """Return the scaled features side by side, 0 where a modality is missing."""
        parts = [
            torch.where(items.present[name][:, None], scaling(items.features[name]), 0.0)
            for name, scaling in zip(self.names, self.scalings, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def decode(self, name: str, z_hat: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return the sum of codes in the features' own units: there is no decoder."""
        return self.scalings[self.names.index(name)].undo(z_hat)  # type: ignore[operator]

    def fit_codebooks(self, items: Items, seed: int) -> None:
        """Measure the scaling and run k-means level by level on all items."""
        for name, scaling in zip(self.names, self.scalings, strict=True):
            scaling.measure(  # type: ignore[operator]
                items.features[name], items.present[name], self.params.chosen("scaling"), unit_norm=True
            )
        params = self.params.model_copy(update={"init": "kmeans"})
        self.quantizer.start(self.latents(items), items.present, params, seed)
