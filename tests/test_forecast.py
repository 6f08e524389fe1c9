"""Forecasts: the parameters are those of the model that is then built, and work grows as the settings say."""

from pathlib import Path
from typing import Any

import pytest

from musicrec_kit import forecast
from musicrec_kit.params import merge
from musicrec_kit.pipeline import Job

QUICK = {"tokenizer": {"epochs": 1}, "cf": {"epochs": 1}, "generator": {"epochs": 0}}
ROWS = ("musicrec", "tiger", "mql4grec", "mgr_lf", "mgr_lf_pp", "vip5")


def of(runs_dir: Path, method: str, **changed: Any) -> Job:
    return Job("demo_tiny", method, "smoke", 0, runs_dir, overrides=merge(QUICK, changed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("method", ROWS)
def test_the_parameters_are_those_of_the_model(folder: Path, method: str) -> None:
    job = of(folder, method)
    counts = forecast.Counts(job.dataset.n_users, job.dataset.n_items, len(job.dataset.interactions))
    made = job.generator
    suffix = sum(int(made.ids.suffix[view].max()) + 1 for view in made.ids.views if made.ids.has_suffix(view))
    built = sum(p.numel() for p in made.model.parameters())
    assert forecast._generator(job, counts)[0] == built - suffix * made.model.shape.dim


@pytest.mark.parametrize("method", ["sasrec", "gru4rec", "bert4rec", "vq_rec", "missrec", "esasrec"])
def test_the_parameters_are_those_of_the_sequential_model(folder: Path, method: str) -> None:
    job = of(folder, method, sequential={"epochs": 0})
    counts = forecast.Counts(job.dataset.n_users, job.dataset.n_items, len(job.dataset.interactions))
    built = sum(p.numel() for p in job.recommender.model.parameters())
    assert forecast._recommender(job, counts)[0] == built


COUNTS = forecast.Counts(1000, 500, 10_000)


def test_a_sequential_models_work_grows_with_epochs_up_to_its_most_steps(folder: Path) -> None:
    def cost(**changed: Any) -> float:
        return forecast._recommender(of(folder, "sasrec", sequential=changed), COUNTS)[1]

    assert cost(epochs=20) == pytest.approx(2 * cost(epochs=10))
    assert cost(epochs=20, batch=100, most_steps=100) == pytest.approx(cost(epochs=10, batch=100))
    assert cost(epochs=10, objective="sampled_softmax", negatives=10) < cost(epochs=10) / 2


def operations(folder: Path, method: str, **changed: Any) -> float:
    return forecast._generator(of(folder, method, generator=changed), COUNTS)[1]


def test_work_grows_with_steps_epochs_and_stages(folder: Path) -> None:
    one = operations(folder, "tiger", steps=100)
    assert operations(folder, "tiger", steps=300) == pytest.approx(3 * one)
    assert operations(folder, "tiger", steps=100, epochs=99) == one
    assert operations(folder, "tiger", steps=100, stages=[["next"], ["next"]]) == pytest.approx(2 * one)
    epochs = operations(folder, "tiger", epochs=1)
    steps = -(-COUNTS.prefixes // 64)
    assert epochs == pytest.approx(operations(folder, "tiger", steps=steps))
    assert operations(folder, "tiger", epochs=4) == pytest.approx(4 * epochs)


def test_two_modalities_in_one_id_are_read_and_written_twice(folder: Path) -> None:
    two = {"levels": 4, "specific_levels": 4}
    late = forecast._blank(of(folder, "mgr_lf", tokenizer=two), COUNTS)
    alone = forecast._blank(of(folder, "tiger_clip_text", tokenizer=two), COUNTS)
    (task,), (single,) = late.stages[0][0], alone.stages[0][0]
    assert late.tokens(task, 5.0) == (5 * 8 + 1, 8 + 1) and alone.tokens(single, 5.0) == (5 * 4 + 1, 4 + 1)
    marked = forecast._blank(of(folder, "mgr_lf_pp", tokenizer=two), COUNTS)
    assert marked.tokens(marked.stages[1][0][0], 5.0) == (5 * 9 + 1, 9 + 1)


def test_a_batch_that_no_gpu_holds_is_seen_before_it_is_started(folder: Path) -> None:
    """By hand: 6 layers of 512 read 165 tokens, 34 x 512 + 5 x 8 x 165 bytes each, and 4,096 examples: 97 GB."""
    found = 4096 * forecast._activations(type("T5", (), {"layers": 6, "dim": 512, "heads": 8}), 165, 0)
    assert found == pytest.approx(97.4e9, rel=0.01)
