"""Comparison of two rows of a table over the same users and seeds: test, interval, and what could have been seen.

Two things vary that are not the method: which users there are, and which training it was. Both are random effects
here, so that a difference is believed of other users and of another training. Three trainings say little about how far
trainings differ; all rows of a table together say more, and are asked together (`spread_of`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from musicrec_kit import seeds

DRAWS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Spread:
    """How far the difference of two rows moves from one training (or one drawn world) to the next."""

    variance: float
    df: float


@dataclass(frozen=True)
class Comparison:
    """Row `a` against row `b`.

    Attributes:
        low, high: 95 % interval of the difference, over users and seeds; over users alone where there is one seed.
        p: two-sided, of the same test; nan where there is one seed, for then nothing is known of other trainings.
        detectable: the true difference that this test finds four times in five; nan where there is one seed.
        users, seeds: how many of each (or of worlds).
        p_users: of the paired t-test over users, each with the mean over the seeds: of these very trainings.
        bootstrap: percentile interval under resampled users, of the same.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    detectable: float
    users: int
    seeds: int
    p_users: float
    bootstrap: tuple[float, float]


def paired_test(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return (t, two-sided p) of the paired t-test over users; (0, 1) where no user differs, nan for a single user.

    MusicRec claims a t-test and does not say over what (lineage 4); here it is over users.
    """
    from scipy import stats

    difference = _paired(a, b)
    if len(difference) < 2:
        return float("nan"), float("nan")
    error = standard_error(difference)
    if error == 0:
        return (0.0, 1.0) if not difference.any() else (float(np.sign(difference[0]) * np.inf), 0.0)
    t = difference.mean() / error
    return float(t), float(2 * stats.t.sf(abs(t), len(difference) - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values corrected for how many there are (Holm 1979): the chance of one false verdict stays below p.

    Those that are not a number are not counted and stay so.

    >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p, np.float64)
    kept = np.flatnonzero(~np.isnan(p))
    order = kept[np.argsort(p[kept], kind="stable")]
    corrected = np.full(len(p), np.nan)
    times = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(times * p[order]), 1.0)
    return corrected


def bootstrap_interval(values: np.ndarray, seed: int, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Return (low, high), the percentile interval of the mean of `values` [users] under resampled users."""
    values = np.asarray(values, np.float64)
    generator = seeds.generator(seed, "bootstrap")
    means = np.empty(draws)
    step = max(1, DRAWS_AT_ONCE // max(len(values), 1))
    for start in range(0, draws, step):
        part = means[start : start + step]
        part[:] = values[generator.integers(0, len(values), (len(part), len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean over users."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def spread_of(tables: Iterable[np.ndarray]) -> Spread | None:
    """Return the spread that rows have in common, from means [rows, seeds] of one or more groups of rows.

    Twice the mean square of what is left of a table without its rows' and its seeds' own means (analysis of variance
    with seeds as blocks): a difference of two rows has both rows' share. None where no table has two rows, two seeds.
    """
    squares, df = 0.0, 0
    for table in tables:
        left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
        squares, df = squares + float((left**2).sum()), df + (table.shape[0] - 1) * (table.shape[1] - 1)
    return Spread(2 * squares / df, df) if df > 0 else None


def compare(a: np.ndarray, b: np.ndarray, spread: Spread | None = None, seed: int = 0) -> Comparison:
    """Return the comparison of values [seeds, users] of the same users in the same order, and the same seeds.

    Users and seeds are crossed random effects: the variance of the mean difference is that of users' means, plus that
    of seeds' means, less what both hold of the rest; degrees of freedom after Satterthwaite.

    Args:
        spread: of the table that the rows stand in; by default the two rows' own.
        seed: of the bootstrap.
    """
    table = np.atleast_2d(_paired(a, b))
    n_seeds, n_users = table.shape
    of_users, of_seeds = table.mean(axis=0), table.mean(axis=1)
    about = _about(a, b, [of_users], seed)
    if n_seeds < 2 or n_users < 2:
        low, high = about.bootstrap if n_users > 1 else (float("nan"), float("nan"))
        return replace(about, low=low, high=high)
    rest = table - of_users - of_seeds[:, None] + table.mean()
    rest_part = float((rest**2).sum()) / ((n_users - 1) * (n_seeds - 1)) / table.size
    user_part = float(of_users.var(ddof=1)) / n_users
    spread = spread or Spread(float(of_seeds.var(ddof=1)), n_seeds - 1)
    seed_part = spread.variance / n_seeds
    variance = user_part + max(0.0, seed_part - rest_part)
    shares = user_part**2 / (n_users - 1) + seed_part**2 / spread.df
    return _tested(about, variance, variance**2 / shares if shares else 1.0)


def compare_worlds(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], spread: Spread | None = None, seed: int = 0
) -> Comparison:
    """Return the comparison over worlds with users of their own: values [seeds, users] of both rows in each world.

    A world is one observation, for its users, items and training are drawn together.
    """
    means = np.array([float(np.mean(a)) - float(np.mean(b)) for a, b in pairs])
    of_users = [np.atleast_2d(_paired(a, b)).mean(axis=0) for a, b in pairs]
    firsts, seconds = (np.concatenate([np.atleast_2d(pair[side]).mean(axis=0) for pair in pairs]) for side in (0, 1))
    about = _about(firsts, seconds, of_users, seed)
    about = replace(about, seeds=len(pairs), difference=float(means.mean()))
    spread = spread or Spread(float(means.var(ddof=1)), len(means) - 1)
    return _tested(about, spread.variance / len(means), spread.df)


def _about(a: np.ndarray, b: np.ndarray, of_users: Sequence[np.ndarray], seed: int) -> Comparison:
    """Return what is known without a law over seeds."""
    nan, values = float("nan"), np.concatenate(list(of_users))
    return Comparison(
        mean_a=float(np.mean(a)),
        mean_b=float(np.mean(b)),
        difference=float(values.mean()),
        low=nan,
        high=nan,
        p=nan,
        detectable=nan,
        users=len(values),
        seeds=len(np.atleast_2d(a)),
        p_users=paired_test(values, np.zeros_like(values))[1],
        bootstrap=bootstrap_interval(values, seed),
    )


def _tested(about: Comparison, variance: float, df: float) -> Comparison:
    """Return the comparison with the t law of a variance of its difference."""
    from scipy import stats

    error = float(np.sqrt(variance))
    reach = float(stats.t.ppf(0.975, df)) * error
    if error:
        p = float(2 * stats.t.sf(abs(about.difference) / error, df))
    else:
        p = 0.0 if about.difference else 1.0
    found = reach + float(stats.t.ppf(0.8, df)) * error
    return replace(about, low=about.difference - reach, high=about.difference + reach, p=p, detectable=found)


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape and a.size, f"not the same users: {a.shape} and {b.shape}"
    return a - b
