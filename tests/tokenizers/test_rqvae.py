"""RQ-VAE of one modality: values by hand, and which parameters LETTER's losses reach."""

from math import exp, log

import pytest
import torch

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.residual import Rule
from musicrec_kit.tokenizers.rqvae import RQVAE


def by_hand(**more):
    shape = {"kind": "rqvae", "levels": 2, "dim": 1, "hidden": (), "codes": 2, "reduction": "sum"}
    params = TokenizerParams(**{**shape, "alpha": 0.5, "beta": 0.5, **more})
    model = RQVAE({"text": 2}, params, cf_dim=1)
    values = {
        "encoder.0.weight": [[1.0, 1.0]],
        "decoder.0.weight": [[0.5], [0.0]],
        "quantizer.specific.0.0": [[2.0], [-2.0]],
        "quantizer.specific.0.1": [[0.5], [-0.5]],
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()}, strict=False)
    present = torch.ones(2, dtype=torch.bool)
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    return model, Items({"text": rows}, {"text": present}, torch.tensor([[1.0], [-1.0]]), present)


def test_terms_by_hand():
    model, items = by_hand()
    step = model(items, Rule.of(model.params, training=True))
    # z = 3; r_1 = 1; z-hat = 2 + .5; x-hat = (1.25, 0)
    assert step.codes["text"].tolist() == [[0, 0], [1, 1]]
    expected = {
        "reconstruction": 0.25**2 + 2**2,
        "quantization": 1.25 * (1 + 0.25),
        # raw dot products +-2.5
        "alignment": log(1 + exp(-5.0)),
        "relation": 0.0,
    }
    assert {name: term.item() for name, term in step.terms.items()} == pytest.approx(expected)


def test_the_lineage_averages_the_levels():
    model, items = by_hand(profile="lineage", sinkhorn=0.0)
    terms = model(items, Rule.of(model.params, training=True)).terms
    assert terms["quantization"].item() == pytest.approx(1.25 * (1 + 0.25) / 2)


def test_what_each_term_reaches():
    model, items = by_hand()
    for term, parts in {
        "reconstruction": {"encoder", "decoder"},
        "quantization": {"encoder", "quantizer"},
        "alignment": {"encoder"},
    }.items():
        model.zero_grad(set_to_none=True)
        terms = model(items, Rule.of(model.params, training=True)).terms
        terms[term].backward()
        touched = {
            n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
        }
        assert touched == parts, term


def test_another_width_of_cf_vectors_gets_a_linear_map():
    params = TokenizerParams(kind="rqvae", dim=4, hidden=(), alpha=0.1)
    assert RQVAE({"text": 5}, params, cf_dim=6).to_cf.weight.shape == (6, 4)
    assert not list(RQVAE({"text": 5}, params, cf_dim=4).to_cf.parameters())
    assert not list(RQVAE({"text": 5}, params.model_copy(update={"alpha": 0.0}), cf_dim=6).to_cf.parameters())


def test_encoder_and_decoder_mirror_each_other():
    model = RQVAE({"text": 10}, TokenizerParams(kind="rqvae", dim=3, hidden=(8, 5)), cf_dim=None)
    shapes = [tuple(p.shape) for p in model.encoder.parameters() if p.ndim == 2]
    assert shapes == [(8, 10), (5, 8), (3, 5)]
    assert [tuple(p.shape) for p in model.decoder.parameters() if p.ndim == 2] == [(5, 3), (8, 5), (10, 8)]
    assert not isinstance(model.encoder[-1], torch.nn.ReLU)
    assert all(float(p.detach().abs().max()) == 0 for p in model.encoder.parameters() if p.ndim == 1)
