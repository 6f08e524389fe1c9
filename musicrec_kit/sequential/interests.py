"""MISSRec's encoder and decoder: interests are clusters of items, and a history is read beside those it touches.

Wang et al. 2023, sections 3.2 to 3.4, and what their released settings say (`params/methods/missrec.yaml`).
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential.encoder import Attention, Block, attend, split, with_a_key
from musicrec_kit.sequential.items import OWN, Catalogue
from musicrec_kit.tokenizers.codebook import kmeans, nearest_codes


class Interests(nn.Module):
    """Clusters of all items' parts, found anew before every epoch without gradient.

    Attributes:
        centres: [clusters, dim].
        cluster_of: int64 [items, parts], the cluster of each part of an item; -1 where the item lacks the part.
    """

    centres: Tensor
    cluster_of: Tensor

    def __init__(self, n_items: int, parts: int, dim: int, share: float, among: np.ndarray | None = None) -> None:
        super().__init__()
        self.among = None if among is None else torch.from_numpy(among)  # the items that centres are made of
        clusters = max(1, math.ceil(share * n_items * parts))
        self.register_buffer("centres", torch.zeros(clusters, dim))
        self.register_buffer("cluster_of", torch.zeros(n_items, parts, dtype=torch.int64))

    @torch.no_grad()
    def find(self, catalogue: Catalogue, iterations: int, generator: torch.Generator) -> None:
        """Cluster the catalogue's parts by k-means."""
        parts = [(name, part) for name, part in catalogue.parts.items() if name != OWN]
        there = [catalogue.present.get(name, torch.ones(len(part), dtype=torch.bool)) for name, part in parts]
        used = there if self.among is None else [mask & self.among.to(mask.device) for mask in there]
        vectors = torch.cat([part[mask.to(part.device)] for (_, part), mask in zip(parts, used, strict=True)])
        # fewer vectors than clusters: every vector is a cluster of its own, and the others stay empty
        found, _ = kmeans(vectors, min(len(self.centres), len(vectors)), generator, iterations)
        self.centres.zero_()
        self.centres[: len(found)] = found
        for column, ((_, part), mask) in enumerate(zip(parts, there, strict=True)):
            nearest = nearest_codes(part, found)
            self.cluster_of[:, column] = torch.where(mask.to(part.device), nearest, -1)

    def of(
        self, tokens: Int[Tensor, "batch history"], kept: Bool[Tensor, "batch history"]
    ) -> tuple[Float[Tensor, "batch touched dim"], Bool[Tensor, "batch touched"]]:
        """Return the centres of the clusters that each history touches, each once, and which of the places are used."""
        found = self.cluster_of[torch.where(kept, tokens, 0)].masked_fill(~kept[..., None], -1).flatten(1)
        ordered = found.sort(dim=1, descending=True).values
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        used = first & (ordered >= 0)
        return self.centres[ordered.clamp(min=0)] * used[..., None], used


class CrossBlock(nn.Module):
    """A decoder's block: attention within the history, attention over the interests, feed-forward; post-norm."""

    def __init__(self, dim: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention = Attention(dim, heads, dropout)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.feed_forward = nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        states: Float[Tensor, "batch history dim"],
        kept: Bool[Tensor, "batch history"],
        memory: Float[Tensor, "batch touched dim"],
        used: Bool[Tensor, "batch touched"],
    ) -> Float[Tensor, "batch history dim"]:
        """Return states that have read all of the history and the interests."""
        states = self.norms[0](states + self.drop(self.attention(states, kept)))
        key, value = (split(part, self.heads) for part in self.key_value(memory).chunk(2, dim=-1))
        read = attend(split(self.query(states), self.heads), key, value, used, self.dropout if self.training else 0.0)
        states = self.norms[1](states + self.drop(self.output(read)))
        return self.norms[2](states + self.drop(self.feed_forward(states)))


class InterestReader(nn.Module):
    """Half of the blocks read the interests, the other half the history beside them; both look both ways.

    A state knows the whole history, so only the last one may be asked for the next item: `sequential.rows=prefixes`.
    """

    def __init__(
        self, params: SequentialParams, history: int, n_items: int, parts: int, among: np.ndarray | None = None
    ) -> None:
        super().__init__()
        shape = (params.dim, params.width, params.heads, params.dropout)
        self.interests = Interests(n_items, parts, params.dim, params.interests, among)
        self.positions = nn.Embedding(history, params.dim)
        self.norm, self.drop = nn.LayerNorm(params.dim), nn.Dropout(params.dropout)
        self.readers = nn.ModuleList(Block(*shape) for _ in range(params.layers // 2))
        self.blocks = nn.ModuleList(CrossBlock(*shape) for _ in range(params.layers - params.layers // 2))

    def forward(
        self,
        vectors: Float[Tensor, "batch history dim"],
        kept: Bool[Tensor, "batch history"],
        tokens: Int[Tensor, "batch history"],
    ) -> tuple[Float[Tensor, "batch history dim"], Float[Tensor, ""]]:
        """Return the states, and how far the interests' vectors point the same way (the paper's orthogonality)."""
        memory, used = self.interests.of(tokens, kept)
        mask = with_a_key(used)
        for block in self.readers:
            memory = block(memory, mask)
        states = self.drop(self.norm(vectors + self.positions.weight[: vectors.shape[1]]))
        for block in self.blocks:
            states = block(states, with_a_key(kept), memory, mask)
        return states, alignment(memory, used)


def alignment(memory: Float[Tensor, "batch touched dim"], used: Bool[Tensor, "batch touched"]) -> Float[Tensor, ""]:
    """Return the mean over rows of |sum of interests * share of places used|^2 / dim: zero where they cancel.

    The authors' code sums over the batch; a mean does not depend on its size ("ours").
    """
    share = used.float().mean(dim=1)
    summed = (memory * used[..., None]).sum(dim=1) * share[:, None]
    return summed.square().sum(dim=1).mean() / memory.shape[-1]
