"""Figures of the weights themselves: what KNOWN computes, how well, and how its predictions move a net."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from know.analysis.starts import label, virtual
from know.report.figures.style import (
    BLACK,
    DASHES,
    HALO,
    KIND_COLOUR,
    LOOKS,
    PAGE,
    POINT,
    forest,
    look_of,
    ordered,
)
from know.report.figures.transfer import shown
from know.report.registry import figure

if TYPE_CHECKING:
    from know.report.results import Results


@figure(
    "predictions",
    "What predictions change, by step (top down): the norms of the weights of each kind, in percent of Θ₀'s, and the accuracy on "
    "the source task before any fine-tuning, in points. Means over source seeds with intervals.",
    needs=["predictions"],
)
def predictions(results: Results) -> Figure:
    table = results["predictions"]
    kinds = [kind for kind in KIND_COLOUR if kind in set(table.kind)]
    base = table[table.method == "naive"].drop_duplicates("source_seed").set_index("source_seed").source_accuracy
    starts = shown(table[~table.method.isin(["scratch"])]).assign(chosen=True)
    lost = POINT * (starts.source_accuracy - starts.source_seed.map(base))
    starts = starts.assign(norm=POINT * (starts.norm_ratio - 1), lost=lost)
    rows = starts.method.nunique()
    figure, panels = plt.subplots(1, len(kinds) + 1, figsize=(PAGE, 0.27 * rows + 0.7), sharex=True, sharey=True)
    for axes, kind in zip(panels, kinds, strict=False):
        forest(axes, starts[starts.kind == kind].rename(columns={"norm": "value"}), results.params.report.confidence)
        axes.set(title=f"norm of {kind} (%)")
    nets = starts.drop_duplicates(["source_seed", "method", "steps"]).rename(columns={"lost": "value"})
    forest(panels[-1], nets, results.params.report.confidence)
    panels[-1].set(title="source acc. (points)")
    for axes in panels:
        axes.set_xscale("symlog", linthresh=1)
        axes.margins(x=0.1)
        axes.set_xlabel("")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    steps = [virtual(int(step), results.params.rate) for step in sorted(starts.steps.unique())]
    figure.supxlabel(rf"change from $\Theta_0$ (top down: {', '.join(steps)})", fontsize=9)
    return figure


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


@figure(
    "steps",
    "Predicted against real steps of single weights, by kind, on the path whose next point is known, with the cosine over all "
    "weights of the kind (mean over source seeds). Dashed: a perfect prediction.",
    needs=["steps", "geometry"],
)
def steps(results: Results) -> Figure:
    sample, geometry = results["steps"], results["geometry"]
    kinds = [kind for kind in KIND_COLOUR if kind in set(sample.kind)]
    methods = [name for name in ("known", "linear") if name in set(sample.method)] or ordered(sample.method)[:2]
    cosines = geometry[geometry.layer == "all"].groupby(["method", "kind"]).cosine.mean()
    figure, panels = plt.subplots(
        len(methods), len(kinds), figsize=(PAGE, 1.8 * len(methods) + 0.2), squeeze=False, sharex="col", sharey="col"
    )
    for column, kind in zip(panels.T, kinds, strict=True):
        rows = sample[(sample.kind == kind) & sample.method.isin(methods)]
        limit = float(np.nanquantile(rows.real.abs(), 0.99)) or 1e-6
        for axes, method in zip(column, methods, strict=True):
            own = rows[rows.method == method]
            shades = sns.blend_palette(["#D0D0D0", look_of(method).colour, "#1A1A1A"], as_cmap=True)
            sns.histplot(
                own, x="real", y="predicted", bins=36, binrange=(-limit, limit), cmap=shades, norm=LogNorm(), vmin=None,
                vmax=None, ax=axes,
            )  # fmt: skip
            axes.axhline(0, color=BLACK, lw=0.7)
            axes.plot([-limit, limit], [-limit, limit], color=BLACK, lw=0.8, ls="--")
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), box_aspect=1, xlabel="", ylabel="")
            axes.locator_params(nbins=4)
            outside = POINT * (own[["real", "predicted"]].abs() > limit).any(axis=1).mean()
            text = f"cosine {cosines[method, kind]:.2f}" if (method, kind) in cosines.index else ""
            text += f"\n{outside:.0f} % beyond" if outside >= 2 else ""
            axes.text(
                0.04, 0.97, text.strip(), transform=axes.transAxes, va="top", fontsize=8, path_effects=HALO, zorder=5
            )
        column[0].set_title(kind)
        column[-1].set_xlabel(r"real step $\Theta_{-1}-\Theta_0$")
    for axes, method in zip(panels[:, 0], methods, strict=True):
        axes.set_ylabel(f"{label(method)}:\npredicted step")
    return figure
