"""Figures of the weights: how predictions move a net, and against the real step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from know.analysis.starts import label, virtual
from know.figures.registry import figure
from know.figures.style import BLACK, HALO, KIND_COLOUR, PAGE, POINT, forest, look_of, ordered, shown

if TYPE_CHECKING:
    from know.report.results import Results


@figure(
    "predictions",
    "What predictions change, by step (top down): by how many percent the norms of the weights of each kind differ from "
    "Θ₀'s, and by how many points the source accuracy before any fine-tuning. Axes are linear within ±1 and logarithmic beyond. Means over "
    "source seeds with intervals.",
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
        axes.set_xticks([-100, -1, 1, 100] if max(map(abs, axes.get_xlim())) > 30 else [-10, -1, 1, 10])
        axes.set_xlabel("")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    steps = [virtual(int(step), results.params.rate) for step in sorted(starts.steps.unique())]
    figure.supxlabel(rf"change from $\Theta_0$ (top down: {', '.join(steps)})", fontsize=9)
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
