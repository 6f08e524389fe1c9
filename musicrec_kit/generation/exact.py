"""Exact scores: every item's whole ID by teacher forcing, nothing pruned. Also the oracle of beam search.

It shares no code with the step-by-step decoder: whole IDs go through the decoder as rows of one sequence per user.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from musicrec_kit.generation.beam_search import Found, Score, ordered_by
from musicrec_kit.generation.legal import NOWHERE, Legal
from musicrec_kit.generation.seq2seq import PAD, T5, Memory, source_bias
from musicrec_kit.ids.vocabulary import EOS, Vocabulary

CHUNK = 2**14  # decoder positions at once, over users and IDs


def leaf_tokens(legal: Legal) -> tuple[Tensor, Tensor]:
    """Return (leaves [ids], tokens [ids depth]) of all distinct IDs, eos included, padded on the right."""
    tree = legal.tree
    parent = torch.zeros_like(tree.child_first)
    token = torch.full_like(tree.child_first, PAD)
    parent[tree.child_node], token[tree.child_node] = torch.repeat_interleave(tree.child_count), tree.child_token
    leaves = tree.leaf_first.diff().nonzero()[:, 0]
    reversed_tokens, node = [], leaves
    for _ in range(tree.depth):
        reversed_tokens.append(token[node])
        node = parent[node]
    tokens = torch.stack(reversed_tokens[::-1], dim=1)  # the root's PAD stands in front of short IDs
    return leaves, tokens.gather(1, (tokens == PAD).long().argsort(dim=1, stable=True))


def score_ids(
    model: T5, memory: Memory, tokens: Tensor, blocks: tuple[tuple[int, int], ...]
) -> tuple[Float[Tensor, "users ids"], Float[Tensor, "users ids"]]:
    """Return the lineage's score and ours of every ID (`beam_search`) for every user.

    Args:
        tokens: [ids depth] with eos, padded on the right.
        blocks: all token ranges that one position's tokens compete in; empty for the whole vocabulary.
    """
    users, chunk = len(memory.hidden), max(1, CHUNK // (len(memory.hidden) * tokens.shape[1]))
    lineage, ours = [], []
    for part in tokens.split(chunk):
        n_ids, depth = part.shape
        hidden = _decode(model, memory, functional.pad(part, (1, 0), value=PAD)[:, :-1])
        logits = model.logits(hidden).float().view(users, n_ids, depth, -1)
        wanted = part.expand(users, n_ids, depth)[..., None]
        chosen = logits.gather(-1, wanted)[..., 0]
        whole = chosen - logits.logsumexp(-1)
        level = whole if not blocks else torch.zeros_like(whole)
        for first, stop in blocks:
            inside = (part >= first) & (part < stop)
            level = torch.where(inside, chosen - logits[..., first:stop].logsumexp(-1), level)
        lineage.append(whole.masked_fill(part == PAD, 0).sum(-1) / (part != PAD).sum(-1))
        ours.append(level.masked_fill((part == PAD) | (part == EOS), 0).sum(-1))
    return torch.cat(lineage, dim=1), torch.cat(ours, dim=1)


def _decode(model: T5, memory: Memory, inputs: Tensor) -> Float[Tensor, "users positions dim"]:
    """Return the decoder's output at every position of every ID; cross-attention sees a user's IDs as one block."""
    users, (n_ids, depth) = len(memory.hidden), inputs.shape
    positions = torch.arange(depth, device=inputs.device)
    bias, memory_bias = model.decoder.bias(positions, positions), source_bias(memory)
    x = model.embed(inputs).expand(users, n_ids, depth, -1)
    for layer in model.decoder:
        rows = x.flatten(0, 1)
        rows = layer.self_attention.attend(rows, *layer.self_attention.project(rows), bias)
        x, cross = rows.view(users, n_ids * depth, -1), layer.cross_attention
        x = cross.attend(x, cross.heads(cross.query(cross.norm(x))), *cross.memory_heads(memory.hidden), memory_bias)
        x = layer.feed_forward(x).view(users, n_ids, depth, -1)
    return model.decoder.finish(x).flatten(1, 2)


def score_everything(
    model: T5,
    vocabulary: Vocabulary,
    legal: Legal,
    memory: Memory,
    n_best: int,
    score: Score = "lineage",
    closed: Bool[Tensor, "users nodes"] | None = None,
) -> Found:
    """Return the `n_best` IDs of every user among all items' IDs, as `beam_search.search` does."""
    leaves, tokens = leaf_tokens(legal)
    blocks = tuple((block.first, block.first + block.size) for block in vocabulary.blocks)
    lineage, ours = score_ids(model, memory, tokens, blocks if legal.renormalised else ())
    leaf = leaves.expand(len(lineage), -1)
    if closed is not None:
        shut = closed[:, leaves]
        leaf, lineage, ours = (
            leaf.masked_fill(shut, NOWHERE),
            lineage.masked_fill(shut, -torch.inf),
            ours.masked_fill(shut, -torch.inf),
        )
    return ordered_by(Found(leaf, lineage, ours), legal, n_best, score)
