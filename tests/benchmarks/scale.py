"""How time and memory grow with the catalogue and with the users: `python -m tests.benchmarks scale`.

No ratio to anybody: the kit beside itself, on made data, at 10,000 to 1,000,000 items of one ID depth (4 levels of 256
codes) and as many users. What is asked per user, per step or per item should not grow with either; what is stored
should grow as the items do.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from musicrec_kit import plots, seeds, tokenizers, training
from musicrec_kit.data.splits import Sequences, held_out, train_prefixes
from musicrec_kit.features.store import Features
from musicrec_kit.generation import tasks
from musicrec_kit.generation.fit import Generator
from musicrec_kit.generation.legal_softmax import LegalSoftmax
from musicrec_kit.generation.ranking import Ranker
from musicrec_kit.ids.semantic_ids import SemanticIds, make_ids
from musicrec_kit.params import GeneratorParams, IdsParams, RankParams, TokenizerParams
from musicrec_kit.tokenizers.fitting import check, total_loss
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.residual import Rule
from musicrec_kit.tokenizers.shared_specific import SharedSpecific
from musicrec_kit.tokenizers.tokenizer import Tokenizer, latents
from tests.benchmarks.catalogue import VIEW, made_codes
from tests.benchmarks.harness import device, synchronise, where

SIZES, FIXED = (10_000, 100_000, 1_000_000), 10_000
STEM = "bench_scale"
HISTORY, LENGTH = 20, 22  # items that are read, and interactions of a user
DECODED, BATCH, STEPS, REPEATS = 256, 64, 3, 3
SMALL = 0.01  # a smaller scale takes a small model, too
ALLOWED = 1.5  # how many times longer a user's list may take at 100 times the items
DIMS = {"text": 96, "image": 32}
MODEL = GeneratorParams(backbone="lineage", tasks=("next",), batch=BATCH)
TOKENIZER = TokenizerParams(hidden=(256, 128), epochs=0, kmeans_iterations=5, allow_collapse=True)

Reading = tuple[str, float, str]  # quantity, value, unit


def seconds(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the shortest of several turns, after one that warms up."""
    work()
    found = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        found.append(time.perf_counter() - start)
    return min(found)


def made_sequences(users: int, items: int) -> Sequences:
    """Return users with as many items each, drawn at random."""
    drawn = np.random.default_rng(0).integers(items, size=users * LENGTH, dtype=np.int32)
    return Sequences.from_counts(np.full(users, LENGTH, np.int64), drawn, items)


def decoding(generator: Generator, sequences: Sequences, users: int) -> Iterator[Reading]:
    """Yield the time of both lists of a user, and what a user of a batch takes while the tree's nodes are masked."""
    ranker = Ranker(generator, sequences, RankParams(beam=20, batch=64))
    some = np.linspace(0, sequences.n_users - 1, users).astype(np.int64)
    recent, whole = (held_out(sequences, "test", history).take(some) for history in (HISTORY, LENGTH))
    yield "decode", 1e3 * seconds(lambda: ranker.rank(recent, whole)) / users, "ms per user"
    legal = ranker.sources[0].legal
    held = [legal.tree.child_first, legal.tree.child_count, legal.tree.child_token, legal.tree.child_node]
    held += [legal.tree.leaf_first, legal.tree.leaf_items, legal.item_paths, legal.items_below]
    yield "tree", sum(part.nbytes for part in held) / generator.ids.n_items, "bytes per item"


def steps_of_training(generator: Generator, sequences: Sequences, n_steps: int) -> Iterator[Reading]:
    """Yield the time of a step under either softmax, of an epoch's preparation, and the memory of the tokens."""
    every = generator.every_task
    store, examples = generator.store(sequences), train_prefixes(sequences, HISTORY)
    families = [family for word in generator.families for family in generator.families[word]]

    def epoch() -> tuple[Any, Iterator[Any]]:
        spans = tasks.draw_epoch(store, families, examples, 0, 0)
        return spans, tasks.batches(store, spans, BATCH, 0)

    def first_batch() -> None:
        next(epoch()[1])

    n_examples = len(epoch()[0].prompt)
    yield "epoch's batches", 1e6 * seconds(first_batch, 1) / n_examples, "us per example"
    yield (
        "tokens",
        sum(part.nbytes for part in (store.tokens, store.words, store.pictures)) / len(sequences.items),
        ("bytes per interaction"),
    )
    batches = list(islice(epoch()[1], n_steps))
    state = {name: tensor.clone() for name, tensor in generator.model.state_dict().items()}
    legal = LegalSoftmax(generator.vocabulary, every, generator.device)
    for name, loss in (("train step", type(generator.model).loss), ("train step, legal softmax", legal.loss)):

        def run(loss: Any = loss) -> None:
            training.fit(
                generator.model,
                lambda _: batches,
                lambda batch: (loss(generator.model, *batch), {}),
                lr=1e-3,
                weight_decay=0.01,
                epochs=1,
                steps=len(batches),
            )

        yield name, 1e3 * seconds(run) / len(batches), "ms"
        generator.model.load_state_dict(state)


def tokenizing(items: int, n_steps: int) -> Iterator[Reading]:
    """Yield the time of a tokenizer's step, of a check of all items, and of codebooks' start with the codes at last."""
    draw = np.random.default_rng(0)
    causes = draw.standard_normal((items, 16), dtype=np.float32)
    matrices = {name: causes @ draw.standard_normal((16, dim), dtype=np.float32) for name, dim in DIMS.items()}
    given = {name: Features(name, matrix, np.ones(items, bool), "made") for name, matrix in matrices.items()}
    taken = seconds(lambda: tokenizers.fit(given, None, TOKENIZER, device=device()), 1)
    yield "tokenizer start and codes", 1e6 * taken / items, "us per item"
    made = Items.of(matrices, {name: found.present for name, found in given.items()}, device=device())
    model = Tokenizer(TOKENIZER, DIMS, None).to(device()).parts[0]
    assert isinstance(model, SharedSpecific)
    model.quantizer.start(latents(model, made), made.present, TOKENIZER, 0)
    with torch.no_grad():
        taken = seconds(lambda: check(model, made, None, 0), 1)
    yield "tokenizer check", 1e6 * taken / items, "us per item"
    rule, rows = (
        Rule.of(TOKENIZER, training=True),
        torch.from_numpy(draw.integers(items, size=(n_steps, TOKENIZER.batch))),
    )

    def run() -> None:
        training.fit(
            model,
            lambda _: rows.to(device()),
            lambda index: (total_loss(model(made.take(index), rule).terms, TOKENIZER), {}),
            lr=TOKENIZER.lr,
            weight_decay=TOKENIZER.weight_decay,
            epochs=1,
            steps=n_steps,
        )

    yield "tokenizer step", 1e3 * seconds(run) / n_steps, "ms"


def readings(scale: float) -> Iterator[dict[str, Any]]:
    """Yield every quantity at every size, one row each."""
    sizes = sorted({max(500, round(size * scale)) for size in SIZES})
    fixed, decoded, n_steps = max(500, round(FIXED * scale)), max(4, round(DECODED * scale)), STEPS

    def rows(by: str, n: int, found: Iterator[Reading]) -> Iterator[dict[str, Any]]:
        for quantity, value, unit in found:
            yield {"by": by, "n": n, "quantity": quantity, "unit": unit, "value": value}

    for n in sizes:
        codes = made_codes(n)
        ids = make_ids(codes, {VIEW: (VIEW,)}, IdsParams(collisions="suffix"), seed=0)
        generator = untrained(ids, scale)
        sequences = made_sequences(fixed, n)
        yield from rows("items", n, decoding(generator, sequences, decoded))
        yield from rows("items", n, steps_of_training(generator, sequences, n_steps))
        del generator
        yield from rows("items", n, tokenizing(n, 4 * n_steps))
    ids = make_ids(made_codes(fixed), {VIEW: (VIEW,)}, IdsParams(collisions="suffix"), seed=0)
    for n in sizes:
        generator, sequences = untrained(ids, scale), made_sequences(n, fixed)
        yield from rows("users", n, decoding(generator, sequences, decoded))
        yield from rows("users", n, steps_of_training(generator, sequences, n_steps))


def untrained(ids: SemanticIds, scale: float) -> Generator:
    """Return a generator of the lineage's size with initial weights."""
    params = MODEL.model_copy(update={"backbone": "tiny"}) if scale < SMALL else MODEL
    made = Generator.untrained(ids, params, IdsParams(), HISTORY, seeds.child(0, "scale"))
    made.model.to(device())
    return made


def growth(found: pd.DataFrame) -> pd.DataFrame:
    """Return a row per quantity: its value at every size, and how many times the first the last is."""
    table = found.pivot_table(index=["by", "quantity", "unit"], columns="n", values="value", sort=False)
    table["grew"] = table.iloc[:, -1] / table.iloc[:, 0]
    return table


def draw(found: pd.DataFrame) -> Any:
    """Draw the growth of every quantity, what is timed and what is stored, over items and over users."""
    found = found.assign(relative=found["value"] / found.groupby(["by", "quantity"])["value"].transform("first"))
    with plots.theme():
        figure, axes = plots.new_panels(2)
        for axis, (by, part) in zip(axes, found.groupby("by", sort=False), strict=True):
            for at, (quantity, line) in enumerate(part.groupby("quantity", sort=False)):
                unit = line["unit"].iloc[0]
                plots.draw_line(
                    axis, line["n"], line["relative"], f"{quantity} ({line['value'].iloc[0]:.3g} {unit})", at
                )
            axis.set(xscale="log", xlabel=by, ylabel="times the value at the smallest", title=f"growth with {by}")
            axis.set_ylim(0, max(2.0, 1.1 * part["relative"].max()))
            axis.legend(fontsize=7)
        return figure


def main(scale: float, keep: bool) -> int:
    """Measure, print the table, and with `keep` write the figure and its CSV; 1 where decoding grows too much."""
    print(where())
    found = []
    for row in readings(scale):
        found.append(row)
        print(f"{row['n']:>9,} {row['by']:6} {row['quantity']:26} {row['value']:12.4g} {row['unit']}", flush=True)
    frame = pd.DataFrame(found)
    table = growth(frame)
    print(table.to_string(float_format=lambda value: f"{value:.4g}"))
    grew = float(table.loc[("items", "decode"), "grew"].iloc[0])
    print(f"decoding a user takes {grew:.2f} times as long at {frame['n'].max():,} items as at {frame['n'].min():,}")
    if keep:
        print(plots.save(draw(frame), frame, STEM, Path(__file__).parents[2] / "figures"))
    return int(grew > ALLOWED)


def smoke() -> pd.DataFrame:
    """Return all readings of a catalogue of hundreds."""
    torch.manual_seed(0)
    return pd.DataFrame(readings(0.0005))
