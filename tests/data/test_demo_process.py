"""The demo's process against brute force, and its ceilings against realised hits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.data.demo_process import (
    PARTNER_WEIGHTS,
    Kernel,
    World,
    ceilings,
    draw_sequences,
    expected_hits_by_rank,
    likeness_between,
    make_world,
    visible_properties,
)
from musicrec_kit.params import DemoParams

TINY = {"items": 120, "users": 200, "purposes": 5, "colours": 4, "kinds": 6}
EVERYTHING = ("kind", "purpose", "colour")


def world_of(**changes: object) -> tuple[World, list[np.ndarray]]:
    world = make_world(DemoParams(**{**TINY, **changes}))
    return world, draw_sequences(world)


def kernel_by_hand(world: World, last: int) -> np.ndarray:
    """The formula of the module's docstring, one item at a time."""
    params, chances = world.params, np.zeros(world.params.items)
    odds = np.zeros(params.items)
    weights = {"purpose": params.text_weight, "colour": params.image_weight, "kind": params.shared_weight}
    for item in range(params.items):
        if item != last:
            same = sum(w for name, w in weights.items() if world.properties[name][item] == world.properties[name][last])
            odds[item] = np.exp(same)
    for item in range(params.items):
        partner = sum(w for w, other in zip(PARTNER_WEIGHTS, world.partners[last], strict=True) if other == item)
        alike = odds[item] / odds.sum()
        structured = params.copurchase * partner + (1 - params.copurchase) * alike
        uniform = (item != last) / (params.items - 1)
        chances[item] = params.randomness * uniform + (1 - params.randomness) * structured
    return chances


def test_kernel_equals_formula() -> None:
    world = make_world(DemoParams(**TINY, seed=3))
    last = np.array([0, 17, 119])
    rows = Kernel(world).rows(last)
    np.testing.assert_allclose(rows, [kernel_by_hand(world, item) for item in last], atol=1e-14)
    np.testing.assert_allclose(rows.sum(axis=1), 1)


def test_hidden_properties_are_averaged_over_pairs_that_look_identical() -> None:
    world = make_world(DemoParams(items=40, users=8, purposes=3, colours=2, kinds=2))
    signature, seen = likeness_between(world, ("kind", "purpose"))
    exact_of, exact = likeness_between(world, EVERYTHING)
    full = exact[exact_of][:, exact_of]
    looks = np.stack([world.properties["kind"], world.properties["purpose"]], axis=1)
    for i in (0, 7, 23):
        for j in (1, 7, 30):
            like_i, like_j = (np.flatnonzero((looks == looks[item]).all(axis=1)) for item in (i, j))
            pairs = [full[a, b] for a in like_i for b in like_j if a != b]
            assert seen[signature[i], signature[j]] == pytest.approx(np.mean(pairs), rel=1e-12)


def test_world_is_balanced_and_partners_are_others() -> None:
    world = make_world(DemoParams(**TINY))
    assert len(np.unique(world.groups)) == 120  # every combination once
    assert (world.partners != np.arange(120)[:, None]).all()
    assert all(len(set(row)) == 3 for row in world.partners.tolist())


def test_shoppers_never_repeat_and_have_the_stated_length() -> None:
    _, sequences = world_of(users=2000)
    lengths = np.array([len(items) for items in sequences])
    assert all(len(set(items.tolist())) == len(items) for items in sequences)
    assert lengths.min() == 5
    assert abs(lengths.mean() - 9) < 4 * lengths.std() / np.sqrt(len(lengths))


def test_second_items_follow_the_kernel() -> None:
    world, sequences = world_of(users=20_000)
    first, second = np.array([items[:2] for items in sequences]).T
    rows = Kernel(world).rows(first)
    for name, same in (
        ("purpose", world.properties["purpose"]),
        ("colour", world.properties["colour"]),
        ("kind", world.properties["kind"]),
    ):
        chance = (rows * (same[first][:, None] == same[None, :])).sum(axis=1)
        realised = (same[first] == same[second]).mean()
        error = np.sqrt((chance * (1 - chance)).mean() / len(chance))
        assert abs(realised - chance.mean()) < 4 * error, name
    partner = (world.partners[first] == second[:, None]).any(axis=1)
    chance = np.take_along_axis(rows, world.partners[first], axis=1).sum(axis=1)
    assert abs(partner.mean() - chance.mean()) < 4 * np.sqrt((chance * (1 - chance)).mean() / len(chance))


def test_no_randomness_and_only_partners_still_gives_whole_sequences() -> None:
    world, sequences = world_of(items=8, users=50, randomness=0, copurchase=1, purposes=2, colours=2, kinds=2)
    assert all(len(set(items.tolist())) == len(items) >= 5 for items in sequences)
    assert ceilings(world, sequences)["both"]["hr@10"] == pytest.approx(1)  # at most 4 of 8 items are left


@pytest.mark.parametrize("name", ["both", "text", "image", "copurchase"])
def test_realised_hits_meet_the_ceiling(name: str) -> None:
    """The best predictor, ranking with random ties, hits as often as computed: within 4 standard errors."""
    world, sequences = world_of(users=4000)
    visible = {"both": EVERYTHING, "copurchase": (), **visible_properties(DemoParams())}[name]
    expected = ceilings(world, sequences)[name]
    scores = Kernel(world, visible).rows(np.array([items[-2] for items in sequences]))
    for row, items in zip(scores, sequences, strict=True):
        row[items[:-1]] = -1
    target = np.array([items[-1] for items in sequences])
    own = scores[np.arange(len(target)), target][:, None]
    # equal up to rounding is a tie, decided by chance
    better, ties = (scores > own * (1 + 1e-9)).sum(axis=1), np.isclose(scores, own, rtol=1e-9, atol=0).sum(axis=1)
    rank = better + np.random.default_rng(5).integers(1, ties + 1)
    for k in (1, 5, 10):
        hits = rank <= k
        assert abs(hits.mean() - expected[f"hr@{k}"]) < 4 * hits.std() / np.sqrt(len(hits))
        gain = hits / np.log2(rank + 1)
        assert abs(gain.mean() - expected[f"ndcg@{k}"]) < 4 * gain.std() / np.sqrt(len(gain))


def test_ceilings_are_well_apart_in_the_main_world() -> None:
    best = {name: values["hr@10"] for name, values in ceilings(*world_of()).items()}
    assert best["both"] > max(best["text"], best["image"]) + 0.2
    assert min(best["text"], best["image"]) > best["copurchase"] + 0.1
    assert best["copurchase"] > best["popularity"] + 0.03


def test_null_worlds_have_the_ceilings_they_promise() -> None:
    irrelevant = ceilings(*world_of(image_weight=0))
    assert irrelevant["both"] == pytest.approx(irrelevant["text"], abs=1e-9)
    assert irrelevant["image"]["hr@10"] < irrelevant["text"]["hr@10"] - 0.15
    shuffled = ceilings(*world_of(image_weight=0, shuffled_pictures=True))
    assert shuffled["image"] == shuffled["copurchase"] and shuffled["text"] == irrelevant["text"]
    alone = ceilings(*world_of(copurchase=0))
    assert alone["copurchase"] == pytest.approx(alone["random"], abs=1e-9)
    shared = ceilings(*world_of(all_shared=True))
    assert shared["text"] == shared["image"] == shared["both"]


@settings(max_examples=15, deadline=None)
@given(
    randomness=st.floats(0, 1),
    copurchase=st.floats(0, 1),
    text=st.floats(0, 6),
    image=st.floats(0, 6),
    shared=st.floats(0, 6),
    seed=st.integers(0, 9),
)
def test_nobody_passes_both(
    randomness: float, copurchase: float, text: float, image: float, shared: float, seed: int
) -> None:
    params = DemoParams(
        items=50,
        users=20,
        purposes=3,
        colours=3,
        kinds=2,
        randomness=randomness,
        copurchase=copurchase,
        text_weight=text,
        image_weight=image,
        shared_weight=shared,
        seed=seed,
    )
    world = make_world(params)
    best = ceilings(world, draw_sequences(world))
    for name, values in best.items():
        for metric, value in values.items():
            assert -1e-12 <= value <= best["both"][metric] + 1e-6, (name, metric)


def test_expected_hits_by_rank_by_hand() -> None:
    """Scores 3 2 2 1: the tie's two ranks each get the mean of its two chances."""
    hits = expected_hits_by_rank(np.array([[2.0, 3, 1, 2]]), np.array([[0.3, 0.4, 0.2, 0.1]]), 4)
    np.testing.assert_allclose(hits, [[0.4, 0.2, 0.2, 0.2]])
    cut = expected_hits_by_rank(np.array([[2.0, 3, 2, 2]]), np.array([[0.3, 0.4, 0.2, 0.1]]), 2)
    np.testing.assert_allclose(cut, [[0.4, 0.2]])  # the tie goes on below the list


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_expected_hits_equal_the_mean_over_random_orders_of_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(0, 4, size=(1, 9)).astype(float), rng.dirichlet(np.ones(9))[None]
    by_value = {value: truth[0][scores[0] == value].mean() for value in set(scores[0])}
    brute = [by_value[value] for value in sorted(scores[0], reverse=True)]
    np.testing.assert_allclose(expected_hits_by_rank(scores, truth, 9)[0], brute)
    np.testing.assert_allclose(expected_hits_by_rank(scores, truth, 3)[0], brute[:3])
