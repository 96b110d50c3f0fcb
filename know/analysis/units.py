"""From tables of runs to the independent units: source seeds.

Downstream seeds are nested in source seeds and averaged first: one number a source seed. The primary outcome is that with all
labels; a smaller share of them is a question of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from know.analysis.starts import Start
from know.analysis.statistics import mean_interval

SEEDS = ["source_seed", "downstream_seed"]
OF_STARTS = ("method", "steps")


def runs(table: pd.DataFrame, by: Sequence[str] = OF_STARTS, value: str = "accuracy") -> pd.DataFrame:
    """``value`` with all labels: of the largest share of them in the table.

    Returns:
        Rows of ``by`` (of a table of starts: a row a ``Start``, in order); columns of source_seed, downstream_seed.
    """
    full = with_all_labels(table)
    if tuple(by) != OF_STARTS:
        return full.pivot_table(index=list(by), columns=SEEDS, values=value)
    names = [name for name in (*OF_STARTS, "role", "batchnorm", "crossed") if name in full]
    given = list(full[names].fillna("").itertuples(index=False, name=None))
    of_row = {row: Start.of(dict(zip(names, row, strict=True))) for row in dict.fromkeys(given)}
    order = sorted(set(of_row.values()))
    places = [order.index(of_row[row]) for row in given]
    found = full.assign(start=places).pivot_table(index="start", columns=SEEDS, values=value)
    found.index = pd.Index([order[place] for place in found.index], dtype=object)
    return found


def with_all_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with the largest share of the labels."""
    return table[table.fraction == table.fraction.max()]


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
