"""One step of T5's decoder for many rows of each user, with nothing of the user repeated per row.

Notation: users of a batch, beams = rows of one user, slots = places of self-attention keys and values, one per row and
step ever taken. A row reads the slots of its ancestors, so caches are never copied when beams change places
(lineage.md 7.2); cross-attention reads one set of keys and values per user.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit.generation.seq2seq import T5, Attention, Memory, source_bias

# with more slots than this per ancestor, gathering each row's ancestors is quicker than masking the others
SLOTS_PER_ANCESTOR = 64


@dataclass
class Cache:
    """What the decoder keeps of a batch of users between steps."""

    memory: list[tuple[Tensor, Tensor]]  # per layer: keys, values [users heads source d_kv]
    memory_bias: Tensor  # [users 1 1 source]
    slots: list[tuple[Tensor, Tensor]]  # per layer: keys, values [users heads capacity d_kv]
    used: int = 0

    def take(self, users: Int[Tensor, " some"]) -> "Cache":
        """Return an empty cache of some of the users, which shares nothing but their memory."""
        memory = [(key[users], value[users]) for key, value in self.memory]
        slots = [(torch.empty_like(key[users]), torch.empty_like(value[users])) for key, value in self.slots]
        return Cache(memory, self.memory_bias[users], slots)


def open_cache(model: T5, memory: Memory, capacity: int) -> Cache:
    """Return the cache of a batch: cross-attention's keys and values, and room for `capacity` slots."""
    shape, (users, _, _) = model.shape, memory.hidden.shape
    made = [layer.cross_attention.memory_heads(memory.hidden) for layer in model.decoder]
    size = (users, shape.heads, capacity, shape.d_kv)
    slots = [(memory.hidden.new_empty(size), memory.hidden.new_empty(size)) for _ in made]
    return Cache([(key.contiguous(), value.contiguous()) for key, value in made], source_bias(memory), slots)


def step(
    model: T5, cache: Cache, tokens: Int[Tensor, "users beams"], ancestors: Int[Tensor, "users beams before"]
) -> Float[Tensor, "users beams dim"]:
    """Return the decoder's output for one more token of each row; its slots are the next `beams` ones.

    `ancestors` are the slots of the row's earlier tokens, oldest first.
    """
    users, beams, before = ancestors.shape
    own = torch.arange(cache.used, cache.used + beams, device=tokens.device)
    path = torch.cat([ancestors, own.expand(users, beams)[..., None]], dim=-1)
    positions = torch.arange(before + 1, device=tokens.device)
    bias = model.decoder.bias(positions[-1:], positions)[0, :, 0]
    cache.used += beams
    if cache.used > SLOTS_PER_ANCESTOR * (before + 1):
        attend, bias = _gathered, bias[None, :, None, :]
    else:
        attend, bias = _masked, _slot_bias(bias, path, cache.used)
    x = model.embed(tokens)
    for layer, slots, memory in zip(model.decoder, cache.slots, cache.memory, strict=True):
        query, key, value = layer.self_attention.project(x)
        keys, values = slots[0][:, :, : cache.used], slots[1][:, :, : cache.used]
        keys[:, :, -beams:], values[:, :, -beams:] = key, value
        x = attend(layer.self_attention, x, query, keys, values, bias, path)
        cross = layer.cross_attention
        x = cross.attend(x, cross.heads(cross.query(cross.norm(x))), *memory, cache.memory_bias)
        x = layer.feed_forward(x)
    return model.decoder.finish(x)


def _slot_bias(bias: Tensor, path: Tensor, used: int) -> Float[Tensor, "users heads beams used"]:
    """Return the position biases at each row's own slots, -inf at all others."""
    users, beams, length = path.shape
    size = (users, len(bias), beams)
    table = bias.new_full((*size, used), -torch.inf)
    return table.scatter_(3, path[:, None].expand(*size, length), bias[None, :, None, :].expand(*size, length))


def _masked(
    attention: Attention, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, path: Tensor
) -> Tensor:
    return attention.attend(x, query, keys, values, bias)


def _gathered(
    attention: Attention, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, path: Tensor
) -> Tensor:
    users, beams, length = path.shape
    index = path.reshape(users, 1, beams * length, 1).expand(users, keys.shape[1], beams * length, keys.shape[3])
    keys, values = (x.gather(2, index).unflatten(2, (beams, length)) for x in (keys, values))
    weights = ((query.unsqueeze(3) * keys).sum(-1) + bias).softmax(dim=-1)
    mixed = (weights.unsqueeze(-1) * values).sum(3)
    return x + attention.output(mixed.transpose(1, 2).flatten(2))
