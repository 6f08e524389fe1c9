"""Fit, encode, save and load: all four kinds on tiny planted data."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from musicrec_kit import tokenizers, training
from musicrec_kit.params import Refused, TokenizerParams
from musicrec_kit.tokenizers import fitting
from musicrec_kit.tokenizers.health import CollapsedError
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.tokenizer import Tokenizer, encode_latents, latents

KINDS = ["shared_specific", "rqvae", "rkmeans", "shared_specific_rkmeans"]
TINY = {
    "codes": 4,
    "levels": 3,
    "shared_levels": 2,
    "specific_levels": 1,
    "dim": 4,
    "hidden": (12,),
    "epochs": 4,
    "batch": 16,
}


def tiny(**more):
    return TokenizerParams(**{**TINY, "check_every": 2, **more})


def planted(n=48, names=("text", "image"), missing=0, seed=0):
    """Return features in 4 x 4 planted groups per modality; the first `missing` items lack the second modality."""
    rng = np.random.default_rng(seed)
    features = {}
    for place, name in enumerate(names):
        group = np.arange(n) % 4
        matrix = 4 * rng.normal(size=(4, 6 + place))[group] + rng.normal(size=(n, 6 + place))
        present = np.ones(n, bool)
        if place == 1:
            present[:missing] = False
        features[name] = SimpleNamespace(matrix=matrix.astype(np.float32), present=present)
    return features


def vectors(n=48, dim=4, seed=5):
    rng = np.random.default_rng(seed)
    return SimpleNamespace(vectors=rng.normal(size=(n, dim)).astype(np.float32), present=np.arange(n) % 7 != 0)


def matrices(features):
    return {name: f.matrix for name, f in features.items()}, {name: f.present for name, f in features.items()}


def same(a, b):
    return all(np.array_equal(a.codes[name], b.codes[name]) for name in a.codes) and list(a.codes) == list(b.codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", ["none", "modality", "columns"])
def test_fit_save_load_and_new_items(kind, scaling, tmp_path):
    features = planted()
    tokenizer, codes = tokenizers.fit(features, None, tiny(kind=kind, scaling=scaling), tmp_path / "fit", seed=1)
    assert codes.sizes == {"text": (4, 4, 4), "image": (4, 4, 4)}
    assert all(table.dtype == np.int32 and table.shape == (48, 3) for table in codes.codes.values())
    assert codes.shared_levels == (2 if kind.startswith("shared") else 0)
    assert np.array_equal(codes.codes["text"][:, :2], codes.codes["image"][:, :2]) or not codes.shared_levels
    tokenizer.save(tmp_path / "saved")
    assert sorted(f.name for f in (tmp_path / "saved").iterdir()) == ["tokenizer.json", "tokenizer.safetensors"]
    loaded = tokenizers.load(tmp_path / "saved")
    assert loaded.params == tokenizer.params
    old, present = matrices(features)
    assert same(loaded.encode(old, present), codes)
    new, _ = matrices(planted(n=9, seed=3))
    assert same(loaded.encode(new), tokenizer.encode(new))
    one = loaded.encode({name: matrix[5:6] for name, matrix in old.items()})
    assert one.codes["image"].tolist() == codes.codes["image"][5:6].tolist()
    health = json.loads((tmp_path / "fit" / "health.json").read_text())
    assert len(health) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_codes_look_up_the_quantised_vectors_and_come_back(kind):
    features = planted()
    tokenizer, codes = tokenizers.fit(features, None, tiny(kind=kind, allow_collapse=True), seed=1)
    # codebooks ten times smaller at each level: every residual is nearest to its own code
    for part in tokenizer.parts:
        part.requires_grad_(False)
        for chain in (part.quantizer.shared, *part.quantizer.specific):
            for level, book in enumerate(chain):
                place = level if chain is part.quantizer.shared else level + len(part.quantizer.shared)
                corners = torch.randn(book.shape, generator=torch.Generator().manual_seed(place))
                corners[:, 0] += 4.0 * torch.arange(len(book))
                book.copy_(corners * 0.02**place)
    codes = tokenizer.encode(*matrices(features))
    looked_up = tokenizer.vectors_of(codes)
    for part in tokenizer.parts:
        z_hat = torch.cat([torch.from_numpy(looked_up[name]) for name in part.quantizer.names], dim=1)
        again = encode_latents(part, z_hat)
        for name in part.quantizer.names:
            assert again[name].tolist() == codes.codes[name].tolist()
    quantized = tokenizer.quantized(*matrices(features))
    assert all(np.array_equal(quantized[name], looked_up[name]) for name in looked_up)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_codes(kind):
    features, params = planted(), tiny(kind=kind, allow_collapse=True)
    codes = [
        tokenizers.fit(features, None, p, seed=seed)[1]
        for p, seed in [(params, 0), (params, 0), (params, 1), (tiny(kind=kind, allow_collapse=True, seed_offset=1), 0)]
    ]
    assert same(codes[0], codes[1])
    assert not same(codes[0], codes[2])
    # the offset is added to the seed
    assert same(codes[2], codes[3])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    tokenizers.fit(planted(), None, tiny(allow_collapse=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_modalities(kind):
    features = planted(missing=7)
    features["image"].matrix[:7] = np.nan
    tokenizer, codes = tokenizers.fit(features, vectors(), tiny(kind=kind, allow_collapse=True, alpha=0.01), seed=0)
    given = kind.startswith("shared")
    assert (codes.codes["image"][:7] >= 0).all() == given
    assert (codes.codes["image"][:7] == -1).all() != given
    assert (codes.codes["text"] >= 0).all()
    assert np.isnan(tokenizer.vectors_of(codes)["image"][:7]).all() != given
    assert np.isfinite(tokenizer.vectors_of(codes)["image"][7:]).all()
    # a new item with text alone
    new = tokenizer.encode({"text": features["text"].matrix[:7]})
    assert new.codes["image"].tolist() == codes.codes["image"][:7].tolist()
    assert not set(codes.distances["image"][0]) & set(range(7)) or given


@pytest.mark.parametrize(("shared", "specific"), [(2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("kind", ["shared_specific", "shared_specific_rkmeans"])
def test_ratios_and_three_modalities(kind, shared, specific):
    features = planted(names=("text", "image", "sound"), missing=3)
    params = tiny(kind=kind, levels=4, shared_levels=shared, specific_levels=specific, epochs=2, allow_collapse=True)
    codes = tokenizers.fit(features, None, params)[1]
    assert list(codes.codes) == ["text", "image", "sound"]
    for table in codes.codes.values():
        assert np.array_equal(table[:, :shared], codes.codes["text"][:, :shared])
    assert not np.array_equal(codes.codes["sound"][:, shared:], codes.codes["text"][:, shared:])


def test_distances_of_colliding_items_follow_their_own_chain():
    features = planted()
    tokenizer, codes = tokenizers.fit(features, None, tiny(kind="shared_specific_rkmeans"))
    for name, table in codes.codes.items():
        rows, distances = codes.distances[name]
        _, group, size = np.unique(table, axis=0, return_inverse=True, return_counts=True)
        assert rows.tolist() == np.flatnonzero(size[group.reshape(-1)] > 1).tolist()
        assert len(rows)
        assert distances.shape == (len(rows), 3, 4)
        assert distances.dtype == np.float32
        assert np.array_equal(distances.argmin(2), table[rows])
    part = tokenizer.parts[0]
    z = latents(part, Items.of(*matrices(features)))
    expected = (z[rows[0]] - part.quantizer.shared[0]).square().sum(1)
    np.testing.assert_allclose(distances[0, 0], expected, rtol=1e-4)


def test_rkmeans_finds_planted_groups_and_gives_each_modality_its_say():
    features = planted()
    features["image"].matrix *= 1000.0
    params = tiny(kind="shared_specific_rkmeans", kmeans_restarts=5)
    tokenizer, codes = tokenizers.fit(features, None, params)
    assert [len(set(codes.codes["text"][k::4, 0])) for k in range(4)] == [1, 1, 1, 1]
    z = latents(tokenizer.parts[0], Items.of(*matrices(features)))
    assert float(z[:, :6].square().sum(1).mean()) == pytest.approx(1, rel=1e-4)
    assert float(z[:, 6:].square().sum(1).mean()) == pytest.approx(1, rel=1e-4)
    # a modality alone gets the same codes whatever its scale
    plain = tokenizers.fit(planted(), None, tiny(kind="rkmeans"))[1]
    scaled = tokenizers.fit(features, None, tiny(kind="rkmeans"))[1]
    assert np.array_equal(plain.codes["image"], scaled.codes["image"])


def test_rkmeans_is_layer_wise_kmeans():
    features = {"text": planted()["text"]}
    tokenizer, codes = tokenizers.fit(features, None, tiny(kind="rkmeans", scaling="columns"))
    part = tokenizer.parts[0]
    residual = latents(part, Items.of(*matrices(features)))
    for level, book in enumerate(part.quantizer.specific[0]):
        picked = torch.from_numpy(codes.codes["text"][:, level].astype(np.int64))
        for code in range(4):
            # each code is the mean of the residuals that pick it, up to k-means' early stop
            torch.testing.assert_close(book[code], residual[picked == code].mean(0), atol=2e-2, rtol=0)
        residual = residual - book[picked]


@pytest.mark.parametrize("kind", ["shared_specific", "rqvae"])
def test_training_lowers_the_loss_and_logs_its_parts(kind, tmp_path):
    params = tiny(kind=kind, epochs=30, alpha=0.1, beta=0.1, diversity=0.01, diversity_groups=2, allow_collapse=True)
    tokenizers.fit(planted(), vectors(), params, tmp_path)
    folder = tmp_path / "text" if kind == "rqvae" else tmp_path
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    checks = [line for line in log if "valid" in line]
    assert checks[-1]["reconstruction"] < 0.9 * checks[0]["reconstruction"]
    assert [line["epoch"] for line in checks] == list(range(1, 30, 2))
    for term in ("reconstruction", "quantization", "alignment", "relation", "diversity"):
        assert checks[-1][term] >= 0
        on_codes = checks[-1][f"gradient/{term}/codebooks"]
        assert (on_codes > 0) == (term in ("quantization", "diversity"))
        assert (checks[-1][f"gradient/{term}/encoder"] > 0) == (term != "diversity")
    assert 0 <= checks[-1]["collision_rate"] <= 1
    assert checks[-1]["used/text/0"] <= 4


def test_gradient_norms_are_those_of_the_weighted_terms():
    features = planted()
    params = tiny(alpha=0.3)
    tokenizer = Tokenizer(params, {"text": 6, "image": 7}, 4)
    model, items = tokenizer.parts[0], Items.of(*matrices(features), vectors())
    model.quantizer.start(latents(model, items), items.present, params, 0)
    norms = fitting.gradient_norms(model, items, None, 0)
    (0.3 * model(items, fitting.Rule.of(params, training=True)).terms["alignment"]).backward()
    squares = [p.grad.square().sum() for p in model.encoding_parameters() if p.grad is not None]
    assert norms["gradient/alignment/encoder"] == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-4)


def test_the_checkpoint_with_the_fewest_collisions_is_kept(tmp_path):
    params = tiny(epochs=12, check_every=1, lr=0.05, allow_collapse=True)
    codes = tokenizers.fit(planted(), None, params, tmp_path)[1]
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [1 - len(np.unique(table, axis=0)) / 48 for table in codes.codes.values()]
    assert np.mean(rates) == pytest.approx(min(line["collision_rate"] for line in log))


def test_a_killed_training_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    params = tiny(epochs=6, check_every=1, dead_codes="revive", diversity=0.1, diversity_groups=2, allow_collapse=True)
    whole = tokenizers.fit(planted(), None, params, tmp_path / "whole", seed=2)
    real, calls = fitting.check, []

    def killed(*arguments):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(fitting, "check", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenizers.fit(planted(), None, params, tmp_path / "killed", seed=2)
    resumed = tokenizers.fit(planted(), None, params, tmp_path / "killed", seed=2)
    assert len(calls) == 4 + 3
    assert same(whole[1], resumed[1])
    for name, weight in whole[0].modules.state_dict().items():
        assert torch.equal(weight, resumed[0].modules.state_dict()[name]), name


def test_revival_brings_unused_codes_back():
    used = {}
    for dead_codes in ("keep", "revive"):
        params = tiny(
            kind="rqvae", init="uniform", codes=16, epochs=6, lr=1e-4, dead_codes=dead_codes, allow_collapse=True
        )
        codes = tokenizers.fit({"text": planted()["text"]}, None, params)[1]
        used[dead_codes] = tokenizers.usage(codes)["used"].sum()
    assert used["revive"] > 1.5 * used["keep"]


@pytest.mark.parametrize("init", ["kmeans", "kmeans_batch", "uniform"])
def test_starts(init):
    params = tiny(init=init, epochs=0, allow_collapse=True)
    tokenizer, _ = tokenizers.fit(planted(), None, params)
    book = tokenizer.parts[0].quantizer.shared[0].detach()
    assert (float(book.abs().max()) <= 1 / 4) == (init == "uniform")
    items = Items.of(*matrices(planted()))
    picked = encode_latents(tokenizer.parts[0], latents(tokenizer.parts[0], items))["text"][:, 0]
    z = latents(tokenizer.parts[0], items)
    means = torch.stack([z[picked == code].mean(0) if (picked == code).any() else book[code] for code in range(4)])
    # k-means on all items: each code lies at the mean of its items
    assert torch.allclose(book, means, atol=2e-2) == (init == "kmeans")


def test_collapse_stops_the_run_unless_allowed():
    features = {"text": planted(n=60)["text"]}
    features["text"].matrix[:] = features["text"].matrix[0]
    params = tiny(kind="rqvae", codes=20, epochs=1)
    with pytest.raises(CollapsedError, match=r"stream 'text', level \d uses 1 of 20 usable codes.*allow_collapse"):
        tokenizers.fit(features, None, params)
    codes = tokenizers.fit(features, None, params.model_copy(update={"allow_collapse": True}))[1]
    assert len(np.unique(codes.codes["text"], axis=0)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_more_codes_than_items_are_refused(kind):
    with pytest.raises(Refused, match=r"tokenizer.codes=45 is more than the 41 items that have image; set .* to 41"):
        tokenizers.fit(planted(missing=7), None, tiny(kind=kind, codes=45))


def test_refusals():
    with pytest.raises(Refused, match="collaborative vectors"):
        tokenizers.fit(planted(), None, tiny(alpha=0.1))
    with pytest.raises(Refused, match=r"align_on=shared needs shared levels"):
        params = tiny(shared_levels=0, specific_levels=3, alpha=0.1, align_on="shared")
        tokenizers.fit(planted(), vectors(), params)
    with pytest.raises(Refused, match=r"tokenizer.codes=20.*first 16 items|cannot start by k-means from 16 items"):
        tokenizers.fit(planted(), None, tiny(codes=20, init="kmeans_batch"))


def test_other_features_and_folders_are_refused(tmp_path):
    tokenizer, _ = tokenizers.fit(planted(), None, tiny(kind="rkmeans"))
    with pytest.raises(Refused, match=r"features of text have shape \(2, 9\), the tokenizer was fitted on 6 columns"):
        tokenizer.encode({"text": np.zeros((2, 9), np.float32)})
    with pytest.raises(Refused, match="modality 'sound' is not one of"):
        tokenizer.encode({"sound": np.zeros((2, 6), np.float32)})
    with pytest.raises(Refused, match="holds no tokenizer"):
        tokenizers.load(tmp_path)


def test_rkmeans_says_that_it_has_no_losses(caplog):
    tokenizers.fit(planted(), None, tiny(kind="rkmeans", alpha=0.1))
    assert "alpha, beta and diversity are not read" in caplog.text


def test_each_setting_of_training_changes_the_codes():
    features, cf = planted(), vectors()
    base = {"epochs": 6, "lr": 0.02, "allow_collapse": True}
    plain = tokenizers.fit(features, cf, tiny(**base))[0].modules.state_dict()
    for change in (
        {"alpha": 1.0},
        {"beta": 1.0},
        {"diversity": 1.0},
        {"mu": 1.0},
        {"reduction": "sum"},
        {"residual_gradients": False},
        {"level_reduction": "mean"},
        {"sinkhorn": 0.05},
        {"weight_decay": 0.5},
        {"batch": 10},
        {"projection": "none"},
        {"scaling": "columns"},
        {"kmeans_iterations": 1},
    ):
        other = tokenizers.fit(features, cf, tiny(**{**base, **change}))[0].modules.state_dict()
        assert not torch.equal(other["0.quantizer.shared.0"], plain["0.quantizer.shared.0"]), change


@pytest.mark.parametrize("kind", [*KINDS, "hierarchical"])
def test_items_left_out_of_the_fit_get_codes_and_move_nobody_elses(kind):
    among = np.arange(48) < 36
    params = tiny(kind=kind, allow_collapse=True, branching=4, leaf=4)
    made = []
    for shift in (0.0, 7.0):
        features = planted(missing=3)
        for found in features.values():
            found.matrix = np.where(among[:, None], found.matrix, found.matrix + shift).astype(np.float32)
        made.append(tokenizers.fit(features, vectors(), params, among=among)[1])
    for name, codes in made[0].codes.items():
        assert np.array_equal(codes[:36], made[1].codes[name][:36])
        assert codes.shape[0] == 48 and (codes[36:, 0] >= 0).all()
    everything = tokenizers.fit(planted(missing=3), vectors(), params)[1]
    assert same(everything, tokenizers.fit(planted(missing=3), vectors(), params, among=np.ones(48, bool))[1])
