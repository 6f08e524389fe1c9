"""The residual loop: eq. 3-5 and 8 by hand, and against other implementations."""

import numpy as np
import pytest
import reference_tokenizers as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers.codebook import balanced_codes, squared_distances
from musicrec_kit.tokenizers.residual import Rule, quantize, straight_through
from musicrec_kit.tokenizers.split_residual import SplitResidual, over_levels


def by_hand():
    vectors = torch.tensor([[3.0, 1.0]], requires_grad=True)
    books = [torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.tensor([[5.0, 5.0], [1.0, 2.0]])]
    return vectors, [book.requires_grad_() for book in books]


def test_values_by_hand():
    vectors, books = by_hand()
    found = quantize(vectors, books, Rule(mu=0.25, reduction="sum"))
    # r_0 = (3, 1) picks (2, 0); r_1 = (1, 1) picks (1, 2); r_2 = (0, -1)
    assert found.codes.tolist() == [[0, 1]]
    assert found.vector.tolist() == [[3.0, 2.0]]
    assert found.residual.tolist() == [[0.0, -1.0]]
    assert found.losses.tolist() == [2 * 1.25, 1 * 1.25]


@pytest.mark.parametrize(
    ("residual_gradients", "to_vector", "to_first", "to_second"),
    [
        # as printed: the second commitment .25 |z - e_1 - sg e_2|^2 adds .5 (0, -1) to z and takes it from e_1
        (True, [0.5, 0.0], [-2.0, -1.5], [0.0, 2.0]),
        # lineage: .5 (r_0 - e_1) alone, and each codebook its own 2 (e - r)
        (False, [0.5, 0.5], [-2.0, -2.0], [0.0, 2.0]),
    ],
)
def test_gradients_by_hand(residual_gradients, to_vector, to_first, to_second):
    vectors, books = by_hand()
    rule = Rule(mu=0.25, reduction="sum", residual_gradients=residual_gradients)
    quantize(vectors, books, rule).losses.sum().backward()
    assert vectors.grad.tolist() == [to_vector]
    assert books[0].grad.tolist() == [to_first, [0.0, 0.0]]
    assert books[1].grad.tolist() == [[0.0, 0.0], to_second]


@pytest.mark.parametrize("residual_gradients", [True, False])
def test_straight_through_passes_one_identity_to_the_encoder_and_nothing_to_the_codes(residual_gradients):
    vectors, books = by_hand()
    z_hat = straight_through(vectors, quantize(vectors, books, Rule(residual_gradients=residual_gradients)).vector)
    assert z_hat.tolist() == [[3.0, 2.0]]
    (z_hat * torch.tensor([[5.0, 7.0]])).sum().backward()
    assert vectors.grad.tolist() == [[5.0, 7.0]]
    assert books[0].grad is None


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_codes_agree_with_the_loop_in_double_precision(seed, levels, codes):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(20, 3, generator=generator)
    books = [torch.randn(codes, 3, generator=generator) for _ in range(levels)]
    expected, sums, _ = reference.residual_codes(vectors.numpy(), [book.numpy() for book in books])
    found = quantize(vectors, books, Rule())
    assert found.codes.tolist() == expected.tolist()
    np.testing.assert_allclose(found.vector.numpy(), sums, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.vector + found.residual, vectors)


def test_it_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import ResidualVQ

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = ResidualVQ(
            dim=5,
            num_quantizers=3,
            codebook_size=8,
            learnable_codebook=True,
            ema_update=False,
            rotation_trick=False,
            commitment_weight=1.0,
        )
        vectors = torch.randn(40, 5)
    theirs.train()
    with torch.no_grad():
        for layer in theirs.layers:
            layer._codebook.embed.copy_(torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(1)))
    quantized, codes, loss = theirs(vectors)
    loss.sum().backward()
    books = [layer._codebook.embed.detach()[0].clone().requires_grad_() for layer in theirs.layers]
    # their loss moves the codes by one mean squared error: eq. 8 with mu = 0
    ours = quantize(vectors, books, Rule(mu=0.0))
    ours.losses.sum().backward()
    assert torch.equal(ours.codes, codes)
    torch.testing.assert_close(ours.vector, quantized.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.losses, loss.flatten())
    for book, layer in zip(books, theirs.layers, strict=True):
        torch.testing.assert_close(book.grad, layer._codebook.embed.grad[0])


def test_sinkhorn_works_at_the_last_level_only():
    generator = torch.Generator().manual_seed(0)
    vectors, books = torch.randn(50, 3, generator=generator), [torch.randn(6, 3, generator=generator) for _ in range(3)]
    plain, rule = quantize(vectors, books, Rule()), Rule(sinkhorn=0.003)
    balanced = quantize(vectors, books, rule)
    assert torch.equal(plain.codes[:, :2], balanced.codes[:, :2])
    residual = vectors - books[0][plain.codes[:, 0]] - books[1][plain.codes[:, 1]]
    assert torch.equal(balanced.codes[:, 2], balanced_codes(squared_distances(residual, books[2]), 0.003, 50))
    assert not torch.equal(plain.codes[:, 2], balanced.codes[:, 2])
    assert torch.equal(quantize(vectors, books, rule, last=False).codes, plain.codes)


def test_rule_of_profiles():
    params = TokenizerParams(profile="lineage")
    assert Rule.of(params, training=True) == Rule(residual_gradients=False, sinkhorn=0.003)
    assert Rule.of(params, training=False) == Rule(residual_gradients=False, sinkhorn=0.0)
    assert Rule.of(
        TokenizerParams(mu=0.5, sinkhorn=0.1, sinkhorn_iterations=7, reduction="sum"), training=True
    ) == Rule(0.5, True, "sum", 0.1, 7)


def split_by_hand():
    quantizer = SplitResidual({"text": 1, "image": 1}, 2, 1, 1)
    with torch.no_grad():
        quantizer.shared[0].copy_(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
        quantizer.specific[0][0].copy_(torch.tensor([[0.5], [-0.5]]))
        quantizer.specific[1][0].copy_(torch.tensor([[2.0], [-2.0]]))
    return quantizer


def test_split_by_hand_eq_3_to_6():
    quantizer = split_by_hand()
    z = torch.tensor([[3.0, 1.0]], requires_grad=True)
    found = quantizer(z, Rule(mu=0.25, reduction="sum"))
    # r = (3, 1) - (2, 0) = (1, 1); text picks .5, image picks 2
    assert {name: codes.tolist() for name, codes in found.codes.items()} == {"text": [[0, 0]], "image": [[0, 0]]}
    assert found.shared.tolist() == [[2.0, 0.0]]
    assert found.vector.tolist() == [[2.5, 2.0]]
    assert [levels.tolist() for levels in found.losses] == [[2.5], [0.25 * 1.25], [1.0 * 1.25]]
    assert quantizer.lookup("text", torch.tensor([[0, 1]])).tolist() == [[1.5]]
    assert quantizer.lookup("image", torch.tensor([[1, 0]])).tolist() == [[2.0]]
    torch.testing.assert_close(quantizer.distances(z, "image"), torch.tensor([[[2.0, 26.0], [1.0, 9.0]]]))


@pytest.mark.parametrize(
    ("residual_gradients", "to_z", "to_shared"),
    # commitments: shared .5 (1, 1); text .5 (.5); image .5 (-1). Codebook term of the shared code: 2 (e - r) = (-2, -2)
    [(True, [0.75, 0.0], [-2.25, -1.5]), (False, [0.5, 0.5], [-2.0, -2.0])],
)
def test_split_gradients_by_hand(residual_gradients, to_z, to_shared):
    quantizer = split_by_hand()
    z = torch.tensor([[3.0, 1.0]], requires_grad=True)
    rule = Rule(mu=0.25, reduction="sum", residual_gradients=residual_gradients)
    torch.cat(quantizer(z, rule).losses).sum().backward()
    assert z.grad.tolist() == [to_z]
    assert quantizer.shared[0].grad.tolist() == [to_shared, [0.0, 0.0]]
    assert quantizer.specific[0][0].grad.tolist() == [[-1.0], [0.0]]
    assert quantizer.specific[1][0].grad.tolist() == [[2.0], [0.0]]


def test_levels_are_summed_as_printed_and_averaged_in_the_lineage():
    losses = [torch.tensor([1.0, 2.0]), torch.tensor([4.0]), torch.tensor([])]
    assert over_levels(losses, TokenizerParams()).item() == 7.0
    assert over_levels(losses, TokenizerParams(profile="lineage")).item() == 5.5
    assert over_levels(losses, TokenizerParams(profile="lineage", level_reduction="sum")).item() == 7.0


@pytest.mark.parametrize(("shared", "specific"), [(2, 2), (1, 3), (3, 1), (4, 0), (0, 4)])
def test_any_ratio_of_levels_and_any_number_of_modalities(shared, specific):
    generator = torch.Generator().manual_seed(0)
    widths = {"text": 2, "image": 3, "sound": 1}
    quantizer = SplitResidual(widths, 5, shared, specific)
    with torch.no_grad():
        for book in quantizer.parameters():
            book.copy_(torch.randn(book.shape, generator=generator))
    z = torch.randn(30, 6, generator=generator)
    with torch.no_grad():
        found = quantizer(z, Rule())
    joint_codes, joint, _ = reference.residual_codes(z.numpy(), [book.detach().numpy() for book in quantizer.shared])
    parts = torch.tensor(z.numpy() - (joint if shared else 0)).split([2, 3, 1], dim=1)
    for place, name in enumerate(widths):
        books = [book.detach().numpy() for book in quantizer.specific[place]]
        codes, _, tables = reference.residual_codes(parts[place].numpy(), books)
        whole = np.concatenate([joint_codes.reshape(30, shared), codes.reshape(30, specific)], axis=1)
        assert found.codes[name].tolist() == whole.tolist()
        # the vector of eq. 6 is exactly what its codes look up
        at = [0, 2, 5][place]
        looked_up = quantizer.lookup(name, found.codes[name])
        torch.testing.assert_close(looked_up, found.vector[:, at : at + widths[name]], rtol=0, atol=1e-6)
        distances = quantizer.distances(z, name).detach().numpy()
        assert distances.shape == (30, 4, 5)
        assert distances.argmin(2).tolist() == whole.tolist()
        np.testing.assert_allclose(distances[:, shared:], tables.reshape(30, specific, 5), rtol=1e-3, atol=1e-4)


def test_sinkhorn_of_a_split_stays_out_of_the_shared_levels_unless_they_are_last():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 4, generator=generator)
    for shared, specific in ((2, 1), (2, 0)):
        quantizer = SplitResidual({"text": 2, "image": 2}, 6, shared, specific)
        with torch.no_grad():
            for book in quantizer.parameters():
                book.copy_(torch.randn(book.shape, generator=generator))
            plain, balanced = quantizer(z, Rule()).codes, quantizer(z, Rule(sinkhorn=0.003)).codes
        last = shared + specific - 1
        assert torch.equal(plain["text"][:, :last], balanced["text"][:, :last])
        assert not torch.equal(plain["text"][:, last], balanced["text"][:, last])
