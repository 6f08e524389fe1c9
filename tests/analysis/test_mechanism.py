"""The mechanism's numbers: planted geometry with a known answer, brute force, scipy and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_mutual_info_score

from musicrec_kit import tokenizers
from musicrec_kit.analysis import mechanism
from musicrec_kit.analysis.churn import churn, churn_of_changes, moved
from musicrec_kit.features import Features
from musicrec_kit.params import TokenizerParams
from musicrec_kit.sequential import ItemVectors
from musicrec_kit.tokenizers import ItemCodes

RNG = np.random.default_rng
CF = RNG(0).normal(size=(150, 4)).astype(np.float32)
EVERY = ItemVectors(CF, np.ones(150, bool))


def test_equal_geometry_agrees_and_noise_is_at_chance():
    turned = 3 * CF @ np.linalg.qr(RNG(1).normal(size=(4, 4)))[0]
    quantized = {"text": turned, "image": RNG(2).normal(size=(150, 4))}
    table = mechanism.agreement_with_vectors(quantized, EVERY).set_index("z_hat")
    assert list(table.index) == ["text", "image", "joint", "mean"]
    assert table.loc["text", ["neighbours", "spearman"]].tolist() == pytest.approx([1, 1], abs=0.01)
    noise = table.loc["image"]
    assert noise["neighbours"] == pytest.approx(noise["neighbours_chance"], abs=0.02)
    assert abs(noise["spearman"] - noise["spearman_chance"]) < 3 * noise["spearman_spread"]
    assert (table["neighbours_chance"] == 10 / 149).all() and table["spearman_chance"].abs().max() < 0.02
    assert 0.2 < table.loc["joint", "spearman"] < 0.99


def test_correlation_is_scipys_on_all_pairs():
    other = CF + RNG(3).normal(size=CF.shape)
    row = mechanism.agreement_with_vectors({"text": other}, EVERY, pairs=20_000).iloc[0]
    pairs = mechanism.item_pairs(150, 10**6)
    assert row["pairs"] == len(pairs) == 150 * 149 / 2
    cosines = [mechanism.pair_similarities(matrix, pairs) for matrix in (other, CF)]
    assert row["spearman"] == pytest.approx(spearmanr(*cosines).statistic, abs=1e-6)


def test_pairs_by_lot_are_different_and_of_different_items():
    pairs = mechanism.item_pairs(5000, 3000, seed=1)
    assert 2900 < len(pairs) <= 3000 and (pairs[:, 0] < pairs[:, 1]).all() and pairs.max() < 5000
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_neighbours_with_ties_are_the_mean_over_all_orders():
    """Four items of two equal codes: by codes either neighbour of an item's own code comes first, by lot."""
    codes = mechanism.common_prefix(np.array([[0, 1], [0, 1], [0, 2], [3, 0]]))
    assert codes(np.array([0])).tolist() == [[2, 2, 1, 0]]
    line = np.array([[1, 0], [1, 0.1], [1, 0.3], [1, 0.2]])
    # nearest by codes: 0 -> 1, 1 -> 0, 2 -> 0 or 1, 3 -> any of three; by line: 0 -> 1, 1 -> 0 (cosine), 2 -> 3, 3 -> 2
    near = np.argmax(mechanism.cosine(line)(np.arange(4)) - 9 * np.eye(4), axis=1)
    chances = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0]])
    expected = chances[np.arange(4), near].mean()
    assert mechanism.neighbour_overlap(codes, mechanism.cosine(line), 4, 1) == pytest.approx(expected)
    assert mechanism.neighbour_overlap(codes, mechanism.cosine(line), 4, 3) == 1


def test_held_out_pairs_hold_only_hidden_items():
    """z-hat follows z_cf where it was seen and is noise where it was not."""
    known = np.arange(150) % 10 != 0
    vectors = ItemVectors(CF, known)
    seen, hidden = mechanism.hold_back(vectors, 0.4, seed=1)
    assert hidden.sum() == 54 and not (hidden & ~known).any() and (seen.present == (known & ~hidden)).all()
    assert np.array_equal(hidden, mechanism.hold_back(vectors, 0.4, seed=1)[1])
    z = np.where(hidden[:, None], RNG(4).normal(size=CF.shape), CF)
    z[5] = np.nan
    table = mechanism.agreement_with_vectors({"text": z}, vectors, hidden).set_index("part")
    assert table["items"].to_dict() == {"seen": 81 - (not hidden[5]), "held out": 54 - hidden[5]}
    assert table.loc["seen", "neighbours"] == 1 and table.loc["held out", "neighbours"] < 0.35
    with_hidden_as_given = mechanism.agreement_with_vectors({"text": z}, seen, hidden)
    pd.testing.assert_frame_equal(with_hidden_as_given, table.reset_index())


def features(n=60):
    rng = RNG(7)
    return {
        name: Features(name, rng.normal(size=(n, 5)).astype(np.float32), np.ones(n, bool), "planted")
        for name in ("text", "image")
    }


def test_refits_change_what_they_are_told_and_stop_early():
    params = TokenizerParams(
        levels=2, shared_levels=1, specific_levels=1, codes=4, dim=4, hidden=(), epochs=50, batch=20, alpha=0.1
    )
    changes = {"as set": {}, "again": {}, "alpha = 0": {"alpha": 0.0}}
    vectors = ItemVectors(CF[:60], np.ones(60, bool))
    made = mechanism.refits(features(), vectors, params, changes, seed=1, most_steps=10)
    assert {name: (fit.tokenizer.params.epochs, fit.tokenizer.params.alpha) for name, fit in made.items()} == {
        "as set": (4, 0.1),
        "again": (4, 0.1),
        "alpha = 0": (4, 0.0),
    }
    z = {name: fit.quantized["text"] for name, fit in made.items()}
    assert np.array_equal(z["as set"], z["again"]) and not np.array_equal(z["as set"], z["alpha = 0"])
    hidden = mechanism.hold_back(vectors)[1]
    table = mechanism.agreement_of_refits(made, vectors, hidden)
    assert table.groupby("change", sort=False).size().to_dict() == {"as set": 8, "again": 8, "alpha = 0": 8}


def test_the_signature_by_construction():
    table = np.stack([np.arange(150) % 4, np.arange(150) // 4 % 2], axis=1).astype(np.int32)
    codes = ItemCodes({"text": table}, {"text": (8, 8)})
    found = mechanism.signature(codes, {"text": CF}, EVERY)
    assert found[["neighbours", "spearman", "own_vector"]].tolist() == pytest.approx([1, 1, 1])
    assert found["perplexity"] == pytest.approx(tokenizers.usage(codes)["perplexity"].mean())
    assert found["code_neighbours"] == pytest.approx(10 / 149, abs=0.02)
    # turned away, the neighbours stay: only own_vector sees the wrong sign
    away = mechanism.signature(codes, {"text": -CF}, EVERY)
    assert away[["neighbours", "own_vector"]].tolist() == pytest.approx([1, 0])
    assert np.isnan(mechanism.signature(codes, {"text": np.tile(CF, 2)}, EVERY)["own_vector"])


def item_codes(shared=0, **streams):
    tables = {name: np.asarray(rows, np.int32) for name, rows in streams.items()}
    return ItemCodes(tables, {name: (16,) * table.shape[1] for name, table in tables.items()}, shared)


def test_moved_is_brute_force_over_matchings():
    from itertools import permutations

    a, b = RNG(5).integers(0, 4, 40), RNG(6).integers(0, 4, 40)
    best = max((np.array(order)[a] == b).sum() for order in permutations(range(4)))
    assert moved(a, b) == pytest.approx(1 - best / 40)
    assert moved(a, 9 - a) == 0


def test_churn_does_not_see_names_and_sees_items_that_move():
    rng = RNG(8)
    kind, fine = rng.integers(0, 8, 800), rng.integers(0, 8, (2, 800))
    rows = {name: np.stack([kind, own], axis=1) for name, own in zip(("text", "image"), fine, strict=True)}
    changed = {name: np.stack([(kind + 3) % 8, own], axis=1) for name, own in zip(rows, fine, strict=True)}
    changed["image"][:, 1] = np.where(rng.random(800) < 0.25, rng.integers(0, 8, 800), fine[1])
    changed["text"][0] = -1
    table = churn(item_codes(1, **rows), item_codes(1, **changed)).set_index("stream")
    assert list(table.index) == ["shared", "text", "image"] and table["level"].tolist() == [0, 1, 1]
    assert table["items"].tolist() == [799, 799, 800]
    assert table.loc[["shared", "text"], ["moved", "ami_loss", "ami_loss_id"]].abs().max(axis=None) < 1e-9
    assert table.loc["image", "moved"] == pytest.approx(0.25 * 7 / 8, abs=0.04)
    assert (table["moved_chance"] > 0.7).all(), "matched noise keeps more than one item in eight"
    expected = 1 - adjusted_mutual_info_score(rows["image"][:, 1], changed["image"][:, 1])
    assert table.loc["image", "ami_loss"] == pytest.approx(expected)


def test_churn_of_changes_gives_means_and_ranges():
    base, rng = RNG(9).integers(0, 4, (200, 1)), RNG(10)
    half = base.copy()
    half[:100] = rng.integers(0, 4, (100, 1))
    one, same, other = (item_codes(text=rows) for rows in (base, base + 4, half))
    table = churn_of_changes({"nothing": [(one, same)], "half": [(one, same), (one, other)]}).set_index("change")
    assert table["pairs"].to_dict() == {"nothing": 1, "half": 2}
    assert table.loc["nothing", "moved"] == table.loc["half", "moved low"] == 0
    assert table.loc["half", "moved"] == table.loc["half", "moved high"] / 2 > 0.1


def test_gradient_norms_by_hand():
    log = pd.DataFrame(
        {
            "part": "all",
            "epoch": range(4),
            "gradient/reconstruction/encoder": [4.0, None, 2.0, 1.0],
            "gradient/relation/encoder": [0.4, None, 0.0, 0.2],
            "gradient/relation/codebooks": [None] * 4,
        }
    ).astype({"gradient/relation/codebooks": float})
    table = mechanism.gradient_norms(log).set_index("term")
    assert table.loc["relation", ["checks", "first", "median", "last"]].tolist() == [3, 0.4, 0.2, 0.2]
    assert table["of_largest"].to_dict() == {"reconstruction": 1, "relation": pytest.approx(0.1)}
    assert set(table["side"]) == {"encoder"}
    assert not len(mechanism.gradient_norms(log[["part", "epoch"]]))
