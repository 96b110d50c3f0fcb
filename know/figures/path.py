"""Figures of the path: the idea, and forgetting."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

from know.analysis.starts import virtual
from know.analysis.statistics import mean_interval
from know.analysis.units import with_all_labels
from know.figures.registry import figure
from know.figures.style import (
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
    signed,
    zero_line,
)

if TYPE_CHECKING:
    from know.report.results import Results


@figure(
    "schematic",
    "The idea: training on nested, ever smaller subsets (areas: r^k) is structured forgetting; read backwards, the path is "
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
    if results.params.forget.mode == "restart":
        origin = x[-2], 0.5
        axes.scatter(*origin, s=42, color=GREY, zorder=3)
        axes.text(origin[0] + 0.12, origin[1], "initial weights", color=GREY, va="center", fontsize=8)
        for j in range(length):
            axes.add_patch(arrow(origin, (x[j], y[j]), lw=1, color=BLUE))
            at = (0.45 * origin[0] + 0.55 * x[j], 0.45 * origin[1] + 0.55 * y[j])
            axes.text(
                *at, rf"$D_{{{length - 1 - j}}}$", color=BLUE, ha="center", va="center", fontsize=8, path_effects=HALO
            )
        way = "forgetting: from the initial weights, on less and less"
    else:
        for j in range(length - 1):
            tail, tip = (x[j + 1], y[j + 1]), (x[j], y[j])
            axes.add_patch(arrow(tail, tip, connectionstyle="arc3,rad=0.25", lw=1.2, color=BLUE))
            middle = (x[j] + x[j + 1]) / 2 + 0.08, (y[j] + y[j + 1]) / 2
            axes.text(*middle, rf"$D_{{{length - 1 - j}}}$", color=BLUE, ha="center", va="top", fontsize=8)
        way = "forgetting: fine-tune on less and less"
    axes.add_patch(arrow((x[-2], y[-2]), (x[-1], y[-1]), lw=1.8, color=RED))
    axes.scatter(x[:-1], y[:-1], s=42, color=BLUE, zorder=3)
    axes.scatter(x[-1:], y[-1:], s=130, color=RED, marker="*", zorder=3)
    for j in range(length):
        axes.text(x[j] - 0.03, y[j] + 0.06, rf"$\Theta_{{{length - 1 - j}}}$", ha="right", va="bottom", color=BLUE)
    axes.text(x[-1], y[-1] + 0.12, r"$\hat\Theta_{-1}$", ha="center", va="bottom", color=RED, fontsize=11)
    axes.text(3.0, 0.12, way, color=BLUE, va="bottom")
    text = "retrodiction: KNOWN reads the path backwards\nand predicts one step past the real weights"
    axes.text(2.25, 2.07, text, color=RED, va="center")
    axes.text(
        x[-1] + 0.16, y[-1], f"“as if trained on\n{virtual(1, rate)} the data”", color=RED, va="center", fontsize=8
    )
    return figure


@figure(
    "learning",
    "Training Θ₀: training and validation loss, a line a source seed.",
    needs=["source_learning"],
    shown=False,
)
def learning(results: Results) -> Figure:
    names = {"train_loss": "training", "validation_loss": "validation"}
    table = results["source_learning"].query("k == 0").rename(columns=names).assign(epoch=lambda rows: rows.epoch + 1)
    kept = table[table.kept]
    long = table.melt(["source_seed", "epoch"], list(names.values()), var_name="loss")
    figure, axes = plt.subplots(figsize=(COLUMN, 2.1))
    single = {"markers": ["s", "^"], "dashes": False} if long.epoch.max() == 1 else {}
    sns.lineplot(
        long, x="epoch", y="value", hue="loss", style="loss", units="source_seed", estimator=None, palette=[GREY, BLUE],
        lw=0.9, ax=axes, **single,
    )  # fmt: skip
    axes.plot(kept.epoch, kept.validation, "o", mfc="none", color=RED, label=r"kept: $\Theta_0$")
    axes.set(xlabel="epoch", ylabel="cross-entropy")
    if single:
        axes.set(xlim=(0, 2), xticks=[1])
    else:
        axes.set(yscale="log")
    axes.legend()
    return figure


@figure(
    "forgetting",
    "Structured forgetting. Left: source accuracy along the path; the dropped part is all that was dropped so far, other images at each point. Right: what forgetting costs "
    "downstream, after fine-tuning from Θₖ instead of Θ₀ on all labels: where a halving of the data costs nothing, nothing can be won back. "
    "Stars: a real Θ₋₁, where one was trained. Means over source seeds with intervals.",
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
    axes.set(ylabel=results.worded("source accuracy (%)"), ylim=(None, min(axes.get_ylim()[1], 100.5)))
    sns.move_legend(
        axes, "lower center", bbox_to_anchor=(0.45, 1), ncols=3, title=None, columnspacing=1, handletextpad=0.4
    )


def _downstream_cost(axes: Axes, results: Results) -> None:
    table, confidence = with_all_labels(results["forgotten"]), results.params.report.confidence
    cost = gains(table, table.k == 0, ["k"])
    if results.has("transfer"):
        starts = with_all_labels(results["transfer"]).query("~crossed and (method != 'more_data' or steps == 1)")
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
