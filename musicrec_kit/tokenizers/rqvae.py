"""RQ-VAE of one modality (TIGER, LC-Rec, MQL4GRec), with LETTER's two losses as options."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers import losses
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.mlp import Scaling, autocast, mlp, to_cf
from musicrec_kit.tokenizers.residual import Rule, straight_through
from musicrec_kit.tokenizers.split_residual import SplitResidual, Step, over_levels


class RQVAE(nn.Module):
    """Encoder, residual quantiser with `levels` codebooks, decoder. It is trained on the items that have the modality.

    `alpha` weighs LETTER's CF loss (raw dot products of z-hat with z_cf, no temperature), `beta` MusicRec's eq. 11 on
    z-hat.
    """

    gives_missing_codes = False

    def __init__(self, dims: dict[str, int], params: TokenizerParams, cf_dim: int | None):
        super().__init__()
        ((self.name, width),) = dims.items()
        self.params = params
        self.scaling = Scaling(width)
        self.encoder = mlp([width, *params.hidden, params.dim])
        self.decoder = mlp([params.dim, *reversed(params.hidden), width])
        self.quantizer = SplitResidual({self.name: params.dim}, params.codes, 0, params.levels)
        self.to_cf = to_cf(params.dim, cf_dim if params.alpha else None)

    def encoding_parameters(self) -> list[nn.Parameter]:
        """Return the weights between features and latent."""
        return list(self.encoder.parameters())

    def measure(self, items: Items) -> None:
        """Take the statistics of the inputs, if they are scaled."""
        if (scaling := self.params.chosen("scaling")) != "none":
            self.scaling.measure(items.features[self.name], items.present[self.name], scaling)

    def latents(self, items: Items) -> Float[Tensor, "batch dim"]:
        """Return z = Encoder(x)."""
        return self.encoder(self._scaled(items))

    def _scaled(self, items: Items) -> Tensor:
        x = items.features[self.name]
        return x if self.params.chosen("scaling") == "none" else self.scaling(x)

    def decode(self, name: str, z_hat: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch _"]:
        """Return x-hat = Decoder(z-hat) in the features' own units."""
        return self.scaling.undo(self.decoder(z_hat))

    def forward(
        self,
        items: Items,
        rule: Rule,
        groups: list[list[Tensor]] | None = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        params, present = self.params, items.present[self.name]
        x = self._scaled(items)
        with autocast(params.precision, x.device):
            z = self.encoder(x)
        z = z.float()
        split = self.quantizer(z, rule)
        z_hat = straight_through(z, split.vector)
        with autocast(params.precision, x.device):
            decoded = self.decoder(z_hat)
        terms = {
            "reconstruction": losses.reconstruction_loss(x, decoded.float(), present, params.reduction),
            "quantization": over_levels(split.losses, params),
        }
        if items.cf is not None and items.known is not None:
            ours, cf = z_hat[items.known], items.cf[items.known]
            if params.alpha:
                terms["alignment"] = losses.letter_cf_loss(self.to_cf(ours), cf)
            if params.beta:
                terms["relation"] = losses.relation_loss(ours, cf)
        if groups is not None and generator is not None:
            terms["diversity"] = over_levels(self.quantizer.diversity(split, groups, generator), params)
        return Step(split.codes, terms)
