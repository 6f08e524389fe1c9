"""A T5's weights laid out for decoding, made once from a trained model: the same function, less work.

- A norm's weights are part of the matrix behind it, so `unit` is all that is left of a norm.
- Queries, keys and values of the first layer are looked up, a row per token.
- Cross-attention's query and key matrices are one, and so are its value and output matrices, applied to the memory
  once per user: beams then need no query and no output of their own, a user's beams are one block of rows and all
  heads one block of columns.
- In bf16 the matrices are kept in bf16; sums, norms, softmax and the logits that are compared stay in fp32.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from musicrec_kit.generation.layers import EPSILON, Adapter, Attention, FeedForward
from musicrec_kit.generation.marks import Source
from musicrec_kit.generation.seq2seq import T5, Layer, Memory

Precision = Literal["fp32", "bf16"]
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAFE = 80.0  # exp of it is far from fp32's largest number, with a million terms, too
ALIGNED = 64  # rows of a matrix whose products are quick


def unit(x: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
    """Return x over its root mean square."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPSILON)


def relu_(x: Tensor) -> Tensor:
    """Set what is negative to 0; in bf16 by sign bits, which torch does six times as fast on the CPU."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        x.view(torch.int16).clamp_(min=0)
        return x
    return x.relu_()


@dataclass(frozen=True, eq=False)
class Block:
    """A layer's matrices in the kind of the products; adapters stay in fp32."""

    query_key_value: Float[Tensor, "inner3 dim"]
    output: Float[Tensor, "dim inner"]
    widen: Float[Tensor, "wide dim"]
    narrow: Float[Tensor, "dim wide"]
    adapters: tuple[Adapter | None, Adapter | None, Adapter | None]  # behind self-, cross-attention and feed-forward

    @classmethod
    def of(cls, layer: Layer, kind: torch.dtype) -> "Block":
        """Return a layer's block."""
        own, dense = layer.self_attention, layer.feed_forward
        cross = layer.cross_attention.output.adapter if hasattr(layer, "cross_attention") else None
        return cls(
            _behind(own, own.query_key_value.weight).to(kind),
            own.output.weight.to(kind),
            _behind(dense, dense.widen.weight).to(kind),
            dense.narrow.weight.to(kind),
            (own.output.adapter, cross, dense.narrow.adapter),
        )

    def project(self, x: Float[Tensor, "*axes dim"]) -> Tensor:
        """Return queries, keys and values side by side."""
        return functional.linear(unit(x).to(self.output.dtype), self.query_key_value)

    def attended(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Return x + self-attention's output."""
        return x + adapted(functional.linear(mixed, self.output), self.adapters[0])

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return x + feed-forward(x)."""
        hidden = relu_(functional.linear(unit(x).to(self.widen.dtype), self.widen))
        return x + adapted(functional.linear(hidden, self.narrow), self.adapters[2])


def adapted(y: Tensor, adapter: Adapter | None) -> Tensor:
    """Return y behind its adapter, if there is one."""
    return y if adapter is None else adapter(y.float())


def _behind(part: Attention | FeedForward, weight: Tensor) -> Tensor:
    return weight * part.norm.weight


@dataclass(frozen=True, eq=False)
class Frozen:
    """A T5 that only decodes.

    Attributes:
        model: whose weights these are; embeddings, marks and position biases are read there.
        encoder, decoder: their layers.
        memory_maps: [layers 2 heads dim dim], from the encoder's output to what stands for keys and values.
        first: [tokens inner3], queries, keys and values of the first layer of encoder and decoder, per token.
        rows: [tokens dim] in fp32, from normed output to logits; `far_rows` the same in the kind of the products.
        bounded: no logit is so large that its exp could overflow.
    """

    model: T5
    kind: torch.dtype
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    memory_maps: Tensor
    first: Tensor
    rows: Tensor
    far_rows: Tensor
    bounded: bool

    @classmethod
    @torch.no_grad()
    def of(cls, model: "T5 | Frozen", precision: Precision = "fp32") -> "Frozen":
        """Return a model's weights laid out; a frozen one is returned as it is."""
        if isinstance(model, Frozen):
            return model
        kind, shape = KINDS[precision], model.shape
        encoder, decoder = (tuple(Block.of(layer, kind) for layer in stack) for stack in (model.encoder, model.decoder))
        maps = torch.stack([_memory_maps(layer.cross_attention) for layer in model.decoder])
        rows = model.embedding.weight[: model.n_tokens] * model.decoder.norm.weight * shape.dim**-0.5
        # a normed output is sqrt(dim) long
        bounded = float(rows.norm(dim=1).max()) * shape.dim**0.5 < SAFE
        far = functional.pad(rows, (0, 0, 0, -len(rows) % ALIGNED)).to(kind)
        first = decoder[0].project(model.embedding.weight[: model.n_tokens])
        return cls(model, kind, encoder, decoder, maps.to(kind), first, rows, far, bounded)

    def encode(self, source: Int[Tensor, "batch source"] | Source) -> Memory:
        """Return what `T5.encode` returns."""
        model = self.model
        tokens = source.tokens if isinstance(source, Source) else source
        kept, x = tokens != 0, model.embedding(tokens)
        if isinstance(source, Source):
            assert model.marks is not None, "a marked source for a model without marks"
            x = model.marks(x, source)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        bias = model.encoder.bias(positions, positions)
        if not bool(kept.all()):
            bias = bias.masked_fill(~kept[:, None, None, :], -torch.inf)
        for block in self.encoder:
            query, key, value = self.heads(block.project(x))
            weights = (query @ key.transpose(-1, -2) + bias).softmax(dim=-1, dtype=torch.float32)
            x = block.feed_forward(block.attended(x, (weights.to(self.kind) @ value).transpose(1, 2).flatten(2)))
        return Memory(unit(x) * model.encoder.norm.weight, kept)

    def heads(self, x: Float[Tensor, "batch length inner3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, [batch heads length d_kv] each."""
        query, key, value = x.unflatten(-1, (3, self.model.shape.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def remember(self, memory: Memory) -> list[tuple[Tensor, Tensor]]:
        """Return per layer what stands for the memory's keys and values, [batch heads*source dim] each."""
        made = functional.linear(memory.hidden.to(self.kind), self.memory_maps.flatten(0, 3))
        layers = made.unflatten(-1, self.memory_maps.shape[:4]).permute(2, 3, 0, 4, 1, 5)
        return [(pair[0].flatten(1, 2), pair[1].flatten(1, 2)) for pair in layers]

    def logits(
        self, hidden: Float[Tensor, "*axes dim"], first: int, stop: int, whole: bool
    ) -> tuple[Float[Tensor, "*axes some"], Float[Tensor, "*axes 1"] | None]:
        """Return the logits of tokens first..stop, and if asked the log of the summed exp of all tokens' logits."""
        if not whole:
            return functional.linear(hidden, self.rows[first:stop]), None
        if self.kind == torch.float32:
            every = functional.linear(hidden, self.rows)
            return every[..., first:stop], self.mass(every)
        # the logits that are compared, and what usually holds most of the mass, in fp32
        near = functional.linear(hidden, self.rows[first:stop])
        far = functional.linear(hidden.to(self.kind), self.far_rows).float()[..., : len(self.rows)]
        far[..., first:stop] = near
        return near, self.mass(far)

    def mass(self, logits: Float[Tensor, "*axes some"]) -> Float[Tensor, "*axes 1"]:
        """Return the log of the summed exp."""
        return logits.exp().sum(dim=-1, keepdim=True).log() if self.bounded else logits.logsumexp(-1, keepdim=True)


def _memory_maps(cross: Attention) -> Float[Tensor, "2 heads dim dim"]:
    """Return per head the matrices that make keys of queries' width, and values of outputs' width."""
    shape, split = cross.shape, (cross.shape.heads, cross.shape.d_kv)
    query = (cross.query.weight * cross.norm.weight).unflatten(0, split)  # heads d_kv dim
    key, value = cross.key_value.weight.unflatten(0, (2, *split))
    output = cross.output.weight.unflatten(1, split).permute(1, 2, 0)  # heads d_kv dim
    assert query.shape == (*split, shape.dim)
    return torch.stack([query.transpose(1, 2) @ key, output.transpose(1, 2) @ value])
