"""Means with intervals and paired comparisons over nested seeds.

Downstream seeds share a source seed's Θ_0, so they are not independent draws of the whole procedure. The unit is the
source seed: downstream seeds are averaged first, and Student's t is used over the source seeds.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean, half its interval's width, and how many independent units it rests on."""

    mean: float
    half_width: float
    units: int

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half_width


def mean_interval(values: "np.ndarray | pd.Series[float]", confidence: float = 0.95) -> Estimate:
    """The mean of ``values`` (n,) and Student's t interval with n - 1 degrees of freedom (infinite for n = 1)."""
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Estimate(float(array.mean()), float("inf"), n)
    half = stats.t.ppf(0.5 + confidence / 2, n - 1) * array.std(ddof=1) / np.sqrt(n)
    return Estimate(float(array.mean()), float(half), n)


def paired_p(differences: "np.ndarray | pd.Series[float]") -> float:
    """Two-sided p value of the paired t test that the mean difference is 0 (1 if all are 0 or there is but one)."""
    array = np.asarray(differences, dtype=float)
    if len(array) < 2 or np.all(array == 0):
        return 1.0
    return float(stats.ttest_1samp(array, 0.0).pvalue)
