"""MusicRec eq. 8-12 and LETTER's losses: values and gradients worked out by hand."""

from math import e, exp, log

import pytest
import torch

from musicrec_kit.tokenizers import losses


def leaf(rows):
    return torch.tensor(rows, requires_grad=True)


def test_squared_error_is_averaged_or_summed_over_dims():
    a, b = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 3.0]])
    assert losses.squared_error(a, b, "sum").tolist() == [5.0, 9.0]
    assert losses.squared_error(a, b, "mean").tolist() == [2.5, 4.5]


@pytest.mark.parametrize(("reduction", "value", "gradient"), [("sum", 2.5, -1.0), ("mean", 1.25, -0.5)])
def test_reconstruction_leaves_out_missing_items(reduction, value, gradient):
    decoded = leaf([[0.0, 2.0], [3.0, 2.0], [0.0, 0.0]])
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    loss = losses.reconstruction_loss(features, decoded, torch.tensor([True, True, False]), reduction)
    loss.backward()
    # sum: (1 + 4) / 2 items; d/d decoded[0, 0] = 2 (0 - 1) / 2
    assert loss.item() == value
    assert decoded.grad[0].tolist() == [gradient, 0.0]
    assert decoded.grad[2].tolist() == [0.0, 0.0]


def test_reconstruction_of_nothing_is_zero():
    loss = losses.reconstruction_loss(torch.ones(2, 2), leaf([[0.0, 0.0]] * 2), torch.zeros(2, dtype=torch.bool), "sum")
    assert loss.item() == 0.0


@pytest.mark.parametrize(("reduction", "scale"), [("sum", 1.0), ("mean", 0.5)])
def test_quantization_eq_8(reduction, scale):
    residual, code = leaf([[2.0, 0.0]]), leaf([[1.0, 1.0]])
    loss = losses.quantization_loss(residual, code, 0.25, reduction)
    loss.backward()
    # |r - e|^2 = 2; the code gets 2 (e - r), the residual 2 mu (r - e)
    assert loss.item() == 2.5 * scale
    assert code.grad.tolist() == [[-2.0 * scale, 2.0 * scale]]
    assert residual.grad.tolist() == [[0.5 * scale, -0.5 * scale]]


def test_alignment_eq_10():
    vectors = leaf([[2.0, 0.0], [0.0, 3.0]])
    loss = losses.alignment_loss(vectors, torch.tensor([[1.0, 0.0], [0.0, 5.0]]), tau=0.5)
    loss.backward()
    # cosines are the identity, so logits are 2 and 0
    assert loss.item() == pytest.approx(log(1 + exp(-2)))
    # only the cosine with the other item moves: p / tau * (1 / |z|) / B with p = 1 / (1 + e^2)
    p = 1 / (1 + exp(2))
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.0, p / 0.5 / 2 / 2], [p / 0.5 / 3 / 2, 0.0]]))


def test_alignment_does_not_see_lengths_and_is_least_for_equal_directions():
    vectors, cf = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.eye(6)[:, :4] + 0.1
    loss = losses.alignment_loss(vectors, cf, 0.1)
    assert losses.alignment_loss(7 * vectors, 0.2 * cf, 0.1).item() == pytest.approx(loss.item(), rel=1e-5)
    assert losses.alignment_loss(cf, cf, 0.1) < loss


def test_relation_eq_11():
    vectors = leaf([[1.0, 0.0], [0.0, 1.0]])
    # widths may differ: z_cf has 3 dims here, both items the same direction
    loss = losses.relation_loss(vectors, torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    loss.backward()
    # cosines 0 against 1 in the two cells off the diagonal: 2 / 4; d/d cosine = 2 * 2 (0 - 1) / 4
    assert loss.item() == 0.5
    assert vectors.grad.tolist() == [[0.0, -1.0], [-1.0, 0.0]]


def test_letter_cf_has_neither_norm_nor_temperature():
    vectors = leaf([[1.0, 0.0], [0.0, 2.0]])
    loss = losses.letter_cf_loss(vectors, torch.eye(2))
    loss.backward()
    assert loss.item() == pytest.approx((log(1 + exp(-1)) + log(1 + exp(-2))) / 2)
    p, q = 1 / (1 + e), 1 / (1 + e * e)
    torch.testing.assert_close(vectors.grad, torch.tensor([[-p, p], [q, -q]]) / 2)


@pytest.mark.parametrize("loss", [losses.relation_loss, losses.letter_cf_loss])
def test_a_batch_without_cf_vectors_costs_nothing(loss):
    assert loss(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3)).item() == 0.0
    assert losses.alignment_loss(torch.zeros(0, 3), torch.zeros(0, 3), 0.1).item() == 0.0


def test_diversity_of_letter():
    book = leaf([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    picked, groups = torch.tensor([0, 2]), torch.tensor([0, 0, 1])
    loss = losses.diversity_loss(book, picked, groups, torch.Generator().manual_seed(0))
    loss.backward()
    # item 0: positive 1, logits (masked, 0, 1); item 1's code is alone in its group and is left out
    assert loss.item() == pytest.approx(log(1 + e))
    p = e / (1 + e)
    torch.testing.assert_close(book.grad, torch.tensor([[p, 0.0], [-p, 0.0], [p, 0.0]]))


def test_positives_are_others_of_the_group_and_all_of_them_come_up():
    groups = torch.tensor([2, 0, 1, 0, 2, 0, 2, 2])
    picked = torch.arange(8).repeat(200)
    positive, has_other = losses.positive_codes(picked, groups, torch.Generator().manual_seed(0))
    assert has_other.reshape(200, 8)[0].tolist() == [True, True, False, True, True, True, True, True]
    for code in (0, 1, 3, 4, 5, 6, 7):
        found = set(positive[picked == code].tolist())
        assert found == {c for c in range(8) if groups[c] == groups[code]} - {code}
