"""Prefix tree: which token may follow, for every prefix of a legal ID, as flat arrays (after STATIC, arXiv 2602.22647).

Nodes are numbered breadth first, so the children of a node are contiguous and sorted by token. Every ID ends in eos;
the node that eos leads to is the leaf, and holds every item that has this ID.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

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
        items = np.flatnonzero(np.asarray(lengths) > 0)
        rows = closed(np.asarray(tokens)[items], np.asarray(lengths)[items], eos)
        # lexsort is stable and takes the last key first: rows in order of tokens, equal rows in order of items
        order = np.lexsort(rows.T[::-1]) if len(rows) else np.zeros(0, np.int64)
        rows, items = rows[order], items[order]
        stop = (rows == eos).argmax(axis=1) + 1 if len(rows) else np.zeros(0, np.int64)
        parents, child_tokens, max_branch = [], [], []
        node, n_nodes = np.zeros(len(rows), np.int64), 1  # node that each row stands at
        starts_new = np.zeros(len(rows), bool)
        starts_new[:1] = True
        for depth in range(rows.shape[1]):
            inside = depth < stop
            starts_new |= np.concatenate([[False], rows[1:, depth] != rows[:-1, depth]])[: len(rows)]
            opens = np.flatnonzero(starts_new & inside)
            if not len(opens):
                break
            parents.append(node[opens])
            child_tokens.append(rows[opens, depth])
            max_branch.append(int(np.unique(node[opens], return_counts=True)[1].max()))
            node = np.where(inside, n_nodes - 1 + np.cumsum(starts_new & inside), node)
            n_nodes += len(opens)
        return cls._from_edges(parents, child_tokens, n_nodes, node, items, tuple(max_branch), eos)

    @classmethod
    def _from_edges(
        cls,
        parents: list[np.ndarray],
        tokens: list[np.ndarray],
        n_nodes: int,
        leaf: np.ndarray,
        items: np.ndarray,
        max_branch: tuple[int, ...],
        eos: int,
    ) -> "PrefixTree":
        parent = np.concatenate([np.zeros(0, np.int64), *parents])
        counts = np.bincount(parent, minlength=n_nodes)
        leaf_counts = np.bincount(leaf, minlength=n_nodes) if len(leaf) else np.zeros(n_nodes, np.int64)
        return cls(
            child_first=np.cumsum(counts) - counts,
            child_count=counts,
            child_token=np.concatenate([np.zeros(0, np.int64), *tokens]).astype(np.int64),
            child_node=np.arange(1, n_nodes, dtype=np.int64),  # breadth first: edge e opens node e + 1
            leaf_first=np.concatenate([[0], np.cumsum(leaf_counts)]).astype(np.int64),
            leaf_items=items[np.argsort(leaf, kind="stable")].astype(np.int64),
            max_branch=max_branch,
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


def closed(tokens: np.ndarray, lengths: np.ndarray, eos: int) -> np.ndarray:
    """Return IDs int64 [rows, longest + 1] with eos after each and 0 behind it."""
    width = int(lengths.max(initial=0))
    position = np.arange(width + 1)
    wide = np.zeros((len(tokens), width + 1), np.int64)
    wide[:, :width] = tokens[:, :width]
    assert not ((wide == eos) & (position < lengths[:, None])).any(), "an ID holds the eos token"
    return np.where(position < lengths[:, None], wide, np.where(position == lengths[:, None], eos, 0))
