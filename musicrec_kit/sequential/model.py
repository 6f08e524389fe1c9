"""A sequential model: how items become vectors x how a history is read x how states are compared with items.

Data in: histories as tokens. Data out: a state per position, scores of items. Items are 0 ... n_items - 1; padding is
n_items and stands behind the history; a mask is n_items + 1.
"""

import functools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential.encoder import GRU, INIT_STD, Transformer, initialise
from musicrec_kit.sequential.interests import InterestReader
from musicrec_kit.sequential.items import Adapted, Attended, Catalogue, ItemTable, looked_up, with_padding
from musicrec_kit.sequential.similarity import Similarity
from musicrec_kit.sequential.sources import Sources


class Beside(nn.Module):
    """FDSA's second stream: the items' attributes or features, read by an encoder of its own, joined at the end."""

    def __init__(self, params: SequentialParams, history: int, sources: Sources, positions: nn.Embedding) -> None:
        super().__init__()
        if params.beside == "attributes":
            self.rows: nn.Module = Attended(sources.attributes, params.dim)
        else:
            self.rows = Adapted(*sources.features[str(params.beside)], params.dim)
        self.encoder = Transformer(params, history, causal=True, positions=positions)
        self.join = nn.Linear(2 * params.dim, params.dim)
        self.norm, self.drop = nn.LayerNorm(params.dim), nn.Dropout(params.dropout)

    def forward(
        self,
        states: Float[Tensor, "batch history dim"],
        tokens: Int[Tensor, "batch history"],
        kept: Bool[Tensor, "batch history"],
        padding: int,
    ) -> Float[Tensor, "batch history dim"]:
        """Return the states joined with those of the second stream."""
        read = self.encoder(looked_up(with_padding(self.rows()), tokens, padding), kept)
        return self.drop(self.norm(self.join(torch.cat([states, read], dim=-1))))


class Model(nn.Module):
    """Items, encoder and similarity as the settings combine them.

    Args:
        history: the most tokens that are read at once.
    """

    def __init__(self, params: SequentialParams, history: int, sources: Sources) -> None:
        super().__init__()
        self.n_items, self.history, self.both_ways = sources.n_items, history, params.encoder == "bidirectional"
        self.items = ItemTable(params, sources)
        self.encoder: nn.Module
        if params.encoder == "gru":
            self.encoder = GRU(params)
        elif params.encoder == "interests":
            self.encoder = InterestReader(params, history, sources.n_items, self.items.n_shown, sources.known)
        else:
            self.encoder = Transformer(params, history, causal=not self.both_ways)
        self.beside: Beside | None = None
        if params.beside is not None:
            assert isinstance(self.encoder, Transformer)
            self.beside = Beside(params, history, sources, self.encoder.positions)
        self.mask = nn.Parameter(torch.empty(params.dim)) if self.both_ways or params.pretrained else None
        # BERT4Rec's: what stands between its encoder and the items
        self.head = (
            nn.Sequential(nn.Linear(params.dim, params.dim), nn.GELU(), nn.LayerNorm(params.dim))
            if params.head
            else nn.Identity()
        )
        self.similarity = Similarity(params, sources.n_items)
        self.apply(functools.partial(initialise, start=params.start))
        if self.mask is not None:
            nn.init.normal_(self.mask, std=INIT_STD)

    @property
    def padding(self) -> int:
        """Return the padding token."""
        return self.n_items

    @property
    def mask_token(self) -> int:
        """Return the token of a hidden item."""
        return self.n_items + 1

    def catalogue(self) -> Catalogue:
        """Return all items' vectors, to be made once per step."""
        return self.items()

    def vectors(self, tokens: Int[Tensor, "batch history"], catalogue: Catalogue) -> Float[Tensor, "batch history dim"]:
        """Return what an encoder reads of the tokens."""
        rows = catalogue.read
        if self.mask is not None:
            rows = torch.cat([rows, self.mask[None]])
        return looked_up(rows, tokens, self.padding)

    def forward(
        self, tokens: Int[Tensor, "batch history"], catalogue: Catalogue
    ) -> tuple[Float[Tensor, "batch history dim"], Float[Tensor, ""]]:
        """Return the state at each place of right-padded histories, and what the encoder adds to the loss."""
        kept, extra = tokens != self.padding, catalogue.read.new_zeros(())
        vectors = self.vectors(tokens, catalogue)
        if isinstance(self.encoder, InterestReader):
            states, extra = self.encoder(vectors, kept, tokens)
        else:
            states = self.encoder(vectors, kept)
        if self.beside is not None:
            states = self.beside(states, tokens, kept, self.padding)
        return self.head(states), extra
