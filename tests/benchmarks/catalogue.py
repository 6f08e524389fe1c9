"""What 1,000,000 items cost between codes and decoding: collisions, vocabulary and tree, a row each.

The usual way is the lineage's: an item's ID is a list of strings such as "<a.12>", collisions are counted in
dictionaries of joined strings, a set of strings becomes the vocabulary, and legal IDs are a dictionary of dictionaries.
Its loops are flat (the lineage's recurse or join more often than needed), and its strings are handed from row to row.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from musicrec_kit.generation.legal import Legal, make_legal
from musicrec_kit.ids.semantic_ids import SemanticIds, make_ids
from musicrec_kit.ids.vocabulary import EOS, Vocabulary
from musicrec_kit.params import IdsParams
from musicrec_kit.tokenizers.codes import ItemCodes
from musicrec_kit.tokenizers.health import usage
from tests.benchmarks.harness import Row, Side

ITEMS, LEVELS, CODES, VIEW = 1_000_000, 4, 256, "text"
LETTERS = "abcd"
SKEW = 2.5  # codes are not used alike: with this some items in a hundred collide
ASKED = 4_000  # prefixes whose continuations are compared

Words = list[list[str]]


def made_codes(items: int) -> ItemCodes:
    """Return codes of made items, int32 [items, levels]."""
    drawn = np.random.default_rng(0).random((items, LEVELS)) ** SKEW
    return ItemCodes({VIEW: (drawn * CODES).astype(np.int32)}, {VIEW: (CODES,) * LEVELS})


def our_ids(codes: ItemCodes) -> tuple[Any, SemanticIds]:
    """Count collisions at every level and give each item an ID of its own."""
    return usage(codes), make_ids(codes, {VIEW: (VIEW,)}, IdsParams(collisions="suffix"), seed=0)


def usual_ids(codes: list[list[int]]) -> tuple[list[Counter[str]], Words]:
    """Do so with strings and dictionaries: a counter per level, and a running number behind IDs that are there."""
    words = [[f"<{letter}.{code}>" for letter, code in zip(LETTERS, row, strict=True)] for row in codes]
    counters = [Counter("".join(row[: level + 1]) for row in words) for level in range(LEVELS)]
    if len(counters[-1]) < len(words):
        seen: dict[str, int] = {}
        for row in words:
            key = "".join(row)
            number = seen.get(key, 0)
            seen[key] = number + 1
            row.append(f"<dup:{VIEW}.{number}>")
    return counters, words


def ids_agree(usual: tuple[list[Counter[str]], Words], ours: tuple[Any, SemanticIds]) -> str:
    """Compare distinct prefixes and the largest group at every level, and how many items have which suffix."""
    counters, words = usual
    health, ids = ours
    for level, counter in enumerate(counters):
        row = health.iloc[level]
        assert (row["prefixes"], row["largest_group"]) == (len(counter), max(counter.values())), level
    suffixes = Counter(row[LEVELS] for row in words) if len(words[0]) > LEVELS else Counter([f"<dup:{VIEW}.0>"])
    found = np.bincount(ids.suffix[VIEW])
    assert {f"<dup:{VIEW}.{n}>": int(count) for n, count in enumerate(found)} == suffixes or not ids.suffix[VIEW].any()
    return f"{len(words) - len(counters[-1]):,} collisions, equal at each level"


def our_vocabulary(ids: SemanticIds) -> tuple[Vocabulary, np.ndarray]:
    """Number the tokens and write every item in them."""
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    return vocabulary, vocabulary.tokens_of(VIEW)[0]


def usual_vocabulary(words: Words) -> tuple[dict[str, int], list[list[int]]]:
    """Do so with a set of strings and a dictionary."""
    tokens = {token for row in words for token in row}
    number = {token: EOS + 1 + at for at, token in enumerate(sorted(tokens))}
    return number, [[number[token] for token in row] for row in words]


def words_agree(usual: tuple[dict[str, int], list[list[int]]], ours: tuple[Vocabulary, np.ndarray]) -> str:
    """Compare the strings of all tokens that are written, and whole IDs of every hundredth item but for suffixes."""
    (number, rows), (vocabulary, tokens) = usual, ours
    assert {vocabulary.name(token) for token in np.unique(tokens)} == set(number)
    name = {at: token for token, at in number.items()}
    for item in range(0, len(rows), 100):
        theirs = [name[token] for token in rows[item][:LEVELS]]
        assert [vocabulary.name(token) for token in tokens[item][:LEVELS]] == theirs, item
    return f"{len(number):,} tokens, equal"


def our_tree(vocabulary: Vocabulary) -> Legal:
    """Make the moves of constrained decoding."""
    return make_legal(vocabulary, (VIEW,), "joint")


def usual_tree(rows: list[list[int]]) -> dict[int, Any]:
    """Make the dictionary of dictionaries that `prefix_allowed_tokens_fn` walks."""
    root: dict[int, Any] = {}
    for row in rows:
        node = root
        for token in row:
            node = node.setdefault(token, {})
        node[EOS] = {}
    return root


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield collisions, vocabulary, tree."""
    codes = made_codes(max(100, round(ITEMS * scale)))
    lists, n_items = codes.codes[VIEW].tolist(), codes.n_items
    words, ids = usual_ids(lists)[1], our_ids(codes)[1]
    data = f"made, {n_items:,} items, {LEVELS} x {CODES}"

    def row(part: str, usual: Side, ours: Side, agree: Any) -> Row:
        return Row(f"catalogue: {part}", "items", n_items, data, usual, [ours], agree, {ours.name: 20.0})

    yield row(
        "collisions",
        Side("dict counters of strings", lambda: usual_ids(lists)),
        Side("one sort", lambda: our_ids(codes)),
        ids_agree,
    )
    (number, numbers), vocabulary = usual_vocabulary(words), our_vocabulary(ids)[0]
    yield row(
        "vocabulary",
        Side("set and dict of strings", lambda: usual_vocabulary(words)),
        Side("blocks of numbers", lambda: our_vocabulary(ids)),
        words_agree,
    )

    @cache
    def asked() -> list[list[str]]:
        drawn = np.random.default_rng(1).integers(n_items, size=ASKED)
        return [words[item][: at % (len(words[item]) + 1)] for at, item in enumerate(drawn)]

    def trees_agree(root: dict[int, Any], legal: Legal) -> str:
        name = {at: token for token, at in number.items()} | {EOS: vocabulary.name(EOS)}
        for prefix in asked():
            node = root
            for token in prefix:
                node = node[number[token]]
            at = legal.tree.find([vocabulary.token(token) for token in prefix])
            move = slice(int(legal.first[at]), int(legal.first[at] + legal.count[at]))
            assert {vocabulary.name(int(t)) for t in legal.token[move]} == {name[token] for token in node}, prefix
        return f"{len(asked()):,} prefixes, equal moves"

    yield row(
        "tree",
        Side("dict of dicts", lambda: usual_tree(numbers)),
        Side("sorted arrays", lambda: our_tree(vocabulary)),
        trees_agree,
    )
