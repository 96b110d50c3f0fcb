"""Pieces that several figures are drawn from: bands of intervals, axis limits that outliers do not set, cut-off marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike

from know.analysis.statistics import mean_interval

HALO = [patheffects.withStroke(linewidth=1.6, foreground="white")]


class Cut(NamedTuple):
    """A value that lies beyond the axis, and where along the other axis it belongs."""

    at: float
    value: float
    colour: str


def band(axes: Axes, x: Sequence[float], samples: Sequence[Any], confidence: float, **style: Any) -> None:
    """A line through the means of ``samples`` with a band for their intervals; on a log axis both are of the logs."""
    log = axes.get_yscale() == "log"
    estimates = [mean_interval(np.log(sample) if log else np.asarray(sample), confidence) for sample in samples]
    mean = np.array([e.mean for e in estimates])
    half = bounded([e.half_width for e in estimates])
    middle, low, high = (np.exp(v) if log else v for v in (mean, mean - half, mean + half))
    (line,) = axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def bounded(half_widths: ArrayLike) -> np.ndarray:
    """Half widths to draw: 0, that is nothing, for a single seed's infinite one."""
    array = np.asarray(half_widths, dtype=float)
    return np.where(np.isfinite(array), array, 0.0)


def by_source(table: pd.DataFrame, value: str = "accuracy") -> pd.Series[float]:
    """``value`` of each source seed, the independent unit: the mean over its downstream seeds."""
    return table.groupby(table.seed // 1000)[value].mean()


def by_labels(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each number of labels with its title, in ascending order; of anything else, "pooled", last."""
    numbers = pd.to_numeric(table["labels"], errors="coerce")
    for number in sorted(numbers.dropna().unique()):
        yield f"{number:g} labels", table[numbers == number]
    if numbers.isna().any():
        yield "pooled", table[numbers.isna()]


def window(core: ArrayLike, others: ArrayLike = (), reach: float = 1.0, least: float = 0.0) -> tuple[float, float]:
    """Axis limits with a margin around all of ``core`` and those of ``others`` near it, NaN and infinities left out.

    Near: no farther from ``core``'s range than ``reach`` times the larger of its width and ``least``.
    """
    inner, outer = (np.asarray(values, dtype=float).ravel() for values in (core, others))
    inner = inner[np.isfinite(inner)]
    low, high = (inner.min(), inner.max()) if len(inner) else (0.0, 0.0)
    far = reach * max(high - low, least)
    near = outer[(outer >= low - far) & (outer <= high + far)]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.07 * (high - low) or max(0.5 * least, 0.05 * abs(low), 1e-3)
    return float(low - margin), float(high + margin)


def ticks_within(low: float, high: float) -> FixedLocator:
    """Up to five round ticks, none of them beyond ``low`` and ``high``, where a margin may follow."""
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return FixedLocator([tick for tick in ticks if low <= tick <= high])


def cut_off(
    panels: Mapping[Axes, Sequence[Cut]], limits: tuple[float, float], text: str = "{:.1f}", line: float = 0.1
) -> bool:
    """Give ``panels``, which share their y axis, these limits, and a shaded margin for the values beyond them.

    There each has a triangle at the border and its value, those of the same place (x to the nearest integer) stacked.

    Args:
        line: the share of the panel's height that a line of such text needs.

    Returns:
        Whether there was anything to cut.
    """
    low, high = limits
    stacks: dict[tuple[Axes, int, bool], list[Cut]] = {}
    for axes, cuts in panels.items():
        for cut in sorted(cuts, key=lambda cut: cut.value):
            if not low <= cut.value <= high:
                stacks.setdefault((axes, round(cut.at), cut.value < low), []).append(cut)
    unit = line * (high - low)
    depth = {
        side: max([len(s) for (*_, below), s in stacks.items() if below is side], default=0) for side in (True, False)
    }
    edges = {side: unit * (0.8 + deep) if deep else 0.0 for side, deep in depth.items()}
    for axes in panels:
        axes.set_ylim(low - edges[True], high + edges[False])
        axes.yaxis.set_major_locator(ticks_within(low, high))
        for edge in [(low - edges[True], low)] * (depth[True] > 0) + [(high, high + edges[False])] * (depth[False] > 0):
            axes.axhspan(*edge, color="0.95", lw=0, zorder=2.4)  # over lines on their way out, under the spines
    for (axes, place, below), stack in stacks.items():
        border, away = (low, -1) if below else (high, 1)
        for level, cut in enumerate(stack[::-1] if below else stack):
            axes.plot(
                cut.at, border + 0.3 * away * unit, marker="v" if below else "^", ms=4.2, color=cut.colour, zorder=5
            )
            axes.text(
                place, border + away * unit * (1.2 + level), text.format(cut.value).replace("-", "−"), ha="center",
                va="center", fontsize=6.5, color=cut.colour, path_effects=HALO, zorder=6,
            )  # fmt: skip
    return bool(stacks)


def place_labels(axes: Axes, points: ArrayLike, texts: Sequence[str], avoid: ArrayLike, **style: Any) -> None:
    """Write each text next to its point (n, 2), in the direction in which the other points and texts are farthest.

    The axes must have their final limits. ``avoid``: (m, 2) more points to keep off.
    """
    pixels = axes.transData.transform
    data = np.asarray(points, dtype=float).reshape(-1, 2)
    anchors, unit = pixels(data), axes.figure.dpi / 72
    taken = [*anchors, *pixels(np.asarray(avoid, dtype=float).reshape(-1, 2))]
    low, high = axes.bbox.get_points()
    for point, anchor, text in zip(data, anchors, texts, strict=True):
        spots = [
            anchor + unit * distance * np.array([np.cos(angle), np.sin(angle)])
            for distance, angle in product((9, 13), np.arange(0, 2 * np.pi, np.pi / 6))
        ]
        inside = [s for s in spots if np.all(s > low + 6 * unit) and np.all(s < high - 6 * unit)] or spots
        spot = max(inside, key=lambda s: min(float(np.hypot(*(s - other))) for other in taken))
        taken.append(spot)
        axes.annotate(
            text, tuple(point), xytext=tuple((spot - anchor) / unit), textcoords="offset points", ha="center", va="center",
            path_effects=HALO, zorder=7, **style,
        )  # fmt: skip
