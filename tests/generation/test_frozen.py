"""The weights laid out for decoding against the model that they are of."""

from dataclasses import replace

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.features.store import Features
from musicrec_kit.generation import beam_search, exact
from musicrec_kit.generation.frozen import Frozen, relu_
from musicrec_kit.generation.legal import make_legal
from musicrec_kit.generation.marks import Marks, Source
from musicrec_kit.generation.seq2seq import T5, Shape
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import VISUAL, IdsParams

SHAPE = Shape(dim=16, feed_forward=24, d_kv=8, heads=3, layers=2, adapters=4)


def moved(model: T5, spread: float = 0.2) -> T5:
    """Return the model with every weight moved, norms and adapters too, so that each of them matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def world():
    """Return (model with adapters, vocabulary, legal moves, sources of different lengths)."""
    ids = reference.random_ids(40, ("text",), levels=3)
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    model = moved(T5(vocabulary.size, SHAPE).initialise(0))
    source = torch.randint(2, vocabulary.size, (5, 9), generator=torch.Generator().manual_seed(0))
    for row in range(5):
        source[row, 4 + row :] = 0
    return model, vocabulary, make_legal(vocabulary, ("text",), "joint"), source


def test_the_encoder_is_the_models(world):
    model, _, _, source = world
    for some in (source, source[4:]):  # the last one has no padding
        expected, found = model.encode(some), Frozen.of(model).encode(some)
        assert torch.equal(found.kept, expected.kept)
        torch.testing.assert_close(found.hidden[found.kept], expected.hidden[found.kept], atol=2e-5, rtol=1e-5)


def test_marks_are_read():
    pictures = Features(VISUAL, np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32), np.ones(6, bool), "")
    model = moved(T5(20, SHAPE, n_read_only=1, marks=Marks.of(SHAPE.dim, 4, 1, pictures)).initialise(0))
    tokens = torch.tensor([[5, 6, 20, 7, 1], [8, 20, 1, 0, 0]])
    shown = torch.where(tokens == 20, torch.tensor([[3], [4]]), -1)
    source = Source(tokens, (tokens > 4).long(), shown)
    expected, found = model.encode(source), Frozen.of(model).encode(source)
    torch.testing.assert_close(found.hidden[found.kept], expected.hidden[found.kept], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("softmax", ["vocabulary", "legal"])
@pytest.mark.parametrize("bounded", [True, False])
def test_a_wide_search_scores_every_item_as_teacher_forcing_does(world, softmax, bounded):
    model, vocabulary, legal, source = world
    legal, memory = replace(legal, softmax=softmax), model.encode(source)
    everything = exact.score_everything(model, vocabulary, legal, memory)
    expected = exact.best_of(everything, legal, 40, "lineage")
    found = beam_search.search(replace(Frozen.of(model), bounded=bounded), legal, memory, 40)
    assert torch.equal(found.leaf, expected.leaf)
    for made, known in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(made, known, atol=2e-5, rtol=1e-5)


def test_logits_too_large_for_exp_are_seen(world):
    model, _, legal, source = world
    assert Frozen.of(model).bounded
    large = T5(model.n_tokens, SHAPE).eval().requires_grad_(False)
    large.load_state_dict(model.state_dict())
    large.embedding.weight.mul_(200)
    assert not Frozen.of(large).bounded
    assert torch.isfinite(beam_search.search(large, legal, large.encode(source), 5).lineage).all()


def test_bf16_is_near_fp32(world):
    model, _, legal, source = world
    frozen = Frozen.of(model, "bf16")
    known = beam_search.search(model, legal, model.encode(source), 40)
    found = beam_search.search(frozen, legal, frozen.encode(source), 40)
    by_leaf = [part.leaf.argsort(dim=1) for part in (known, found)]
    for name in ("lineage", "ours"):
        a, b = (part.of(name).gather(1, order) for part, order in zip((known, found), by_leaf, strict=True))
        torch.testing.assert_close(a, b, atol=0.15, rtol=0.02)
        assert not torch.equal(a, b)


def test_relu_of_bf16_is_relu():
    x = torch.tensor([-2.5, -0.0, 0.0, 1e-30, 3.0, -1e-30, float("inf"), -float("inf")], dtype=torch.bfloat16)
    assert torch.equal(relu_(x.clone()), x.relu())
