"""MusicRec's item tokenizer: shared and specific codes of all modalities at once (eq. 2-12).

`dim` is the width d of one modality, `params.dim`; the joint latent has k * d for k modalities; shared_levels +
specific_levels is the length of a view's ID. Any number of modalities, by name, in the order given.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers import losses
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.mlp import Scaling, autocast, mlp, near_identity, to_cf
from musicrec_kit.tokenizers.residual import Rule, straight_through
from musicrec_kit.tokenizers.split_residual import Split, SplitResidual, Step, over_levels


class SharedSpecific(nn.Module):
    """Encoders, joint projection, shared and specific codebooks, decoders.

    An item without a modality enters with that modality's learned `missing` vector in place of the encoder's output,
    gets codes in every stream, and is left out of that modality's reconstruction.
    """

    gives_missing_codes = True

    def __init__(self, dims: dict[str, int], params: TokenizerParams, cf_dim: int | None):
        super().__init__()
        self.names, self.params = tuple(dims), params
        joint = params.dim * len(dims)
        self.scalings = nn.ModuleList(Scaling(width) for width in dims.values())
        self.encoders = nn.ModuleList(mlp([width, *params.hidden, params.dim]) for width in dims.values())
        self.decoders = nn.ModuleList(mlp([params.dim, *reversed(params.hidden), w]) for w in dims.values())
        self.missing = nn.Parameter(0.01 * torch.randn(len(dims), params.dim))
        self.projection = near_identity(joint) if params.projection == "full" else nn.Identity()
        widths = dict.fromkeys(dims, params.dim)
        self.quantizer = SplitResidual(widths, params.codes, params.shared_levels, params.specific_levels)
        seen = joint if params.align_on in ("joint", "shared") else params.dim
        self.to_cf = to_cf(seen, cf_dim if params.alpha else None)

    def encoding_parameters(self) -> list[nn.Parameter]:
        """Return the weights between features and joint latent."""
        return [self.missing, *self.encoders.parameters(), *self.projection.parameters()]

    def measure(self, items: Items) -> None:
        """Take the statistics of the inputs, if they are scaled."""
        if (how := self.params.chosen("scaling")) != "none":
            for name, scaling in zip(self.names, self.scalings, strict=True):
                scaling.measure(items.features[name], items.present[name], how)  # type: ignore[operator]

    def latents(self, items: Items) -> Float[Tensor, "batch dim"]:
        """Return the joint latent z: eq. 2, concatenated and projected."""
        return self._latents(self._scaled(items), items)

    def _scaled(self, items: Items) -> list[Tensor]:
        if self.params.chosen("scaling") == "none":
            return [items.features[name] for name in self.names]
        return [scaling(items.features[name]) for name, scaling in zip(self.names, self.scalings, strict=True)]

    def _latents(self, scaled: list[Tensor], items: Items) -> Float[Tensor, "batch dim"]:
        parts = [
            torch.where(items.present[name][:, None], encoder(x), missing)
            for name, encoder, x, missing in zip(self.names, self.encoders, scaled, self.missing, strict=True)
        ]
        return self.projection(torch.cat(parts, dim=1))

    def decode(self, name: str, z_hat: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch _"]:
        """Return x-hat of one modality (eq. 7) in the features' own units."""
        place = self.names.index(name)
        return self.scalings[place].undo(self.decoders[place](z_hat))  # type: ignore[operator]

    def forward(
        self,
        items: Items,
        rule: Rule,
        groups: list[list[Tensor]] | None = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        params, scaled = self.params, self._scaled(items)
        with autocast(params.precision, self.missing.device):
            z = self._latents(scaled, items)
        z = z.float()
        split = self.quantizer(z, rule)
        z_hat = straight_through(z, split.vector)
        terms = {
            "reconstruction": self._reconstruction(scaled, items, z_hat),
            "quantization": over_levels(split.losses, params),
        }
        if items.cf is not None and items.known is not None:
            known, cf = items.known, items.cf[items.known]
            if params.alpha:
                seen = self._seen(params.align_on, z, split)
                terms["alignment"] = _mean([losses.alignment_loss(self.to_cf(v[known]), cf, params.tau) for v in seen])
            if params.beta:
                seen = self._seen(params.relation_on, z, split)
                terms["relation"] = _mean([losses.relation_loss(v[known], cf) for v in seen])
        if groups is not None and generator is not None:
            terms["diversity"] = over_levels(self.quantizer.diversity(split, groups, generator), params)
        return Step(split.codes, terms)

    def _reconstruction(
        self, scaled: list[Tensor], items: Items, z_hat: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """Return L_Recon of eq. 9 with the decoders of eq. 7."""
        total = z_hat.new_zeros(())
        parts = z_hat.split(self.params.dim, dim=1)
        for name, x, decoder, part in zip(self.names, scaled, self.decoders, parts, strict=True):
            with autocast(self.params.precision, part.device):
                decoded = decoder(part)
            total = total + losses.reconstruction_loss(x, decoded.float(), items.present[name], self.params.reduction)
        return total

    def _seen(self, which: str, z: Float[Tensor, "batch dim"], split: Split) -> list[Float[Tensor, "batch _"]]:
        """Return the vectors that a CF loss sees (row 12 of `lineage.md` 5.1); it is averaged over them."""
        if which == "shared":
            return [straight_through(z, split.shared)]
        joint = straight_through(z, split.vector)
        views = joint.split(self.params.dim, dim=1)
        return {"joint": [joint], "mean": [_mean(list(views))], "per_view": list(views)}[which]


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(0)
