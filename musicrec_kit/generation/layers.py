"""The layers of T5: RMS norm, feed-forward, attention, and the adapters that may stand behind the last two.

Notation: batch sequences, source and target positions, dim = d_model, inner = heads * d_kv.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """Widths and depth of a T5; encoder and decoder have `layers` each.

    `adapters`: the bottlenecks behind attention and feed-forward are dim / adapters wide; 0: there are none.
    """

    dim: int
    feed_forward: int
    d_kv: int
    heads: int
    layers: int
    adapters: int = 0

    @property
    def inner(self) -> int:
        """Return the width of all heads together, which T5 does not tie to `dim`."""
        return self.heads * self.d_kv


def drop(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return x with a share `rate` of its entries 0 and the others scaled up, in training.

    torch draws a float per entry on the CPU, a fifth of the time of a training step; here four entries share one draw
    of 64 bits, so the rate is exact to 2^-16.
    """
    if not training or rate == 0.0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = (draws[: x.numel()] >= round(rate * 2**16) - 2**15).to(x.dtype).mul_(1 / (1 - rate))
    return x * kept.view(x.shape)


class RMSNorm(nn.Module):
    """Scale by the root mean square, in fp32; no shift, no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        """Return x over its root mean square, times the weight."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, EPSILON)


class Adapter(nn.Module):
    """y + up(gelu(down(y))): a bottleneck that starts as the identity (Houlsby et al. 2019); one for all tasks."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.down = nn.Linear(shape.dim, max(1, shape.dim // shape.adapters))
        self.up = nn.Linear(self.down.out_features, shape.dim)
        for part in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(part)

    def forward(self, y: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        """Return y, adapted."""
        return y + self.up(functional.gelu(self.down(y)))


class Output(nn.Linear):
    """The last matrix of a sublayer, without bias, and the adapter behind it if there is one."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__(width, shape.dim, bias=False)
        self.adapter = Adapter(shape) if shape.adapters else None

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes dim"]:
        """Return what the sublayer adds to its input."""
        y = super().forward(x)
        return y if self.adapter is None else self.adapter(y)


class FeedForward(nn.Module):
    """Norm, widen, ReLU, narrow, add."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.dim)
        self.widen = nn.Linear(shape.dim, shape.feed_forward, bias=False)
        self.narrow = Output(shape.feed_forward, shape)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        """Return x + feed-forward(x)."""
        hidden = drop(self.widen(self.norm(x)).relu_(), self.dropout, self.training)
        return x + drop(self.narrow(hidden), self.dropout, self.training)


class Attention(nn.Module):
    """Norm, attend, project, add. T5 does not divide by sqrt(d_kv); its initialisation does."""

    def __init__(self, shape: Shape, dropout: float, cross: bool) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.norm = RMSNorm(shape.dim)
        if cross:
            self.query = nn.Linear(shape.dim, shape.inner, bias=False)
            self.key_value = nn.Linear(shape.dim, 2 * shape.inner, bias=False)
        else:
            self.query_key_value = nn.Linear(shape.dim, 3 * shape.inner, bias=False)
        self.output = Output(shape.inner, shape)

    def heads(self, x: Float[Tensor, "batch length inner"]) -> Float[Tensor, "batch heads length d_kv"]:
        """Return x with its inner axis split into heads."""
        return x.unflatten(-1, (self.shape.heads, self.shape.d_kv)).transpose(1, 2)

    def project(self, x: Float[Tensor, "batch length dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value heads of the normed x (self-attention)."""
        query, key, value = self.query_key_value(self.norm(x)).chunk(3, dim=-1)
        return self.heads(query), self.heads(key), self.heads(value)

    def memory_heads(self, hidden: Float[Tensor, "batch source dim"]) -> tuple[Tensor, Tensor]:
        """Return key and value heads of the encoder's output (cross-attention)."""
        key, value = self.key_value(hidden).chunk(2, dim=-1)
        return self.heads(key), self.heads(value)

    def attend(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return x + attention; `bias` is added to the scores and broadcasts over batch, heads and queries."""
        if self.training and self.dropout:
            weights = (query @ key.transpose(-1, -2) + bias).softmax(dim=-1)
            mixed = drop(weights, self.dropout, True).to(value.dtype) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), scale=1.0)
        return x + drop(self.output(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
