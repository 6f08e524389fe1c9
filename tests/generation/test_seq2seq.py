"""T5 against Hugging Face's on the same weights."""

import numpy as np
import pytest
import torch
from reference_generation import hf_t5

from musicrec_kit.generation import seq2seq
from musicrec_kit.generation.seq2seq import T5, Shape
from musicrec_kit.params import Refused

SHAPE = Shape(dim=24, feed_forward=40, d_kv=8, heads=3, layers=2)
TOKENS = 31


@pytest.fixture(scope="module")
def pair():
    theirs = hf_t5(SHAPE, TOKENS)
    ours = T5(TOKENS, SHAPE)
    ours.load_state_dict(seq2seq.weights_from_hf(theirs.state_dict()))
    return theirs, ours.eval()


def batch(seed: int = 0, lengths=(140, 3, 57, 1), targets=(5, 9, 1, 4)):
    """Sources longer than the largest exact bucket and than 128, with padding on the right."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    target = torch.zeros(len(lengths), max(targets), dtype=torch.long)
    for row, (n, m) in enumerate(zip(lengths, targets, strict=True)):
        source[row, :n] = torch.randint(1, TOKENS, (n,), generator=generator)
        target[row, :m] = torch.randint(1, TOKENS, (m,), generator=generator)
    return source, target


def test_loss_and_logits_equal_hugging_face(pair):
    theirs, ours = pair
    source, target = batch()
    labels = target.masked_fill(target == 0, -100)
    expected = theirs(input_ids=source, attention_mask=(source != 0).long(), labels=labels)
    logits = ours(source, target)
    kept = target != 0
    torch.testing.assert_close(logits[kept], expected.logits[kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss(source, target), expected.loss, atol=1e-5, rtol=1e-5)


def test_gradients_equal_hugging_face(pair):
    theirs, ours = pair
    source, target = batch(1)
    labels = target.masked_fill(target == 0, -100)
    theirs.zero_grad()
    ours.zero_grad()
    theirs(input_ids=source, attention_mask=(source != 0).long(), labels=labels).loss.backward()
    ours.loss(source, target).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    expected = seq2seq.weights_from_hf(gradients)
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_padding_changes_nothing(pair):
    _, ours = pair
    source, target = batch(2, lengths=(9, 4), targets=(5, 5))
    alone = ours(source[1:, :4], target[1:])
    torch.testing.assert_close(ours(source, target)[1:], alone, atol=1e-5, rtol=1e-5)


def test_initial_rows_are_standard_normal_and_apart():
    model = T5(2000, seq2seq.SHAPES["lineage"]).initialise(0)
    rows = model.embedding.weight.detach()
    assert abs(float(rows.std()) - 1) < 0.01
    directions = torch.nn.functional.normalize(rows, dim=1)
    cosine = directions @ directions.T - torch.eye(len(rows))
    assert float(cosine.abs().max()) < 0.6  # the mean resize of transformers >= 4.46 gives 1.0


def test_initial_spread_equals_hugging_face():
    from transformers import T5Config, T5ForConditionalGeneration

    shape = seq2seq.SHAPES["lineage"]
    config = T5Config(
        vocab_size=500, d_model=shape.dim, d_ff=shape.feed_forward, d_kv=64, num_heads=6, num_layers=shape.layers
    )
    with torch.random.fork_rng():
        expected = seq2seq.weights_from_hf(T5ForConditionalGeneration(config).state_dict())
    found = T5(500, shape).initialise(3).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape
        if tensor.numel() > 10_000:
            assert float(tensor.std()) == pytest.approx(float(expected[name].std()), rel=0.05), name


def test_parameter_count_of_the_lineage():
    model = T5(32_100 + 2_048, seq2seq.SHAPES["lineage"])
    blocks = sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name)
    assert round(blocks / 1e6, 2) == 4.46  # lineage.md 3.1: 1.836 M + 2.623 M
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 8.8


def test_pretrained_blocks_are_copied_and_token_rows_are_ours(tmp_path):
    theirs = hf_t5(SHAPE, TOKENS, seed=5)
    theirs.save_pretrained(tmp_path)
    model = T5(200, SHAPE).initialise(0)
    before = model.embedding.weight.detach().clone()
    seq2seq.load_hf_blocks(model, tmp_path)
    expected = seq2seq.weights_from_hf(theirs.state_dict())
    for name, tensor in model.state_dict().items():
        if name != "embedding.weight":
            torch.testing.assert_close(tensor, expected[name], atol=0, rtol=0)
    rows = model.embedding.weight.detach()
    torch.testing.assert_close(rows[:2], expected["embedding.weight"][:2])
    torch.testing.assert_close(rows[2:], before[2:] * expected["embedding.weight"].std())


def test_pretrained_of_another_shape_is_refused(tmp_path):
    hf_t5(SHAPE, TOKENS).save_pretrained(tmp_path)
    with pytest.raises(Refused, match="backbone of the same shape"):
        seq2seq.load_hf_blocks(T5(200, seq2seq.SHAPES["tiny"]), tmp_path)
    with pytest.raises(Refused, match=r"no model\.safetensors"):
        seq2seq.load_hf_blocks(T5(200, SHAPE), tmp_path / "nowhere")


def test_bf16_autocast_is_near_fp32(pair):
    _, ours = pair
    source, target = batch(4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = ours.loss(source, target)
    assert np.isclose(float(low), float(ours.loss(source, target).detach()), rtol=0.05)


def test_dropout_keeps_the_mean_and_the_rate():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ones = torch.ones(301, 1001)
        dropped = seq2seq.drop(ones, 0.1, True)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.003)  # standard error .0005
    assert seq2seq.drop(ones, 0.1, False) is ones


def test_gradients_pass_through_training_with_dropout():
    model = T5(TOKENS, SHAPE, dropout=0.2).initialise(0).train()
    source, target = batch(3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.loss(source, target).backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())
