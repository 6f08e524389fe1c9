"""What a source's tokens are told besides their own rows: which item of the history each belongs to (whole-word
embeddings of P5, Geng et al. 2022)."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn


class Source(NamedTuple):
    """A batch of sources.

    Attributes:
        tokens: padded on the right.
        words: the number of the item that a token belongs to, from 1 for the oldest; 0 for tokens of no item.
    """

    tokens: Int[Tensor, "batch source"]
    words: Int[Tensor, "batch source"]


class Marks(nn.Module):
    """Embeddings that are added to the rows of a source's tokens."""

    def __init__(self, dim: int, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, dim)

    def forward(self, rows: Float[Tensor, "batch source dim"], source: Source) -> Float[Tensor, "batch source dim"]:
        """Return the rows with what is added to them."""
        return rows + self.words(source.words)
