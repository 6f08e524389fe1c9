"""The slow way: loops that say plainly what data/filters.py and data/splits.py must do."""

from collections import Counter


def k_core(pairs: list[tuple[int, int]], k: int) -> list[bool]:
    """Drop one user or item below k at a time until nothing is left to drop."""
    alive = [True] * len(pairs)
    while True:
        users = Counter(user for (user, _), kept in zip(pairs, alive, strict=True) if kept)
        items = Counter(item for (_, item), kept in zip(pairs, alive, strict=True) if kept)
        bad_user = next((user for user in sorted(users) if users[user] < k), None)
        bad_item = next((item for item in sorted(items) if items[item] < k), None)
        if bad_user is None and bad_item is None:
            return alive
        for row, (user, item) in enumerate(pairs):
            if user == bad_user or (bad_user is None and item == bad_item):
                alive[row] = False


def prefixes(histories: list[list[int]], history: int) -> list[tuple[int, list[int], int]]:
    """(user, history, target) of every training prefix."""
    found = []
    for user, items in enumerate(histories):
        training = items[:-2] if len(items) >= 3 else items
        for i in range(1, len(training)):
            found.append((user, training[:i][-history:], training[i]))
    return found
