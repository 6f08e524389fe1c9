"""MusicRec's tokenizer: eq. 2-12 by hand, and which parameters each term reaches."""

from math import exp, log

import numpy as np
import pytest
import torch

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers.fitting import total_loss
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.residual import Rule
from musicrec_kit.tokenizers.shared_specific import SharedSpecific

BY_HAND = {
    "shared_levels": 1,
    "specific_levels": 1,
    "levels": 2,
    "dim": 1,
    "hidden": (),
    "codes": 2,
    "reduction": "sum",
}


def by_hand(**more):
    """Return the tokenizer of `test_residual.py`'s numbers behind encoders 1.5 x and 1 x, and two opposite items."""
    params = TokenizerParams(**{**BY_HAND, "projection": "none", "alpha": 0.5, "beta": 0.25, "tau": 0.5, **more})
    model = SharedSpecific({"text": 1, "image": 1}, params, cf_dim=1)
    values = {
        "encoders.0.0.weight": [[1.5]],
        "encoders.1.0.weight": [[1.0]],
        "decoders.0.0.weight": [[1.0]],
        "decoders.1.0.weight": [[0.5]],
        "quantizer.shared.0": [[2.0, 0.0], [-2.0, 0.0]],
        "quantizer.specific.0.0": [[0.5], [-0.5]],
        "quantizer.specific.1.0": [[2.0], [-2.0]],
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()}, strict=False)
    rows = {"text": [[2.0], [-2.0]], "image": [[1.0], [-1.0]]}
    items = Items(
        {name: torch.tensor(x) for name, x in rows.items()},
        {name: torch.ones(2, dtype=torch.bool) for name in rows},
        cf=torch.tensor([[1.0], [1.0]]),
        known=torch.ones(2, dtype=torch.bool),
    )
    return model, items


def test_all_terms_by_hand():
    model, items = by_hand()
    step = model(items, Rule.of(model.params, training=True))
    # z = (3, 1) and its opposite (eq. 2); z-hat = (2.5, 2) (eq. 6); x-hat = (2.5, 1) (eq. 7)
    assert model.latents(items).tolist() == [[3.0, 1.0], [-3.0, -1.0]]
    assert {name: codes.tolist() for name, codes in step.codes.items()} == {
        n: [[0, 0], [1, 1]] for n in ("text", "image")
    }
    terms = {name: term.item() for name, term in step.terms.items()}
    # eq. 9: (2 - 2.5)^2 + (1 - 1)^2; eq. 8: 1.25 x (2 + .25 + 1); eq. 10 on the means (2.25, -2.25): the cosines with
    # z_cf are (1, 1) and (-1, -1), all logits of an item equal; eq. 11: cosine -1 against 1 in two of four cells
    assert terms == pytest.approx(
        {"reconstruction": 0.25, "quantization": 4.0625, "alignment": log(2), "relation": 2.0}
    )
    # eq. 12
    assert total_loss(step.terms, model.params).item() == pytest.approx(0.25 + 4.0625 + 0.5 * log(2) + 0.25 * 2.0)


def test_reconstruction_gradients_by_hand():
    model, items = by_hand()
    model(items, Rule.of(model.params, training=True)).terms["reconstruction"].backward()
    # d/d x-hat_t = 2 (x-hat - x) = 1 for item 0, -1 for item 1, over 2 items; decoder: x z-hat = 2.5;
    # encoder: straight through, x decoder weight 1 x input 2
    assert model.decoders[0][0].weight.grad.item() == pytest.approx(2.5)
    assert model.encoders[0][0].weight.grad.item() == pytest.approx(2.0)
    assert model.encoders[1][0].weight.grad.item() == 0.0


def test_means_over_dims_by_default_and_level_means_in_the_lineage():
    model, items = by_hand(reduction="mean")
    # only the shared stream has 2 dims: 2.5 / 2
    terms = model(items, Rule.of(model.params, training=True)).terms
    assert terms["quantization"].item() == pytest.approx(1.25 + 0.3125 + 1.25)
    model, items = by_hand(profile="lineage", sinkhorn=0.0)
    assert model(items, Rule.of(model.params, training=True)).terms["quantization"].item() == pytest.approx(4.0625)


@pytest.mark.parametrize(
    ("which", "alignment", "relation"),
    [
        # item 0 and 1 are opposite in every view: in one dim cosines are +-1
        ("mean", log(2), 2.0),
        ("per_view", log(2), 2.0),
        ("shared", None, 2.0),
        ("joint", None, 2.0),
    ],
)
def test_switches_of_the_cf_losses(which, alignment, relation):
    model, items = by_hand(align_on=which, relation_on=which)
    terms = model(items, Rule()).terms
    assert terms["relation"].item() == pytest.approx(relation)
    if alignment is None:
        # two dims against z_cf's one: a learned linear map, without which the cosine is not defined
        assert model.to_cf.weight.shape == (1, 2)
    else:
        assert terms["alignment"].item() == pytest.approx(alignment)
        assert not list(model.to_cf.parameters())


def test_the_views_differ_where_they_should():
    """Cosine of two items' z-hat: joint (2.5, 2) and (2.5, -2), mean 2.25 and .25, shared (2, 0) and (2, 0)."""
    model, items = by_hand()
    items.features["text"][1], items.features["image"][1] = 2.0, -1.0
    found = {}
    for which in ("joint", "mean", "per_view", "shared"):
        model.params = model.params.model_copy(update={"relation_on": which})
        found[which] = model(items, Rule()).terms["relation"].item()
    joint = (2.5**2 - 2**2) / (2.5**2 + 2**2)
    # per_view: text agrees with z_cf, image is opposite
    assert found == pytest.approx({"joint": (joint - 1) ** 2 / 2, "mean": 0.0, "per_view": 1.0, "shared": 0.0})


def random_model(names=("text", "image"), n=40, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    params = TokenizerParams(**{"levels": 4, "dim": 3, "hidden": (7,), "codes": 6, "alpha": 0.1, "beta": 0.1, **more})
    dims = {name: 5 + place for place, name in enumerate(names)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SharedSpecific(dims, params, cf_dim=3)
    items = Items(
        {name: torch.randn(n, width, generator=generator) for name, width in dims.items()},
        {name: torch.ones(n, dtype=torch.bool) for name in names},
        cf=torch.randn(n, 3, generator=generator),
        known=torch.ones(n, dtype=torch.bool),
    )
    with torch.no_grad():
        model.quantizer.start(model.latents(items), items.present, params, seed)
    return model, items


def reached(model, items, term, rule=None):
    """Return the parts of the model that get a gradient from a term."""
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(0)
    groups = model.quantizer.group(3, 0)
    rule = rule or Rule.of(model.params, training=True)
    model(items, rule, groups, generator).terms[term].backward()
    parts = set()
    for name, p in model.named_parameters():
        if p.grad is not None and float(p.grad.abs().max()) > 0:
            head = name.split(".")
            parts.add(
                ".".join(head[:3])
                if head[0] == "quantizer"
                else ".".join(head[:2])
                if head[0] != "missing"
                else "missing"
            )
    return parts


ENCODING = {"encoders.0", "encoders.1", "projection.weight", "projection.bias"}
BOOKS = {"quantizer.shared.0", "quantizer.shared.1", "quantizer.specific.0", "quantizer.specific.1"}


@pytest.mark.parametrize("residual_gradients", [True, False])
@pytest.mark.parametrize("align_on", ["joint", "mean", "per_view", "shared"])
def test_which_parameters_each_term_reaches(residual_gradients, align_on):
    model, items = random_model(residual_gradients=residual_gradients, align_on=align_on, relation_on=align_on)
    linear = {"to_cf.weight"} if align_on in ("joint", "shared") else set()
    assert reached(model, items, "reconstruction") == ENCODING | {"decoders.0", "decoders.1"}
    assert reached(model, items, "quantization") == ENCODING | BOOKS
    assert reached(model, items, "alignment") == ENCODING | linear
    assert reached(model, items, "relation") == ENCODING
    assert reached(model, items, "diversity") == BOOKS


def test_without_projection_a_modality_reconstructs_alone():
    model, items = random_model(projection="none")
    items.present["image"][:] = False
    assert reached(model, items, "reconstruction") == {"encoders.0", "decoders.0"}


def test_commitment_of_later_levels_reaches_the_encoders_only_as_printed():
    """With the first shared level's loss left out, lineage gradients stop at the codebooks."""
    for residual_gradients in (True, False):
        model, items = random_model(residual_gradients=residual_gradients)
        split = model.quantizer(model.latents(items), Rule.of(model.params, training=True))
        later = torch.cat([split.losses[0][1:], *split.losses[1:]]).sum()
        got = torch.autograd.grad(later, model.encoding_parameters(), allow_unused=True, retain_graph=True)
        assert any(g is not None and float(g.abs().max()) > 0 for g in got) == residual_gradients
        # as printed the history of the residual holds the first level's code too
        (first,) = torch.autograd.grad(split.losses[1].sum(), [model.quantizer.shared[0]], allow_unused=True)
        assert (first is not None) == residual_gradients


def test_an_item_without_a_modality_takes_the_missing_vector():
    model, items = random_model()
    items.present["image"][:10] = False
    before = model(items, Rule())
    items.features["image"][:10] = 1e6
    after = model(items, Rule())
    assert torch.equal(before.codes["image"], after.codes["image"])
    for name, term in before.terms.items():
        assert after.terms[name].item() == term.item(), name
    assert "missing" in reached(model, items, "reconstruction")
    items.present["image"][:] = True
    assert "missing" not in reached(model, items, "reconstruction")


def test_items_without_a_cf_vector_stay_out_of_both_cf_losses():
    model, items = random_model()
    items.known[5:] = False
    before = model(items, Rule()).terms
    items.cf[5:] = 1e3
    after = model(items, Rule()).terms
    assert before["alignment"].item() == after["alignment"].item()
    assert before["relation"].item() == after["relation"].item()
    only = model(items.take(torch.arange(5)), Rule()).terms
    assert only["alignment"].item() == pytest.approx(before["alignment"].item(), rel=1e-5)
    items.known[:] = False
    assert model(items, Rule()).terms["alignment"].item() == 0.0


def test_terms_without_weight_are_not_computed():
    model, items = random_model(alpha=0.0, beta=0.0)
    assert set(model(items, Rule()).terms) == {"reconstruction", "quantization"}


def test_three_modalities_share_their_first_codes():
    model, items = random_model(names=("text", "image", "sound"), shared_levels=3, specific_levels=1)
    codes = model(items, Rule()).codes
    assert list(codes) == ["text", "image", "sound"]
    assert torch.equal(codes["text"][:, :3], codes["sound"][:, :3])
    assert len({tuple(column.tolist()) for column in (c[:, 3] for c in codes.values())}) == 3
    assert model.quantizer.shared[0].shape == (6, 9)


def test_the_projection_starts_near_the_identity():
    model, items = random_model()
    plain, _ = random_model(projection="none")
    assert list(plain.projection.parameters()) == []
    weight = model.projection.weight.detach()
    assert 0 < float((weight - torch.eye(6)).abs().max()) < 0.05
    np.testing.assert_allclose(model.latents(items).detach(), plain.latents(items).detach(), atol=0.2)


def test_standardised_inputs_are_what_is_reconstructed():
    model, items = random_model(scaling="columns")
    items.features["text"][:] = items.features["text"] * 100 + 7
    model.measure(items)
    x = model.scalings[0](items.features["text"])
    torch.testing.assert_close(x.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(5))
    assert model(items, Rule()).terms["reconstruction"].item() < 10
    one, _ = random_model(scaling="modality")
    one.measure(items)
    x = one.scalings[0](items.features["text"])
    torch.testing.assert_close(x.square().mean(), torch.tensor(1.0))
    ratio = x.std(0) / items.features["text"].std(0)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))  # the columns keep their proportions
    off, _ = random_model(scaling="none")
    off.measure(items)
    assert torch.equal(off.scalings[0](items.features["text"]), items.features["text"])


def test_temperature_and_exponent():
    """Eq. 10 at tau: two items on their own CF vectors give log(1 + exp(-(1 - cos) / tau))."""
    model, items = by_hand(tau=0.1)
    items.cf[1] = -1.0
    assert model(items, Rule()).terms["alignment"].item() == pytest.approx(log(1 + exp(-2 / 0.1)), abs=1e-6)
