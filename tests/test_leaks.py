"""Nothing learnt sees what it is tested on: alarms, both protocols, and targets that can be changed without a trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_generation import random_ids

from musicrec_kit import generation, sequential, tokenizers
from musicrec_kit.data.splits import Sequences
from musicrec_kit.evaluation.counters import ItemKNN, Markov, popularity
from musicrec_kit.features import Features
from musicrec_kit.features.fusion import early_fusion
from musicrec_kit.generation import fit_generator
from musicrec_kit.params import CFParams, GeneratorParams, IdsParams, SequentialParams
from musicrec_kit.pipeline import Job, LeakError, StageFailed
from musicrec_kit.sequential import fit_item_vectors, fit_recommender
from musicrec_kit.sequential.interests import Interests
from musicrec_kit.sequential.items import Catalogue
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
    learnt = [weights(fit_recommender(s, row, 5).model) for s in (whole, changed(whole, 2))]
    assert equal(*learnt)
    for made in (
        popularity,
        lambda s: Markov(s).transitions.toarray(),
        lambda s: ItemKNN(s).near.toarray(),
    ):
        assert np.array_equal(made(whole), made(changed(whole, 1))) and made(whole).any()
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
    job, seen = Job("demo_tiny", "musicrec", "smoke", 0, tmp_path, None, QUICK | {"data": {}}), []
    job.learning = ["generator"]
    job._build("ids", lambda folder: seen.append((job.sequences.n_users, list(job.learning))))
    assert seen == [(job.dataset.n_users, [])] and job.learning == ["generator"]
    with pytest.raises(LeakError, match="asked for whole sequences"):
        _ = job.sequences


def test_behind_a_cut_learners_are_told_which_items_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, np.ndarray | None] = {}
    kept = {"fit_generator": 9, "fit": 7, "sources_of": 6}

    def spy(room: object, name: str) -> None:
        whole = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *a, **k: told.update({name: a[kept[name]]}) or whole(*a, **k))

    spy(generation, "fit_generator")
    spy(tokenizers, "fit")
    spy(sequential, "sources_of")
    for protocol in ("temporal", "leave_one_out"):
        for method in ("musicrec", "missrec"):
            job = Job("demo_tiny", method, "smoke", 0, tmp_path, None, QUICK | {"data": {"protocol": protocol}})
            _ = job.generator if method == "musicrec" else job.recommender
        seen = job.dataset.sequences().seen
        for name in kept:
            assert (told[name] is None) if protocol == "leave_one_out" else np.array_equal(told[name], seen), name


def test_items_behind_the_cut_are_not_aligned_and_move_no_interest() -> None:
    ids, whole, among = random_ids(N), leave_one_out(), np.arange(N) < 10
    words = GeneratorParams(backbone="tiny", tasks=("align",), steps=2, batch=16, keep="last")
    made = fit_generator(whole, ids, words, IdsParams(), 5, among=among)
    tasks = [task for word in made.families.values() for family in word for task in family]
    for known, count in ((among, 10), (None, N)):
        store = made.store(whole, among=known)
        spans = [store.spans(task, None) for task in tasks]
        assert {len(found.source_first) for found in spans} == {count}
    parts, names = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), {}
    for shift in (0.0, 5.0):
        part = parts + shift * torch.from_numpy(~among)[:, None]
        found = Interests(N, 1, 4, 0.3, among)
        found.find(Catalogue(part, {"text": part}, {}), 5, torch.Generator().manual_seed(0))
        names[shift] = found.centres
    assert torch.equal(*names.values()) and names[0.0].any()


def test_a_user_without_an_example_is_read_as_an_unknown_one() -> None:
    lists = [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [8, 9, 10]]  # the last trains on one item, and has no prefix
    words = GeneratorParams(backbone="tiny", tasks=("next",), steps=6, batch=4, keep="last", user_tokens=True)
    made = fit_generator(Sequences.from_lists(lists, N), random_ids(N), words, IdsParams(), 5)
    rows = made.model.embedding.weight[made.vocabulary.size :][:4]
    assert torch.equal(rows[3], rows[0]) and torch.allclose(rows[0], rows[1:3].mean(dim=0))
    assert not torch.equal(rows[1], rows[2])


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
