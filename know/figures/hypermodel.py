"""Figures of the hyper-model: how well it predicts, and what it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from know.analysis.starts import label
from know.figures.registry import figure
from know.figures.style import BLACK, DASHES, KIND_COLOUR, LOOKS, PAGE, look_of

if TYPE_CHECKING:
    from know.report.results import Results


@figure(
    "meta_validation",
    "Held-out runs of the meta-dataset. Left: mean absolute error relative to no change, a dot a run, large: their median. Right: "
    "KNOWN's error while it learns, relative to its last.",
    needs=["meta_errors", "meta_curves"],
)
def meta_validation(results: Results) -> Figure:
    wide = results["meta_errors"].pivot_table(index=["run", "kind"], columns="predictor", values="mae")
    looks = {label(name): look_of(name) for name in LOOKS if label(name) in wide}
    ratios = wide[list(looks)].div(wide["no change"], axis=0).melt(ignore_index=False, value_name="ratio").reset_index()
    curves = results["meta_curves"]
    curves = curves.assign(mae=curves.mae / curves.groupby("kind").mae.transform("last"))
    kinds = [kind for kind in KIND_COLOUR if kind in set(ratios.kind)]
    look = {"x": "kind", "y": "ratio", "hue": "predictor", "order": kinds, "hue_order": looks}
    look["palette"] = [one.colour for one in looks.values()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5), width_ratios=(1.3, 1))
    sns.stripplot(ratios, dodge=True, jitter=False, alpha=0.5, size=3, legend=False, ax=left, **look)
    sns.pointplot(
        ratios, estimator="median", errorbar=None, linestyles="none", dodge=0.8 * (1 - 1 / len(looks)), ms=6, mec="white",
        markers=[one.marker for one in looks.values()], mew=0.6, ax=left, **look,
    )  # fmt: skip
    left.axhline(1, color=BLACK, lw=0.8, ls="--")
    left.set(xlabel="", ylabel="error relative to no change", yscale="log")
    left.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.minorticks_off()
    sns.move_legend(
        left, "lower center", bbox_to_anchor=(0.45, 1), ncols=len(looks), title=None, columnspacing=0.8, handletextpad=0
    )
    sns.lineplot(
        curves, x="step", y="mae", hue="kind", style="kind", hue_order=kinds, style_order=kinds, ax=right,
        palette=[KIND_COLOUR[kind] for kind in kinds], dashes=[DASHES[line] for line in ("-", "--", ":")][: len(kinds)],
    )  # fmt: skip
    right.set(xlabel="meta-training step", ylabel="error relative to its last")
    sns.move_legend(right, "upper right", title=None)
    return figure


@figure(
    "response",
    "What KNOWN adds to the last weight of a straight path, over its level and slope. Solid: nothing; dotted: the slope, "
    "that is, what linear extrapolation adds.",
    needs=["response"],
)
def response(results: Results) -> Figure:
    table = results["response"]
    kinds = [kind for kind in KIND_COLOUR if kind in set(table.kind)]
    figure, panels = plt.subplots(1, len(kinds), figsize=(PAGE, 2.35), squeeze=False, sharey=True)
    for axes, kind in zip(panels[0], kinds, strict=True):
        wide = table[table.kind == kind].pivot_table(index="slope", columns="level", values="residual")
        limit = float(np.quantile(np.abs(wide), 0.995)) or 1e-9
        x, y = wide.columns.to_numpy(), wide.index.to_numpy()
        mesh = axes.pcolormesh(x, y, wide, cmap="RdBu_r", vmin=-limit, vmax=limit, shading="nearest", rasterized=True)
        for values, line in ((wide, "-"), (wide.sub(y, axis=0), ":")):
            if values.to_numpy().min() < 0 < values.to_numpy().max():
                axes.contour(x, y, values, levels=[0], colors=BLACK, linewidths=1.1, linestyles=line)
        axes.grid(False)
        axes.locator_params(nbins=5)
        axes.set(title=kind, xlabel="level $w_{S-1}$")
        bar = figure.colorbar(mesh, ax=axes, location="bottom", extend="both", aspect=22, pad=0.02)
        bar.ax.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        bar.set_label("change of the weight")
    panels[0, 0].set_ylabel("slope a step")
    return figure
