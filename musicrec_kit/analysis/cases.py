"""Single cases of MGR's Figures 3 and 4, found by rule and not by eye, as rows of pictures (`plots.picture_rows`)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from musicrec_kit.analysis import groups
from musicrec_kit.analysis.code_tree import CodeTree
from musicrec_kit.analysis.written_ids import INVALID, ITEM, KINDS, MISMATCH, Written
from musicrec_kit.features import Features
from musicrec_kit.ids.semantic_ids import SemanticIds
from musicrec_kit.ids.vocabulary import EOS, PAD, Vocabulary


class PictureRow(NamedTuple):
    """Items side by side under a heading, a caption each; item -1: none."""

    heading: str
    items: list[int]
    captions: list[str]


def tokens_written(vocabulary: Vocabulary, tokens: np.ndarray) -> str:
    """Return a row of tokens as they are written, padding and end left out."""
    return "".join(vocabulary.name(int(token)) for token in tokens if token not in (PAD, EOS))


def part_wrong(written: Written, vocabulary: Vocabulary, n: int = 3, given: int = 0, asked: int = 1) -> pd.DataFrame:
    """Return examples whose first written ID has the `given` part right and the `asked` one wrong (MGR Figure 3(b)).

    Mismatches first, then other items' IDs, then invalid ones, each in order of the examples; no target twice.

    Columns: example; target (item); kind; shown: the lowest item that has the written `asked` part, -1 where none has;
    asked_for, wrote: the IDs in tokens.
    """
    target, first = written.of_items[written.targets], written.numbers[:, 0]
    wrong = (first[:, given] == target[:, given]) & (target[:, given] >= 0) & (first[:, asked] != target[:, asked])
    rows = []
    for kind in (MISMATCH, ITEM, INVALID):
        for example in np.flatnonzero(wrong & (written.kinds[:, 0] == kind)):
            has = np.flatnonzero((written.of_items[:, asked] == first[example, asked]) & (first[example, asked] >= 0))
            item = int(written.targets[example])
            ids = [tokens_written(vocabulary, t) for t in (written.item_tokens[item], written.tokens[example, 0])]
            rows.append((int(example), item, KINDS[kind], int(has[0]) if len(has) else -1, *ids))
    table = pd.DataFrame(rows, columns=["example", "target", "kind", "shown", "asked_for", "wrote"])
    return table.drop_duplicates("target").head(n).reset_index(drop=True)


def wrong_row(cases: pd.DataFrame) -> PictureRow:
    """Return `part_wrong` as a row of pictures: each target beside an item that has the image part that was written."""
    ends = {"mismatch": "no item's ID", "item": "another item's", "invalid": "no ID"}
    items, captions = list[int](), list[str]()
    for case in cases.to_dict("records"):
        items += [case["target"], case["shown"]]
        captions += [f"user {case['example']}: target\n{_spaced(case['asked_for'])}"]
        captions += [f"written: {ends[case['kind']]}\n{_spaced(case['wrote'])}"]
    return PictureRow("(b) text part right, image part wrong", items, captions)


def alike_row(pairs: pd.DataFrame, ids: SemanticIds, tokens: str = "mgr") -> PictureRow:
    """Return `groups.unlike_pairs` as a row of pictures: two items of one ID each, with the ID below."""
    tree, view = CodeTree(ids, tokens), next(iter(ids.views))
    items, captions = list[int](), list[str]()
    for number, pair in enumerate(pairs.to_dict("records"), 1):
        for item in (int(pair["a"]), int(pair["b"])):
            items.append(item)
            captions.append(f"pair {number}\n{_spaced(tree.written(view, item))}")
    return PictureRow("(a) one fused ID, different pictures", items, captions)


def _spaced(tokens: str) -> str:
    """Return tokens with room to break a line between them."""
    return tokens.replace("><", "> <")


def group_rows(
    groupings: Mapping[str, np.ndarray], pivot: int, features: Mapping[str, Features], n: int = 6, seed: int = 0
) -> tuple[list[PictureRow], pd.DataFrame]:
    """Return, for a pivot item, rows of pictures of members of its group under every grouping, and what is in them.

    The table has a row per picture: grouping, pivot, item, and the cosine similarity (of centred features) to the pivot
    in every modality.
    """
    rows, table = [], []
    unit = {m: groups.centred_unit(found) for m, found in features.items()}
    for name, labels in groupings.items():
        items = groups.members(labels, pivot, n, seed)
        count = int((labels == labels[pivot]).sum())
        near = {f"{m} similarity": np.round(u[items] @ u[pivot], 4) for m, u in unit.items()}
        heading = f"item {pivot}: {name} ({count} items)"
        rows.append(PictureRow(heading, [pivot, *items.tolist()], ["pivot", *[""] * len(items)]))
        table.append(pd.DataFrame({"grouping": name, "pivot": pivot, "item": items, **near}))
    return rows, pd.concat(table, ignore_index=True)
