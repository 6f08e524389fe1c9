"""What levels know: a tokenizer whose codebooks are set by hand, planted leaks, and scikit-learn's ridge."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as TheirRidge

from musicrec_kit import tokenizers
from musicrec_kit.analysis import levels
from musicrec_kit.features import Features
from musicrec_kit.params import TokenizerParams

N = 240


def made(kind: str, **matrices: np.ndarray):
    features = {
        name: Features(name, matrix.astype(np.float32), np.ones(len(matrix), bool), "planted")
        for name, matrix in matrices.items()
    }
    params = TokenizerParams(
        kind=kind,
        levels=2,
        shared_levels=1,
        specific_levels=1,
        codes=4,
        dim=4,
        hidden=(),
        projection="none",
        epochs=0,
        allow_collapse=True,
        kmeans_restarts=5,
    )
    return *tokenizers.fit(features, None, params, seed=0), features


def corners(seed: int) -> np.ndarray:
    """Return items at the corners of two squares, a large one and a small one: 4 x 4 places in 6 dims."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0][:4]
    signs = rng.choice([-1.0, 1.0], size=(N, 4))
    return signs * [10, 10, 1, 1] @ axes + 5


def test_rkmeans_knows_the_large_square_and_then_the_small_one():
    tokenizer, codes, features = made("rkmeans", text=corners(0), image=corners(1))
    table = levels.reconstruction(tokenizer, features, codes).set_index(["modality", "level"])
    for name in ("text", "image"):
        # squares of half sides 10 and 1: level one explains all but 1 part in 101, up to unequal groups
        assert table.loc[(name, 0), "r2"] == pytest.approx(1 - 1 / 101, abs=2e-3)
        assert table.loc[(name, 1), "r2"] == pytest.approx(1, abs=1e-3)
        assert table.loc[(name, 1), "r2_latent"] == pytest.approx(1, abs=1e-6)
    assert not table["shared"].any() and (table["items"] == N).all()


def test_shared_levels_come_first_and_a_network_is_decoded():
    tokenizer, codes, features = made("shared_specific", text=corners(0), image=corners(1))
    table = levels.reconstruction(tokenizer, features, codes)
    assert table[["modality", "level", "shared"]].to_numpy().tolist() == [
        ["text", 0, True],
        ["text", 1, False],
        ["image", 0, True],
        ["image", 1, False],
    ]
    part = tokenizer.parts[0]
    with torch.no_grad():
        z_hat = part.quantizer.shared[0][torch.from_numpy(codes.codes["image"][:, 0]).long()][:, 4:]
        decoded = part.decoders[1](z_hat).numpy()
    x = features["image"].matrix
    assert table.iloc[2]["r2"] == pytest.approx(1 - ((x - decoded) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize("scaling", ["none", "modality", "columns"])
@pytest.mark.parametrize("kind", ["shared_specific", "rqvae", "rkmeans", "shared_specific_rkmeans"])
def test_decoding_gives_back_the_features_units(kind, scaling):
    """What a tokenizer decodes from z-hat, scaled again, is what its reconstruction loss has seen."""
    features = {"text": Features("text", corners(3).astype(np.float32) * 100, np.ones(N, bool), "planted")}
    params = TokenizerParams(
        kind=kind, scaling=scaling, levels=2, shared_levels=1, specific_levels=1, codes=4, dim=4, hidden=(), epochs=2
    )
    tokenizer, codes = tokenizers.fit(features, None, params.model_copy(update={"allow_collapse": True}))
    decoded = tokenizer.decode(tokenizer.vectors_of(codes))["text"]
    part = tokenizer.parts[0]
    unit = part.scaling if kind == "rqvae" else part.scalings[0]
    x, again = (unit(torch.from_numpy(matrix)) for matrix in (features["text"].matrix, decoded))
    if "rkmeans" in kind:
        assert again.detach().numpy() == pytest.approx(tokenizer.vectors_of(codes)["text"], abs=1e-3)
        return
    from musicrec_kit.tokenizers.items import Items
    from musicrec_kit.tokenizers.residual import Rule

    items = Items.of({"text": features["text"].matrix}, {"text": features["text"].present})
    seen = part(items, Rule()).terms["reconstruction"].item()
    assert (x - again).square().mean().item() == pytest.approx(seen, rel=1e-3)


def test_a_probe_finds_a_leak_and_only_a_leak():
    """RK-means keeps modalities apart; joint shared codes of independent modalities carry both."""
    text, image = corners(4), corners(5)
    apart = levels.probe(*reordered(made("rkmeans", text=text, image=image)))
    own = apart[apart["z_hat"] == apart["of"]].set_index(["z_hat", "level"])
    assert own.loc[("text", 0), "r2"] == pytest.approx(1 - 1 / 101, abs=5e-3)
    others = apart[apart["z_hat"] != apart["of"]]
    assert others[["r2", "r2_latent", "r2_features"]].max(axis=None) < 0.05
    joint = levels.probe(*reordered(made("shared_specific_rkmeans", text=text, image=image)))
    leaked = joint[(joint["z_hat"] == "text") & (joint["of"] == "image")].set_index("level")
    # four joint groups of 4 x 4 corners: the text's part of a shared code tells something of the picture's corner
    assert leaked.loc[0, "r2"] > 0.2 and leaked["r2_latent"].max() < 0.05
    assert leaked["shared"].tolist() == [True, False]
    parts = reordered(made("rkmeans", text=text, image=image))
    both, decoded = levels.known(*parts), levels.reconstruction(*parts)
    assert both["decoded"].dropna().tolist() == decoded["r2"].tolist()
    assert both.loc[both["decoded"].notna(), ["z_hat", "of", "level"]].to_numpy().tolist() == [
        [name, name, level] for name, level in decoded[["modality", "level"]].to_numpy()
    ]


def reordered(parts):
    tokenizer, codes, features = parts
    return tokenizer, features, codes


def test_ridge_is_scikit_learns_at_the_chosen_penalty():
    rng = np.random.default_rng(6)
    inputs, new = rng.normal(size=(50, 7)), rng.normal(size=(9, 7))
    x = inputs @ rng.normal(size=(7, 3)) + rng.normal(size=(50, 3))
    ours = levels.Ridge(inputs).predict(x, new)
    size = np.square(np.linalg.svd(inputs - inputs.mean(0))[1]).mean()
    theirs = [TheirRidge(alpha=size * penalty).fit(inputs, x).predict(new) for penalty in levels.PENALTIES]
    assert min(np.abs(ours - prediction).max() for prediction in theirs) < 1e-9
    noise = levels.Ridge(inputs).predict(rng.normal(size=(50, 3)), new)
    assert np.abs(noise).max() < np.abs(ours).max()


def test_inputs_that_do_not_vary_predict_the_mean():
    x = np.arange(12.0).reshape(6, 2)
    assert levels.Ridge(np.ones((6, 3))).predict(x, np.ones((2, 3))).tolist() == [[5, 6]] * 2
