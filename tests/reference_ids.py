"""Slow references for the room `ids`: dictionaries and strings, one item at a time."""

from collections import Counter, defaultdict
from itertools import product

import numpy as np


def count(rows):
    """Return the collision counts of a list of codes; rows of -1 alone have no ID."""
    sizes = Counter(tuple(row) for row in rows if any(code >= 0 for code in row))
    items = sum(sizes.values())
    return {
        "items": items,
        "distinct": len(sizes),
        "rate": 1 - len(sizes) / items if items else 0.0,
        "colliding": sum(n for n in sizes.values() if n > 1),
        "largest": max(sizes.values(), default=0),
    }


def by_distance(rows, distances, free_levels):
    """Follow MQL4GRec's steps 2-6 to the letter, on tuples; `distances`: item -> [levels][codes]."""
    rows = [tuple(row) for row in rows]
    valid = [item for item, row in enumerate(rows) if row[0] >= 0]
    preference = {i: [sorted(range(len(d)), key=lambda c, d=d: d[c]) for d in distances[i]] for i in distances}
    used = {rows[item] for item in valid}
    while free_levels:
        groups = defaultdict(list)
        for item in valid:
            groups[rows[item]].append(item)
        before = list(rows)
        for code, members in groups.items():  # dictionaries keep the order of first appearance
            if len(members) == 1:
                continue
            ranked = sorted(members, key=lambda item: min(distances[item][-1]))
            for i, item in enumerate(ranked[1:], start=1):
                last = preference[item][-1]
                tries = [(*code[:-1], c) for c in last[i:]]
                if free_levels > 1:
                    tries += [(*code[:-2], b, c) for b, c in product(preference[item][-2][1:], last)]
                free = next((code for code in tries if code not in used), None)
                if free is not None:
                    rows[item] = free
                    used.add(free)
        if rows == before:
            break
    return np.array(rows)


class Trie:
    """A dictionary of dictionaries, with the items under each whole ID."""

    def __init__(self, sequences, eos=1):
        """Insert the sequences [items] of tokens; an empty one is no ID."""
        self.items = defaultdict(list)
        self.children = defaultdict(set)
        for item, sequence in enumerate(sequences):
            if sequence:
                whole = (*sequence, eos)
                self.items[whole].append(item)
                for stop in range(len(whole)):
                    self.children[whole[:stop]].add(whole[stop])
