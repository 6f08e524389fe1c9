"""Residual quantisation: pick codes, subtract, add up (MusicRec eq. 3-5 and 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers.codebook import balanced_codes, nearest_codes, squared_distances
from musicrec_kit.tokenizers.losses import Reduction, quantization_loss


@dataclass(frozen=True)
class Rule:
    """How a chain quantises: what the papers leave open (`lineage.md` 5.1, rows 6, 8 and 10)."""

    mu: float = 0.25
    residual_gradients: bool = True
    reduction: Reduction = "mean"
    sinkhorn: float = 0.0
    sinkhorn_iterations: int = 50

    @classmethod
    def of(cls, params: TokenizerParams, training: bool) -> "Rule":
        """Return the rule of the settings; balanced codes are for training only."""
        sinkhorn = params.chosen("sinkhorn") if training else 0.0
        return cls(
            params.mu, params.chosen("residual_gradients"), params.reduction, sinkhorn, params.sinkhorn_iterations
        )


class Quantized(NamedTuple):
    """A chain's result. `vector` is the plain sum of codes: see `straight_through`."""

    vector: Float[Tensor, "batch dim"]
    codes: Int[Tensor, "batch levels"]
    residual: Float[Tensor, "batch dim"]
    losses: Float[Tensor, " levels"]


def quantize(
    vectors: Float[Tensor, "batch dim"], codebooks: Sequence[Tensor], rule: Rule, last: bool = True
) -> Quantized:
    """Quantise vectors level by level; `last` says that the chain ends here, where `rule.sinkhorn` may balance codes.

    With `residual_gradients` the residual keeps its history as printed: the commitment of every level reaches the
    encoder and, as r_l contains e_1 .. e_l, the codes of earlier levels. Without, only the first level's reaches the
    encoder.
    """
    residual, total = vectors, torch.zeros_like(vectors)
    codes: list[Tensor] = []
    losses: list[Tensor] = []
    for level, codebook in enumerate(codebooks):
        if rule.sinkhorn and last and level == len(codebooks) - 1:
            distances = squared_distances(residual.detach(), codebook.detach())
            codes.append(balanced_codes(distances, rule.sinkhorn, rule.sinkhorn_iterations))
        else:
            codes.append(nearest_codes(residual, codebook))
        code = codebook[codes[-1]]
        losses.append(quantization_loss(residual, code, rule.mu, rule.reduction))
        residual, total = residual - code, total + code
        if not rule.residual_gradients:
            residual = residual.detach()
    if not codes:
        return Quantized(
            total, torch.empty(len(vectors), 0, dtype=torch.long, device=vectors.device), vectors, total[0, :0]
        )
    return Quantized(total, torch.stack(codes, dim=1), residual, torch.stack(losses))


def straight_through(
    vectors: Float[Tensor, "batch dim"], quantized: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """Return the quantised values with the gradient of `vectors`: one identity path for a whole chain."""
    return vectors + (quantized - vectors).detach()
