"""Every row of params/methods keeps the contract: it builds, trains, ranks, and its lists can be trusted."""

from pathlib import Path

import numpy as np
import pytest

from musicrec_kit import data, generation, methods
from musicrec_kit.evaluation import Rankings
from musicrec_kit.pipeline import Job

NAMES = methods.names("methods")
# two steps of everything: what is asked is whether a row works, not what it learns
QUICK = {
    "cf": {"epochs": 1},
    "tokenizer": {"epochs": 2, "allow_collapse": True},
    "generator": {"steps": 2, "batch": 16},
}
QUICK_SEQUENTIAL = {"sequential": {"epochs": 1, "pretraining": {"epochs": 1}}}
FAMILY = {name: methods.resolve("demo_tiny", name, "smoke").family for name in NAMES}
GENERATIVE, SEQUENTIAL = ([n for n in NAMES if FAMILY[n] == family] for family in ("generative", "sequential"))


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def job_of(name: str, runs_dir: Path) -> Job:
    overrides = {"generative": QUICK, "sequential": QUICK_SEQUENTIAL}
    return Job("demo_tiny", name, "smoke", 0, runs_dir, None, overrides.get(FAMILY[name], {}))


def lists(rankings: Rankings) -> dict:
    return {name: (ranked.items.tolist(), ranked.scores.tolist()) for name, ranked in rankings.lists.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_row_ranks_items_that_exist_each_once(name: str, runs_dir: Path) -> None:
    job = job_of(name, runs_dir)
    metrics = job.metrics
    assert f"test/{job.main_list}/hr@10" in metrics
    for (split, kind), ranked in job.rankings.lists.items():
        items = np.asarray(ranked.items)
        there = items >= 0
        assert items.max() < job.dataset.n_items and there[:, 0].all(), (split, kind)
        for row, known in zip(items, there, strict=True):
            assert len(set(row[known])) == known.sum(), f"{split}/{kind}: an item stands twice"


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_batch_of_eight_ranks_as_eight_batches_of_one(name: str, runs_dir: Path) -> None:
    job = job_of(name, runs_dir)
    examples = data.held_out(job.sequences, "test", job.settings.data.history)
    whole = data.held_out(job.sequences, "test", 10**9)
    found = []
    for batch in (8, 1):
        params = job.settings.rank.model_copy(update={"batch": batch})
        few, all_of_them = examples.take(np.arange(8)), whole.take(np.arange(8))
        found.append(generation.rank(job.generator, job.sequences, few, all_of_them, params, 0))
    for kind, ranked in found[0].items():
        assert np.array_equal(ranked.items, found[1][kind].items), kind
        np.testing.assert_allclose(ranked.scores, found[1][kind].scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GENERATIVE)
def test_the_same_seed_gives_the_same_ranking_and_what_is_saved_ranks_the_same(name: str, runs_dir: Path) -> None:
    job = job_of(name, runs_dir)
    examples = data.held_out(job.sequences, "test", job.settings.data.history)
    whole = data.held_out(job.sequences, "test", 10**9)
    few, all_of_them = examples.take(np.arange(8)), whole.take(np.arange(8))
    fitted = job.fit_generator()  # anew, in memory, and not read back
    ranked = [
        generation.rank(generator, job.sequences, few, all_of_them, job.settings.rank, 0)
        for generator in (job.generator, fitted)
    ]
    for kind, one in ranked[0].items():
        assert np.array_equal(one.items, ranked[1][kind].items), kind
        assert np.array_equal(one.scores, ranked[1][kind].scores), kind


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_sequential_row_scores_the_same_alone_and_after_saving_and_trained_again(name: str, runs_dir: Path) -> None:
    job = job_of(name, runs_dir)
    few = data.held_out(job.sequences, "test", job.settings.data.history).take(np.arange(8))
    score = job.recommender.scorer(job.sequences)
    together = score(few)
    alone = np.concatenate([score(few.take(np.arange(i, i + 1))) for i in range(8)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    again = job.fit_recommender().scorer(job.sequences)  # anew, in memory, and not read back
    assert np.array_equal(together, again(few))
    assert np.ptp(together, axis=1).min() > 0, "every item has the same score"


def test_a_new_row_is_a_base_and_one_changed_line(runs_dir: Path, tmp_path: Path) -> None:
    row = tmp_path / "longer.yaml"
    row.write_text("base: tiger\ntokenizer: {levels: 6, specific_levels: 6}\n")  # README, "a row of your own"
    job = Job("demo_tiny", str(row), "smoke", 0, runs_dir, None, QUICK)
    assert job.ids.views["text"].shape[1] == 6
    assert job.metrics["main_list"] == "main"
    assert (runs_dir / "demo_tiny" / "runs") in job.run_folder.parents and (job.run_folder / "metrics.json").is_file()
    assert list(tmp_path.iterdir()) == [row]
