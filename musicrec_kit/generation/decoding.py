"""One step of T5's decoder for many rows of each user, with nothing of the user repeated per row.

Notation: users of a batch, beams = rows of one user, slots = places of self-attention keys and values, one per row and
step ever taken. A row reads the slots of its ancestors, so caches are never copied when beams change places
(lineage.md 7.2); cross-attention reads one set of keys and values per user.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit.generation.frozen import Frozen, adapted, unit
from musicrec_kit.generation.seq2seq import Memory

# with more slots than this per ancestor, gathering each row's ancestors is quicker than scoring all of them
SLOTS_PER_ANCESTOR = 64


@dataclass
class Cache:
    """What the decoder keeps of a batch of users between steps."""

    memory: list[tuple[Tensor, Tensor]]  # per layer: keys, values [users heads*source dim] (`Frozen.remember`)
    padding: Tensor | None  # [users 1 1 source], -inf where a source has ended; None where all are as long
    slots: list[tuple[Tensor, Tensor]]  # per layer: keys, values [users heads capacity d_kv]
    used: int = 0

    def take(self, users: Int[Tensor, " some"]) -> "Cache":
        """Return an empty cache of some of the users, which shares nothing but their memory."""
        memory = [(key[users], value[users]) for key, value in self.memory]
        slots = [(torch.empty_like(key[users]), torch.empty_like(value[users])) for key, value in self.slots]
        return Cache(memory, None if self.padding is None else self.padding[users], slots)


def open_cache(model: Frozen, memory: Memory, capacity: int) -> Cache:
    """Return the cache of a batch: cross-attention's keys and values, and room for `capacity` slots."""
    shape, users = model.model.shape, len(memory.hidden)
    size = (users, shape.heads, capacity, shape.d_kv)
    keys, values = ([memory.hidden.new_empty(size, dtype=model.kind) for _ in model.decoder] for _ in range(2))
    padding = None
    if not bool(memory.kept.all()):
        padding = torch.zeros_like(memory.kept, dtype=torch.float32).masked_fill_(~memory.kept, -torch.inf)
        padding = padding[:, None, None, :]
    return Cache(model.remember(memory), padding, list(zip(keys, values, strict=True)))


def step(
    model: Frozen, cache: Cache, tokens: Int[Tensor, "users beams"], ancestors: Int[Tensor, "users beams before"]
) -> Float[Tensor, "users beams dim"]:
    """Return the decoder's normed output for one more token of each row; its slots are the next `beams` ones.

    `ancestors` are the slots of the row's earlier tokens, oldest first.
    """
    users, beams, before = ancestors.shape
    own = torch.arange(cache.used, cache.used + beams, device=tokens.device)
    path = torch.cat([ancestors, own.expand(users, beams)[..., None]], dim=-1)
    positions = torch.arange(before + 1, device=tokens.device)
    bias = model.model.decoder.bias(positions[-1:], positions)[0, :, 0]
    cache.used += beams
    attend = _gathered if cache.used > SLOTS_PER_ANCESTOR * (before + 1) else _scattered
    x = model.model.embedding(tokens)
    for number, (block, slots, memory) in enumerate(zip(model.decoder, cache.slots, cache.memory, strict=True)):
        query, key, value = model.heads(block.project(x) if number else model.first[tokens])
        keys, values = slots[0][:, :, : cache.used], slots[1][:, :, : cache.used]
        keys[:, :, -beams:], values[:, :, -beams:] = key, value
        x = block.attended(x, attend(query, keys, values, bias, path).transpose(1, 2).flatten(2))
        x = x + adapted(_recalled(unit(x).to(model.kind), memory, cache.padding, len(bias)), block.adapters[1])
        x = block.feed_forward(x)
    return unit(x)


def _recalled(
    x: Float[Tensor, "users beams dim"], memory: tuple[Tensor, Tensor], padding: Tensor | None, heads: int
) -> Float[Tensor, "users beams dim"]:
    """Return cross-attention's output."""
    keys, values = memory
    scores = (x @ keys.transpose(1, 2)).unflatten(-1, (heads, -1))
    if padding is not None:
        scores = scores + padding
    return scores.softmax(dim=-1, dtype=torch.float32).flatten(2).to(x.dtype) @ values


def _scattered(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, path: Tensor) -> Tensor:
    """Return the attention of each row over the slots of its path, by way of all slots.

    Positions stand before rows, [users heads length beams]: a softmax over few neighbouring numbers is slow.
    """
    scores = keys @ query.transpose(-1, -2)
    place = path.transpose(1, 2)[:, None].expand(-1, keys.shape[1], -1, -1)
    weights = (scores.gather(2, place) + bias[None, :, :, None]).softmax(dim=2, dtype=torch.float32)
    spread = torch.zeros_like(scores).scatter_(2, place, weights.to(scores.dtype))
    return spread.transpose(-1, -2) @ values


def _gathered(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, path: Tensor) -> Tensor:
    """Return the same from copies of the slots of each row's path."""
    users, beams, length = path.shape
    index = path.reshape(users, 1, beams * length, 1).expand(users, keys.shape[1], beams * length, keys.shape[3])
    keys, values = (x.gather(2, index).unflatten(2, (beams, length)) for x in (keys, values))
    scores = (query.unsqueeze(3) * keys).sum(-1) + bias[None, :, None, :]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
    return (weights.unsqueeze(-1) * values).sum(3)
