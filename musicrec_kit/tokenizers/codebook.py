"""Codebooks: the nearest code, balanced codes, the k-means start, and the revival of unused codes.

A codebook is a matrix [codes, dim]. Random draws come from a CPU generator whatever the device, so that a GPU and a CPU
start from the same items.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 16384  # rows compared at once: 16 MB of distances at 256 codes
BLOCK = 32  # k-means++ candidates drawn before all distances are brought up to date
TOLERANCE = 1e-4  # k-means stops when the inertia falls by a smaller share


def squared_distances(
    vectors: Float[Tensor, "batch dim"], codebook: Float[Tensor, "codes dim"]
) -> Float[Tensor, "batch codes"]:
    """Return every squared Euclidean distance, without the cancellation of the expanded product."""
    return torch.cdist(vectors, codebook, compute_mode="donot_use_mm_for_euclid_dist").square()


def nearest_codes(vectors: Float[Tensor, "batch dim"], codebook: Float[Tensor, "codes dim"]) -> Int[Tensor, " batch"]:
    """Return the code with the smallest squared distance to each vector (the argmin of MusicRec eq. 3-5).

    >>> nearest_codes(torch.tensor([[0.9], [0.1]]), torch.tensor([[0.0], [1.0]])).tolist()
    [1, 0]
    """
    # |v - e|^2 = |v|^2 - 2 (v.e - |e|^2 / 2), and |v|^2 does not change the order
    codebook, half = codebook.detach(), codebook.detach().square().sum(1) / 2
    chunks = [torch.addmm(half, rows, codebook.T, alpha=-1).argmin(1) for rows in vectors.detach().split(CHUNK)]
    return torch.cat(chunks)


def balanced_codes(distances: Float[Tensor, "batch codes"], epsilon: float, iterations: int) -> Int[Tensor, " batch"]:
    """Return codes by Sinkhorn's balanced assignment: every code gets about batch / codes vectors.

    As in LC-Rec (`lineage.md` 2.1): distances centred to [-1, 1] over the whole matrix, plan exp(-d / epsilon) scaled
    to equal row sums and equal column sums `iterations` times in double precision, then the argmax of each row.
    """
    distances = distances.detach().double()
    low, high = distances.min(), distances.max()
    scaled = (distances - (high + low) / 2) / ((high - low) / 2 + 1e-5)
    # row and column constants are absorbed by the scaling; taking them out leaves a 1 in each, so no sum underflows
    scaled = scaled - scaled.amin(1, keepdim=True)
    scaled = scaled - scaled.amin(0, keepdim=True)
    plan = torch.exp(-scaled / epsilon)
    columns = torch.ones_like(plan[0])
    for _ in range(iterations):
        rows = 1 / (len(plan) * (plan @ columns))
        columns = 1 / (plan.shape[1] * (rows @ plan))
    return (columns.log() - scaled / epsilon).argmax(1)


def kmeans(
    vectors: Float[Tensor, "items dim"], codes: int, generator: torch.Generator, iterations: int = 50, restarts: int = 1
) -> tuple[Float[Tensor, "codes dim"], float]:
    """Return the centres of Lloyd's k-means from a k-means++ start, and their inertia; the best of `restarts`."""
    assert len(vectors) >= codes, (len(vectors), codes)
    # distances by matrix product lose digits when the data lie far from the origin
    mean = vectors.mean(0)
    centred = vectors - mean
    runs = [lloyd(centred, centred[kmeans_seeds(centred, codes, generator)], iterations) for _ in range(restarts)]
    centres, inertia = min(runs, key=lambda run: run[1])
    return centres + mean, inertia


def kmeans_seeds(vectors: Float[Tensor, "items dim"], codes: int, generator: torch.Generator) -> Int[Tensor, " codes"]:
    """Return the rows that k-means++ starts from (Arthur and Vassilvitskii 2007).

    Candidates are drawn in blocks from the distances as they stood; each is kept with chance (its distance now / then).
    That is rejection sampling of exactly the same law, at one pass over the data for many draws.
    """
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    norms = vectors.square().sum(1)
    nearest = _assign(vectors, vectors[chosen], norms)[0].cpu()
    while len(chosen) < codes:
        if not bool((nearest > 0).any()):  # fewer distinct rows than codes: the rest are copies
            spare = np.setdiff1d(np.arange(len(vectors)), chosen)
            chosen += spare[: codes - len(chosen)].tolist()
            break
        drawn = torch.multinomial(nearest, BLOCK, replacement=True, generator=generator)
        chance = torch.rand(BLOCK, generator=generator).tolist()
        then = nearest[drawn].tolist()
        among = squared_distances(vectors[drawn], vectors[drawn]).cpu().numpy()
        kept: list[int] = []
        for i in range(BLOCK):
            now = min(then[i], *among[i, kept].tolist()) if kept else then[i]
            if chance[i] * then[i] < now:
                kept.append(i)
        kept = kept[: codes - len(chosen)]
        rows = drawn[kept]
        chosen += rows.tolist()
        nearest = torch.minimum(nearest, _assign(vectors, vectors[rows], norms)[0].cpu())
        nearest[rows] = 0.0
    return torch.tensor(chosen, device=vectors.device)


def _assign(
    vectors: Float[Tensor, "items dim"], centres: Float[Tensor, "codes dim"], norms: Float[Tensor, " items"]
) -> tuple[Float[Tensor, " items"], Int[Tensor, " items"]]:
    """Return the squared distance of each row to its nearest centre, and that centre."""
    half = centres.square().sum(1) / 2
    best = [torch.addmm(half, rows, centres.T, alpha=-1).min(1) for rows in vectors.split(CHUNK)]
    distances = (norms + 2 * torch.cat([part.values for part in best])).clamp_min(0)
    return distances, torch.cat([part.indices for part in best])


def lloyd(
    vectors: Float[Tensor, "items dim"], centres: Float[Tensor, "codes dim"], iterations: int
) -> tuple[Float[Tensor, "codes dim"], float]:
    """Return the centres that Lloyd's iterations end with, and their inertia; they may stop early (`TOLERANCE`)."""
    norms, before = vectors.square().sum(1), float("inf")
    for _ in range(iterations):
        distances, picked = _assign(vectors, centres, norms)
        inertia = float(distances.sum())
        if before < float("inf") and before - inertia <= TOLERANCE * before:
            return centres, inertia
        before, centres = inertia, _means(vectors, distances, picked, len(centres))
    return centres, float(_assign(vectors, centres, norms)[0].sum())


def _means(
    vectors: Float[Tensor, "items dim"], distances: Float[Tensor, " items"], picked: Int[Tensor, " items"], codes: int
) -> Float[Tensor, "codes dim"]:
    """Return the mean of each cluster; an empty one moves to a row that lies farthest from its centre."""
    counts = torch.bincount(picked, minlength=codes)
    if vectors.is_cuda:  # a GPU adds in any order: the same seed would give other codes
        sums = torch.nn.functional.one_hot(picked, codes).to(vectors.dtype).T @ vectors
    else:  # cluster by cluster on all cores, each row by row: the sums of index_add, which uses one core
        order, first = torch.argsort(picked, stable=True), counts.cumsum(0) - counts
        sums = torch.nn.functional.embedding_bag(order, vectors, first, mode="sum")
    centres = sums / counts.clamp_min(1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    centres[empty] = vectors[distances.topk(len(empty)).indices]
    return centres


@torch.no_grad()
def revive(codebook: Tensor, vectors: Float[Tensor, "items dim"], generator: torch.Generator) -> int:
    """Move the codes that no vector uses onto vectors that their code fits badly; return how many moved.

    The vectors are drawn without replacement with chance proportional to their squared distance (ours; lineage.md 6.2).
    """
    picked = nearest_codes(vectors, codebook)
    dead = (torch.bincount(picked, minlength=len(codebook)) == 0).nonzero()[:, 0][: len(vectors)]
    if len(dead):
        misfit = (vectors - codebook[picked]).square().sum(1).clamp_min(1e-12).cpu()
        rows = torch.multinomial(misfit, len(dead), generator=generator).to(vectors.device)
        codebook[dead] = vectors[rows]
    return len(dead)


def group_codes(codebook: Float[Tensor, "codes dim"], groups: int, generator: torch.Generator) -> Int[Tensor, " codes"]:
    """Return a group for each code by size-constrained k-means, for LETTER's diversity loss (`lineage.md` 2.3).

    LETTER asks for 10 to 60 of 256 codes in each of 10 groups; other shapes are in proportion, with 2 codes at least.
    """
    from scipy.optimize import linear_sum_assignment

    vectors = codebook.detach().cpu()
    n, groups = len(vectors), max(1, min(groups, len(vectors) // 2))
    least, most = max(2, int(0.4 * n / groups)), max(2, -(-60 * n // (25 * groups)))
    centres = vectors[kmeans_seeds(vectors, groups, generator)]
    labels = np.full(n, -1)
    for _ in range(10):
        cost = squared_distances(vectors, centres).numpy().astype(np.float64)
        # the first `least` places of a group are so cheap that all of them are taken
        places = np.repeat(cost, most, axis=1) - np.tile(np.arange(most) < least, groups) * (cost.sum() + 1)
        found = linear_sum_assignment(places)[1] // most
        if (found == labels).all():
            break
        labels = found
        centres = torch.stack([vectors[torch.from_numpy(labels == group)].mean(0) for group in range(groups)])
    return torch.from_numpy(labels).to(codebook.device)
