"""The losses of item tokenizers: MusicRec eq. 8-12 and LETTER's two (`lineage.md` 2.3).

`reduction` says how a squared norm over dims is taken: `sum` as the equations print it, `mean` as the lineage's code
does (row 6 of `lineage.md` 5.1). Over the items of a batch every loss is a mean.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

Reduction = Literal["mean", "sum"]


def squared_error(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], reduction: Reduction
) -> Float[Tensor, " batch"]:
    """Return the squared difference of each row, averaged or summed over dims."""
    error = (a - b).square()
    return error.mean(-1) if reduction == "mean" else error.sum(-1)


def reconstruction_loss(
    features: Float[Tensor, "batch dim"],
    decoded: Float[Tensor, "batch dim"],
    present: Bool[Tensor, " batch"],
    reduction: Reduction,
) -> Float[Tensor, ""]:
    """Return one modality's term of MusicRec eq. 9, over the items that have the modality (0 if none has)."""
    errors = squared_error(features, decoded, reduction)
    return torch.where(present, errors, 0.0).sum() / present.sum().clamp_min(1)


def quantization_loss(
    residual: Float[Tensor, "batch dim"], code: Float[Tensor, "batch dim"], mu: float, reduction: Reduction
) -> Float[Tensor, ""]:
    """Return one level's term of MusicRec eq. 8: the code moves to the residual, and mu times the reverse."""
    codebook = squared_error(residual.detach(), code, reduction)
    commitment = squared_error(residual, code.detach(), reduction)
    return (codebook + mu * commitment).mean()


def alignment_loss(
    vectors: Float[Tensor, "batch dim"], cf: Float[Tensor, "batch dim"], tau: float
) -> Float[Tensor, ""]:
    """Return MusicRec eq. 10: InfoNCE of an item's vector with its CF vector against those of the batch, by cosine."""
    return _contrast(normalize(vectors, dim=1) @ normalize(cf, dim=1).T / tau)


def relation_loss(vectors: Float[Tensor, "batch dim"], cf: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
    """Return MusicRec eq. 11: mean squared difference of the two cosine matrices of the batch, diagonal included."""
    if not len(vectors):
        return vectors.sum()
    ours, theirs = normalize(vectors, dim=1), normalize(cf, dim=1)
    return (ours @ ours.T - theirs @ theirs.T).square().mean()


def letter_cf_loss(vectors: Float[Tensor, "batch dim"], cf: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Return LETTER's CF loss: InfoNCE of raw dot products, without norms or temperature."""
    return _contrast(vectors @ cf.T)


def _contrast(logits: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    if not len(logits):
        return logits.sum()
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def positive_codes(
    picked: Int[Tensor, " batch"], groups: Int[Tensor, " codes"], generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Return for each picked code another one of its group at random, and False where it is alone in its group."""
    order = torch.argsort(groups, stable=True)
    size = torch.bincount(groups)
    first = size.cumsum(0) - size
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    of, own = groups[picked], place[picked] - first[groups[picked]]
    # a step of 1 .. size - 1 round the group never ends at its start
    chance = torch.rand(len(picked), generator=generator).to(picked.device)
    step = 1 + (chance * (size[of] - 1)).long()
    return order[first[of] + (own + step) % size[of]], size[of] > 1


def diversity_loss(
    codebook: Float[Tensor, "codes dim"],
    picked: Int[Tensor, " batch"],
    groups: Int[Tensor, " codes"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return LETTER's diversity loss of one level: a code is drawn to another of its group, away from all others.

    Logits are dot products of the picked code with the codebook, its own masked; the target is a random code of its
    group.
    """
    positive, has_other = positive_codes(picked, groups, generator)
    logits = codebook[picked] @ codebook.T
    logits = logits.scatter(1, picked[:, None], -1e12)
    errors = cross_entropy(logits, positive, reduction="none")
    return torch.where(has_other, errors, 0.0).sum() / has_other.sum().clamp_min(1)
