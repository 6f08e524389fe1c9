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


def written(vocabulary, item: int, views) -> list[str]:
    """Return the names of an item's tokens in several views, read back from the table of tokens."""
    names = []
    for view in views:
        tokens, lengths = vocabulary.tokens_of(view)
        names += [vocabulary.name(int(token)) for token in tokens[item, : lengths[item]]]
    return names


def slow_examples(vocabulary, sequences, word: str, history: int) -> list[tuple[str, str]]:
    """Return every (source, target) of a task word as strings, written one by one as the lineage's data loaders do.

    For `cross` all directions are returned; prompts are numbered joint, align, cross over what the caller trains.
    """
    views = list(vocabulary.ids.views)
    directions = [(a, b) for a in views for b in views if a != b]
    made = []
    if word == "align":
        for item in range(vocabulary.ids.n_items):
            for a, b in directions:
                made.append((f"align/{a}/{b}", written(vocabulary, item, [a]), written(vocabulary, item, [b])))
    else:
        ways = {
            "next": [(f"next/{view}", [view], [view]) for view in views],
            "joint": [("joint", views, views)],
            "cross": [(f"cross/{a}/{b}", [a], [b]) for a, b in directions],
        }[word]
        for user in range(sequences.n_users):
            items = sequences.items[sequences.offsets[user] : sequences.train_end[user]]
            for end in range(1, len(items)):
                for name, source, target in ways:
                    seen = [t for item in items[max(0, end - history) : end] for t in written(vocabulary, item, source)]
                    made.append((name, seen, written(vocabulary, items[end], target)))
    return [(name, "".join(source), "".join(target)) for name, source, target in made if source and target]


def merge_by_walk(lists: list[tuple[list[int], list[float]]]) -> list[tuple[int, float]]:
    """Return the lineage's merged list: `ensemble.py` of MQL4GRec as a loop over ranks and views."""
    table: dict[int, float] = {}
    for rank in range(max(len(items) for items, _ in lists)):
        for items, scores in lists:
            if rank >= len(items) or items[rank] == -1:
                continue
            item, score = items[rank], scores[rank]
            table[item] = (table[item] + score) / 2 + 1 if item in table else score
    return sorted(table.items(), key=lambda entry: -entry[1])


def merge_by_lse(lists: list[tuple[list[int], list[float]]]) -> list[tuple[int, float]]:
    """Return the items of all lists by log-sum-exp, a list's lowest score standing in where it lacks the item."""
    tables = [{i: s for i, s in zip(items, scores, strict=True) if i != -1} for items, scores in lists]
    floors = [min(table.values(), default=-np.inf) for table in tables]
    made = {}
    for item in sorted(set().union(*tables)):
        parts = [table.get(item, floor) for table, floor in zip(tables, floors, strict=True)]
        made[item] = float(np.logaddexp.reduce(parts))
    return sorted(made.items(), key=lambda entry: -entry[1])


def hf_t5(shape, n_tokens: int, seed: int = 0):
    """Return Hugging Face's T5 of a shape with random weights, norms too, so that every weight matters."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=n_tokens,
        d_model=shape.dim,
        d_ff=shape.feed_forward,
        d_kv=shape.d_kv,
        num_heads=shape.heads,
        num_layers=shape.layers,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model
