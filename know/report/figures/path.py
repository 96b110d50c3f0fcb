"""Figures of the path: the idea, the subsets, forgetting, and the loss around the path."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.ticker import FuncFormatter, NullLocator

from know.analysis.starts import label, virtual
from know.analysis.statistics import mean_interval
from know.data.images import ImageSet
from know.report.figures.style import (
    BLACK,
    BLUE,
    COLUMN,
    DASHES,
    GREEN,
    GREY,
    HALO,
    ORANGE,
    PAGE,
    POINT,
    RED,
    gains,
    interval,
    look_of,
    math,
    ordered,
    signed,
    zero_line,
)
from know.report.registry import figure

if TYPE_CHECKING:
    from know.report.results import Results


@figure(
    "schematic",
    "The idea: fine-tuning on nested, ever smaller subsets (areas: r^k) is structured forgetting; read backwards, the path is "
    "one of growing data, and KNOWN predicts one step past the real weights.",
)
def schematic(results: Results) -> Figure:
    rate, length = results.params.rate, results.params.history_length
    figure, axes = plt.subplots(figsize=(PAGE, 2.4), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, PAGE), ylim=(0, 2.4), aspect="equal")
    axes.axis("off")
    for radius in 0.78 * rate ** (np.arange(length) / 2):
        axes.add_patch(Circle((0.95, 0.42 + radius), radius, fc=BLUE, alpha=0.16, ec=BLUE, lw=0.9))
    axes.text(0.95, 2.07, "nested subsets", ha="center", va="bottom")
    axes.text(0.95, 0.33, rf"$D_0\supset D_1\supset\cdots\supset D_{{{length - 1}}}$", ha="center", va="top")
    i = np.arange(length + 1)
    x, y = 2.1 + 3.5 * i / length, 0.55 + 1.05 * (1 - np.exp(-2.2 * i / length)) / (1 - np.exp(-2.2))
    arrow = partial(FancyArrowPatch, arrowstyle="-|>", mutation_scale=9, shrinkA=6, shrinkB=6)
    for j in range(length - 1):
        tail, tip = (x[j + 1], y[j + 1]), (x[j], y[j])
        axes.add_patch(arrow(tail, tip, connectionstyle="arc3,rad=0.25", lw=1.2, color=BLUE))
        middle = (x[j] + x[j + 1]) / 2 + 0.08, (y[j] + y[j + 1]) / 2
        axes.text(*middle, rf"$D_{{{length - 1 - j}}}$", color=BLUE, ha="center", va="top", fontsize=8)
    axes.add_patch(arrow((x[-2], y[-2]), (x[-1], y[-1]), lw=1.8, color=RED))
    axes.scatter(x[:-1], y[:-1], s=42, color=BLUE, zorder=3)
    axes.scatter(x[-1:], y[-1:], s=130, color=RED, marker="*", zorder=3)
    for j in range(length):
        axes.text(x[j] - 0.03, y[j] + 0.06, rf"$\Theta_{{{length - 1 - j}}}$", ha="right", va="bottom", color=BLUE)
    axes.text(x[-1], y[-1] + 0.12, r"$\hat\Theta_{-1}$", ha="center", va="bottom", color=RED, fontsize=11)
    axes.text(3.0, 0.12, "forgetting: fine-tune on less and less", color=BLUE, va="bottom")
    text = "retrodiction: KNOWN reads the path backwards\nand predicts one step past the real weights"
    axes.text(2.25, 2.07, text, color=RED, va="center")
    axes.text(
        x[-1] + 0.16, y[-1], f"“as if trained on\n{virtual(1, rate)} the data”", color=RED, va="center", fontsize=8
    )
    return figure


def samples(source: ImageSet, downstream: ImageSet, count: int = 8) -> Figure:
    """A few training images of each class: the source task's left, the downstream task's right."""
    rows = max(len(source.classes), len(downstream.classes))
    figure, panels = plt.subplots(1, 2, figsize=(PAGE, 0.36 * rows + 0.3))
    for task, title, axes in zip((source, downstream), ("source", "downstream"), panels, strict=True):
        shown = [task.images[task.labels == i][:count].permute(0, 2, 3, 1).numpy() for i in range(len(task.classes))]
        strips = [np.concatenate(list(images), axis=1).squeeze() for images in shown]
        axes.imshow(np.concatenate(strips), cmap="gray_r", interpolation="nearest")
        height = strips[0].shape[0]
        axes.set(yticks=height * (np.arange(len(strips)) + 0.5), xticks=[], title=f"{title} task")
        axes.set_yticklabels(task.classes)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_anchor("N")
    return figure


@figure("downsizing", "Images of each class in D₀, D₁, … of one source seed.", needs=["downsize"], shown=False)
def downsizing(results: Results) -> Figure:
    table = results["downsize"]
    one = table[(table.source_seed == table.source_seed.min()) & table.subset.str.match(r"D_\d")]
    one = one.assign(subset="$" + one.subset + "$", **{"class": one["class"].astype(str)})
    figure, axes = plt.subplots(figsize=(COLUMN, 1.9))
    sns.histplot(
        one, y="subset", weights="images", hue="class", multiple="stack", discrete=True, shrink=0.75, palette="cividis",
        hue_order=sorted(one["class"].unique())[::-1], alpha=1, linewidth=0.4, edgecolor="white", ax=axes,
    )  # fmt: skip
    for i, total in enumerate(one.groupby("subset", sort=False).images.sum()):
        axes.text(total, i, f" {total:.0f}", va="center", fontsize=8)
    axes.set(xlabel="images", ylabel="")
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    sns.move_legend(axes, "lower right", ncols=2, title="class", alignment="left", reverse=True)
    return figure


@figure(
    "learning",
    "Θ₀ converges: training and validation loss, a line a source seed.",
    needs=["source_learning"],
    shown=False,
)
def learning(results: Results) -> Figure:
    names = {"train_loss": "training", "validation_loss": "validation"}
    table = results["source_learning"].query("k == 0").rename(columns=names).assign(epoch=lambda rows: rows.epoch + 1)
    kept = table[table.kept]
    long = table.melt(["source_seed", "epoch"], list(names.values()), var_name="loss")
    figure, axes = plt.subplots(figsize=(COLUMN, 2.1))
    sns.lineplot(
        long, x="epoch", y="value", hue="loss", style="loss", units="source_seed", estimator=None, palette=[GREY, BLUE],
        lw=0.9, ax=axes,
    )  # fmt: skip
    axes.plot(kept.epoch, kept.validation, "o", mfc="none", color=RED, label=r"kept: $\Theta_0$")
    axes.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    axes.legend()
    return figure


@figure(
    "forgetting",
    "Structured forgetting. Left: source accuracy along the path, with the real Θ₋₁ (star). Right: what forgetting costs "
    "downstream, after fine-tuning from Θₖ instead of Θ₀: where a halving of the data costs nothing, nothing can be won back. "
    "Means over source seeds with intervals.",
    needs=["forgetting"],
)
def forgetting(results: Results) -> Figure:
    downstream = results.has("forgotten")
    figure, panels = plt.subplots(
        1, 1 + downstream, figsize=(PAGE if downstream else COLUMN, 2.5), squeeze=False, width_ratios=[1.2, 1][: 1 + downstream]
    )  # fmt: skip
    _source_accuracy(panels[0, 0], results)
    if downstream:
        _downstream_cost(panels[0, 1], results)
    return figure


def _source_accuracy(axes: Axes, results: Results) -> None:
    parts = {"kept": "kept part $D_k$", "dropped": r"dropped part $D_0\backslash D_k$", "test": "test images"}
    table, order = results["forgetting"], list(parts.values())
    table = table.assign(accuracy=POINT * table.accuracy, images=table.images.map(parts), at=-table.k)
    sns.lineplot(
        table[table.k >= 0], x="at", y="accuracy", errorbar=interval(results.params.report.confidence), err_style="bars",
        hue="images", style="images", hue_order=order, style_order=order, palette=[GREEN, ORANGE, BLUE],
        markers=["s", "^", "o"], dashes=[DASHES[":"], DASHES["--"], DASHES["-"]], ax=axes,
    )  # fmt: skip
    _beside(axes, table[table.images == parts["test"]], "accuracy", BLUE, results)
    axes.set(ylabel="source accuracy (%)", ylim=(None, min(axes.get_ylim()[1], 100.5)))
    sns.move_legend(
        axes, "lower center", bbox_to_anchor=(0.45, 1), ncols=3, title=None, columnspacing=1, handletextpad=0.4
    )


def _downstream_cost(axes: Axes, results: Results) -> None:
    table, confidence = results["forgotten"], results.params.report.confidence
    cost = gains(table, table.k == 0, ["k"])
    if results.has("transfer"):
        starts = results["transfer"].query("method != 'more_data' or steps == 1")
        real = gains(starts, starts.method == "naive", ["method"]).query("method == 'more_data'")
        cost = pd.concat([cost, real.assign(k=-1)])
    cost = cost.assign(at=-cost.k)
    sns.lineplot(
        cost[cost.k >= 0], x="at", y="gain", errorbar=interval(confidence), err_style="bars", color=BLACK, marker="o", ax=axes
    )  # fmt: skip
    _beside(axes, cost, "gain", BLACK, results)
    zero_line(axes, vertical=False)
    one = mean_interval(cost.gain[cost.k == 1], confidence)
    clear = "" if one.mean < 0 and one.excludes_zero else "\nno clear loss that could be won back"
    axes.set_title(rf"$\Theta_1$ instead of $\Theta_0$: {signed(one.mean, one.half_width)} points" + clear, fontsize=8)
    axes.set_ylabel(r"downstream, to $\Theta_0$ (points)")


def _beside(axes: Axes, table: pd.DataFrame, value: str, colour: str, results: Results) -> None:
    """The real Θ_{-1}, which is not on the path, as a star; and what stands where."""
    if (real := table[table.k == -1]).size:
        sns.pointplot(
            real, x="at", y=value, errorbar=interval(results.params.report.confidence), native_scale=True, color=colour,
            marker="*", ms=9, mew=0, err_kws={"linewidth": 1}, ax=axes,
        )  # fmt: skip
    ks = sorted(table.k.unique(), reverse=True)
    shares = [f"{POINT * results.params.rate ** float(k):.3g} %" for k in ks]
    axes.set_xticks(
        [-k for k in ks], [rf"$\Theta_{{{k}}}$" + f"\n{share}" for k, share in zip(ks, shares, strict=True)]
    )
    axes.set(xlabel="weights, and share of $D_0$ that they saw last", xlim=(-ks[0] - 0.4, -ks[-1] + 0.4))


PAPER = LinearSegmentedColormap.from_list("paper", ["#FFFFFF", "#DDE3E8", "#9BA6B0"])


@figure(
    "landscape",
    "Source validation loss on the plane of the path's first two principal components, with the path and predictions from "
    "Θ₀; only a shadow of each step lies on the plane, and the share that lies off it is in the legend.",
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
