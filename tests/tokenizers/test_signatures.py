"""One signature per loss (`science.md` section 4): what each is for, on planted data, and three ways to get it wrong.

Items look like one of six kinds; what shoppers make of them (taste, behind z_cf) is a fainter linear trace in every
modality's features. A tokenizer that only reconstructs spends its codes on the kinds. The CF losses must turn it to the
trace, and so they are measured on items whose z_cf no loss has seen.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from musicrec_kit import tokenizers
from musicrec_kit.analysis import mechanism
from musicrec_kit.features import Features
from musicrec_kit.params import TokenizerParams
from musicrec_kit.sequential import ItemVectors
from musicrec_kit.tokenizers import losses, split_residual

SEEDS = (0, 1, 2)
TINY = {"levels": 2, "shared_levels": 1, "specific_levels": 1, "codes": 8, "dim": 4, "hidden": (16,), "lr": 1e-2}
TINY |= {"epochs": 30, "batch": 60, "check_every": 30, "allow_collapse": True}
# large weights: these data are small, and a signature is about the direction
WEIGHTS = {"none": {}, "alpha": {"alpha": 1.0}, "beta": {"beta": 10.0}}


def tasteful(seed: int, n: int = 180) -> tuple[dict[str, Features], ItemVectors]:
    """Return features of two modalities, and z_cf, a turned copy of the taste that both show faintly."""
    rng = np.random.default_rng(seed)
    taste, features = rng.normal(size=(n, 3)), {}
    for name in ("text", "image"):
        kind = 3 * rng.normal(size=(6, 8))[rng.integers(0, 6, n)]
        seen = np.concatenate([kind, taste @ rng.normal(size=(3, 4))], axis=1)
        turned = seen @ np.linalg.qr(rng.normal(size=(12, 12)))[0] + 0.1 * rng.normal(size=seen.shape)
        features[name] = Features(name, turned.astype(np.float32), np.ones(n, bool), "planted")
    cf = (taste @ rng.normal(size=(3, 4))).astype(np.float32)
    return features, ItemVectors(cf, np.ones(n, bool))


def measured(kind: str, seed: int, weights: str) -> pd.Series:
    """Return the signature on the items whose z_cf was hidden."""
    features, vectors = tasteful(seed)
    seen, hidden = mechanism.hold_back(vectors, 0.4, seed)
    params = TokenizerParams(kind=kind, **TINY, **WEIGHTS[weights])  # type: ignore[arg-type]
    tokenizer, codes = tokenizers.fit(features, seen, params, seed=seed)
    return mechanism.signature(codes, tokenizer.vectors_of(codes), ItemVectors(vectors.vectors, hidden))


kept = cache(measured)
KINDS = ("shared_specific", "rqvae")  # eq. 10 in one, LETTER's CF loss in the other; eq. 11 in both


def has_cf_signature(with_loss: pd.Series, without: pd.Series, weights: str) -> bool:
    """Return whether alpha brought items to their own z_cf and kept neighbours, or beta kept similarities."""
    gain = with_loss - without
    if weights == "beta":
        return bool(gain["spearman"] > 0.08)
    return bool(gain["neighbours"] > 0.02 and with_loss["own_vector"] > 0.6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["alpha", "beta"])
def test_cf_losses_raise_agreement_on_items_they_have_not_seen(kind, seed, weights):
    assert has_cf_signature(kept(kind, seed, weights), kept(kind, seed, "none"), weights)


WRONG: dict[str, Callable] = {
    "flipped": lambda loss: lambda vectors, cf, *more: -loss(vectors, cf, *more),
    "detached": lambda loss: lambda vectors, cf, *more: loss(vectors.detach(), cf, *more) + 0 * vectors.sum(),
    "of the next item": lambda loss: lambda vectors, cf, *more: loss(vectors, cf.roll(1, 0), *more),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("kind", "weights", "name"),
    [
        ("shared_specific", "alpha", "alignment_loss"),
        ("rqvae", "alpha", "letter_cf_loss"),
        ("shared_specific", "beta", "relation_loss"),
    ],
)
def test_a_wrong_cf_loss_has_no_signature(kind, weights, name, wrong, monkeypatch):
    monkeypatch.setattr(losses, name, WRONG[wrong](getattr(losses, name)))
    assert not has_cf_signature(measured(kind, 0, weights), kept(kind, 0, "none"), weights)


def perplexity(diversity: float) -> float:
    """Return the perplexity of an RQ-VAE's level on skewed items, from the start that collapses: all codes near 0.

    Mean over four worlds: in a single one the loss may gain nothing.
    """
    more = {"codes": 16, "levels": 1, "init": "uniform", "scaling": "columns", "epochs": 60, "batch": 120}
    more |= {"check_every": 60, "diversity_groups": 4, "diversity": diversity, "kind": "rqvae"}
    params, found = TokenizerParams(**{**TINY, **more}), []  # type: ignore[arg-type]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        kind = rng.choice(5, 240, p=[0.6, 0.2, 0.1, 0.05, 0.05])
        matrix = 3 * rng.normal(size=(5, 8))[kind] + 0.5 * rng.normal(size=(240, 8))
        features = {"text": Features("text", matrix.astype(np.float32), np.ones(240, bool), "planted")}
        found.append(tokenizers.usage(tokenizers.fit(features, None, params, seed=seed)[1])["perplexity"].mean())
    return float(np.mean(found))


without_diversity = cache(lambda: perplexity(0.0))


def test_the_diversity_loss_raises_perplexity():
    assert perplexity(1.0) > 1.25 * without_diversity()


@pytest.mark.parametrize("wrong", ["flipped", "detached"])
def test_a_wrong_diversity_loss_has_no_signature(wrong, monkeypatch):
    right = split_residual.diversity_loss
    change = {"flipped": torch.neg, "detached": lambda loss: loss.detach() + 0 * loss}[wrong]
    monkeypatch.setattr(split_residual, "diversity_loss", lambda *given: change(right(*given)))
    assert not perplexity(1.0) > 1.25 * without_diversity()
