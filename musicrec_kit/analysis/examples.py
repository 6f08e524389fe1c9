"""Single cases to read: what the generator is trained on, and what one user gets."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from musicrec_kit.analysis.code_tree import CodeTree
from musicrec_kit.analysis.pictures import shorten, title_of
from musicrec_kit.data import Dataset, Sequences, held_out, train_prefixes
from musicrec_kit.evaluation import Rankings
from musicrec_kit.generation.fit import Generator
from musicrec_kit.ids import SemanticIds
from musicrec_kit.params import RankParams


def task_examples(generator: Generator, sequences: Sequences, history: int = 2) -> pd.DataFrame:
    """Return one training example per task, written in tokens, with histories of `history` items to fit a page.

    Columns: task; examples (in an epoch; tasks of one family share them); source; target.
    """
    from musicrec_kit.generation.marks import Source

    families = [family for families in generator.families.values() for family in families]
    store, rows = generator.store(sequences), []
    examples = train_prefixes(sequences, history)
    full = examples.take(np.flatnonzero(examples.end - examples.start == history))
    for family in families:
        shared = f" (one of {len(family)})" if len(family) > 1 else ""
        for task in family:
            count = int(store.spans(task, None if task.kind == "item" else examples).usable.sum())
            spans = store.spans(task, None if task.kind == "item" else full)
            first = spans.take(np.flatnonzero(spans.usable)[:1])
            row = store.on_device(first)
            source = store.sources(row, int(store.source_widths(first).max(initial=0)))
            source = source.tokens if isinstance(source, Source) else source
            target = store.targets(row, int(first.target_length.max(initial=0)) + 1)
            texts = [generator.vocabulary.text(t[0].tolist()) if len(t) else "" for t in (source, target)]
            rows.append((task.name + shared, count, *texts))
    return pd.DataFrame(rows, columns=["task", "examples", "source", "target"])


def history_of(sequences: Sequences, user: int, split: str = "test") -> np.ndarray:
    """Return the items (int32, oldest first) that a user had before the target of a split; without a target, all."""
    stop = int((sequences.valid_at if split == "valid" else sequences.test_at)[user])
    return sequences.items[sequences.offsets[user] : sequences.offsets[user + 1] if stop < 0 else stop]


def one_user(
    dataset: Dataset,
    rankings: Rankings,
    user: int,
    list_name: str,
    ids: SemanticIds | None = None,
    *,
    tokens: str = "musicrec",
    split: str = "test",
    k: int = 5,
) -> pd.DataFrame:
    """Return the first k items of one user's list: rank, item, title, ID, score, target (yes or empty).

    The list of one view shows that view's ID, any other list the IDs of all views.
    """
    row = int(np.flatnonzero(rankings.users[split] == user)[0])
    found, target = rankings.lists[split, list_name], int(rankings.targets[split][row])
    items = [int(item) for item in found.items[row, :k] if item >= 0]
    table = items_table(dataset, items, ids, tokens, list_name.split("/")[0])
    table.insert(0, "rank", range(1, len(items) + 1))
    scores = found.scores[row, : len(items)].astype(float)
    return table.assign(score=scores, target=["yes" if item == target else "" for item in items])


def items_table(
    dataset: Dataset, items: Iterable[int], ids: SemanticIds | None = None, tokens: str = "musicrec", only: str = ""
) -> pd.DataFrame:
    """Return items with their titles and, where there are semantic IDs, the ID of every view, or `only` of one."""
    items = [int(item) for item in items]
    table = pd.DataFrame({"item": items, "title": [shorten(title_of(dataset, item), 44) for item in items]})
    if ids is not None:
        tree = CodeTree(ids, tokens)
        for view in [only] if only in ids.views else ids.views:
            table[f"{view} ID"] = [tree.written(view, item) for item in items]
    return table


def invalid_share(
    generator: Generator, sequences: Sequences, params: RankParams, *, seed: int = 0, users: int = 100
) -> dict[str, float]:
    """Return list -> share of the decoded IDs that no item has when nothing holds the search to legal IDs.

    Measured on the test histories of the first `users` users.
    """
    from musicrec_kit.generation.ranking import Ranker

    some = slice(0, users)
    examples, whole = (held_out(sequences, "test", n).take(some) for n in (generator.history, 10**9))
    ranker = Ranker(generator, sequences, params.model_copy(update={"tree": "free", "exact": False}), seed)
    ranker.rank(examples, whole)
    return ranker.invalid


def interesting_user(rankings: Rankings, list_name: str, split: str = "test") -> int:
    """Return the first user whose target a list finds at place 2 to 5, else any that it finds, else the first user."""
    ranks = rankings.lists[split, list_name].target_rank
    for wanted in ((ranks > 1) & (ranks <= 5), ranks > 0, np.ones(len(ranks), bool)):
        if wanted.any():
            return int(rankings.users[split][np.flatnonzero(wanted)[0]])
    raise ValueError(f"no user has a target in split {split}")
