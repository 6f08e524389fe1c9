"""A tree of clusters of items that the same users took: recursive spectral clustering, no features read.

P5's collaborative indexing (Hua et al., SIGIR-AP 2023, section on CID; `baselines.md` 4.8). The graph counts the pairs
of items in every user's training part; it is cut into `branching` clusters, and any of more than `leaf` items is cut
again on the pairs inside it. An inner node's token depends on the way to it ("<A3-7>" is not "<A4-7>"), so codes number
the clusters of a level without regard to parents. An item that no training part pairs with another is a cluster of its
own at the first level.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from musicrec_kit import runs, seeds
from musicrec_kit.data.splits import Sequences
from musicrec_kit.params import Refused, TokenizerParams
from musicrec_kit.tokenizers.clusters import LEAF, SETTINGS, grow
from musicrec_kit.tokenizers.codes import ItemCodes

log = logging.getLogger(__name__)

STREAM = "cooccurrence"


def pair_counts(sequences: Sequences) -> Any:
    """Return how often two items stand in one user's training part, a symmetric scipy matrix [items, items].

    Both orders are summed. (P5's code lets the count of one order overwrite that of the other.)
    """
    from scipy.sparse import csr_array, dia_array

    sequences = sequences.before("valid")
    places = sequences.users.astype(np.int32), sequences.items
    taken = csr_array((np.ones(len(sequences.items)), places), shape=(sequences.n_users, sequences.n_items))
    pairs = taken.T @ taken
    pairs = csr_array(pairs - dia_array((pairs.diagonal()[None], [0]), shape=pairs.shape))
    pairs.eliminate_zeros()
    return pairs


def spectral(pairs: Any, clusters: int, seed: int) -> np.ndarray:
    """Return a label in 0 .. clusters - 1 for each node of a graph; no more nodes than clusters: one each."""
    from sklearn.cluster import SpectralClustering

    if pairs.shape[0] <= clusters:
        return np.arange(pairs.shape[0])
    model = SpectralClustering(clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # such graphs have clusters all the same
        return np.asarray(model.fit(pairs).labels_)


class CoOccurrence:
    """The clusters of the items that training knows; there is no way in for others."""

    shared_levels = 0

    def __init__(self, params: TokenizerParams):
        self.params = params

    def fit(self, sequences: Sequences, seed: int) -> ItemCodes:
        """Return the codes of all items."""
        pairs = pair_counts(sequences)
        alone = np.diff(pairs.indptr) == 0
        draw = seeds.child(seed, STREAM) % 2**32

        def split(members: np.ndarray) -> np.ndarray:
            labels = self.params.branching + np.arange(len(members))  # a lonely item's own
            linked = members[~alone[members]]
            labels[~alone[members]] = spectral(pairs[linked][:, linked], self.params.branching, draw)
            return labels

        paths, _ = grow(np.arange(sequences.n_items), split, self.params.leaf)
        log.info("%d of %d items stand beside no other in training", int(alone.sum()), len(alone))
        codes = np.full_like(paths, LEAF)
        for level in range(paths.shape[1]):
            here = paths[:, level] != LEAF
            codes[here, level] = np.unique(paths[here, : level + 1], axis=0, return_inverse=True)[1].ravel()
        return ItemCodes({STREAM: codes}, {STREAM: tuple(int(n) + 1 for n in codes.max(axis=0))})

    def encode(self, *_: Any) -> ItemCodes:
        """Refuse: an item gets its codes from the users who took it."""
        raise Refused(
            "tokenizer.kind=cooccurrence clusters items by the users who took them, and a new item has none; "
            "run it again with the item's interactions, or use a tokenizer that reads features"
        )

    def vectors_of(self, codes: ItemCodes) -> dict[str, np.ndarray]:
        """Return nothing: clusters of a graph have no vectors."""
        return {}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        runs.write_json(folder / SETTINGS, {"params": self.params.model_dump(mode="json")})

    @classmethod
    def load(cls, folder: Path) -> "CoOccurrence":
        """Read what `save` wrote."""
        return cls(TokenizerParams(**runs.read_json(folder / SETTINGS)["params"]))
