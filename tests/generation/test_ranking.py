"""Lists of untrained and of tampered generators: what must hold whatever the weights are."""

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.data.splits import held_out
from musicrec_kit.evaluation.protocol import NO_HISTORY
from musicrec_kit.generation import ranking
from musicrec_kit.generation.fit import Generator
from musicrec_kit.generation.ranking import Ranker, rank
from musicrec_kit.params import GeneratorParams, IdsParams, RankParams

PARAMS = GeneratorParams(backbone="tiny", tasks=("next", "joint"), prompt_tokens=2)
N_ITEMS = 40


def setting(ids, n_users=16, history=5, most=12, **changes):
    params = PARAMS.model_copy(update=changes)
    generator = Generator.untrained(ids, params, IdsParams(), history, seed=0)
    generator.model.eval()
    sequences = reference.random_sequences(n_users, ids.n_items, most=most)
    return generator, sequences, held_out(sequences, "test", history), held_out(sequences, "test", 10**9)


def histories(sequences, full):
    return [set(sequences.items[a:b].tolist()) for a, b in zip(full.start, full.end, strict=True)]


def colliding(seed=0):
    generator = np.random.default_rng(seed)
    text, image = generator.integers(0, 3, (N_ITEMS, 2)), generator.integers(0, 4, (N_ITEMS, 2))
    text[7], image[11] = -1, -1
    return reference.make_ids({"text": text, "image": image}, 4)


@pytest.fixture(scope="module", params=["distinct", "colliding", "three"])
def world(request):
    ids = {
        "distinct": lambda: reference.random_ids(N_ITEMS),
        "colliding": colliding,
        "three": lambda: reference.random_ids(N_ITEMS, ("text", "image", "audio")),
    }[request.param]()
    return setting(ids)


@pytest.mark.parametrize("score", ["lineage", "ours"])
def test_lists_hold_each_item_once_and_no_history(world, score):
    generator, sequences, examples, full = world
    found = rank(generator, sequences, examples, full, RankParams(beam=20, score=score, batch=7))
    names = [*generator.ids.views, "joint", "merged", "merged_lse"]
    assert set(found) == {name + suffix for name in names for suffix in ("", NO_HISTORY)}
    seen = histories(sequences, full)
    for name, made in found.items():
        assert made.items.shape == made.scores.shape == (len(examples), 20) and made.items.dtype == np.int32
        for row, scores, history, place, target in zip(
            made.items, made.scores, seen, made.target_rank, examples.target, strict=True
        ):
            items = row[row >= 0].tolist()
            assert len(set(items)) == len(items) == int(np.isfinite(scores).sum())
            assert len(items) == 20  # enough exist: 40 items, histories of at most 11
            assert bool((np.diff(scores) <= 0).all())
            if name.endswith(NO_HISTORY):
                assert not set(items) & history
            if target in items:
                assert place >= items.index(target) + 1 - list(scores).count(scores[items.index(target)])
                assert place > 0


def test_exact_and_a_full_beam_agree(world):
    generator, sequences, examples, full = world
    wide = rank(generator, sequences, examples, full, RankParams(beam=N_ITEMS))
    exact = rank(generator, sequences, examples, full, RankParams(beam=N_ITEMS, exact=True))
    for name in wide:
        np.testing.assert_allclose(wide[name].scores, exact[name].scores, atol=1e-4)
        assert (wide[name].target_rank == exact[name].target_rank).mean() > 0.95  # near ties may turn


def test_batches_do_not_matter(world):
    generator, sequences, examples, full = world
    made = [rank(generator, sequences, examples, full, RankParams(beam=10, batch=batch)) for batch in (1, 5, 128)]
    for name in made[0]:
        for other in made[1:]:
            np.testing.assert_array_equal(made[0][name].items, other[name].items)
            np.testing.assert_array_equal(made[0][name].target_rank, other[name].target_rank)
            np.testing.assert_allclose(made[0][name].scores, other[name].scores, atol=1e-5)


def test_no_history_is_what_exact_masking_gives(world):
    generator, sequences, examples, full = world
    wide = rank(generator, sequences, examples, full, RankParams(beam=N_ITEMS))
    for user, history in enumerate(histories(sequences, full)):
        for name in (*generator.ids.views, "joint"):
            kept = [item for item in wide[name].items[user].tolist() if item not in history and item >= 0]
            masked = wide[name + NO_HISTORY].items[user].tolist()
            assert masked[: len(kept)] == kept


def test_colliding_items_stand_together_in_an_order_that_the_seed_draws():
    ids = colliding()
    generator, sequences, examples, full = setting(ids, n_users=3)
    made = [Ranker(generator, sequences, RankParams(beam=N_ITEMS), seed).rank(examples, full) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(made[0]["text"].items, made[1]["text"].items)
    assert not np.array_equal(made[0]["text"].items, made[2]["text"].items)
    codes = [tuple(row) for row in ids.views["text"]]
    for items, scores in zip(made[0]["text"].items, made[0]["text"].scores, strict=True):
        groups = [codes[item] for item in items]
        changes = 1 + sum(a != b for a, b in zip(groups, groups[1:], strict=False))
        assert changes == len(set(groups))  # an ID's items are side by side
        assert len(set(scores.tolist())) <= changes


def test_ties_between_ids_count_against_the_target_and_within_an_id_they_do_not():
    ids = colliding()
    generator, sequences, examples, full = setting(ids)
    with torch.no_grad():
        generator.model.embedding.weight.zero_()  # every ID of a view scores the same
    found = rank(generator, sequences, examples, full, RankParams(beam=N_ITEMS))
    codes = [tuple(row) for row in ids.views["text"]]
    n_with_id = sum(code != (-1, -1) for code in codes)
    for target, place, items in zip(examples.target, found["text"].target_rank, found["text"].items, strict=True):
        if place == 0:
            assert codes[target] == (-1, -1)
            continue
        twins = [item for item in range(N_ITEMS) if codes[item] == codes[target]]
        assert n_with_id - len(twins) < place <= n_with_id
        assert len(items) == 20


def test_one_view_gives_the_list_main():
    ids = reference.random_ids(N_ITEMS, ("text",))
    generator, sequences, examples, full = setting(ids, tasks=("next",))
    assert set(rank(generator, sequences, examples, full, RankParams(beam=5))) == {"main", "main/no_history"}


def test_short_lists_are_padded():
    ids = reference.random_ids(6)
    generator, sequences, examples, full = setting(ids, most=5)
    found = rank(generator, sequences, examples, full, RankParams(beam=3))
    assert found["text"].items.shape == (16, ranking.STORED)
    assert bool((found["text"].items[:, :3] >= 0).all()) and bool((found["text"].items[:, 3:] == -1).all())
    assert bool(np.isneginf(found["text"].scores[:, 3:]).all())


def test_a_user_who_has_seen_everything_gets_an_empty_list():
    ids = reference.random_ids(6)
    generator, sequences, examples, full = setting(ids, most=6)
    wide = type(full)(full.users, sequences.offsets[full.users], sequences.offsets[full.users + 1], full.target)
    found = rank(generator, sequences, examples, wide, RankParams(beam=6))
    complete = np.diff(sequences.offsets)[full.users] == 6
    assert complete.any()
    for name in ("text", "joint", "merged", "merged_lse"):
        assert bool((found[name + NO_HISTORY].items[complete] == -1).all())
        assert bool((found[name + NO_HISTORY].target_rank[complete] == 0).all())


def test_invalid_ids_are_counted_and_left_out():
    ids = reference.random_ids(N_ITEMS)
    generator, sequences, examples, full = setting(ids)
    rates = {}
    for tree in ("joint", "per_modality", "free"):
        ranker = Ranker(generator, sequences, RankParams(beam=10, tree=tree))
        found = ranker.rank(examples, full)
        rates[tree] = ranker.invalid
        for name, made in found.items():
            items = made.items
            assert bool((np.isfinite(made.scores) == (items >= 0)).all()), name
    assert rates["joint"] == {"text": 0.0, "image": 0.0, "joint": 0.0}
    assert rates["per_modality"]["text"] == 0.0 and rates["per_modality"]["joint"] > 0.5
    assert all(rate > 0.5 for rate in rates["free"].values())


def test_merged_is_made_of_the_view_lists(world):
    generator, sequences, examples, full = world
    found = rank(generator, sequences, examples, full, RankParams(beam=20))
    views = list(generator.ids.views)
    for user in range(len(examples)):
        lists = [(found[v].items[user].tolist(), found[v].scores[user].tolist()) for v in views]
        expected = reference.merge_by_walk(lists)[:20]
        np.testing.assert_allclose(found["merged"].scores[user], [s for _, s in expected], atol=1e-5)
        assert found["merged"].items[user].tolist() == [i for i, _ in expected]
