"""Figures of the weights themselves: the loss around the path, predicted steps beside real ones, what KNOWN computes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from know.report.figures.drawing import HALO, Cut, band, cut_off, place_labels, window
from know.report.figures.style import (
    BLACK,
    KIND_COLOUR,
    PAGE,
    label,
    math_label,
    ordered,
    style_of,
    virtual,
)


def predictions(table: pd.DataFrame, rate: float, confidence: float) -> Figure:
    """How predictions move the weights: norm relative to Θ_0 by kind, and the source accuracy that remains.

    KNOWN's band is the interval over source seeds. The scale follows KNOWN; what lies far off is cut, with its value.
    """
    kinds = [kind for kind in KIND_COLOUR if kind in set(table.kind)]
    figure, panels = plt.subplots(1, len(kinds) + 1, figsize=(PAGE, 3.0))
    methods = [m for m in ordered(table.method) if m not in ("naive", "more_data", "scratch")]
    steps = sorted(table.step[table.method.isin(methods)].unique())
    nets = table.drop_duplicates(["seed", "method", "step"])
    for axes, kind in zip(panels, [*kinds, ""], strict=True):
        norms = bool(kind)
        source = (
            table[table.kind == kind].assign(y=table.norm_ratio) if norms else nets.assign(y=100 * nets.source_accuracy)
        )
        start = source.y[source.method == "naive"] if not norms else pd.Series([1.0])
        means = source[source.method.isin(methods)].groupby(["method", "step"]).y.mean()
        core = means[means.index.get_level_values("method") == "known"]
        if norms:
            limits = window([1.0, *core], means, 2.5, 0.02)
            axes.set(title=kind, ylabel=r"$\|\hat\Theta\|\,/\,\|\Theta_0\|$" if kind == kinds[0] else "")
        else:
            limits = 0.0, 103.0
            axes.set(title="before fine-tuning", ylabel="source accuracy (%)")
        cuts = []
        for i, method in enumerate(methods):
            if norms and method == "shrunk":
                continue  # KNOWN's norms, by construction
            style, own = style_of(method), means[method]
            if method == "known":
                samples = [start, *(source.y[(source.method == method) & (source.step == s)] for s in own.index)]
                band(axes, [0, *own.index], samples, confidence, color=style.colour, zorder=2.2)
            axes.plot(
                [0, *own.index], [start.mean(), *own], color=style.colour, ls=style.line, marker=style.marker, ms=3.2,
                lw=1.1, zorder=2.1,
            )  # fmt: skip
            cuts += [Cut(s + 0.06 * (i - len(methods) / 2), value, style.colour) for s, value in own.items()]
        cut_off({axes: cuts}, limits, "{:.2f}", 0.07)
        axes.set(xticks=[0, *steps], xlabel="virtual data", xlim=(-0.3, max([1, *steps]) + 0.5))
        axes.set_xticklabels(["×1", *(virtual(step, rate) for step in steps)])
    handles = [
        plt.Line2D([], [], color=s.colour, ls=s.line, marker=s.marker, ms=3.2, lw=1.1, label=math_label(m))
        for m, s in ((m, style_of(m)) for m in methods)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


PAPER = LinearSegmentedColormap.from_list("paper", ["#FFFFFF", "#DDE3E8", "#9BA6B0"])


class Limits(NamedTuple):
    """A rectangle of the plane."""

    left: float
    right: float
    bottom: float
    top: float

    def exit(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Where the segment from a point ``inside`` (2,) to one ``outside`` crosses the border."""
        delta = np.where(outside == inside, 1e-300, outside - inside)
        low, high = np.array([self.left, self.bottom]), np.array([self.right, self.top])
        return inside + delta * min(1.0, float(np.maximum((low - inside) / delta, (high - inside) / delta).min()))

    def holds(self, points: np.ndarray) -> np.ndarray:
        """For each of ``points`` (n, 2), whether it is within."""
        x, y = points[:, 0], points[:, 1]
        return (x >= self.left) & (x <= self.right) & (y >= self.bottom) & (y <= self.top)


def landscape(grid: pd.DataFrame, points: pd.DataFrame, axes_share: pd.DataFrame) -> Figure:
    """Source loss on the PCA plane of the path, with the path Θ_{S-1} … Θ_0 and every prediction's steps from Θ_0.

    Left the whole grid, right the surroundings of Θ_0. Both axes have one scale unless the grid is more than twice as long
    as high. A prediction that leaves a panel ends in an arrow at its border, and the legend says how many of its steps lie
    beyond the grid. A path of two weights spans no plane; then the figure says so.

    Args:
        grid: x, y, loss on a rectangular grid, or nothing.
        points: method, steps, x, y; the path's are of method "theta", with k as steps.
        axes_share: axis ("x", "y"), share of the path's variance.
    """
    if grid.empty:
        figure = plt.figure(figsize=(PAGE, 0.5))
        figure.text(0.5, 0.5, "a path of two weights spans no plane", ha="center", va="center")
        return figure
    wide = grid.pivot_table(index="y", columns="x", values="loss", dropna=False)
    whole = Limits(wide.columns.min(), wide.columns.max(), wide.index.min(), wide.index.max())
    path = points[points.method == "theta"].sort_values("steps", ascending=False)
    theta = path[["x", "y"]].to_numpy(float)
    predicted = {m: points[points.method == m].sort_values("steps") for m in ordered(points.method)}
    predicted = {m: rows[["x", "y"]].to_numpy(float) for m, rows in predicted.items() if m not in ("theta", "naive")}
    shape = float(np.clip((whole.top - whole.bottom) / (whole.right - whole.left), 0.5, 1.1))
    near = _surroundings(theta[-1], predicted, whole)
    height = 2.65 * shape + 0.16 * -(-(len(predicted) + 1) // 4) + 0.85
    figure, panels = plt.subplots(1, 2, figsize=(PAGE, height))
    losses = np.nan_to_num(wide.to_numpy(float), nan=np.inf)
    floor = max(float(losses.min()), 1e-9)
    on_path = float(path.loss.max()) if "loss" in path and path.loss.notna().all() else 0.0
    cap = max(float(np.quantile(losses[np.isfinite(losses)], 0.85)), 1.3 * on_path, 1.05 * floor)
    levels = np.geomspace(floor, cap, 13)
    for axes, limits in zip(panels, (whole, near), strict=True):
        shown = np.clip(losses, floor, 10 * cap)
        filled = axes.contourf(wide.columns, wide.index, shown, levels=levels, norm=LogNorm(), cmap=PAPER, extend="max")
        axes.contour(wide.columns, wide.index, shown, levels=levels, colors="0.55", linewidths=0.4)
        axes.set(xlim=limits[:2], ylim=limits[2:], box_aspect=shape)
        axes.grid(False)
        axes.spines[:].set_visible(True)
        axes.locator_params(nbins=5)
        axes.plot(*theta.T, color=BLACK, lw=1.4, marker="o", ms=4, zorder=4)
        for method, steps in predicted.items():
            _departure(axes, limits, theta[-1], steps, method, 2.6 if axes is panels[0] else 4.2)
    panels[0].set_title("path")
    panels[1].set_title(r"around $\Theta_0$")
    panels[0].add_patch(
        Rectangle((near.left, near.bottom), near.right - near.left, near.top - near.bottom, fc="none", ec=BLACK, lw=0.7, ls="--", zorder=5)
    )  # fmt: skip
    share = axes_share.set_index("axis").share
    for axes in panels:
        axes.set_xlabel(f"first component ({100 * share['x']:.0f} % of the path's variance)")
    panels[0].set_ylabel(f"second component ({100 * share['y']:.0f} %)")
    bar = figure.colorbar(filled, ax=list(panels), pad=0.015, aspect=28, shrink=0.85)
    bar.ax.yaxis.set_major_locator(FixedLocator(_nice_between(floor, cap)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("source validation loss")
    handles = [plt.Line2D([], [], color=BLACK, marker="o", ms=4, label=r"path $\Theta_k$")]
    for method, steps in predicted.items():
        style, beyond = style_of(method), int((~whole.holds(steps)).sum())
        handles.append(
            plt.Line2D(
                [], [], color=style.colour, ls="" if method == "more_data" else style.line, lw=1.1,
                marker=style.marker, ms=8 if style.marker == "*" else 4,
                label=math_label(method) + (f" ({beyond} beyond)" if beyond else ""),
            )
        )  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5, columnspacing=1.2)
    figure.draw_without_rendering()  # labels are placed in pixels, so the layout must be final
    for axes, limits in zip(panels, (whole, near), strict=True):
        inside = limits.holds(theta)
        names = [rf"$\Theta_{{{k:g}}}$" for k in path.steps[inside]]
        tracks = [theta, *(np.vstack([theta[-1:], steps]) for steps in predicted.values())]
        lines = np.concatenate([np.linspace(a, b, 25) for track in tracks for a, b in pairwise(track)])
        drawn = lines[limits.holds(lines)]
        place_labels(axes, theta[inside], names, drawn, fontsize=8.5)
    return figure


def _surroundings(centre: np.ndarray, predicted: dict[str, np.ndarray], whole: Limits) -> Limits:
    """A part of the plane around Θ_0 of the whole's shape that holds most predictions and all of KNOWN's, within the grid."""
    width, height = whole.right - whole.left, whole.top - whole.bottom
    reach = {m: np.abs((steps - centre) / (width, height)).max(axis=1) for m, steps in predicted.items()}
    usual = np.quantile(np.concatenate(list(reach.values())), 0.8) if reach else 0.1
    half = float(np.clip(1.15 * max(usual, *reach.get("known", [0.0]), 0.0), 0.03, 0.35))
    low, high = np.array([whole.left, whole.bottom]), np.array([whole.right, whole.top])
    size = np.array([width, height])
    middle = np.clip(centre, low + half * size, high - half * size)
    left, bottom = middle - half * size
    right, top = middle + half * size
    return Limits(left, right, bottom, top)


def _departure(axes: Axes, limits: Limits, start: np.ndarray, steps: np.ndarray, method: str, size: float) -> None:
    """A prediction's steps from ``start``, up to the border if they leave it, with an arrow there."""
    style, track = style_of(method), np.vstack([start, steps])
    inside = limits.holds(track)
    if not inside[0]:
        return
    last = int(np.argmin(inside)) if not inside.all() else len(track)
    shown = track[:last]
    look: dict[str, Any] = {"color": style.colour, "lw": 1.1, "ls": style.line, "zorder": 5}
    if method != "more_data":
        axes.plot(*shown.T, **look)
    axes.plot(
        *shown[1:].T, ls="", marker=style.marker, color=style.colour, ms=2 * size if method == "more_data" else size, zorder=6,
        mec="white", mew=0.4,
    )  # fmt: skip
    if last < len(track):
        border = limits.exit(shown[-1], track[last])
        axes.plot(*np.vstack([shown[-1], border]).T, **look)
        length = 0.06 * min(limits.right - limits.left, limits.top - limits.bottom)
        tail = border - length * (track[last] - shown[-1]) / np.hypot(*(track[last] - shown[-1]))
        arrow = {"arrowstyle": "-|>", "color": style.colour, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", tuple(border), xytext=tuple(tail), arrowprops=arrow, annotation_clip=False, zorder=6)


def _nice_between(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``, or the two ends if there are too few."""
    tens = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    nice = [float(f"{ten * digit:.3g}") for ten in tens for digit in (1, 2, 5) if low <= ten * digit <= high]
    return nice if len(nice) > 1 else [float(f"{low:.3g}"), float(f"{high:.3g}")]


def steps(sample: pd.DataFrame, geometry: pd.DataFrame) -> Figure:
    """Predicted against real steps of single weights: a row for KNOWN and one for linear, a column a kind.

    Both axes of a kind go to the 99th percentile of its real steps; the share of weights beyond is written where it is
    1 % or more. The cosine of the whole kind's steps is the mean over source seeds.

    Args:
        sample: method, kind, predicted, real.
        geometry: method, kind, layer ("all": the whole kind), cosine.
    """
    kinds = [kind for kind in KIND_COLOUR if kind in set(sample.kind)]
    present = ordered(sample.method)
    methods = [m for m in ("known", "linear") if m in present] or present[:2]
    cosines = geometry[geometry.layer == "all"].groupby(["method", "kind"]).cosine.mean()
    figure, panels = plt.subplots(
        len(methods), len(kinds), figsize=(PAGE, 1.85 * len(methods) + 0.1), squeeze=False, sharex="col", sharey="col"
    )
    for column, kind in zip(panels.T, kinds, strict=True):
        real = sample.real[(sample.kind == kind) & sample.method.isin(methods)]
        limit = float(np.nanquantile(real.abs(), 0.99)) or 1e-6
        for axes, method in zip(column, methods, strict=True):
            rows = sample[(sample.kind == kind) & (sample.method == method)]
            colour = style_of(method).colour
            outside = float(((rows.real.abs() > limit) | (rows.predicted.abs() > limit)).mean())
            if len(rows) > 400:
                shades = LinearSegmentedColormap.from_list(method, ["#F2F2F2", colour, "#1A1A1A"])
                axes.hexbin(
                    rows.real, rows.predicted, gridsize=34, extent=(-limit, limit, -limit, limit), bins="log",
                    mincnt=1, cmap=shades, linewidths=0.1,
                )  # fmt: skip
            else:
                axes.scatter(rows.real, rows.predicted, s=7, color=colour, alpha=0.6, lw=0)
            axes.axhline(0, color=BLACK, lw=0.7, zorder=3)
            axes.plot([-limit, limit], [-limit, limit], color=BLACK, lw=0.8, ls="--", zorder=3)
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), box_aspect=1)
            axes.locator_params(nbins=4)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
            text = f"cosine {cosines[method, kind]:.2f}" if (method, kind) in cosines.index else ""
            text += f"\n{100 * outside:.0f} % beyond" if outside >= 0.01 else ""
            axes.text(
                0.04, 0.97, text.strip(), transform=axes.transAxes, va="top", fontsize=8, path_effects=HALO, zorder=5
            )
        column[0].set_title(kind)
        column[-1].set_xlabel(r"real step $\Theta_{-1}-\Theta_0$")
    for axes, method in zip(panels[:, 0], methods, strict=True):
        axes.set_ylabel(f"{label(method)}:\npredicted step")
    return figure


def response(table: pd.DataFrame) -> Figure:
    """What KNOWN adds to the last weight of a straight path, over its level and slope, above what linear extrapolation adds.

    The colours of a kind span KNOWN's largest change, so linear's may exceed them. Solid: no change; dotted: where the
    change equals the slope, that is, where KNOWN is linear.

    Args:
        table: kind, level, slope, residual, linear, on a grid.
    """
    kinds = [kind for kind in KIND_COLOUR if kind in set(table.kind)]
    rows = (("residual", "KNOWN adds"), ("linear", "linear adds"))
    figure, panels = plt.subplots(2, len(kinds), figsize=(PAGE, 3.7), squeeze=False, sharex="col", sharey="col")
    for column, kind in zip(panels.T, kinds, strict=True):
        part = table[table.kind == kind]
        limit = float(part.residual.abs().quantile(0.995)) or 1e-9
        for axes, (value, _) in zip(column, rows, strict=True):
            wide = part.pivot_table(index="slope", columns="level", values=value)
            mesh = axes.pcolormesh(
                wide.columns,
                wide.index,
                wide,
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                shading="nearest",
                rasterized=True,
            )
            if wide.to_numpy().min() < 0 < wide.to_numpy().max():
                axes.contour(wide.columns, wide.index, wide, levels=[0], colors=BLACK, linewidths=1.1)
            if value == "residual":
                excess = wide.sub(wide.index.to_series(), axis=0)
                if excess.to_numpy().min() < 0 < excess.to_numpy().max():
                    axes.contour(
                        wide.columns, wide.index, excess, levels=[0], colors=BLACK, linewidths=1.1, linestyles=":"
                    )
            axes.grid(False)
            axes.locator_params(nbins=5)
        column[0].set_title(kind)
        column[-1].set_xlabel("level $w_{S-1}$")
        bar = figure.colorbar(mesh, ax=list(column), location="bottom", extend="both", aspect=22, pad=0.02)
        bar.ax.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        bar.set_label("change of the weight")
    for axes, (_, title) in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(f"{title}\nslope a step")
    return figure
