"""Nothing learnt sees what it is tested on: alarms, both protocols, and targets that can be changed without a trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_generation import random_ids

from musicrec_kit.data.splits import Sequences
from musicrec_kit.features import Features
from musicrec_kit.features.fusion import early_fusion
from musicrec_kit.generation import fit_generator
from musicrec_kit.params import CFParams, GeneratorParams, IdsParams, SequentialParams
from musicrec_kit.pipeline import Job, StageFailed
from musicrec_kit.sequential import fit_item_vectors, fit_recommender
from musicrec_kit.sequential.sources import scaled
from musicrec_kit.tokenizers.cooccurrence import pair_counts

QUICK = {
    "data": {"protocol": "temporal"},
    "cf": {"epochs": 1},
    "tokenizer": {"epochs": 2, "allow_collapse": True},
    "generator": {"steps": 2, "batch": 16},
    "sequential": {"epochs": 1, "pretraining": {"epochs": 1}},
}
N = 15


def leave_one_out(seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    return Sequences.from_lists([rng.permutation(N)[: rng.integers(3, 8)] for _ in range(40)], N)


def temporal(seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 8, 40)
    time = np.concatenate([np.sort(rng.integers(0, 100, n)) for n in counts])
    items = np.concatenate([rng.permutation(N)[:n] for n in counts])
    return Sequences.from_cuts(counts, items, time, (60, 80), N)


def changed(sequences: Sequences, least: int) -> Sequences:
    """Put other items in the place of those of split number `least` and of all later ones."""
    items = np.where(sequences.splits >= least, (sequences.items + 4) % N, sequences.items).astype(np.int32)
    assert (items != sequences.items).any()
    return Sequences.from_splits(np.diff(sequences.offsets), items, sequences.splits, N)


def weights(model: torch.nn.Module) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.state_dict().values()]


def equal(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("make", [leave_one_out, temporal])
def test_other_targets_leave_no_trace_in_what_is_learnt(make) -> None:
    """The validation target chooses the epoch of generator and recommender, and nothing else of them."""
    whole = make()
    cf = CFParams(dim=8, heads=2, layers=1, epochs=2)
    vectors = [fit_item_vectors(s, cf, 5).vectors for s in (whole, changed(whole, 1))]
    assert equal([vectors[0]], [vectors[1]]) and vectors[0].any()
    pairs = [pair_counts(s).toarray() for s in (whole, changed(whole, 1))]
    assert np.array_equal(*pairs) and pairs[0].any()
    row = SequentialParams(dim=8, heads=2, layers=1, epochs=3, batch=16)
    learnt = [weights(fit_recommender(s, row, 5).model) for s in (whole, changed(whole, 2), changed(whole, 1))]
    assert equal(learnt[0], learnt[1])
    words = GeneratorParams(backbone="tiny", tasks=("next", "joint", "align"), steps=6, batch=16, keep="best")
    ids = random_ids(N)
    learnt = [weights(fit_generator(s, ids, words, IdsParams(), 5).model) for s in (whole, changed(whole, 2))]
    assert equal(*learnt)
    other = weights(fit_generator(changed(whole, 0), ids, words, IdsParams(), 5).model)
    assert not equal(learnt[0], other)


def test_a_stage_that_learns_and_asks_for_targets_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("demo_tiny", "sasrec", "smoke", 0, tmp_path, None, {"sequential": {"epochs": 1}})
    monkeypatch.setattr(Job, "fit_recommender", lambda self, folder: self.sequences)
    with pytest.raises(StageFailed, match="LeakError: stage recommender learns"):
        _ = job.rankings
    assert not job.is_built("recommender") and job.sequences.n_users == job.dataset.n_users
    monkeypatch.undo()
    assert "test/main/hr@10" in job.metrics


def test_a_stage_built_on_the_way_may_look_again(tmp_path: Path) -> None:
    """While stage 05 learns, 01 to 04 are made: only what learns is kept from the targets."""
    job = Job("demo_tiny", "musicrec", "smoke", 0, tmp_path, None, QUICK | {"data": {}})
    job.learning = ["generator"]
    assert job.dataset.n_users and job.learning == ["generator"]
    with pytest.raises(Exception, match="asked for whole sequences"):
        _ = job.sequences


@pytest.mark.parametrize("method", ["musicrec", "p5_cid", "mgr_ef", "missrec", "vq_rec", "item_knn"])
def test_rows_of_every_kind_stand_a_cut_in_time(method: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    runs_dir = tmp_path_factory.getbasetemp() / "temporal"
    jobs = [Job("demo_tiny", method, "smoke", 0, runs_dir, None, QUICK | more) for more in ({}, {"data": {}})]
    cut, plain = (job.dataset.manifest for job in jobs)
    assert cut["protocol"] == "temporal" and "protocol" not in plain and cut["fingerprint"] != plain["fingerprint"]
    metrics, counts = jobs[0].metrics, cut["cuts"]["targets"]
    assert 0 < counts["test"] < plain["held_out_users"]
    for split, users in jobs[0].rankings.users.items():
        assert len(users) == counts[split]
    assert f"test/{jobs[0].main_list}/hr@10" in metrics and metrics["fingerprint"] == cut["fingerprint"]


# what is measured on features


def two_modalities(rng: np.random.Generator) -> dict[str, Features]:
    return {
        name: Features(name, rng.normal(size=(N, width)).astype(np.float32), np.arange(N) % 7 > 0, name)
        for name, width in (("text", 5), ("image", 3))
    }


def test_features_of_unseen_items_do_not_move_those_of_others() -> None:
    rng = np.random.default_rng(0)
    one, among = two_modalities(rng), np.arange(N) < 10
    two = {
        name: Features(name, np.where(among[:, None], f.matrix, f.matrix * 9 + 5), f.present, "")
        for name, f in one.items()
    }
    for make in (lambda m, a: scaled(m["text"], "modality", a), lambda m, a: early_fusion(m, "joint", (), a).matrix):
        assert np.array_equal(make(one, among)[:10], make(two, among)[:10])
        assert not np.allclose(make(one, None)[:10], make(two, None)[:10])
        assert np.array_equal(make(one, np.ones(N, bool)), make(one, None))
