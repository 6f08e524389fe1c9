"""Comparison of two rows of a table over the same users: test, interval, and what could have been seen at all."""

from dataclasses import dataclass

import numpy as np

from musicrec_kit import seeds

DRAWS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Comparison:
    """Row `a` against row `b`: means, their difference with its interval, t-test, and minimal detectable effect."""

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    t: float
    p: float
    detectable: float
    users: int


def paired_test(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return (t, two-sided p) of the paired t-test over users; (0, 1) where no user differs.

    MusicRec claims a t-test and does not say over what (lineage 4); here it is over users.
    """
    from scipy import stats

    difference = _paired(a, b)
    spread = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    if spread == 0:
        return (0.0, 1.0) if not difference.any() else (float(np.sign(difference[0]) * np.inf), 0.0)
    t = difference.mean() / spread
    return float(t), float(2 * stats.t.sf(abs(t), len(difference) - 1))


def bootstrap_interval(values: np.ndarray, seed: int, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Return (low, high), the percentile interval of the mean under resampled users.

    Args:
        values: [users], or [seeds, users] where training was repeated: then seeds are resampled, too. Paired intervals
            come from per-user differences.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    n_seeds, n_users = table.shape
    generator = seeds.generator(seed, "bootstrap")
    means = np.empty(draws)
    step = max(1, DRAWS_AT_ONCE // max(n_users * n_seeds, 1))
    for start in range(0, draws, step):
        part = means[start : start + step]
        users = generator.integers(0, n_users, (len(part), n_users))
        chosen = generator.integers(0, n_seeds, (len(part), n_seeds))
        part[:] = table[chosen[:, :, None], users[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean over users."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def detectable_effect(differences: np.ndarray, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true mean difference that the paired test finds with `power`: (z_a/2 + z_power) standard errors."""
    from scipy import stats

    return float((stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)) * standard_error(differences))


def compare(a: np.ndarray, b: np.ndarray, seed: int = 0, level: float = 0.95) -> Comparison:
    """Return the comparison of per-user values `a` and `b` of the same users in the same order."""
    difference = _paired(a, b)
    low, high = bootstrap_interval(difference, seed, level)
    t, p = paired_test(a, b)
    effect = detectable_effect(difference, level)
    means = float(np.mean(a)), float(np.mean(b))
    return Comparison(*means, float(difference.mean()), low, high, t, p, effect, len(difference))


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape and a.ndim == 1 and len(a), f"not the same users: {a.shape} and {b.shape}"
    return a - b
