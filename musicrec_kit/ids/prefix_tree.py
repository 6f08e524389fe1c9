"""Prefix tree: which token may follow, for every prefix of a legal ID, as flat arrays (after STATIC, arXiv 2602.22647).

Nodes are numbered breadth first, so the children of a node are contiguous and sorted by token. Every ID ends in eos;
the node that eos leads to is the leaf, and holds every item that has this ID.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from musicrec_kit.sorted_rows import sort_rows

if TYPE_CHECKING:
    import torch

ROOT = 0


@dataclass(frozen=True)
class PrefixTree:
    """Legal IDs as arrays over nodes and edges; node 0 is the root.

    Attributes:
        child_first: int64 [nodes]; the first edge of a node.
        child_count: int64 [nodes]; how many edges leave it, 0 at a leaf.
        child_token: int64 [edges]; the token of an edge, ascending inside a node.
        child_node: int64 [edges]; where the edge leads.
        leaf_first: int64 [nodes + 1]; the items of node n are leaf_items[leaf_first[n] : leaf_first[n + 1]].
        leaf_items: int64 [items with an ID]; ascending inside a leaf.
        max_branch: the largest number of children at each depth, from the root on; as long as the longest ID with eos.
        eos: the token that ends every ID.
    """

    child_first: Any  # numpy arrays, or torch tensors after `to`
    child_count: Any
    child_token: Any
    child_node: Any
    leaf_first: Any
    leaf_items: Any
    max_branch: tuple[int, ...]
    eos: int

    @classmethod
    def from_tokens(cls, tokens: np.ndarray, lengths: np.ndarray, eos: int = 1) -> "PrefixTree":
        """Build the tree of IDs given as tokens [items, width] of `lengths` [items]; length 0 means no ID.

        >>> tree = PrefixTree.from_tokens(np.array([[5, 7], [5, 8], [5, 7]]), np.array([2, 2, 2]))
        >>> tree.child_token.tolist(), tree.items_of(tree.find([5, 7, 1])).tolist()
        ([5, 7, 8, 1, 1], [0, 2])
        """
        tokens, lengths = np.asarray(tokens), np.asarray(lengths)
        items = np.flatnonzero(lengths > 0)
        if len(items) < len(lengths):
            tokens, lengths = tokens[items], lengths[items]
        rows = closed(tokens, lengths, eos)
        found = sort_rows(rows)  # in order of tokens, equal rows in order of items
        sizes = found.sizes()
        first = np.cumsum(sizes) - sizes  # of each whole ID, in order
        whole = found.order[first]
        stop = lengths[whole] + 1
        # a node is opened by the first ID that passes it, and its first child by the same ID
        opens, opened = np.zeros(min(1, len(rows)), np.int64), np.arange(len(whole)) == 0
        child_counts, child_tokens, leaf_counts = [], [], [np.zeros(1, np.int64)]
        for depth in range(rows.shape[1] if len(rows) else 0):
            goes_on, before = stop[opens] > depth, opened
            opened = found.begins[depth][first] & (stop > depth)
            opens = np.flatnonzero(opened)
            counts = np.zeros(len(goes_on), np.int64)
            counts[goes_on] = np.diff(np.flatnonzero(before[opens]), append=len(opens))
            child_counts.append(counts)
            child_tokens.append(rows[whole[opens], depth])
            leaf_counts.append(np.where(stop[opens] == depth + 1, sizes[opens], 0))
        items = items[found.order]
        if (lengths != rows.shape[1] - 1).any():  # leaves are numbered by depth first
            items = items[np.argsort(np.repeat(stop, sizes), kind="stable")]
        count = np.concatenate([*child_counts, np.zeros(len(opens) if len(rows) else 1, np.int64)])
        return cls(
            child_first=_starts(count)[:-1],
            child_count=count,
            child_token=np.concatenate([np.zeros(0, np.int64), *child_tokens]),
            child_node=np.arange(1, len(count), dtype=np.int64),  # breadth first: edge e opens node e + 1
            leaf_first=_starts(np.concatenate(leaf_counts)),
            leaf_items=items,
            max_branch=tuple(int(counts.max()) for counts in child_counts),
            eos=eos,
        )

    @property
    def n_nodes(self) -> int:
        """Return the number of nodes, root and leaves included."""
        return len(self.child_first)

    @property
    def depth(self) -> int:
        """Return the number of tokens of the longest ID, eos included."""
        return len(self.max_branch)

    def children(self, node: int) -> tuple[Any, Any]:
        """Return (tokens, nodes) of the children of one node."""
        edges = slice(int(self.child_first[node]), int(self.child_first[node] + self.child_count[node]))
        return self.child_token[edges], self.child_node[edges]

    def find(self, prefix: Any) -> int:
        """Return the node that a sequence of tokens leads to, or -1 where no ID starts so."""
        node = ROOT
        for token in prefix:
            tokens, nodes = self.children(node)
            at = int(np.searchsorted(np.asarray(tokens), token))
            if at == len(tokens) or int(tokens[at]) != int(token):
                return -1
            node = int(nodes[at])
        return node

    def items_of(self, node: int) -> Any:
        """Return the items whose whole ID ends at this node: empty unless it is a leaf."""
        return self.leaf_items[int(self.leaf_first[node]) : int(self.leaf_first[node + 1])]

    def to(self, device: "str | torch.device") -> "PrefixTree":
        """Return the same tree with torch tensors on `device`."""
        import torch

        names = [field.name for field in fields(self) if field.name not in ("max_branch", "eos")]
        arrays: dict[str, Any] = {name: torch.as_tensor(getattr(self, name)).to(device) for name in names}
        return replace(self, **arrays)


def _starts(counts: np.ndarray) -> np.ndarray:
    """Return where each group begins that has `counts` members, and where the last one ends."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def closed(tokens: np.ndarray, lengths: np.ndarray, eos: int) -> np.ndarray:
    """Return IDs int64 [rows, longest + 1] with eos after each and 0 behind it."""
    width = int(lengths.max(initial=0))
    wide = np.zeros((width + 1, len(tokens)), np.int64)  # column by column: that is how they are read
    for position, column in enumerate(wide):
        inside = position < lengths
        if position < width:
            np.copyto(column, tokens[:, position], where=inside)
            assert not ((column == eos) & inside).any(), "an ID holds the eos token"
        column[position == lengths] = eos
    return wide.T
