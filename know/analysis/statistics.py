"""Means with intervals and paired comparisons over nested seeds.

Downstream seeds share a source seed's Θ_0, so they are not independent draws of the whole procedure. The unit is the
source seed: downstream seeds are averaged first, and Student's t is used over the source seeds. In a balanced design
this is the analysis of the mixed model y = μ + a(source seed) + ε by exact t intervals: with n source seeds of m
downstream seeds each, the source seeds' means are independent and normal with variance σ_a² + σ_ε²/m, which is all that
μ's interval depends on. A mixed model fitted by REML has the same estimate and standard error, but takes the normal
quantile, too narrow for few seeds; the nested bootstrap resamples the few seeds there are, and is mostly too narrow.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import gammaln

EQUAL = 1e-12
"""Shares that differ by less are equal but for rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean, half its interval's width, and how many independent units it rests on."""

    mean: float
    half_width: float
    units: int

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half_width


@dataclass(frozen=True)
class Interval:
    """A value, an interval that need not be symmetric, and how many independent units it rests on."""

    value: float
    low: float
    high: float
    units: int

    @property
    def bounded(self) -> bool:
        """False if the data do not bound the value at this confidence."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def mean_interval(values: "np.ndarray | pd.Series[float]", confidence: float = 0.95) -> Estimate:
    """The mean of ``values`` (n,) and Student's t interval with n - 1 degrees of freedom (infinite for n = 1)."""
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Estimate(float(array.mean()), float("inf"), n)
    half = stats.t.ppf(0.5 + confidence / 2, n - 1) * array.std(ddof=1) / np.sqrt(n)
    return Estimate(float(array.mean()), float(half), n)


def nested_bootstrap(values: ArrayLike, confidence: float = 0.95, resamples: int = 5000, seed: int = 0) -> Interval:
    """The mean of ``values`` (source seeds, downstream seeds) and its percentile interval by a nested bootstrap.

    Source seeds are drawn with replacement, then downstream seeds within each. It assumes no distribution, but needs
    many source seeds: of 5 × 3 normal values its 95 % intervals cover 97 % (source seeds do not differ) to 83 % (only
    they do). ``mean_interval`` of the source seeds' means is the one to report; this is a check on it.

    Raises:
        ValueError: the design is not balanced, that is, ``values`` is not a matrix or has gaps.
    """
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or np.isnan(matrix).any():
        raise ValueError("nested_bootstrap needs a value for each downstream seed of each source seed, as a matrix")
    rng, (sources, downstreams) = np.random.default_rng(seed), matrix.shape
    outer = rng.integers(sources, size=(resamples, sources, 1))
    inner = rng.integers(downstreams, size=(resamples, sources, downstreams))
    means = matrix[outer, inner].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(matrix.mean()), float(low), float(high), sources)


def mixed_model(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of ``values`` (source seeds, downstream seeds; NaN: missing) by a mixed model, a random intercept a source
    seed, fitted by REML, with its normal interval.

    Where source seeds differ no more than chance has it, their variance is estimated as 0 and the model is that of
    independent values. ``mean_interval`` of the source seeds' means is the one to report; this is a check on it. The interval
    has no bound where there is but one source seed, or the fit fails.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM  # half a second, and few need it

    matrix = np.asarray(values, dtype=float)
    present, sources = ~np.isnan(matrix), len(matrix)
    y, groups = matrix[present], np.nonzero(present)[0]
    mean, spread = float(y.mean()), float(y.std())
    if sources < 2 or spread < EQUAL:
        end = 0.0 if sources > 1 else float("inf")
        return Interval(mean, mean - end, mean + end, sources)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a variance at its boundary
        try:
            # In units of the spread, in which the optimiser's tolerances are meant.
            fit = MixedLM((y - mean) / spread, np.ones_like(y), groups).fit(reml=True)
            centre, error = float(fit.fe_params[0]), float(fit.bse_fe[0])
        except (np.linalg.LinAlgError, ValueError):
            centre, error = 0.0, float("nan")
    if not np.isfinite(error):
        return Interval(mean, float("-inf"), float("inf"), sources)
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * error
    return Interval(mean + spread * centre, mean + spread * (centre - half), mean + spread * (centre + half), sources)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, confidence: float = 0.95) -> Interval:
    """The ratio of the means of paired values (n,) and Fieller's interval, exact for normal pairs.

    If the denominators' own interval covers 0, no finite interval has the confidence asked for: it is unbounded.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    n, ratio = len(top), float(top.mean() / bottom.mean()) if bottom.mean() else float("nan")
    if n < 2:
        return Interval(ratio, float("-inf"), float("inf"), n)
    # All ρ with |mean(top - ρ·bottom)| ≤ t·sem(top - ρ·bottom): a ρ² - 2 b ρ + c ≤ 0.
    covariance = stats.t.ppf(0.5 + confidence / 2, n - 1) ** 2 * np.cov(top, bottom) / n
    a, b, c = (
        bottom.mean() ** 2 - covariance[1, 1],
        top.mean() * bottom.mean() - covariance[0, 1],
        top.mean() ** 2 - covariance[0, 0],
    )
    if a <= 0:
        return Interval(ratio, float("-inf"), float("inf"), n)
    root = np.sqrt(max(b**2 - a * c, 0.0))
    return Interval(ratio, float((b - root) / a), float((b + root) / a), n)


def recovery(predicted: ArrayLike, naive: ArrayLike, real: ArrayLike, confidence: float = 0.95) -> Interval:
    """The recovery ratio (acc(Θ̂_{-1}) - acc(Θ_0)) / (acc(Θ_{-1}) - acc(Θ_0)) with its interval, over source seeds (n,).

    0: no better than naïve transfer; 1: as good as the real Θ_{-1}. Unbounded where more data does not clearly help,
    for then there is nothing to recover. Where it clearly harms, the sign of both differences turns: look at those.
    """
    base = np.asarray(naive, dtype=float)
    return ratio_interval(np.asarray(predicted) - base, np.asarray(real) - base, confidence)


def paired_p(differences: "np.ndarray | pd.Series[float]") -> float:
    """Two-sided p value of the paired t test that the mean difference is 0 (1 if there is but one; of equal ones 1 if they
    are 0, else 0)."""
    array = np.asarray(differences, dtype=float)
    if len(array) < 2 or np.ptp(array) < EQUAL:
        return float(len(array) < 2 or abs(array.mean()) < EQUAL)
    return float(stats.ttest_1samp(array, 0.0).pvalue)


def holm(p_values: "pd.Series[float]") -> "pd.Series[float]":
    """Holm's adjusted p values of one family of comparisons, in the same order; those that are NaN are not in it."""
    from statsmodels.stats.multitest import multipletests  # half a second, and few need it

    adjusted, tested = p_values.astype(float), p_values.notna()
    if tested.any():
        adjusted[tested] = multipletests(p_values[tested], method="holm")[1]
    return adjusted


def effect_size(differences: ArrayLike) -> float:
    """Hedges' g of paired differences (n,): Cohen's d_z = mean/sd, times J(n - 1), which takes off its bias.

    J(m) = Γ(m/2) / (√(m/2) Γ((m-1)/2)) (Hedges, 1981). NaN for fewer than 3 differences, or equal ones.
    """
    array = np.asarray(differences, dtype=float)
    m = len(array) - 1
    if m < 2 or np.ptp(array) < EQUAL:
        return float("nan")
    correction = np.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / np.sqrt(m / 2)
    return float(correction * array.mean() / array.std(ddof=1))
