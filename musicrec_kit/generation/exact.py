"""Exact scores: every item's whole ID by teacher forcing, nothing pruned. Also the oracle of beam search.

It shares no code with the step-by-step decoder: whole IDs go through the decoder as rows of one sequence per user.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from musicrec_kit.generation.beam_search import Found, Score, ordered_by
from musicrec_kit.generation.legal import NOWHERE, Legal
from musicrec_kit.generation.pairs import Pairs
from musicrec_kit.generation.seq2seq import PAD, T5, Memory, source_bias
from musicrec_kit.ids.prefix_tree import PrefixTree
from musicrec_kit.ids.vocabulary import EOS, Vocabulary

CHUNK = 2**14  # decoder positions at once, over users and IDs


class Paths(NamedTuple):
    """All distinct IDs: their leaves, tokens with eos, and the node that stands before each token."""

    leaf: Int[Tensor, " ids"]
    tokens: Int[Tensor, "ids depth"]  # padded on the right
    before: Int[Tensor, "ids depth"]


def leaf_paths(legal: Legal) -> Paths:
    """Return every distinct ID of the tree."""
    tree = legal.tree
    parent = torch.zeros_like(tree.child_first)
    token = torch.full_like(tree.child_first, PAD)
    parent[tree.child_node], token[tree.child_node] = torch.repeat_interleave(tree.child_count), tree.child_token
    leaf = tree.leaf_first.diff().nonzero()[:, 0]
    tokens, before, node = [], [], leaf
    for _ in range(tree.depth):
        tokens.append(token[node])
        node = parent[node]
        before.append(node)
    written = torch.stack(tokens[::-1], dim=1)
    order = (written == PAD).long().argsort(dim=1, stable=True)  # the root's PAD stands in front of short IDs
    return Paths(leaf, written.gather(1, order), torch.stack(before[::-1], dim=1).gather(1, order))


def score_ids(
    model: T5, memory: Memory, paths: Paths, blocks: tuple[tuple[int, int], ...], siblings: PrefixTree | None = None
) -> tuple[Float[Tensor, "users ids"], Float[Tensor, "users ids"]]:
    """Return the lineage's score and ours of every ID (`beam_search`) for every user.

    Args:
        blocks: all token ranges that one position's tokens compete in; empty for the whole vocabulary.
        siblings: a tree whose siblings alone compete, in both scores; None: as `blocks` say.
    """
    users, chunk = len(memory.hidden), max(1, CHUNK // (len(memory.hidden) * paths.tokens.shape[1]))
    lineage, ours = [], []
    for tokens, before in zip(paths.tokens.split(chunk), paths.before.split(chunk), strict=True):
        hidden = _decode(model, memory, functional.pad(tokens, (1, 0), value=PAD)[:, :-1])
        # IDs that begin alike have equal logits there, so one row stands for all of them
        prefixes, prefix = torch.unique(before, return_inverse=True)
        place = torch.arange(before.numel(), device=before.device)
        # the first one: padding behind a short ID counts as the root, but not its output
        first = torch.empty_like(prefixes).scatter_reduce_(0, prefix.flatten(), place, "amin", include_self=False)
        logits = model.logits(hidden[:, first]).float()
        chosen = logits.flatten(1)[:, (prefix * model.n_tokens + tokens).flatten()].view(users, *tokens.shape)
        mass = logits.logsumexp(-1) if siblings is None else _mass_of_children(logits, prefixes, siblings)
        whole = chosen - mass[:, prefix]
        level = whole.clone()
        for start, stop in blocks:
            row, column = ((tokens >= start) & (tokens < stop)).nonzero(as_tuple=True)
            rows, back = torch.unique(prefix[row, column], return_inverse=True)
            level[:, row, column] = chosen[:, row, column] - logits[:, rows, start:stop].logsumexp(-1)[:, back]
        lineage.append(whole.masked_fill(tokens == PAD, 0).sum(-1) / (tokens != PAD).sum(-1))
        ours.append(level.masked_fill((tokens == PAD) | (tokens == EOS), 0).sum(-1))
    return torch.cat(lineage, dim=1), torch.cat(ours, dim=1)


def _mass_of_children(
    logits: Float[Tensor, "users prefixes tokens"], nodes: Int[Tensor, " prefixes"], tree: PrefixTree
) -> Float[Tensor, "users prefixes"]:
    """Return the log of the summed exp of the logits of each node's children."""
    parent = torch.repeat_interleave(tree.child_count)
    edge = torch.isin(parent, nodes).nonzero()[:, 0]
    row = torch.searchsorted(nodes, parent[edge])
    legal = torch.zeros(len(nodes), logits.shape[-1], dtype=torch.bool, device=nodes.device)
    legal[row, tree.child_token[edge]] = True
    return logits.masked_fill(~legal, -torch.inf).logsumexp(-1)


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


def score_everything(model: T5, vocabulary: Vocabulary, legal: Legal, memory: Memory) -> Found:
    """Return all items' IDs with their scores for every user, in order of their leaves."""
    paths = leaf_paths(legal)
    blocks = tuple((block.first, block.first + block.size) for block in vocabulary.blocks)
    siblings = legal.tree if legal.softmax == "legal" else None
    lineage, ours = score_ids(model, memory, paths, blocks if legal.renormalised and siblings is None else (), siblings)
    return Found(paths.leaf.expand(len(lineage), -1), lineage, ours)


def best_of(everything: Found, legal: Legal, n_best: int, score: Score, closed: Pairs | None = None) -> Found:
    """Return the `n_best` IDs of every user that are not closed, best first, as `beam_search.search` does."""
    leaf, lineage, ours = everything
    if closed is not None:
        shut = closed.hold(leaf)
        leaf = leaf.masked_fill(shut, NOWHERE)
        lineage, ours = (part.masked_fill(shut, -torch.inf) for part in (lineage, ours))
    return ordered_by(Found(leaf, lineage, ours), legal, n_best, score)
