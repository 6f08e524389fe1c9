"""SASRec (Kang & McAuley 2018) as the papers' tables use it: a causal transformer over items (baselines.md 4.1)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

INIT_STD = 0.02  # RecBole's, which every table of the lineage ran
FEED_FORWARD = 4  # inner width / width


class Block(nn.Module):
    """One post-norm transformer block that looks back only."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, FEED_FORWARD * dim), nn.GELU(), nn.Linear(FEED_FORWARD * dim, dim)
        )
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "batch history dim"]) -> Float[Tensor, "batch history dim"]:
        """Return states in which each position has read itself and the positions before it."""
        states = self.attention_norm(states + self.drop(self.output(self._attend(states))))
        return self.feed_forward_norm(states + self.drop(self.feed_forward(states)))

    def _attend(self, states: Float[Tensor, "batch history dim"]) -> Float[Tensor, "batch history dim"]:
        batch, history, dim = states.shape
        split = self.query_key_value(states).view(batch, history, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        # padding stands after the items, so that looking back only is mask enough
        read = scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return read.transpose(1, 2).reshape(batch, history, dim)


class SASRec(nn.Module):
    """Item embeddings, learned positions from the oldest item on, causal blocks; a score is a product of vectors.

    Items are 0 ... n_items - 1; the padding token is n_items, has a row of its own and stands after the history.
    """

    def __init__(self, n_items: int, history: int, dim: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.n_items = n_items
        self.history = history
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.positions = nn.Embedding(history, dim)
        self.norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.apply(_initialise)

    @property
    def padding(self) -> int:
        """Return the padding token."""
        return self.n_items

    @property
    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """Return the embeddings of the items, without the padding row."""
        return self.items.weight[: self.n_items]

    def forward(self, tokens: Int[Tensor, "batch history"]) -> Float[Tensor, "batch history dim"]:
        """Return the state after each item of right-padded histories."""
        states = self.items(tokens) + self.positions.weight[: tokens.shape[1]]
        states = self.drop(self.norm(states))
        for block in self.blocks:
            states = block(states)
        return states

    def scores(self, states: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch items"]:
        """Return the score of every item as the next one."""
        return states @ self.item_vectors.T


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
