"""Collisions: items whose codes are equal, counted and resolved.

The two procedures that move items see the codes of one stream, int32 [items, levels], -1 in every level of an item
without codes, and for the `items` that may move their squared distances [m, levels, codes], each along the item's own
residual chain.
"""

from collections.abc import Iterator

import numpy as np

from musicrec_kit.sorted_rows import sort_rows

NULL = -1
SINKHORN_EPSILON, SINKHORN_ITERATIONS, SINKHORN_ROUNDS = 0.003, 50, 20  # LC-Rec's generate_indices (lineage 2.2a)


def group_of(codes: np.ndarray) -> np.ndarray:
    """Return int64 [items]: equal numbers for equal rows of codes [items, levels], numbered in order of the codes."""
    codes = np.asarray(codes)
    group = np.zeros(len(codes), np.int64)
    if codes.size:
        found = sort_rows(codes)
        group[found.order] = np.cumsum(found.begins[-1]) - 1
    return group


def has_code(codes: np.ndarray) -> np.ndarray:
    """Return bool [items]: whether any level has a code."""
    found = codes != NULL
    # looking across short rows is slow, and mostly there is nothing to find
    return np.ones(len(codes), bool) if found.all() and found.size else found.any(axis=1)


def count(codes: np.ndarray, with_id: np.ndarray | None = None) -> dict[str, float]:
    """Return how many items collide: items with an ID, distinct IDs, rate, items that share theirs, largest group.

    The rate is 1 - distinct / items, as in the lineage (2.1). `with_id` marks the items that have an ID; without it,
    those with any code that is not null.
    """
    with_id = has_code(codes) if with_id is None else with_id
    sizes = sort_rows(codes if with_id.all() else codes[with_id]).sizes()
    items, distinct = int(sizes.sum()), len(sizes)
    return {
        "items": items,
        "distinct": distinct,
        "rate": 1 - distinct / items if items else 0.0,
        "colliding": int(sizes[sizes > 1].sum()),
        "largest": int(sizes.max(initial=0)),
    }


def suffixes(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return int32 [items]: 0 .. n - 1 inside each group of n items with equal codes, in an order that is drawn."""
    draw = generator.permutation(len(codes))
    found = sort_rows(codes)
    sizes = found.sizes() if len(codes) else np.zeros(0, np.int64)
    shared = np.repeat(sizes > 1, sizes)
    items, sizes = found.order[shared], sizes[sizes > 1]
    group, first = np.repeat(np.arange(len(sizes)), sizes), np.repeat(np.cumsum(sizes) - sizes, sizes)
    suffix = np.zeros(len(codes), np.int32)
    suffix[items[np.lexsort([draw[items], group])]] = np.arange(len(items)) - first
    suffix[items[(codes[items] == NULL).all(axis=1)]] = 0
    return suffix


def by_distance(
    codes: np.ndarray, items: np.ndarray, distances: np.ndarray, sizes: tuple[int, ...], free_levels: int = 2
) -> np.ndarray:
    """Return codes in which colliding items moved to the nearest free code (MQL4GRec's procedure, lineage 2.2b).

    Groups go in order of first appearance. Of each, the member with the smallest last-level distance stays; the i-th
    other member takes the first free last code of its own preference list from entry i on; where none is free, the
    first free pair with its k-th preferred second-last code, k = 1, 2, ... Codes once taken are never given back.
    Rounds repeat until no items collide or none can move.

    Args:
        free_levels: how many of the last levels may change, 0, 1 or 2: shared levels never do. With 1, items that find
            no free last code go on colliding (a suffix takes them).
    """
    codes = codes.copy()
    row_of = np.full(len(codes), -1)
    row_of[items] = np.arange(len(items))
    while free_levels:
        moved = 0
        for taken, groups in _crowded_prefixes(codes, sizes, free_levels):
            for members in groups:
                rows = row_of[members]
                assert (rows >= 0).all(), "colliding items without distances"
                nearest = np.argsort(distances[rows, -1, : sizes[-1]].min(axis=1), kind="stable")
                for i, member in enumerate(members[nearest[1:]], start=1):
                    moved += _take_free_code(codes[member], distances[row_of[member]], taken, i, sizes)
        if not moved:
            break
    return codes


def _crowded_prefixes(
    codes: np.ndarray, sizes: tuple[int, ...], free_levels: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield, per prefix under which items collide, (taken codes, colliding groups in order of first appearance).

    Codes that differ in the fixed levels cannot meet, so prefixes are independent of each other. `taken` is bool
    [second-last codes, last codes]; one row where only the last level is free.
    """
    with_codes = np.flatnonzero((codes != NULL).any(axis=1))
    group = group_of(codes[with_codes])
    prefix = group_of(codes[with_codes, : codes.shape[1] - free_levels])
    crowded = np.unique(prefix[np.bincount(group)[group] > 1])
    order = np.argsort(prefix, kind="stable")
    bounds = np.searchsorted(prefix[order], np.stack([crowded, crowded + 1]))
    for first, stop in bounds.T:
        inside = with_codes[order[first:stop]]
        taken = np.zeros((sizes[-2] if free_levels == 2 else 1, sizes[-1]), bool)
        taken[codes[inside, -2] if free_levels == 2 else 0, codes[inside, -1]] = True
        split = _split(inside, group[order[first:stop]])
        yield taken, sorted((members for members in split if len(members) > 1), key=lambda members: members[0])


def _split(items: np.ndarray, group: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(group, kind="stable")
    return np.split(items[order], np.flatnonzero(np.diff(group[order])) + 1)


def _take_free_code(code: np.ndarray, distances: np.ndarray, taken: np.ndarray, i: int, sizes: tuple[int, ...]) -> bool:
    """Move one item's code [levels] in place to a free one, mark it as taken, and return whether there was one."""
    last = np.argsort(distances[-1, : sizes[-1]], kind="stable")
    second = code[-2] if len(taken) > 1 else 0
    free = last[i:][~taken[second, last[i:]]]
    if not len(free) and len(taken) > 1:
        # the lineage does not recompute the last-level preferences for the changed residual
        for second in np.argsort(distances[-2, : sizes[-2]], kind="stable")[1:]:
            free = last[~taken[second, last]]
            if len(free):
                break
    if not len(free):
        return False
    taken[second, free[0]] = True
    code[-1] = free[0]
    if len(taken) > 1:
        code[-2] = second
    return True


def by_sinkhorn(codes: np.ndarray, items: np.ndarray, distances: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return codes in which each colliding group was spread over last-level codes by optimal transport (lineage 2.2a).

    At most 20 rounds; each re-assigns every colliding group by itself. Items with equal distances stay together: LC-Rec
    leaves them so. An item that collides only after another moved onto it has no distances here and keeps its code: the
    codes of such items are closed to the others (ours; LC-Rec encodes that item again, too).
    """
    codes = codes.copy()
    row_of = np.full(len(codes), -1)
    row_of[items] = np.arange(len(items))
    for _ in range(SINKHORN_ROUNDS):
        moved = False
        for taken, members in _groups_and_closed_codes(codes, row_of, sizes[-1]):
            costs = distances[row_of[members], -1, : sizes[-1]]
            chosen = np.flatnonzero(~taken)[_sinkhorn(costs[:, ~taken])] if not taken.all() else codes[members, -1]
            moved |= bool((codes[members, -1] != chosen).any())
            codes[members, -1] = chosen
        if not moved:
            break
    return codes


def _groups_and_closed_codes(
    codes: np.ndarray, row_of: np.ndarray, n_codes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, per colliding group, (last codes bool [codes] held by items that cannot move, members that can)."""
    with_codes = np.flatnonzero((codes != NULL).any(axis=1))
    group, prefix = group_of(codes[with_codes]), group_of(codes[with_codes, :-1])
    fixed = with_codes[row_of[with_codes] < 0]
    fixed_prefix = prefix[row_of[with_codes] < 0]
    order = np.argsort(fixed_prefix, kind="stable")
    fixed, fixed_prefix = fixed[order], fixed_prefix[order]
    at = np.flatnonzero((np.bincount(group)[group] > 1) & (row_of[with_codes] >= 0))
    for positions in _split(at, group[at]) if len(at) else []:
        span = slice(*np.searchsorted(fixed_prefix, [prefix[positions[0]], prefix[positions[0]] + 1]))
        closed = np.zeros(n_codes, bool)
        closed[codes[fixed[span], -1]] = True
        yield closed, with_codes[positions]


def _sinkhorn(costs: np.ndarray) -> np.ndarray:
    """Return the code of each row of costs [members, codes] under the entropic plan with equal marginals."""
    costs = costs.astype(np.float64)
    middle, half = (costs.max() + costs.min()) / 2, (costs.max() - costs.min()) / 2
    plan = np.exp(-(costs - middle) / (half + 1e-5) / SINKHORN_EPSILON)
    for _ in range(SINKHORN_ITERATIONS):
        plan /= plan.sum(axis=1, keepdims=True) * len(plan)
        plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
    return plan.argmax(axis=1)
