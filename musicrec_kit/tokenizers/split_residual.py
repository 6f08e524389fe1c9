"""Shared levels over the joint latent, then specific levels per modality (MusicRec eq. 3-6).

Here `dim` is the width of the joint latent z = [z_t; z_i], the sum of the modalities' widths; the residual of the last
shared level is cut into the modalities' parts without any layer (row 4 of `lineage.md` 5.1). With no shared level
and one modality this is the plain residual quantiser of RQ-VAE and RK-means.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from musicrec_kit import seeds
from musicrec_kit.params import Refused, TokenizerParams
from musicrec_kit.tokenizers import codebook as books
from musicrec_kit.tokenizers.losses import diversity_loss
from musicrec_kit.tokenizers.residual import Rule, quantize


class Split(NamedTuple):
    """The result for a batch. `vector` is [z-hat_t; z-hat_i] of eq. 6 as a plain sum, `shared` the z-hat_e in it."""

    vector: Float[Tensor, "batch dim"]
    shared: Float[Tensor, "batch dim"]
    codes: dict[str, Int[Tensor, "batch levels"]]
    losses: list[Float[Tensor, " _"]]  # the levels of L_RQ^e, then those of each modality


class Step(NamedTuple):
    """A batch through a tokenizer that is trained: its codes and the unweighted terms of eq. 12 by name."""

    codes: dict[str, Int[Tensor, "batch levels"]]
    terms: dict[str, Float[Tensor, ""]]


class SplitResidual(nn.Module):
    """Codebooks C^e of all modalities together and C^m of each."""

    def __init__(self, widths: dict[str, int], codes: int, shared_levels: int, specific_levels: int):
        super().__init__()
        self.names, self.widths = tuple(widths), list(widths.values())
        self.shared_levels = shared_levels
        self.shared = _codebooks(shared_levels, codes, sum(self.widths))
        self.specific = nn.ModuleList(_codebooks(specific_levels, codes, width) for width in self.widths)

    @property
    def chains(self) -> list[nn.ParameterList]:
        """Return the shared levels' codebooks, then each modality's."""
        return [self.shared, *self.specific]  # type: ignore[list-item]

    def forward(self, z: Float[Tensor, "batch dim"], rule: Rule) -> Split:
        # eq. 3
        shared = quantize(z, list(self.shared), rule, last=not len(self.chains[1]))
        parts = shared.residual.split(self.widths, dim=1)
        # eq. 4-5
        specific = [quantize(part, list(chain), rule) for part, chain in zip(parts, self.chains[1:], strict=True)]
        # eq. 6
        vector = shared.vector + torch.cat([part.vector for part in specific], dim=1)
        codes = {n: torch.cat([shared.codes, s.codes], dim=1) for n, s in zip(self.names, specific, strict=True)}
        return Split(vector, shared.vector, codes, [shared.losses, *(part.losses for part in specific)])

    def lookup(self, name: str, codes: Int[Tensor, "batch levels"]) -> Float[Tensor, "batch width"]:
        """Return z-hat of one modality from its codes alone (eq. 6), or from those of its first levels."""
        place = self.names.index(name)
        first = sum(self.widths[:place])
        halves = [book[:, first : first + self.widths[place]] for book in self.shared]
        levels = [*halves, *self.chains[1 + place]][: codes.shape[1]]
        return sum(
            (book[codes[:, level]] for level, book in enumerate(levels)),
            start=torch.zeros(len(codes), self.widths[place], device=codes.device),
        )

    def distances(self, z: Float[Tensor, "batch dim"], name: str) -> Float[Tensor, "batch levels codes"]:
        """Return the squared distance to every code at each level along the items' own argmin chain."""
        residual, found = z, []
        for level, book in enumerate([*self.shared, *self.chains[1 + self.names.index(name)]]):
            if level == len(self.shared):
                residual = residual.split(self.widths, dim=1)[self.names.index(name)]
            found.append(books.squared_distances(residual, book))
            residual = residual - book[books.nearest_codes(residual, book)]
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def walk(
        self,
        z: Float[Tensor, "items dim"],
        present: dict[str, Bool[Tensor, " items"]],
        change: Callable[[Tensor, Tensor, str], None],
    ) -> None:
        """Go down the levels and let `change(codebook, residuals, place)` rewrite each before the next is reached.

        A modality's own levels see the items that have the modality.
        """
        residual = z
        for level, book in enumerate(self.shared):
            change(book, residual, f"shared/{level}")
            residual = residual - book[books.nearest_codes(residual, book)]
        parts = residual.split(self.widths, dim=1)
        for name, part, chain in zip(self.names, parts, self.chains[1:], strict=True):
            rows = part[present[name]]
            for level, book in enumerate(chain):
                change(book, rows, f"{name}/{level}")
                rows = rows - book[books.nearest_codes(rows, book)]

    def start(
        self,
        z: Float[Tensor, "items dim"],
        present: dict[str, Bool[Tensor, " items"]],
        params: TokenizerParams,
        seed: int,
    ) -> None:
        """Start the codebooks as `params.init` says: k-means on all items' residuals, on one batch's, or uniform.

        Raises:
            Refused: a batch is smaller than a codebook.
        """
        if params.init == "kmeans_batch":
            order = torch.randperm(len(z), generator=seeds.torch_generator(seed, "first batch"))[: params.batch]
            z, present = z[order.to(z.device)], {name: mask[order.to(z.device)] for name, mask in present.items()}

        def change(book: Tensor, rows: Tensor, place: str) -> None:
            generator = seeds.torch_generator(seed, "start", place)
            if params.init == "uniform":
                book.copy_((2 * torch.rand(book.shape, generator=generator) - 1) / len(book))
                return
            if len(rows) < len(book):
                raise Refused(
                    f"tokenizer.codes={len(book)} codes cannot start by k-means from {len(rows)} items "
                    f"(codebook {place}, tokenizer.init={params.init}); "
                    f"set tokenizer.codes to {len(rows)} or fewer, or a larger tokenizer.batch for kmeans_batch"
                )
            centres, _ = books.kmeans(rows, len(book), generator, params.kmeans_iterations, params.kmeans_restarts)
            book.copy_(centres)

        self.walk(z, present, change)

    def revive(self, z: Float[Tensor, "items dim"], present: dict[str, Bool[Tensor, " items"]], seed: int) -> int:
        """Move codes that no item uses onto items' residuals; return how many moved."""
        moved = []
        self.walk(
            z, present, lambda book, rows, at: moved.append(books.revive(book, rows, seeds.torch_generator(seed, at)))
        )
        return sum(moved)

    def group(self, groups: int, seed: int) -> list[list[Tensor]]:
        """Return the groups of each codebook's codes for the diversity loss, by chain and level."""
        return [
            [books.group_codes(b, groups, seeds.torch_generator(seed, c, level)) for level, b in enumerate(chain)]
            for c, chain in enumerate(self.chains)
        ]

    def diversity(self, split: Split, groups: list[list[Tensor]], generator: torch.Generator) -> list[Tensor]:
        """Return LETTER's diversity loss of every level, by chain, as `Split.losses` has eq. 8."""
        picked = [split.codes[self.names[0]][:, : self.shared_levels]]
        picked += [split.codes[name][:, self.shared_levels :] for name in self.names]
        found = []
        for chain, codes, labels in zip(self.chains, picked, groups, strict=True):
            levels = [
                diversity_loss(book, codes[:, level], labels[level], generator) for level, book in enumerate(chain)
            ]
            found.append(torch.stack(levels) if levels else split.vector.new_zeros(0))
        return found


def over_levels(losses: list[Float[Tensor, " _"]], params: TokenizerParams) -> Float[Tensor, ""]:
    """Return L_RQ of eq. 9: the streams' sum, with a stream's levels summed (eq. 8) or averaged (LC-Rec)."""
    averaged = params.chosen("level_reduction") == "mean"
    streams = [levels.mean() if averaged else levels.sum() for levels in losses if len(levels)]
    return torch.stack(streams).sum()


def _codebooks(levels: int, codes: int, dim: int) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.zeros(codes, dim)) for _ in range(levels))
