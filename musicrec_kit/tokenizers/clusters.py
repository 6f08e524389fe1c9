"""Item tokenizers that are trees of clusters: an item's codes are its way from the root to its leaf, each one shorter
or longer than the next one's.

The items of a leaf share all codes; `ids.collisions=suffix` tells them apart by their running index in the leaf, drawn
in any order, with tokens of its own. `hierarchical`: k-means on the features of a modality, again inside every cluster
(the HC-indexer of MGR's Table 5; `baselines.md` 4.10). A level's codes then mean the child's number, whatever its
parent, and a new item walks down the same centres.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicrec_kit import runs, seeds
from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers.codebook import kmeans, nearest_codes
from musicrec_kit.tokenizers.codes import ItemCodes
from musicrec_kit.tokenizers.items import as_fitted
from musicrec_kit.tokenizers.mlp import Scaling

log = logging.getLogger(__name__)

WEIGHTS, SETTINGS = "tokenizer.safetensors", "tokenizer.json"
LEAF = -1


def grow(items: np.ndarray, split: Callable[[np.ndarray], np.ndarray], leaf: int) -> tuple[np.ndarray, list[list[int]]]:
    """Split items into clusters, and again those of more than `leaf` items; the root is always split.

    Args:
        split: items of a cluster -> a label for each; a split into one part ends there, however many items it holds.

    Returns:
        Each item's child numbers from the root on, int32 [items, levels], -1 behind its leaf; and for every cluster
        that was split, breadth first, the number of the split of each of its children, LEAF where it was not split.

    >>> grow(np.arange(5), lambda members: members > members[0], 2)[0].tolist()
    [[0, -1, -1], [1, 0, -1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    """
    columns: list[np.ndarray] = []
    opens: list[list[int]] = []
    level, n_split = [np.arange(len(items))], 1
    while level:
        column, following = np.full(len(items), LEAF, np.int32), []
        for members in level:
            labels = np.unique(split(items[members]), return_inverse=True)[1]
            column[members], children = labels, []
            for label in range(int(labels.max(initial=-1)) + 1):
                part = members[labels == label]
                children.append(n_split if leaf < len(part) < len(members) else LEAF)
                if children[-1] != LEAF:
                    following.append(part)
                    n_split += 1
                elif len(part) > leaf:
                    log.warning("%d items of one cluster cannot be split: a leaf of more than %d", len(part), leaf)
            opens.append(children)
        columns.append(column)
        level = following
    return np.stack(columns, axis=1), opens


@dataclass(frozen=True)
class Tree:
    """The centres of a tree of k-means clusters.

    Attributes:
        centres: float32 [clusters, dim]; the children of every split, split by split, breadth first.
        first: int64 [splits + 1]; the children of split i are the rows first[i] to first[i + 1].
        opens: int64 [clusters]; the split of a cluster's children, LEAF for a leaf.
    """

    centres: Tensor
    first: np.ndarray
    opens: np.ndarray

    @classmethod
    def of(cls, vectors: Tensor, params: TokenizerParams, seed: int) -> "Tree":
        """Cluster vectors [items, dim]."""
        found: list[Tensor] = []

        def split(members: np.ndarray) -> np.ndarray:
            rows = vectors[torch.as_tensor(members, device=vectors.device)]
            draw = seeds.torch_generator(seed, "split", len(found))
            n = min(params.branching, len(rows))
            centres, _ = kmeans(rows, n, draw, params.kmeans_iterations, params.kmeans_restarts)
            labels = nearest_codes(rows, centres)
            found.append(centres[torch.unique(labels)])  # no empty clusters
            return labels.cpu().numpy()

        _, opens = grow(np.arange(len(vectors)), split, params.leaf)
        first = np.concatenate([[0], np.cumsum([len(children) for children in opens])])
        return cls(torch.cat(found), first, np.concatenate([np.asarray(children) for children in opens]))

    @property
    def depth(self) -> int:
        """Return the number of levels."""
        depth = np.ones(len(self.opens), np.int64)  # of each cluster
        for split in range(len(self.first) - 1):  # breadth first: parents before children
            below = self.opens[self.first[split] : self.first[split + 1]]
            for place, child in enumerate(below, self.first[split]):
                if child != LEAF:
                    depth[self.first[child] : self.first[child + 1]] = depth[place] + 1
        return int(depth.max())

    def rows(self, vectors: Tensor) -> np.ndarray:
        """Return the clusters that each vector falls into on its way down: int64 [items, depth], -1 behind the leaf."""
        table, split = np.full((len(vectors), self.depth), LEAF), np.zeros(len(vectors), np.int64)
        for level in range(table.shape[1]):
            for number in np.unique(split[split != LEAF]):
                here = np.flatnonzero(split == number)
                centres = self.centres[self.first[number] : self.first[number + 1]]
                chosen = nearest_codes(vectors[torch.as_tensor(here, device=vectors.device)], centres).cpu().numpy()
                table[here, level] = self.first[number] + chosen
            split = np.where(table[:, level] == LEAF, LEAF, self.opens[table[:, level]])
        return table

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the child numbers of clusters: int32, -1 where there is none."""
        parent = np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))
        return np.where(rows == LEAF, LEAF, rows - self.first[parent[rows]]).astype(np.int32)


class Hierarchical:
    """One tree of k-means clusters per modality.

    Attributes:
        params: the settings.
        dims: modality -> width of its features.
        trees: modality -> its tree.
    """

    shared_levels = 0

    def __init__(self, params: TokenizerParams, dims: Mapping[str, int]):
        self.params, self.dims = params, dict(dims)
        self.scalings = {name: Scaling(width) for name, width in self.dims.items()}
        self.trees: dict[str, Tree] = {}

    @classmethod
    def fit(
        cls, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray], params: TokenizerParams, seed: int
    ) -> "Hierarchical":
        """Cluster the items that have each modality."""
        made = cls(params, {name: matrix.shape[1] for name, matrix in features.items()})
        for name, matrix in features.items():
            rows, mask = torch.from_numpy(np.asarray(matrix, np.float32)), torch.from_numpy(present[name])
            made.scalings[name].measure(rows, mask, params.chosen("scaling"))
            made.trees[name] = Tree.of(made.scalings[name](rows[mask]), params, seeds.child(seed, name))
        return made

    def encode(self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray] | None = None) -> ItemCodes:
        """Return the codes of items from their features: at every level the nearest child's number.

        Args:
            features: modality -> [items, dim]; a modality left out is missing for all items.
            present: modality -> bool [items]; left out: every item of a given matrix has the modality.

        Raises:
            Refused: a matrix has another width than in training, or a modality is unknown.
        """
        rows = {name: self._rows(name, matrix) for name, matrix in features.items()}
        n = len(next(iter(rows.values())))
        codes, sizes = {}, {}
        for name, tree in self.trees.items():
            codes[name] = tree.codes(rows[name]) if name in rows else np.full((n, tree.depth), LEAF, np.int32)
            if present and name in present:
                codes[name][~np.asarray(present[name], bool)] = LEAF
            sizes[name] = (self.params.branching,) * tree.depth
        return ItemCodes(codes, sizes)

    def vectors_of(self, codes: ItemCodes) -> dict[str, np.ndarray]:
        """Return the centre of each item's leaf in every stream, float32 [items, width]; NaN rows without codes."""
        return {name: self._centres(self.trees[name], table) for name, table in codes.codes.items()}

    def _centres(self, tree: Tree, codes: np.ndarray) -> np.ndarray:
        row, split = np.full(len(codes), LEAF), np.zeros(len(codes), np.int64)
        for column in codes.T:
            live = (column != LEAF) & (split != LEAF)
            row = np.where(live, tree.first[split] + column, row)
            split = np.where(live, tree.opens[row], split)
        centres = tree.centres.cpu().numpy()[row]
        centres[row == LEAF] = np.nan
        return centres

    def _rows(self, name: str, matrix: np.ndarray) -> np.ndarray:
        read = torch.from_numpy(as_fitted(name, matrix, self.dims))
        return self.trees[name].rows(self.scalings[name](read))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.safetensors` and `tokenizer.json`."""
        tensors: dict[str, Any] = {}
        for name, tree in self.trees.items():
            tensors |= {f"{name}/{part}": value for part, value in vars(tree).items()}
            tensors |= {f"{name}/scaling/{part}": value for part, value in self.scalings[name].state_dict().items()}
        runs.write_tensors(folder / WEIGHTS, tensors)
        runs.write_json(folder / SETTINGS, {"params": self.params.model_dump(mode="json"), "dims": self.dims})

    @classmethod
    def load(cls, folder: Path) -> "Hierarchical":
        """Read what `save` wrote."""
        about, tensors = runs.read_json(folder / SETTINGS), runs.read_tensors(folder / WEIGHTS)
        made = cls(TokenizerParams(**about["params"]), about["dims"])
        for name, scaling in made.scalings.items():
            parts = {part: tensors[f"{name}/{part}"] for part in ("centres", "first", "opens")}
            made.trees[name] = Tree(torch.from_numpy(parts["centres"]), parts["first"], parts["opens"])
            scaling.load_state_dict(
                {part: torch.from_numpy(tensors[f"{name}/scaling/{part}"]) for part in ("mean", "scale")}
            )
        return made
