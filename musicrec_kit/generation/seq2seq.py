"""T5 (Raffel et al. 2020), written out: relative position bias, RMS norm, ReLU feed-forward, tied and scaled output.

Notation: batch sequences, source and target positions, dim = d_model, inner = heads * d_kv, beams rows of one user.
Token 0 is padding and also what the decoder starts from. Equal to Hugging Face's `T5ForConditionalGeneration` on the
same weights; queries, keys and values of a self-attention are one matrix here (`weights_from_hf` says which is where).
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from musicrec_kit import runs, seeds
from musicrec_kit.generation.layers import Attention, FeedForward, RMSNorm, Shape, drop
from musicrec_kit.generation.marks import Marks, Source
from musicrec_kit.params import Refused

PAD = 0  # also the decoder's first input
BUCKETS = 32
MAX_DISTANCE = 128
OURS = ("marks.", ".adapter.")  # parts of names of parameters that others' T5 has not


SHAPES = {
    "lineage": Shape(128, 1024, 64, 6, 4),  # what the configs of LETTER and MQL4GRec call T5-small
    "t5_small": Shape(512, 2048, 64, 8, 6),  # Raffel et al. 2020
    "narrow": Shape(64, 256, 32, 2, 2),  # ours: minutes on two CPU cores
    "tiny": Shape(32, 64, 16, 2, 1),  # ours: tests
}


class Memory(NamedTuple):
    """The encoder's output for a batch."""

    hidden: Float[Tensor, "batch source dim"]
    kept: Bool[Tensor, "batch source"]


class Layer(nn.Module):
    """Self-attention, in a decoder cross-attention, feed-forward."""

    cross_attention: Attention  # of a decoder's layers

    def __init__(self, shape: Shape, dropout: float, decoder: bool) -> None:
        super().__init__()
        self.self_attention = Attention(shape, dropout, cross=False)
        if decoder:
            self.cross_attention = Attention(shape, dropout, cross=True)
        self.feed_forward = FeedForward(shape, dropout)


class Stack(nn.Module):
    """Encoder or decoder: layers that share one table of relative position biases, then a norm."""

    def __init__(self, shape: Shape, dropout: float, decoder: bool) -> None:
        super().__init__()
        self.decoder, self.dropout = decoder, dropout
        self.position_bias = nn.Embedding(BUCKETS, shape.heads)
        self.layers = nn.ModuleList(Layer(shape, dropout, decoder) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.dim)

    def __iter__(self) -> Iterator[Layer]:
        """Iterate over the layers."""
        return iter(cast(list[Layer], list(self.layers)))

    def bias(
        self, queries: Int[Tensor, " queries"], keys: Int[Tensor, " keys"]
    ) -> Float[Tensor, "1 heads queries keys"]:
        """Return the bias between positions; a decoder's later keys are -inf."""
        distance = keys[None, :] - queries[:, None]
        bias = self.position_bias(bucket(distance, bidirectional=not self.decoder)).permute(2, 0, 1)[None]
        return bias.masked_fill(distance > 0, -math.inf) if self.decoder else bias

    def finish(self, x: Tensor) -> Tensor:
        """Return the stack's output from the last layer's."""
        return drop(self.norm(x), self.dropout, self.training)


def bucket(distance: Int[Tensor, "queries keys"], bidirectional: bool) -> Int[Tensor, "queries keys"]:
    """Return T5's bucket of each relative position (key - query): exact when near, logarithmic to 128 when far."""
    buckets = BUCKETS // 2 if bidirectional else BUCKETS
    first = (distance > 0).long() * buckets if bidirectional else torch.zeros_like(distance)
    distance = distance.abs() if bidirectional else (-distance).clamp(min=0)
    exact = buckets // 2
    # a distance of 0 has no logarithm and does not need one
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, far)


class T5(nn.Module):
    """Encoder-decoder over the kit's own tokens.

    Args:
        n_read_only: tokens behind the others that a source may hold and a target never does.
        marks: what is added to the rows of a source's tokens, if anything.
    """

    def __init__(
        self, n_tokens: int, shape: Shape, dropout: float = 0.0, n_read_only: int = 0, marks: Marks | None = None
    ) -> None:
        super().__init__()
        self.n_tokens, self.shape, self.dropout = n_tokens, shape, dropout
        self.embedding = nn.Embedding(n_tokens + n_read_only, shape.dim)
        self.encoder = Stack(shape, dropout, decoder=False)
        self.decoder = Stack(shape, dropout, decoder=True)
        self.marks = marks

    def initialise(self, seed: int) -> "T5":
        """Draw T5's initial weights and return the model; token rows are N(0, 1), each its own (lineage.md 6.1)."""
        shape, generator = self.shape, seeds.torch_generator(seed, "t5")
        std_query, std_dim = (shape.dim * shape.d_kv) ** -0.5, shape.dim**-0.5
        std = {"query": [std_query], "key_value": [std_dim] * 2, "query_key_value": [std_query, std_dim, std_dim]}
        std |= {"output": [shape.inner**-0.5], "widen": [std_dim], "narrow": [shape.feed_forward**-0.5]}
        std |= {"position_bias": [std_dim], "embedding": [1.0], "words": [1.0], "kinds": [1.0], "up": [0.0]}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parts = std.get(name.split(".")[-2], [parameter.shape[1] ** -0.5])
                    for rows, scale in zip(parameter.chunk(len(parts)), parts, strict=True):
                        rows.copy_(torch.randn(rows.shape, generator=generator) * scale)
        return self

    def embed(self, tokens: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes dim"]:
        """Return the tokens' rows, unscaled."""
        return drop(self.embedding(tokens), self.dropout, self.training)

    def encode(self, source: Int[Tensor, "batch source"] | Source) -> Memory:
        """Return the encoder's output; padding is no key."""
        tokens = source.tokens if isinstance(source, Source) else source
        kept = tokens != PAD
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        bias = self.encoder.bias(positions, positions).masked_fill(~kept[:, None, None, :], -math.inf)
        if isinstance(source, Source):
            assert self.marks is not None, "a marked source for a model without marks"
            x = drop(self.marks(self.embedding(tokens), source), self.dropout, self.training)
        else:
            x = self.embed(tokens)
        for layer in self.encoder:
            x = layer.feed_forward(layer.self_attention.attend(x, *layer.self_attention.project(x), bias))
        return Memory(self.encoder.finish(x), kept)

    def decode(self, inputs: Int[Tensor, "batch target"], memory: Memory) -> Float[Tensor, "batch target dim"]:
        """Return the decoder's output at every position of the inputs (targets shifted right)."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        bias = self.decoder.bias(positions, positions)
        memory_bias = source_bias(memory)
        x = self.embed(inputs)
        for layer in self.decoder:
            x = layer.self_attention.attend(x, *layer.self_attention.project(x), bias)
            cross = layer.cross_attention
            query = cross.heads(cross.query(cross.norm(x)))
            x = layer.feed_forward(cross.attend(x, query, *cross.memory_heads(memory.hidden), memory_bias))
        return self.decoder.finish(x)

    def logits(
        self, hidden: Float[Tensor, "*axes dim"], first: int = 0, stop: int | None = None
    ) -> Float[Tensor, "*axes tokens"]:
        """Return the logits of tokens first..stop, of those that can be written: the embedding tied, scaled."""
        stop = self.n_tokens if stop is None else stop
        return functional.linear(hidden * self.shape.dim**-0.5, self.embedding.weight[first:stop])

    def forward(
        self, source: Int[Tensor, "batch source"] | Source, target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target tokens"]:
        """Return the logits of every target token given those before it."""
        return self.logits(self.decode(functional.pad(target, (1, 0), value=PAD)[:, :-1], self.encode(source)))

    def loss(
        self, source: Int[Tensor, "batch source"] | Source, target: Int[Tensor, "batch target"], reduction: str = "mean"
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy over target tokens (eos included, padding ignored): their mean, or their sum."""
        logits = self(source, target).float()
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction=reduction)


def source_bias(memory: Memory) -> Float[Tensor, "batch 1 1 source"]:
    """Return cross-attention's bias: 0 on the source's tokens, -inf on its padding."""
    zeros = torch.zeros(memory.kept.shape, dtype=memory.hidden.dtype, device=memory.kept.device)
    return zeros.masked_fill(~memory.kept, -math.inf)[:, None, None, :]


def weights_from_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our state dict from Hugging Face's T5 state dict (or from its gradients under the same names)."""
    weights = {"embedding.weight": state["shared.weight"]}
    for stack in ("encoder", "decoder"):
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weights |= {f"{stack}.position_bias.weight": state[first]}
        weights |= {f"{stack}.norm.weight": state[f"{stack}.final_layer_norm.weight"]}
        for i in range(count_layers(state)):
            theirs = [f"{stack}.block.{i}.layer.{part}" for part in range(3)]
            own, cross = f"{stack}.layers.{i}.self_attention", f"{stack}.layers.{i}.cross_attention"
            names = [f"{theirs[0]}.SelfAttention.{part}.weight" for part in "qkv"]
            weights[f"{own}.query_key_value.weight"] = torch.cat([state[name] for name in names])
            weights[f"{own}.output.weight"] = state[f"{theirs[0]}.SelfAttention.o.weight"]
            weights[f"{own}.norm.weight"] = state[f"{theirs[0]}.layer_norm.weight"]
            if stack == "decoder":
                parts = {part: state[f"{theirs[1]}.EncDecAttention.{part}.weight"] for part in "qkvo"}
                weights[f"{cross}.query.weight"] = parts["q"]
                weights[f"{cross}.key_value.weight"] = torch.cat([parts["k"], parts["v"]])
                weights[f"{cross}.output.weight"] = parts["o"]
                weights[f"{cross}.norm.weight"] = state[f"{theirs[1]}.layer_norm.weight"]
            dense, norm = f"{stack}.layers.{i}.feed_forward", theirs[2 if stack == "decoder" else 1]
            weights[f"{dense}.widen.weight"] = state[f"{norm}.DenseReluDense.wi.weight"]
            weights[f"{dense}.narrow.weight"] = state[f"{norm}.DenseReluDense.wo.weight"]
            weights[f"{dense}.norm.weight"] = state[f"{norm}.layer_norm.weight"]
    return weights


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Return the number of encoder blocks in a Hugging Face T5 state dict."""
    return len({name.split(".")[2] for name in state if name.startswith("encoder.block.")})


def load_hf_blocks(model: T5, folder: Path) -> None:
    """Copy a Hugging Face T5 folder's blocks into the model; token rows stay our own.

    Our rows are rescaled to the spread of the checkpoint's rows, and padding and eos take theirs (both vocabularies
    have them at 0 and 1): rows that start as one mean vector train badly (lineage.md 6.1).

    Raises:
        Refused: the folder has no `model.safetensors`, is no ReLU T5, or has other widths than the backbone.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise Refused(f"generator.pretrained={folder}: no model.safetensors there; give a folder saved by transformers")
    state = {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in runs.read_tensors(path).items()}
    try:
        weights = weights_from_hf(state)
    except KeyError as error:
        raise Refused(f"generator.pretrained={folder}: no T5 with ReLU blocks there ({error} is missing)") from error
    rows, own = weights.pop("embedding.weight"), model.state_dict()
    for name, tensor in own.items():
        if any(part in name for part in OURS):
            continue
        if name != "embedding.weight" and (name not in weights or weights[name].shape != tensor.shape):
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise Refused(
                f"generator.pretrained={folder}: {name} is {found} there and {tuple(tensor.shape)} in this "
                "generator.backbone; choose the backbone of the same shape"
            )
    with torch.no_grad():
        model.embedding.weight.mul_(rows.std())
        model.embedding.weight[:2] = rows[:2]
        model.load_state_dict({**own, **weights, "embedding.weight": model.embedding.weight})
