"""RK-means: 4 levels of 256 codes on 12,101 x 768 features, and Lloyd's iterations alone.

The usual way is scikit-learn's `KMeans` on each level's residuals, of the same scaled features, with as many threads.
Both run every iteration: at full scale none of them comes to rest in so few. Each draws its own k-means++ start, for
which scikit-learn tries several candidates per centre (`n_init` is 1 all the same); the second row leaves that out, and
both begin with the same centres.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from musicrec_kit.features.store import Features
from musicrec_kit.params import TokenizerParams
from musicrec_kit.tokenizers import codebook, fit
from musicrec_kit.tokenizers.mlp import Scaling
from tests.benchmarks.harness import Row, Side

ITEMS, DIM, LEVELS, CODES, ITERATIONS = 12_101, 768, 4, 256, 20
INERTIA = 0.01  # two draws of k-means++ end this close to each other at every level, if the items are many
SAME_START = 1e-5  # what is left of the inertia's difference where both begin alike: roundings, and ties they decide


class Chain(NamedTuple):
    """What either way finds: codes [items, levels], and the inertia behind each level."""

    codes: np.ndarray
    inertia: np.ndarray


def made_features(items: int, dim: int) -> np.ndarray:
    """Return features float32 [items, dim] whose variances fall with the square of their number."""
    made = np.random.default_rng(0).standard_normal((items, dim), dtype=np.float32)
    return made * (1 + np.arange(dim, dtype=np.float32)) ** -1.0


def ours(features: np.ndarray, params: TokenizerParams) -> Chain:
    """Fit the kit's tokenizer."""
    given = Features("text", features, np.ones(len(features), bool), "made")
    tokenizer, codes = fit({"text": given}, None, params)
    part, residual = tokenizer.parts[0], tokenizer.latents_of({"text": features})["text"]
    inertia = []
    for level, column in enumerate(codes.codes["text"].T):
        residual = residual - part.quantizer.chains[1][level].numpy()[column]
        inertia.append(float(np.square(residual, dtype=np.float64).sum()))
    return Chain(codes.codes["text"], np.array(inertia))


def usual(scaled: np.ndarray, codes: int) -> Chain:
    """Fit scikit-learn's KMeans on the residuals of the level before."""
    residual, columns, inertia = scaled, [], []
    with threadpool_limits(torch.get_num_threads()):
        for level in range(LEVELS):
            model = KMeans(codes, n_init=1, max_iter=ITERATIONS, tol=0, random_state=level).fit(residual)
            assert codes < CODES or model.n_iter_ == ITERATIONS, f"stopped after {model.n_iter_} iterations"
            residual = residual - model.cluster_centers_[model.labels_]
            columns.append(model.labels_)
            inertia.append(float(np.square(residual, dtype=np.float64).sum()))
    return Chain(np.stack(columns, axis=1), np.array(inertia))


def chains_agree(theirs: Chain, mine: Chain) -> str:
    """Compare the inertia behind each level."""
    off = mine.inertia / theirs.inertia - 1
    assert np.abs(off).max() <= (INERTIA if len(mine.codes) > 1000 else 0.1), off
    return f"inertia {', '.join(f'{value:+.2%}' for value in off)}"


def same_start_agrees(theirs: Chain, mine: Chain) -> str:
    """Compare codes and inertia of a level that both began with the same centres."""
    same = float((theirs.codes == mine.codes).mean())
    off = float(np.abs(mine.inertia / theirs.inertia - 1).max())
    assert off <= SAME_START and same > 0.999, (off, same)
    return f"{same:.2%} of the codes equal, inertia within {off:.0e}"


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the whole chain, and Lloyd's iterations of its first level."""
    items, codes = max(200, round(ITEMS * scale)), CODES if scale > 0.1 else 16
    features = made_features(items, DIM)
    scaling = Scaling(DIM)
    scaling.measure(torch.from_numpy(features), torch.ones(items, dtype=torch.bool), "none", unit_norm=True)
    latents = scaling(torch.from_numpy(features))
    scaled = latents.numpy()
    params = TokenizerParams(kind="rkmeans", levels=LEVELS, codes=codes, kmeans_iterations=ITERATIONS)
    # a pass is an assignment, and one more ends it; every level is assigned three times more: on its way down, as the
    # residual of the next, and when all items are encoded
    flops = 2.0 * items * DIM * codes
    data = f"made, {items:,} x {DIM}, {codes} codes, {ITERATIONS} iterations"
    yield Row(
        "rkmeans",
        "fits",
        1,
        data,
        Side("scikit-learn KMeans, n_init 1", lambda: usual(scaled, codes)),
        [Side("kit", lambda: ours(features, params), flops=LEVELS * (ITERATIONS + 3) * flops)],
        chains_agree,
        {"kit": 5.0},
    )
    draw = torch.Generator().manual_seed(0)
    start = latents[codebook.kmeans_seeds(latents, codes, draw)]

    def our_level() -> Chain:
        centres, inertia = codebook.lloyd(latents, start, ITERATIONS)
        return Chain(codebook.nearest_codes(latents, centres).numpy(), np.array([inertia]))

    def usual_level() -> Chain:
        with threadpool_limits(torch.get_num_threads()):
            model = KMeans(codes, init=start.numpy(), n_init=1, max_iter=ITERATIONS, tol=0).fit(scaled)
        assert codes < CODES or model.n_iter_ == ITERATIONS, f"stopped after {model.n_iter_} iterations"
        return Chain(model.labels_, np.array([model.inertia_]))

    yield Row(
        "rkmeans: one level, same start",
        "fits",
        1,
        data,
        Side("scikit-learn KMeans, lloyd", usual_level),
        [Side("kit", our_level, flops=(ITERATIONS + 2) * flops)],
        same_start_agrees,
    )
