"""How a history becomes states: transformers that look back or both ways, gated ones, and a GRU.

Data in: vectors of the history's items, oldest first, padding behind them. Data out: a state after each item.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from musicrec_kit.params import SequentialParams

INIT_STD = 0.02  # RecBole's, which every table of the lineage ran


class Attention(nn.Module):
    """Self-attention that looks back only, or both ways."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, states: Float[Tensor, "batch history dim"], kept: Bool[Tensor, "batch history"] | None
    ) -> Float[Tensor, "batch history dim"]:
        """Return what each position reads: of the positions before it, or where `kept` is given of all kept ones."""
        query, key, value = (split(part, self.heads) for part in self.query_key_value(states).chunk(3, dim=-1))
        return self.output(attend(query, key, value, kept, self.dropout if self.training else 0.0))


def split(states: Float[Tensor, "batch length dim"], heads: int) -> Float[Tensor, "batch heads length d"]:
    """Return the states with their last axis split into heads."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    query: Float[Tensor, "batch heads queries d"],
    key: Float[Tensor, "batch heads keys d"],
    value: Float[Tensor, "batch heads keys d"],
    kept: Bool[Tensor, "batch keys"] | None,
    dropout: float,
) -> Float[Tensor, "batch queries dim"]:
    """Return attention over the kept keys, or with None over those that do not come later."""
    # padding stands after the items, so that looking back only is mask enough
    mask = None if kept is None else kept[:, None, None, :]
    read = functional.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=kept is None)
    return read.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """One post-norm transformer block (SASRec, BERT4Rec as RecBole has them)."""

    def __init__(self, dim: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, states: Float[Tensor, "batch history dim"], kept: Bool[Tensor, "batch history"] | None
    ) -> Float[Tensor, "batch history dim"]:
        """Return states in which each position has read itself and the positions that it may look at."""
        states = self.attention_norm(states + self.drop(self.attention(states, kept)))
        return self.feed_forward_norm(states + self.drop(self.feed_forward(states)))


class GatedBlock(nn.Module):
    """One LiGR block (Borisyuk et al. 2024; eSASRec's): pre-norm, SwiGLU, each sublayer gated by its input."""

    def __init__(self, dim: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.attention_gate = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * inner)
        self.narrow = nn.Linear(inner, dim)
        self.feed_forward_gate = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, states: Float[Tensor, "batch history dim"], kept: Bool[Tensor, "batch history"] | None
    ) -> Float[Tensor, "batch history dim"]:
        """Return x + sigmoid(W x) * sublayer(norm(x)), for attention and then for the feed-forward layer."""
        read = self.drop(self.attention(self.attention_norm(states), kept))
        states = states + torch.sigmoid(self.attention_gate(states)) * read
        gate, value = self.widen(self.feed_forward_norm(states)).chunk(2, dim=-1)
        wide = self.drop(self.narrow(self.drop(functional.silu(gate) * value)))
        return states + torch.sigmoid(self.feed_forward_gate(states)) * wide


class Transformer(nn.Module):
    """Learned positions from the oldest item on, then blocks.

    Args:
        positions: another encoder's table, where two share one.

    Attributes:
        causal: whether positions look back only; S3-Rec is pretrained both ways and fine-tuned looking back.
    """

    def __init__(
        self, params: SequentialParams, history: int, causal: bool, positions: nn.Embedding | None = None
    ) -> None:
        super().__init__()
        self.causal = causal
        dim, gated = params.dim, params.encoder == "gated"
        self.positions = nn.Embedding(history, dim) if positions is None else positions
        self.norm = nn.Identity() if gated else nn.LayerNorm(dim)
        self.drop = nn.Dropout(params.dropout)
        block = GatedBlock if gated else Block
        self.blocks = nn.ModuleList(
            block(dim, params.width, params.heads, params.dropout) for _ in range(params.layers)
        )
        self.last_norm = nn.LayerNorm(dim) if gated else nn.Identity()

    def forward(
        self, vectors: Float[Tensor, "batch history dim"], kept: Bool[Tensor, "batch history"]
    ) -> Float[Tensor, "batch history dim"]:
        """Return the state after (both ways: at) each item."""
        states = self.drop(self.norm(vectors + self.positions.weight[: vectors.shape[1]]))
        for block in self.blocks:
            states = block(states, None if self.causal else with_a_key(kept))
        return self.last_norm(states)


def with_a_key(kept: Bool[Tensor, "batch keys"]) -> Bool[Tensor, "batch keys"]:
    """Return the mask with its first place kept: a softmax over nothing is not a number."""
    kept = kept.clone()
    kept[:, 0] = True
    return kept


class GRU(nn.Module):
    """GRU4Rec as every table of the lineage ran it (RecBole): full softmax, not the session-parallel original."""

    def __init__(self, params: SequentialParams) -> None:
        super().__init__()
        self.drop = nn.Dropout(params.dropout)
        self.gru = nn.GRU(params.dim, params.width, params.layers, bias=False, batch_first=True)
        self.output = nn.Linear(params.width, params.dim)

    def forward(
        self, vectors: Float[Tensor, "batch history dim"], kept: Bool[Tensor, "batch history"]
    ) -> Float[Tensor, "batch history dim"]:
        """Return the state after each item; padding stands behind and changes nothing."""
        return self.output(self.gru(self.drop(vectors))[0])


def initialise(module: nn.Module, start: str = "normal") -> None:
    """Draw a module's own weights anew, with zero padding rows; a GRU's by Xavier's rule (RecBole).

    Args:
        start: `normal`: N(0, .02) and zero biases; `xavier`: rows by Xavier's rule, layers as torch has drawn them.
    """
    if start == "normal":
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.GRU):
        for weight in module.parameters():
            nn.init.xavier_uniform_(weight)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
