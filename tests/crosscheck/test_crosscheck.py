"""The sequential rows beside hopwise's, on the same files, with the same settings and one evaluator.

Not part of the usual tests: hopwise has to be there (`pip install -e '.[crosscheck]'`), and ten trainings of each kind
take minutes. Run: `pytest tests/crosscheck`.

The bound. Two correct programs differ by which users are asked and by which training it was. Of the users both are
asked the same, 2,000 shoppers of whom 300 train, so what counts is the standard error of the users' own differences.
The spread of trainings is SEEDS_SD, the pooled deviation between the seeds of all ten rows of this test. A row may be
off by three standard deviations of the difference that both together give: of five rows, one in seventy-five runs of
two correct programs would show one.

What it sees was tried by planting defects. Found: targets a place too early (SASRec .05 instead of .27), no causal mask
(.18), GRU4Rec started from N(0, .02) (.14 instead of .24), BERT4Rec with the last item of the whole history hidden in
half of its rows, always the same one (.12 instead of .20). Not found, for the world does not depend on it: SASRec
without positions (.28; the causal mask tells order), FDSA with the attributes of other items (.33 instead of .33).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from musicrec_kit import methods
from musicrec_kit.data import load_dataset
from musicrec_kit.data.dataset import Dataset
from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.evaluation import metrics
from musicrec_kit.evaluation.compare import standard_error
from musicrec_kit.evaluation.protocol import Score, rank_by_scores
from musicrec_kit.params import DataParams, DemoParams
from musicrec_kit.sequential import fit_recommender, sources_of
from musicrec_kit.sequential.recommender import EVERY_ITEM
from tests.crosscheck.hopwise_side import MODELS, Hopwise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("hopwise") is None, reason="hopwise is not here: extra crosscheck"),
    pytest.mark.filterwarnings("ignore"),  # its, and its dependencies'
]

# order has to matter, or no place of an item is missed: half of all next items are partners of the last one
WORLD = DemoParams(items=100, users=2000, kinds=6, copurchase=0.5, image_side=32)
TRAINED, HISTORY, SEEDS = 300, 8, (0, 1)
QUICK = {"batch": 16, "epochs": 30, "patience": 5, "most_steps": None}
SEEDS_SD = 0.01


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Sequences]:
    """All shoppers, and those that train."""
    folder = tmp_path_factory.mktemp("world")
    dataset = load_dataset(DataParams(source="demo", demo=WORLD, k_core=0), "demo", None, folder)
    whole = dataset.sequences()
    counts = np.diff(whole.offsets)[:TRAINED]
    return dataset, Sequences.from_counts(counts, whole.items[: whole.offsets[TRAINED]], whole.n_items)


def ndcg(score: Score, whole: Sequences) -> np.ndarray:
    """Test NDCG@10, plain, of every shopper."""
    examples = held_out(whole, "test", EVERY_ITEM)
    return metrics.ndcg(rank_by_scores(score, examples, examples, whole)[0].target_rank, 10)


@pytest.mark.parametrize("method", MODELS)
def test_a_row_is_what_hopwise_finds(method: str, world: tuple[Dataset, Sequences], tmp_path: Path) -> None:
    dataset, trained = world
    whole = dataset.sequences()
    params = methods.resolve("demo", method, "small").sequential
    first = params.pretraining.model_copy(update={"batch": 16, "epochs": 12})
    params = params.model_copy(update=QUICK | {"pretraining": first})
    sources = sources_of(params, dataset.items, (), {}, trained.seen)
    ours, theirs = [], []
    for seed in SEEDS:
        row = fit_recommender(trained, params, HISTORY, seed=seed, sources=sources)
        ours.append(ndcg(row.scorer(whole), whole))
        other = Hopwise(method, params, trained, sources.attributes, HISTORY, seed, tmp_path / str(seed))
        other.fit(params)
        theirs.append(ndcg(other.scorer(whole), whole))
        rank = other.ranks("test", lead=0)
        for name, metric in (("ndcg@10", metrics.ndcg), ("hit@10", metrics.hit)):
            assert other.own("test")[name] == pytest.approx(metric(rank, 10).mean(), abs=1e-6)  # no ties in floats
    difference = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    bound = 3 * np.sqrt(2 * SEEDS_SD**2 / len(SEEDS) + standard_error(difference) ** 2)
    means = [[f"{each.mean():.4f}" for each in side] for side in (ours, theirs)]
    print(f"{method}: ours {means[0]}, hopwise's {means[1]}, {difference.mean():+.4f}, bound {bound:.4f}")
    assert abs(difference.mean()) < bound
