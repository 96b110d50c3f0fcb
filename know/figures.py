"""The figures, in one style: each function takes a tidy table and returns a matplotlib figure.

Colours are Okabe and Ito's, told apart by colour-blind readers; methods keep theirs throughout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.ticker import FuncFormatter

from know.data import ImageSet
from know.paths import atomic
from know.statistics import mean_interval

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8A8A8A",
)
METHOD_STYLE: dict[str, tuple[str, str, str]] = {
    "scratch": ("from scratch", GREY, ":"),
    "naive": ("naïve transfer (Θ₀)", BLACK, "-"),
    "more_data": ("real Θ₋₁ (twice the data)", GREEN, "--"),
    "known": ("KNOWN", RED, "-"),
    "shrunk": ("Θ₀ shrunk to KNOWN's norms", ORANGE, "-"),
    "random_direction": ("Θ₀ + noise of KNOWN's norm", GREY, "-"),
    "repeated": ("KNOWN on Θ₀ repeated", ORANGE, "--"),
    "flipped": ("KNOWN's step flipped", GREY, "--"),
    "shrink_perturb": ("shrink and perturb", ORANGE, ":"),
    "linear": ("linear", BLUE, "-"),
    "log": ("logarithmic", PINK, "-"),
    "exponential": ("exponential", PINK, "--"),
    "task_vector": ("task vector", SKY, "-"),
    "expo": ("ExPO", SKY, "--"),
    "tsv": ("task singular vectors", SKY, ":"),
    "wnn": ("WNN", BLUE, "--"),
    "average": ("average", GREEN, ":"),
}
KIND_COLOUR = {"conv": BLUE, "fc": RED, "bias": GREEN}


def use_style() -> None:
    """The committed style, for every figure made after."""
    plt.style.use(str(resources.files("know") / "templates" / "know.mplstyle"))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``name.pdf`` and ``name.png``, the same bytes for the same figure."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    for suffix in ("pdf", "png"):
        with atomic(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix)


def label(method: str) -> str:
    """A method's name in figures and tables."""
    return METHOD_STYLE[method][0] if method in METHOD_STYLE else method.replace("_", " ")


def math_label(method: str) -> str:
    """``label`` with its symbols as mathtext, since text fonts lack the subscripts."""
    return label(method).replace("Θ₀", r"$\Theta_0$").replace("Θ₋₁", r"$\Theta_{-1}$")


def virtual(step: int, rate: float) -> str:
    """ "×4" for two steps at r = 0.5: how much data a prediction stands for."""
    return f"×{rate**-step:.3g}"


def _band(axes: Axes, x: Sequence[float], samples: Sequence[Any], confidence: float, **style: Any) -> None:
    """A line through the means of ``samples`` with a band for their intervals; on a log axis both are of the logs."""
    log = axes.get_yscale() == "log"
    estimates = [mean_interval(np.log(sample) if log else np.asarray(sample), confidence) for sample in samples]
    mean = np.array([e.mean for e in estimates])
    half = np.array([e.half_width if np.isfinite(e.half_width) else 0.0 for e in estimates])
    middle, low, high = (np.exp(v) if log else v for v in (mean, mean - half, mean + half))
    (line,) = axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


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
            _band(axes, [k for k, _ in by_k], [v for _, v in by_k], confidence, color=colour, marker=marker, label=name)
        axes.set(xlabel=f"$k$: fine-tuned down to $r^k$ of $D_0$ ($r$ = {rate:g})", xticks=sorted(real.k.unique()))
        axes.invert_xaxis()
    panels[0].set_ylabel("accuracy (%)")
    panels[1].set_ylabel("cross-entropy")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def meta_validation(errors: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Left: error on held-out runs relative to "no change", a dot a run. Right: KNOWN's error while it learns."""
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 2.6), width_ratios=(1.25, 1))
    wide = errors.pivot_table(index=["run", "kind"], columns="predictor", values="mae").reset_index()
    offsets = {"linear": -0.16, "KNOWN": 0.16}
    kinds = [kind for kind in KIND_COLOUR if kind in set(wide.kind)]
    for name, colour in (("linear", BLUE), ("KNOWN", RED)):
        for i, kind in enumerate(kinds):
            rows = wide[wide.kind == kind]
            ratio = (rows[name] / rows["no change"]).to_numpy()
            x = i + offsets[name] + np.linspace(-0.07, 0.07, len(ratio))
            panels[0].scatter(x, ratio, s=12, color=colour, alpha=0.7, lw=0, label=None if i else name)
            panels[0].plot(
                [i + offsets[name] - 0.12, i + offsets[name] + 0.12], [np.median(ratio)] * 2, color=colour, lw=2
            )
    panels[0].axhline(1, color=BLACK, lw=0.8, ls="--")
    panels[0].set(ylabel="MAE relative to no change", xticks=range(len(kinds)), title="held-out runs (bar: median)")
    panels[0].set_yscale("log", base=2)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[0].set_xticklabels(kinds)
    panels[0].grid(axis="x", visible=False)
    panels[0].legend()
    for kind, curve in curves.groupby("kind"):
        panels[1].plot(curve.step, curve.mae / curve.mae.iloc[-1], color=KIND_COLOUR[str(kind)], label=kind)
    panels[1].set(xlabel="meta-training step", ylabel="MAE relative to its last", title="KNOWN on held-out runs")
    panels[1].legend()
    return figure


def predictions(table: pd.DataFrame, rate: float, confidence: float) -> Figure:
    """How predictions move the weights: norm relative to Θ_0 by kind, and the source accuracy that remains."""
    kinds = [kind for kind in KIND_COLOUR if kind in set(table.kind)]
    figure, panels = plt.subplots(1, len(kinds) + 1, figsize=(6.8, 2.5))
    methods = [m for m in METHOD_STYLE if m in set(table.method) and m not in ("naive", "more_data")]
    steps = sorted(table.step[table.method.isin(methods)].unique())
    naive = table[table.method == "naive"]
    for method in methods:
        (_, colour, line), name = METHOD_STYLE[method], math_label(method)
        rows = table[table.method == method]
        own = sorted(rows.step.unique())
        for axes, kind in zip(panels, kinds, strict=False):
            if method == "shrunk":
                continue  # KNOWN's norms, by construction
            values = [rows.norm_ratio[(rows.kind == kind) & (rows.step == step)] for step in own]
            _band(
                axes,
                [0, *own],
                [np.ones_like(values[0]), *values],
                confidence,
                color=colour,
                ls=line,
                marker="o",
                label=name,
            )
        at = [100 * rows.drop_duplicates(["seed", "step"]).query("step == @step").source_accuracy for step in own]
        first = 100 * naive.drop_duplicates("seed").source_accuracy
        _band(panels[-1], [0, *own], [first, *at], confidence, color=colour, ls=line, marker="o", label=name)
    for axes, kind in zip(panels, kinds, strict=False):
        axes.set(title=kind, ylabel=r"$\|\hat\Theta\|\,/\,\|\Theta_0\|$" if kind == kinds[0] else "")
    panels[-1].set(title="before fine-tuning", ylabel="source accuracy (%)")
    for axes in panels:
        axes.set(xticks=[0, *steps], xlabel="virtual data")
        axes.set_xticklabels(["×1", *(virtual(step, rate) for step in steps)])
    handles, names = panels[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def transfer(summary: pd.DataFrame, rate: float) -> Figure:
    """Downstream accuracy against virtual data, a panel a number of labels.

    Source networks differ more than methods do, so the bars are intervals of the paired difference to naïve transfer.
    """
    fractions = sorted(summary.fraction.unique())
    figure, panels = plt.subplots(1, len(fractions), figsize=(6.8, 2.9), squeeze=False)
    steps = [0, *sorted(summary.steps[summary.method == "known"].unique())]
    for axes, fraction in zip(panels[0], fractions, strict=True):
        rows = summary[summary.fraction == fraction].set_index(["method", "steps"])
        naive = rows.loc[("naive", 0)]
        for method, (_, colour, line) in METHOD_STYLE.items():
            own, name = rows[rows.index.get_level_values("method") == method], math_label(method)
            if own.empty:
                continue
            if method in ("scratch", "naive", "more_data"):
                axes.axhline(100 * own["mean"].iloc[0], color=colour, ls=line, lw=1.2, label=name, zorder=1)
                continue
            x = np.array([0, *own.index.get_level_values("steps")])
            means = 100 * np.array([naive["mean"], *own["mean"]])
            half = 100 * np.array([0, *own["gain_half_width"]])
            shift = 0.05 * (list(METHOD_STYLE).index(method) - 4.5)
            axes.errorbar(
                x + shift,
                means,
                half,
                color=colour,
                ls=line,
                marker="o",
                capsize=2,
                lw=1.3,
                elinewidth=0.8,
                label=name,
            )
        axes.set(xticks=steps, xlabel="virtual data", title=f"{int(naive['labels'])} labels")
        axes.set_xticklabels([virtual(int(step), rate) for step in steps])
    panels[0, 0].set_ylabel("downstream accuracy (%)")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def gains(summary: pd.DataFrame, rate: float) -> Figure:
    """Paired difference to naïve transfer, in points, with its interval: methods down, a panel a number of labels."""
    rows = summary[~summary.method.isin(["naive"])]
    fractions = sorted(rows.fraction.unique())
    order = [(m, s) for m in METHOD_STYLE for s in sorted(rows.steps[rows.method == m].unique())]
    figure, panels = plt.subplots(1, len(fractions), figsize=(6.8, 0.19 * len(order) + 0.8), sharey=True, squeeze=False)
    for axes, fraction in zip(panels[0], fractions, strict=True):
        at = rows[rows.fraction == fraction].set_index(["method", "steps"])
        for i, key in enumerate(order):
            axes.errorbar(
                100 * at.gain[key],
                i,
                xerr=100 * at.gain_half_width[key],
                fmt="o",
                capsize=2,
                elinewidth=1,
                color=METHOD_STYLE[key[0]][1],
            )
        axes.axvline(0, color=BLACK, lw=0.8)
        axes.set(title=f"{int(at.labels.iloc[0])} labels", xlabel="gain over naïve (points)")
        axes.grid(axis="y", visible=False)
    panels[0, 0].set_yticks(range(len(order)))
    panels[0, 0].set_yticklabels(
        [f"{math_label(m)} {virtual(s, rate) if s and m != 'more_data' else ''}" for m, s in order]
    )
    panels[0, 0].invert_yaxis()
    return figure
