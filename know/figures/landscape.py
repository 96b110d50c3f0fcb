"""The figure of the loss around the path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from know.analysis.starts import label
from know.figures.registry import figure
from know.figures.style import BLACK, DASHES, HALO, PAGE, POINT, look_of, math, ordered

if TYPE_CHECKING:
    from know.report.results import Results


PAPER = LinearSegmentedColormap.from_list("paper", ["#FFFFFF", "#DDE3E8", "#9BA6B0"])


@figure(
    "landscape",
    "Source validation loss on the plane of the path's first two principal components, with the path of the first source seed and "
    "predictions from its Θ₀; only a shadow of each step lies on the plane, and the share that lies off it is in the legend.",
    needs=["landscape", "landscape_points", "landscape_axes"],
)
def landscape(results: Results) -> Figure:
    points = results["landscape_points"]
    present = set(points.method)
    candidate, norms = results.params.predict.judged, "shrink" if "shrink" in present else "shrunk"
    names = ordered(present & {"more_data", candidate, "linear", norms})
    figure, axes = plt.subplots(figsize=(PAGE, 2.75))
    path = points[points.method == "theta"].sort_values("steps", ascending=False)
    shown = points[points.method.isin([*names, "theta"])]
    filled = _loss(axes, results["landscape"], shown)
    axes.plot(path.x, path.y, color=BLACK, lw=1.4, marker="o", zorder=4, label=r"path $\Theta_k$" + _off(path))
    for name in names:
        look, steps = look_of(name), points[points.method == name].sort_values("steps")
        track = pd.concat([path.tail(1), steps])
        axes.plot(
            track.x, track.y, color=look.colour, ls=(0, DASHES[look.line]), lw=0 if name == "more_data" else 1.3,
            marker=look.marker, ms=look.size, mec="white", mew=0.5, markevery=slice(1, None), zorder=5, label=math(label(name)) + _off(steps),
        )  # fmt: skip
    for row in path.itertuples():
        axes.annotate(
            rf"$\Theta_{{{row.steps}}}$", (row.x, row.y), xytext=(-4, -4) if row.steps == 0 else (-4, 4), ha="right",
            va="top" if row.steps == 0 else "bottom", textcoords="offset points", path_effects=HALO, zorder=7,
        )  # fmt: skip
    share = results["landscape_axes"].set_index("axis").share
    axes.set_xlabel(f"first component ({POINT * share['x']:.0f} % of the path's variance)")
    axes.set_ylabel(f"second component ({POINT * share['y']:.0f} %)")
    bar = figure.colorbar(filled, ax=axes, pad=0.01, aspect=26)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks(list(filled.levels)[::4])
    bar.set_label("source validation loss")
    figure.legend(loc="outside right center", labelspacing=0.9, handlelength=2.2)
    return figure


def _off(steps: pd.DataFrame) -> str:
    """How much of the steps from Θ_0 the plane does not hold, for the legend."""
    shares = POINT * steps.off_plane.dropna()
    if shares.empty:
        return ""
    low, high = f"{shares.min():.0f}", f"{shares.max():.0f}"
    return f"\n{low if low == high else f'{low}–{high}'} % off the plane"


def _loss(axes: Axes, grid: pd.DataFrame, shown: pd.DataFrame) -> QuadContourSet:
    """Contours of the loss around the ``shown`` points, as far as the grid reaches; darker is higher."""
    wide = grid.pivot_table(index="y", columns="x", values="loss", dropna=False)
    losses = np.nan_to_num(wide.to_numpy(float), nan=np.inf)
    floor, finite = max(float(losses.min()), 1e-9), losses[np.isfinite(losses)]
    cap = max(float(np.quantile(finite, 0.85)), 1.3 * float(shown.loss[shown.method == "theta"].max()), 1.05 * floor)
    levels, clipped = np.geomspace(floor, cap, 13), np.clip(losses, floor, 10 * cap)
    filled = axes.contourf(wide.columns, wide.index, clipped, levels=levels, norm=LogNorm(), cmap=PAPER, extend="max")
    axes.contour(wide.columns, wide.index, clipped, levels=levels, colors="0.55", linewidths=0.4)
    for axis, ends, values in (("x", wide.columns, shown.x), ("y", wide.index, shown.y)):
        margin = 0.15 * (values.max() - values.min())
        axes.set(**{f"{axis}lim": (max(ends.min(), values.min() - margin), min(ends.max(), values.max() + margin))})
    axes.grid(False)
    axes.spines[:].set_visible(True)
    axes.locator_params(nbins=6)
    return filled
