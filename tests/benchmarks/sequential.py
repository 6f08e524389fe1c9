"""Row `sequential`: SASRec to one quality of validation, beside hopwise's, the maintained fork of RecBole.

What both ask after every epoch, and how, is the kit's; it is no part of the time. hopwise reads its files before.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from musicrec_kit import methods
from musicrec_kit.data.splits import Sequences
from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential import fit_recommender, recommender
from tests.benchmarks.harness import OwnTime, Row, Side
from tests.benchmarks.worlds import HISTORY, world
from tests.crosscheck.__main__ import METHOD, Clock
from tests.crosscheck.hopwise_side import Hopwise

UNTIL = {"instruments": 0.085, "made": 0.3}  # NDCG@10 of validation, plain: what a good run of 22 epochs passes
MINUTES = 20.0  # of training, at most


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the row, where the extra `crosscheck` is installed."""
    if importlib.util.find_spec("hopwise") is None:
        print("sequential: hopwise is not here; pip install -c constraints.txt -e '.[crosscheck]'")
        return
    made = world(data_root, scale)
    until = 0.0 if scale < 1.0 else UNTIL["made" if data_root is None else "instruments"]
    params = methods.resolve("instruments", METHOD, "small").sequential
    yield Row(
        name="sequential",
        unit="trainings",
        units=1,
        data=f"{made.name}; SASRec, dimension {params.dim}, history {HISTORY}, to NDCG@10 {until:g}",
        usual=Side("hopwise, without its search for anomalies", lambda: theirs(made.sequences, params, until)),
        ours=[Side("fit_recommender", lambda: ours(made.sequences, params, until))],
        agree=lambda usual, found: agree(usual, found, until),
        targets={"fit_recommender": 5.0},
        repeats=1,
        warm=False,
    )


def theirs(sequences: Sequences, params: SequentialParams, until: float) -> OwnTime:
    """Train hopwise's until it is as good."""
    with tempfile.TemporaryDirectory() as folder:
        other = Hopwise(METHOD, params, sequences, {}, HISTORY, 0, Path(folder))
        clock = Clock(until, MINUTES)
        clock.run(other, "ranks", lambda: other.fit(params))
    return OwnTime(clock.seconds, clock.found)


def ours(sequences: Sequences, params: SequentialParams, until: float) -> OwnTime:
    """Train the kit's until it is as good."""
    clock = Clock(until, MINUTES)
    clock.run(recommender, "target_ranks", lambda: fit_recommender(sequences, params, HISTORY, seed=0))
    return OwnTime(clock.seconds, clock.found)


def agree(usual: list[float], found: list[float], until: float) -> str:
    """Say after how many epochs both were as good as asked."""
    assert usual[-1] >= until and found[-1] >= until, (usual, found)
    return f"NDCG@10 {found[-1]:.4f} after {len(found)} epochs, {usual[-1]:.4f} after {len(usual)}"
