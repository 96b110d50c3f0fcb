"""Figures of the bench."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from know.analysis.statistics import mean_interval
from know.figures.style import BLUE, COLUMN, GREY, zero_line


def cosine_by_halves(directions: pd.DataFrame, confidence: float) -> Figure:
    """Cosine of the jackknife's step with the real one against the number of halves: each trajectory, and the mean with its
    interval.

    Args:
        directions: task, architecture, number, halves, cosine. A row a trajectory and number of halves.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.4))
    for _, one in directions.groupby(["task", "architecture", "number"]):
        axes.plot(one.halves, one.cosine, color=GREY, lw=0.6, alpha=0.45, zorder=2)
    halves, found = [], []
    for count, rows in directions.groupby("halves"):
        halves.append(count)
        found.append(mean_interval(rows.cosine, confidence))
    axes.errorbar(
        halves, [one.mean for one in found], [one.half_width for one in found], color=BLUE, marker="o", ms=5, mew=0,
        elinewidth=1.4, zorder=4,
    )  # fmt: skip
    zero_line(axes, vertical=False)
    axes.set(xscale="log", xlabel="complementary halves $B$", ylabel="cosine with the real step")
    axes.set_xticks(halves, [f"{count:g}" for count in halves])
    axes.xaxis.set_minor_locator(NullLocator())
    return figure
