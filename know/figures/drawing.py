"""Pieces that several figures are drawn from: bands of intervals, axis limits that outliers do not set, cut-off marks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from know.statistics import mean_interval

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


def mark_cut(axes: Axes, cuts: Iterable[Cut], text: str = "{:.1f}") -> None:
    """A triangle at the lower or upper border for each value beyond it, with the values stacked over its place."""
    low, high = axes.get_ylim()
    stacked: dict[tuple[int, bool], int] = {}
    for cut in sorted(cuts, key=lambda cut: (cut.at, cut.value)):
        below = cut.value < low
        if low <= cut.value <= high:
            continue
        axes.plot(
            cut.at,
            low if below else high,
            marker="v" if below else "^",
            ms=4.5,
            color=cut.colour,
            clip_on=False,
            zorder=5,
        )
        place = (round(cut.at), below)
        level = stacked[place] = stacked.get(place, -1) + 1
        axes.annotate(
            text.format(cut.value).replace("-", "−"),
            (place[0], low if below else high),
            xytext=(0, (5 + 6.5 * level) * (1 if below else -1)),
            textcoords="offset points",
            ha="center",
            va="bottom" if below else "top",
            fontsize=6.5,
            color=cut.colour,
            path_effects=HALO,
            zorder=6,
        )


def place_labels(axes: Axes, points: ArrayLike, texts: Sequence[str], avoid: ArrayLike, **style: Any) -> None:
    """Write each text next to its point (n, 2), in the direction in which the other points and texts are farthest.

    The axes must have their final limits. ``avoid``: (m, 2) more points to keep off.
    """
    pixels = axes.transData.transform
    anchors, unit = pixels(np.asarray(points, dtype=float)), axes.figure.dpi / 72
    taken = [*anchors, *pixels(np.asarray(avoid, dtype=float).reshape(-1, 2))]
    low, high = axes.bbox.get_points()
    for anchor, text in zip(anchors, texts, strict=True):
        spots = [
            anchor + unit * distance * np.array([np.cos(angle), np.sin(angle)])
            for distance, angle in product((9, 13), np.arange(0, 2 * np.pi, np.pi / 6))
        ]
        inside = [s for s in spots if np.all(s > low + 6 * unit) and np.all(s < high - 6 * unit)] or spots
        spot = max(inside, key=lambda s: min(float(np.hypot(*(s - other))) for other in taken))
        taken.append(spot)
        axes.annotate(
            text, anchor, xytext=(spot - anchor) / unit, textcoords="offset points", ha="center", va="center",
            path_effects=HALO, zorder=7, **style,
        )  # fmt: skip
