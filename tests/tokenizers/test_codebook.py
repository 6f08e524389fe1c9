"""Codebooks: nearest and balanced codes, k-means, revival, groups."""

import faiss
import numpy as np
import pytest
import reference_tokenizers as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.tokenizers import codebook


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=draws(seed))


def blobs(n=600, centres=12, dim=16, seed=0):
    centre = 6 * normal(centres, dim, seed=seed)
    return centre[torch.arange(n) % centres] + normal(n, dim, seed=seed + 1)


def test_distances_are_exact_far_from_the_origin():
    vectors = torch.tensor([[10000.0, 0.0]])
    assert codebook.squared_distances(vectors, torch.tensor([[10000.5, 0.0], [9999.0, 0.0]])).tolist() == [[0.25, 1.0]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40))
def test_nearest_codes_agree_with_faiss(seed, dim, codes):
    vectors, book = normal(50, dim, seed=seed), normal(codes, dim, seed=seed + 1)
    index = faiss.IndexFlatL2(dim)
    index.add(book.numpy())
    assert codebook.nearest_codes(vectors, book).tolist() == index.search(vectors.numpy(), 1)[1][:, 0].tolist()


def test_nearest_codes_do_not_depend_on_the_chunk(monkeypatch):
    vectors, book = normal(100, 4), normal(8, 4, seed=1)
    whole = codebook.nearest_codes(vectors, book)
    monkeypatch.setattr(codebook, "CHUNK", 7)
    assert torch.equal(codebook.nearest_codes(vectors, book), whole)


@pytest.mark.parametrize("epsilon", [0.003, 0.05, 1.0])
@pytest.mark.parametrize("iterations", [1, 50])
def test_sinkhorn_agrees_with_the_slow_procedure(epsilon, iterations):
    distances = codebook.squared_distances(normal(60, 3), normal(8, 3, seed=1))
    expected = reference.sinkhorn(distances.numpy(), epsilon, iterations)
    assert codebook.balanced_codes(distances, epsilon, iterations).tolist() == expected.tolist()


def test_sinkhorn_uses_every_code_alike_where_argmin_uses_one():
    # all vectors lie at the first code; 64 vectors and 8 codes: 8 each
    vectors, book = 0.01 * normal(64, 3), torch.cat([torch.zeros(1, 3), 3 + normal(7, 3, seed=1)])
    distances = codebook.squared_distances(vectors, book)
    assert torch.bincount(distances.argmin(1), minlength=8).tolist() == [64] + [0] * 7
    balanced = torch.bincount(codebook.balanced_codes(distances, 0.003, 200), minlength=8)
    assert balanced.min() >= 2
    assert balanced.max() <= 16


def test_sinkhorn_survives_a_tiny_epsilon_and_equal_distances():
    distances = codebook.squared_distances(normal(40, 3), normal(5, 3, seed=1))
    assert codebook.balanced_codes(distances, 1e-5, 50).max() < 5
    assert codebook.balanced_codes(torch.ones(4, 3), 0.003, 50).shape == (4,)


def test_kmeans_ends_where_sklearns_does_from_the_same_seeds():
    from sklearn.cluster import KMeans

    for seed, vectors in enumerate([blobs(centres=30), normal(600, 8), blobs(centres=5)]):
        start = vectors[codebook.kmeans_seeds(vectors - vectors.mean(0), 20, draws(seed))].numpy()
        theirs = KMeans(20, init=start, n_init=1, max_iter=50, tol=0.0).fit(vectors.numpy()).inertia_
        centres, ours = codebook.kmeans(vectors, 20, draws(seed))
        nearest = codebook.squared_distances(vectors, centres).amin(1).sum()
        assert float(nearest) == pytest.approx(ours, rel=1e-4)
        assert ours == pytest.approx(theirs, rel=0.01)


def test_kmeans_is_about_as_good_as_sklearns_from_its_own_seeds():
    from sklearn.cluster import KMeans

    vectors = normal(600, 8)
    theirs = KMeans(20, n_init=3, random_state=0).fit(vectors.numpy()).inertia_
    assert codebook.kmeans(vectors, 20, draws(), restarts=3)[1] < 1.04 * theirs


def test_kmeans_finds_planted_clusters_far_from_the_origin():
    vectors = blobs(n=240, centres=6) + 1000.0
    centres, inertia = codebook.kmeans(vectors, 6, draws(), restarts=5)
    labels = codebook.nearest_codes(vectors - 1000.0, centres - 1000.0)
    assert all(len(set(labels[k::6].tolist())) == 1 for k in range(6))
    within = sum(float((vectors[k::6] - vectors[k::6].mean(0)).square().sum()) for k in range(6))
    assert inertia == pytest.approx(within, rel=1e-3)


def test_restarts_never_do_worse_than_the_first():
    vectors = normal(200, 5)
    assert codebook.kmeans(vectors, 15, draws(), restarts=4)[1] <= codebook.kmeans(vectors, 15, draws())[1]


def test_more_iterations_do_not_raise_the_inertia():
    vectors = normal(300, 5)
    inertia = [codebook.kmeans(vectors, 15, draws(), iterations=n)[1] for n in (0, 1, 5, 50)]
    assert inertia == sorted(inertia, reverse=True)


def test_kmeans_with_as_many_codes_as_items_gives_the_items():
    vectors = normal(9, 4)
    centres, inertia = codebook.kmeans(vectors, 9, draws())
    assert inertia == pytest.approx(0.0, abs=1e-5)
    torch.testing.assert_close(centres[codebook.nearest_codes(vectors, centres)], vectors)


def test_kmeans_copes_with_fewer_distinct_items_than_codes():
    vectors = torch.tensor([[0.0], [1.0]]).repeat(5, 1)
    centres, inertia = codebook.kmeans(vectors, 6, draws())
    assert inertia == pytest.approx(0.0, abs=1e-9)
    assert centres.shape == (6, 1)
    assert torch.isfinite(centres).all()


def test_an_empty_cluster_moves_to_the_worst_item():
    vectors = torch.tensor([[0.0], [1.0], [10.0]])
    moved = codebook._means(vectors, torch.tensor([0.0, 1.0, 100.0]), torch.tensor([0, 0, 0]), 2)
    assert moved.flatten().tolist() == pytest.approx([11 / 3, 10.0])


def test_seeds_follow_the_law_of_kmeans_plus_plus():
    points = np.array([[0.0], [1.0], [3.0], [7.0], [8.0]], np.float32)
    expected = reference.kmeans_plus_plus(points, 3)
    generator, runs = draws(), 1500
    counts: dict[frozenset, int] = {}
    for _ in range(runs):
        chosen = frozenset(codebook.kmeans_seeds(torch.from_numpy(points), 3, generator).tolist())
        counts[chosen] = counts.get(chosen, 0) + 1
    assert sum(expected.values()) == pytest.approx(1)
    for chosen, chance in expected.items():
        # 4.5 standard errors for the ten sets
        assert abs(counts.get(chosen, 0) / runs - chance) < 4.5 * (chance * (1 - chance) / runs) ** 0.5 + 1e-3


def test_the_same_generator_gives_the_same_centres():
    vectors = normal(100, 4)
    assert torch.equal(codebook.kmeans(vectors, 8, draws(3))[0], codebook.kmeans(vectors, 8, draws(3))[0])
    assert not torch.equal(codebook.kmeans(vectors, 8, draws(3))[0], codebook.kmeans(vectors, 8, draws(4))[0])


def test_revival_moves_only_unused_codes_onto_items():
    vectors = torch.tensor([[0.0], [1.0], [5.0], [5.5]])
    book = torch.tensor([[0.5], [100.0], [200.0]])
    assert codebook.revive(book, vectors, draws()) == 2
    assert book[0, 0] == 0.5
    assert {float(book[1]), float(book[2])} <= {0.0, 1.0, 5.0, 5.5}
    assert float(book[1]) != float(book[2])
    used = codebook.nearest_codes(vectors, book).unique()
    assert len(used) >= 2


def test_revival_leaves_a_healthy_codebook_alone():
    book = torch.tensor([[0.0], [1.0]])
    assert codebook.revive(book, torch.tensor([[0.1], [0.9]]), draws()) == 0
    assert book.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("codes", "groups"), [(256, 10), (64, 10), (16, 10), (5, 3), (2, 10)])
def test_groups_keep_letters_sizes(codes, groups):
    labels = codebook.group_codes(normal(codes, 6), groups, draws())
    size = torch.bincount(labels)
    assert labels.shape == (codes,)
    assert len(size) == max(1, min(groups, codes // 2))
    assert size.min() >= 2
    if codes == 256:
        assert size.min() >= 10
        assert size.max() <= 62


def test_groups_find_planted_clusters():
    labels = codebook.group_codes(blobs(n=40, centres=4), 4, draws(1))
    assert all(len(set(labels[k::4].tolist())) == 1 for k in range(4))
