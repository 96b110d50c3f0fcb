"""Figures of the stages before prediction: the idea, the tasks and their subsets, forgetting, meta-training."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.ticker import NullLocator

from know.data.images import ImageSet
from know.report.figures.drawing import band
from know.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    KIND_COLOUR,
    METHOD_STYLE,
    ORANGE,
    RED,
    style_of,
    virtual,
)


def schematic(rate: float, length: int) -> Figure:
    """Forgetting on ever smaller nested subsets, read backwards and continued one step past Θ_0."""
    figure, axes = plt.subplots(figsize=(6.8, 2.5), layout="none")
    axes.set(xlim=(-0.2, length + 3.3), ylim=(-1.32, 1.3), aspect="equal")
    axes.axis("off")
    for k in range(length):
        radius = 0.62 * (0.35 + 0.65 * rate ** (k / 2))
        axes.add_patch(Circle((0.95, 0.42 - 0.62 + radius), radius, fc=BLUE, alpha=0.16, ec=BLUE, lw=0.9))
    axes.text(0.95, 1.12, "nested subsets", ha="center", va="bottom")
    axes.text(0.95, -0.36, rf"$D_0\supset D_1\supset\cdots\supset D_{{{length - 1}}}$", ha="center", va="top")

    x = np.arange(length + 1) + 2.6
    y = -0.85 + 1.25 * (1 - np.exp(-0.45 * np.arange(length + 1)))
    for i in range(length - 1):
        axes.add_patch(
            FancyArrowPatch(
                (x[i + 1], y[i + 1]),
                (x[i], y[i]),
                arrowstyle="-|>",
                mutation_scale=9,
                lw=1.2,
                color=BLUE,
                shrinkA=6,
                shrinkB=6,
                connectionstyle="arc3,rad=0.25",
            )
        )
        axes.text(
            (x[i] + x[i + 1]) / 2,
            min(y[i], y[i + 1]) - 0.16,
            rf"$D_{{{length - 1 - i}}}$",
            color=BLUE,
            ha="center",
            va="top",
            fontsize=8,
        )
    axes.add_patch(
        FancyArrowPatch(
            (x[-2], y[-2]), (x[-1], y[-1]), arrowstyle="-|>", mutation_scale=11, lw=1.8, color=RED, shrinkA=6, shrinkB=7
        )
    )
    axes.scatter(x[:-1], y[:-1], s=42, color=BLUE, zorder=3)
    axes.scatter(x[-1:], y[-1:], s=130, color=RED, marker="*", zorder=3)
    for i in range(length):
        axes.text(x[i], y[i] + 0.14, rf"$\Theta_{{{length - 1 - i}}}$", ha="center", va="bottom", color=BLUE)
    axes.text(x[-1] + 0.02, y[-1] + 0.17, r"$\hat\Theta_{-1}$", ha="center", va="bottom", color=RED, fontsize=11)
    axes.text(x[1], -1.28, "forgetting: fine-tune on less and less", color=BLUE, ha="left", va="bottom")
    axes.text(
        x[1] - 0.5,
        1.02,
        "retrodiction: KNOWN reads the path backwards\nand predicts one step past the real weights",
        color=RED,
        ha="left",
        va="center",
    )
    axes.text(
        x[-1] + 0.32,
        y[-1] - 0.05,
        f"“as if trained on\n{virtual(1, rate)} the data”",
        color=RED,
        ha="left",
        va="center",
        fontsize=8,
    )
    return figure


def samples(source: ImageSet, downstream: ImageSet, count: int = 8) -> Figure:
    """A few training images of each class: the source task's left, the downstream task's right."""
    rows = max(len(source.classes), len(downstream.classes))
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 0.36 * rows + 0.3))
    for task, title, panel in ((source, "source", axes[0]), (downstream, "downstream", axes[1])):
        strips = [_strip(task, label_, count) for label_ in range(len(task.classes))]
        panel.imshow(np.concatenate(strips), cmap="gray_r", interpolation="nearest")
        height = strips[0].shape[0]
        panel.set(yticks=[height * (i + 0.5) for i in range(len(strips))], xticks=[], title=f"{title} task")
        panel.set_yticklabels(task.classes)
        panel.tick_params(length=0)
        panel.grid(False)
        panel.spines[:].set_visible(False)
        panel.set_anchor("N")
    return figure


def _strip(task: ImageSet, label_: int, count: int) -> np.ndarray:
    images = task.images[task.labels == label_][:count].permute(0, 2, 3, 1).numpy()
    return np.concatenate(list(images), axis=1).squeeze()


def downsizing(table: pd.DataFrame) -> Figure:
    """Images of each class in D_0, D_1, …, of one seed, stacked."""
    one = table[(table.seed == table.seed.min()) & table.subset.str.match(r"D_\d")]
    wide = one.pivot_table(index="subset", columns="class", values="images", sort=False)
    figure, axes = plt.subplots(figsize=(5.2, 2.2))
    left = np.zeros(len(wide))
    shades = plt.get_cmap("cividis")(np.linspace(0.1, 0.9, wide.shape[1]))
    for shade, (name, counts) in zip(shades, wide.items(), strict=True):
        axes.barh(range(len(wide)), counts, left=left, color=shade, label=name, height=0.7)
        left += counts.to_numpy()
    for i, total in enumerate(left):
        axes.text(total, i, f" {total:.0f}", va="center", fontsize=8)
    axes.set(yticks=range(len(wide)), xlabel="images")
    axes.set_yticklabels([f"${name}$" for name in wide.index])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=2, loc="lower right", title="class", alignment="left")
    return figure


def learning(table: pd.DataFrame) -> Figure:
    """Training and validation loss of Θ_0, a line a seed; a ring marks the epoch whose weights were kept."""
    figure, axes = plt.subplots(figsize=(4.2, 2.5))
    for i, (_, run) in enumerate(table[table.k == 0].groupby("seed")):
        axes.plot(run.epoch + 1, run.train_loss, color=GREY, lw=1, label=None if i else "training")
        axes.plot(run.epoch + 1, run.validation_loss, color=BLUE, lw=1, label=None if i else "validation")
        best = run[run.kept]
        axes.plot(
            best.epoch + 1, best.validation_loss, "o", mfc="none", color=RED, label=None if i else r"kept: $\Theta_0$"
        )
    axes.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    axes.legend()
    return figure


def forgetting(table: pd.DataFrame, rate: float, confidence: float) -> Figure:
    """Accuracy and loss of Θ_0, Θ_1, … on the test images, the kept and the dropped part of D_0."""
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 2.6))
    parts = {
        "kept": ("kept part $D_k$", GREEN, "s"),
        "dropped": (r"dropped part $D_0\setminus D_k$", ORANGE, "^"),
        "test": ("test images", BLUE, "o"),
    }
    real = table[table.k >= 0]
    panels[1].set_yscale("log")
    for axes, column, factor in ((panels[0], "accuracy", 100), (panels[1], "loss", 1)):
        for part, (name, colour, marker) in parts.items():
            by_k = [(k, factor * rows[column].to_numpy()) for k, rows in real[real.images == part].groupby("k")]
            band(axes, [k for k, _ in by_k], [v for _, v in by_k], confidence, color=colour, marker=marker, label=name)
        axes.set(xlabel=f"$k$: fine-tuned down to $r^k$ of $D_0$ ($r$ = {rate:g})", xticks=sorted(real.k.unique()))
        axes.invert_xaxis()
    panels[0].set_ylim(top=min(panels[0].get_ylim()[1], 100.5))
    panels[0].set_ylabel("accuracy (%)")
    panels[1].set_ylabel("cross-entropy")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def meta_validation(errors: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Left: error on held-out runs relative to "no change", a dot a run. Right: KNOWN's error while it learns."""
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 2.6), width_ratios=(1.25, 1))
    wide = errors.pivot_table(index=["run", "kind"], columns="predictor", values="mae").reset_index()
    kinds = [kind for kind in KIND_COLOUR if kind in set(wide.kind)]
    names = [style.label for style in METHOD_STYLE.values() if style.label in wide]
    for j, name in enumerate(names):
        style, width = style_of(name), 0.8 / len(names)
        for i, kind in enumerate(kinds):
            rows = wide[wide.kind == kind]
            ratio, middle = (rows[name] / rows["no change"]).to_numpy(), i + width * (j - (len(names) - 1) / 2)
            x = middle + width * np.linspace(-0.22, 0.22, len(ratio))
            panels[0].scatter(
                x, ratio, s=10, color=style.colour, marker=style.marker, alpha=0.7, lw=0, label=None if i else name
            )
            panels[0].plot(
                [middle - 0.36 * width, middle + 0.36 * width], [np.median(ratio)] * 2, color=style.colour, lw=2
            )
    panels[0].axhline(1, color=BLACK, lw=0.8, ls="--")
    panels[0].set(ylabel="MAE relative to no change", xticks=range(len(kinds)), title="held-out runs (bar: median)")
    panels[0].set_yscale("log")
    low, high = panels[0].get_ylim()
    ticks = [t for t in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3) if low <= t <= high]
    if high / low > 3:
        ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].set_xticklabels(kinds)
    panels[0].grid(axis="x", visible=False)
    panels[0].legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.1), ncols=len(names), columnspacing=1, handletextpad=0.1
    )
    for kind, curve in curves.groupby("kind"):
        panels[1].plot(curve.step, curve.mae / curve.mae.iloc[-1], color=KIND_COLOUR[str(kind)], label=kind)
    panels[1].set(xlabel="meta-training step", ylabel="MAE relative to its last", title="KNOWN on held-out runs")
    panels[1].legend()
    return figure
