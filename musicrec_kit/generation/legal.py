"""What a decoder may write: prefix trees as tables of moves, and the nodes that a user's history closes.

`joint` moves along the tree of whole IDs. `per_modality` moves along each segment's own tree, one after the other, and
`free` along any tokens; both can write an ID that no item has, which is found by walking the tree of whole IDs beside.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from musicrec_kit.generation.pairs import Pairs
from musicrec_kit.generation.tasks import Writing, write
from musicrec_kit.ids.prefix_tree import PrefixTree
from musicrec_kit.ids.vocabulary import EOS, PAD, Vocabulary

Softmax = Literal["vocabulary", "legal"]
NOWHERE = -1  # beside the tree of whole IDs


@dataclass(frozen=True)
class Level:
    """What can happen at one position of an ID, over all states there.

    Attributes:
        branch: the largest number of moves from a state.
        ends, continues: whether an ID may end here (eos), and whether it may go on.
        blocks: token ranges (first, stop) of the vocabulary that the moves use.
    """

    branch: int
    ends: bool
    continues: bool
    blocks: tuple[tuple[int, int], ...]

    @property
    def range(self) -> tuple[int, int]:
        """Return the token range (first, stop) that holds all moves."""
        ends = [(EOS, EOS + 1)] * self.ends
        return min(first for first, _ in (*self.blocks, *ends)), max(stop for _, stop in (*self.blocks, *ends))


@dataclass(frozen=True, eq=False)
class Legal:
    """Moves from state to state, and the items that complete IDs stand for; tensors on one device.

    Attributes:
        first, count: int64 [states]; the moves of a state.
        token, state: int64 [moves]; ascending tokens inside a state.
        levels: one per position.
        tree: the tree of whole IDs.
        same: the states are the tree's nodes.
        renormalised: score `ours` is over each level's own tokens; without, over the vocabulary.
        softmax: what the model was trained to tell a token from (`GeneratorParams.softmax`); with "legal" both scores
            are over the moves from a state.
        n_tokens: size of the vocabulary.
    """

    first: Int[Tensor, " states"]
    count: Int[Tensor, " states"]
    token: Int[Tensor, " moves"]
    state: Int[Tensor, " moves"]
    levels: tuple[Level, ...]
    tree: PrefixTree
    same: bool
    renormalised: bool
    n_tokens: int
    softmax: Softmax = "vocabulary"

    @cached_property
    def edge_keys(self) -> Int[Tensor, " edges"]:
        """Return node * tokens + token of every edge of the tree, ascending."""
        parent = torch.repeat_interleave(self.tree.child_count)
        return parent * self.n_tokens + self.tree.child_token

    def walk(self, node: Int[Tensor, "*axes"], token: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        """Return where the token leads in the tree of whole IDs, or NOWHERE."""
        wanted = node * self.n_tokens + token
        at = torch.searchsorted(self.edge_keys, wanted.contiguous()).clamp(max=len(self.edge_keys) - 1)
        found = (self.edge_keys[at] == wanted) & (node != NOWHERE)
        return torch.where(found, self.tree.child_node[at], NOWHERE)

    @cached_property
    def item_paths(self) -> Int[Tensor, "items depth"]:
        """Return the nodes on the way to every item's leaf, the leaf last; -1 behind a short ID and for no ID."""
        parent = torch.zeros_like(self.tree.child_first)
        parent[self.tree.child_node] = torch.repeat_interleave(self.tree.child_count)
        leaf = torch.repeat_interleave(self.tree.leaf_first.diff())
        n_items = int(self.tree.leaf_items.max()) + 1 if len(leaf) else 0
        paths = torch.full((n_items, self.tree.depth), NOWHERE, device=leaf.device)
        for depth in range(self.tree.depth):
            paths[self.tree.leaf_items, depth] = torch.where(leaf > 0, leaf, NOWHERE)
            leaf = parent[leaf]
        return paths

    @cached_property
    def items_below(self) -> Int[Tensor, " nodes"]:
        """Return the number of items whose ID passes through each node; the root is left at 0."""
        nodes = self.item_paths[self.item_paths != NOWHERE]
        return torch.bincount(nodes, minlength=self.tree.n_nodes)

    def leaf_of_item(self, n_items: int) -> np.ndarray:
        """Return int64 [items]: the leaf of each item, -1 for an item without an ID."""
        leaves = np.full(n_items, NOWHERE, np.int64)
        leaves[self.tree.leaf_items.cpu().numpy()] = torch.repeat_interleave(self.tree.leaf_first.diff()).cpu().numpy()
        return leaves

    def closed(self, users: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"], n_users: int) -> Pairs:
        """Return the nodes below which a user's history holds every item, so that a search need not enter them.

        (users, items) are the histories' pairs, each once; users are numbered from 0 inside the batch.
        """
        n_nodes = self.tree.n_nodes
        known = items < len(self.item_paths)
        paths = self.item_paths[items[known]]
        keys = users[known][:, None] * n_nodes + paths
        keys, counts = torch.unique(keys[paths != NOWHERE], return_counts=True)
        return Pairs.of(keys[counts == self.items_below[keys % n_nodes]], n_nodes, n_users)


def make_legal(
    vocabulary: Vocabulary,
    writing: Writing,
    tree: str,
    device: str | torch.device = "cpu",
    softmax: Softmax = "vocabulary",
) -> Legal:
    """Return the moves of decoding a writing under a tree switch: joint, per_modality or free."""
    tokens, lengths = write(vocabulary, writing)
    whole = PrefixTree.from_tokens(tokens, lengths, EOS)
    if tree == "free":
        first, count, token, state = _free(vocabulary.size, whole.depth)
    elif tree == "per_modality":
        first, count, token, state = _chained(tokens, lengths, _cuts(vocabulary, writing))
    else:
        first, count, token, state = whole.child_first, whole.child_count, whole.child_token, whole.child_node
    levels = _levels(first, count, token, state, whole.depth, vocabulary)
    moves = dict(zip(("first", "count", "token", "state"), (first, count, token, state), strict=True))
    tensors = {name: torch.from_numpy(array).to(device) for name, array in moves.items()}
    return Legal(
        **tensors,
        levels=levels,
        tree=whole.to(device),
        same=tree == "joint",
        renormalised=tree != "free",
        n_tokens=vocabulary.size,
        softmax=softmax,
    )


Moves = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _free(n_tokens: int, depth: int) -> Moves:
    """Return moves by any token but padding, at most `depth`: state i has i tokens behind it, the last is the end."""
    tokens = np.arange(PAD + 1, n_tokens)
    first, count = np.arange(depth + 1) * len(tokens), np.full(depth + 1, len(tokens))
    count[depth] = 0
    # an ID that is still open after `depth` tokens never ends: it stays in the last state, where no item is
    state = np.where(tokens == EOS, depth, np.minimum(np.arange(depth)[:, None] + 1, depth))
    return first, count, np.tile(tokens, depth), state.ravel()


def _cuts(vocabulary: Vocabulary, writing: Writing) -> list[int]:
    """Return the columns of the joined tokens at which a new segment begins."""
    starts, at = [], 0
    for view in writing:
        segments = vocabulary.ids.segments[view]
        for number, (_, levels) in enumerate(segments):
            starts.append(at)
            # a separator is written before a segment and belongs to it
            at += levels + (number > 0 and bool(vocabulary.separators))
        at += vocabulary.ids.has_suffix(view)
    return starts


def _chained(tokens: np.ndarray, lengths: np.ndarray, starts: list[int]) -> Moves:
    """Return moves through each segment's own tree: where one segment can end, the next one's tree begins.

    Segments are told apart by column, and the ends of a segment are one state unless a longer one goes on from there.
    """
    edges: list[np.ndarray] = []  # rows (from, token, to)
    entry, n_states, doors = np.zeros(1, np.int64), 1, []
    for start, stop in zip(starts, [*starts[1:], tokens.shape[1]], strict=True):
        rows = np.flatnonzero(lengths > start)
        tree = PrefixTree.from_tokens(tokens[rows, start:stop], np.minimum(lengths[rows], stop) - start, EOS)
        parent, ends = np.repeat(np.arange(tree.n_nodes), tree.child_count), tree.child_token == EOS
        is_end = np.zeros(tree.n_nodes, bool)
        is_end[parent[ends]] = True
        # the root's moves leave from `entry`, so its number is free for the state of all plain ends
        state_of = n_states + np.where(is_end & (tree.child_count == 1), 0, np.arange(tree.n_nodes))
        begin, inner = (parent == 0) & ~ends, (parent != 0) & ~ends
        at, step = np.repeat(entry, begin.sum()), np.tile(np.flatnonzero(begin), len(entry))
        edges.append(np.stack([at, tree.child_token[step], state_of[tree.child_node[step]]], axis=1))
        edges.append(np.stack([state_of[parent], tree.child_token, state_of[tree.child_node]], axis=1)[inner])
        n_states += tree.n_nodes
        entry = np.unique(state_of[is_end])
        # an ID may end at the end of a segment where an item's does
        doors.append(entry if np.any(lengths[rows] <= stop) else entry[:0])
    edges += [np.stack([door, np.full(len(door), EOS), np.full(len(door), n_states)], axis=1) for door in doors]
    table = np.concatenate(edges)
    _, kept = np.unique(table[:, :2], axis=0, return_index=True)
    count = np.bincount(table[kept, 0], minlength=n_states + 1)
    return np.cumsum(count) - count, count, table[kept, 1].copy(), table[kept, 2].copy()


def _levels(
    first: np.ndarray, count: np.ndarray, token: np.ndarray, state: np.ndarray, depth: int, vocabulary: Vocabulary
) -> tuple[Level, ...]:
    begins = np.array([0, *(block.first for block in vocabulary.blocks)])
    sizes = np.array([2, *(block.size for block in vocabulary.blocks)])
    block_of = np.repeat(np.arange(len(begins)), np.diff([*begins, vocabulary.size]))
    levels, states = [], np.zeros(1, np.int64)
    for _ in range(depth):
        counts = count[states]
        begin, total = int(first[states[0]]) if len(states) else 0, int(counts.sum())
        moves: slice | np.ndarray = slice(begin, begin + total)
        if total and begin + total != first[states[-1]] + counts[-1]:  # states in between that are not reached
            moves = np.repeat(first[states] - np.cumsum(counts) + counts, counts) + np.arange(total)
        used, goes_on = token[moves], token[moves] != EOS
        on = np.bincount(used, minlength=vocabulary.size) > 0
        on[EOS] = False
        found = np.unique(block_of[on])
        blocks = tuple((int(begins[b]), int(begins[b] + sizes[b])) for b in found)
        levels.append(Level(int(counts.max(initial=0)), bool((~goes_on).any()), bool(goes_on.any()), blocks))
        states = state[moves][goes_on]
        if not (states[1:] > states[:-1]).all():
            reached = np.zeros(len(count), bool)
            reached[states] = True
            states = np.flatnonzero(reached)
    return tuple(levels)
