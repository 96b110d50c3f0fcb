"""From tables of runs to the independent units: source seeds.

Downstream seeds are nested in source seeds and averaged first. The primary outcome is *pooled*: one number a source seed,
the mean over its downstream seeds and over the numbers of labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from know.analysis.starts import Start
from know.analysis.statistics import mean_interval

SEEDS = ["source_seed", "downstream_seed"]
OF_STARTS = ("method", "steps")


def runs(table: pd.DataFrame, by: Sequence[str] = OF_STARTS, value: str = "accuracy") -> pd.DataFrame:
    """``value`` averaged over the numbers of labels; NaN where one of them is missing.

    Returns:
        Rows of ``by`` (of a table of starts: a row a ``Start``, in order); columns of source_seed, downstream_seed.
    """
    wide = table.pivot_table(index=list(by), columns=["fraction", *SEEDS], values=value)
    fractions = table.fraction.nunique()
    sums = wide.T.groupby(level=SEEDS).sum(min_count=fractions) / fractions
    found = sums.T.dropna(how="all")
    if tuple(by) != OF_STARTS:
        return found
    given = table.drop_duplicates(list(OF_STARTS)).to_dict("records")
    starts = {(row["method"], row["steps"]): Start.of(row) for row in given}
    found.index = pd.Index([starts[key] for key in found.index], dtype=object)
    return found.loc[sorted(found.index)]


def by_source(of_runs: pd.Series[float]) -> pd.Series[float]:
    """The mean over the downstream seeds of each source seed that has any: the independent units."""
    return of_runs.dropna().groupby(level="source_seed").mean()


def difference(of_runs: pd.DataFrame, one: object, other: object) -> pd.Series[float]:
    """Paired by both seeds, then averaged: a number a source seed that has both."""
    return by_source(of_runs.loc[one] - of_runs.loc[other])


def forgetting_drops(forgetting: pd.DataFrame, images: str = "test") -> pd.Series[float]:
    """For each source seed: accuracy of Θ_0 less that of the most forgotten Θ_{S-1} on ``images``."""
    own = forgetting[(forgetting.images == images) & (forgetting.k >= 0)]
    wide = own.pivot_table(index="source_seed", columns="k", values="accuracy")
    return (wide.iloc[:, 0] - wide.iloc[:, -1]).dropna()


def summary(table: pd.DataFrame, by: Sequence[str], values: Sequence[str], confidence: float) -> pd.DataFrame:
    """Means and intervals over source seeds: rows of ``by``, a column of each value and of its half width, and ``n``."""
    means = table.groupby([*by, "source_seed"], sort=False, dropna=False)[list(values)].mean()
    rows = []
    for key, own in means.groupby(level=list(range(len(by))), sort=False):
        row = dict(zip(by, key, strict=True))
        for name in values:
            estimate = mean_interval(own[name].dropna(), confidence)
            row |= {name: estimate.mean, f"{name}_half_width": estimate.half_width}
        rows.append(row | {"n": len(own)})
    return pd.DataFrame(rows)
