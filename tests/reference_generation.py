"""Small worlds with semantic IDs, made by hand or by seed, for the tests of the generator."""

import numpy as np

from musicrec_kit.data.splits import Sequences
from musicrec_kit.ids.semantic_ids import SemanticIds


def make_ids(codes: dict[str, np.ndarray], size: int = 8, shared: int = 0, suffix=None, segments=None) -> SemanticIds:
    """Return semantic IDs of one stream per view with `size` codes per level."""
    codes = {view: np.asarray(matrix, np.int32) for view, matrix in codes.items()}
    none = {view: np.zeros(len(matrix), np.int32) for view, matrix in codes.items()}
    return SemanticIds(
        views=codes,
        suffix={**none, **(suffix or {})},
        segments=segments or {view: ((view, matrix.shape[1]),) for view, matrix in codes.items()},
        sizes={view: (size,) * matrix.shape[1] for view, matrix in codes.items()},
        shared_levels=shared,
    )


def random_ids(
    n_items: int, views=("text", "image"), levels: int = 3, size: int = 4, seed: int = 0, distinct: bool = True
) -> SemanticIds:
    """Return random IDs, all distinct inside a view unless told otherwise."""
    generator = np.random.default_rng(seed)
    made = {}
    for view in views:
        if distinct:
            flat = generator.choice(size**levels, n_items, replace=False)
        else:
            flat = generator.integers(0, size**levels, n_items)
        made[view] = np.stack(np.unravel_index(flat, (size,) * levels), axis=1)
    return make_ids(made, size)


def random_sequences(n_users: int, n_items: int, seed: int = 0, least: int = 3, most: int = 9) -> Sequences:
    """Return users with distinct random items each."""
    generator = np.random.default_rng(seed)
    most = min(most, n_items)
    lists = [generator.permutation(n_items)[: generator.integers(least, most + 1)] for _ in range(n_users)]
    return Sequences.from_lists(lists, n_items)
