"""Figures of what the starts are worth after fine-tuning: gains, headroom, where the truth is known, learning."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from know.analysis.starts import NAIVE, Start, label, virtual
from know.analysis.statistics import mean_interval
from know.analysis.units import with_all_labels
from know.figures.registry import figure
from know.figures.style import (
    COLUMN,
    DASHES,
    GREY,
    MARKERS,
    PAGE,
    PALETTE,
    POINT,
    forest,
    gains,
    interval,
    look_of,
    math,
    ordered,
    paper_band,
    shown,
    signed,
    window,
    zero_line,
)

if TYPE_CHECKING:
    from know.report.results import Results


@figure(
    "gains",
    "The main result: difference to naïve transfer in points of downstream accuracy, paired by seeds, with all labels, with its "
    "interval over source seeds, by step, of methods and of the controls that a contrast names; filled, and in numbers: the step "
    "that is judged (bold: better or worse after Holm's correction). "
    "Shaded green: from half of what the paper reports to all of it, as a share of naïve transfer's error; grey, with numbers: off the scale.",
    needs=["transfer"],
)
def main_gains(results: Results) -> Figure:
    rate, report, transfer = results.params.rate, results.params.report, with_all_labels(results["transfer"])
    names_shown = {start.name for start in results.comparisons.shown}
    plain = transfer[~transfer.crossed & transfer.method.isin(names_shown)]
    units = gains(plain, plain.method == "naive", ["method", "steps", "chosen"]).rename(columns={"gain": "value"})
    judged = {(start.name, start.step) for start in results.comparisons.chosen.values()}
    units["chosen"] = [pair in judged for pair in zip(units.method, units.steps, strict=True)]
    table, error = shown(units), POINT - units.base.mean()
    figure, axes = plt.subplots(figsize=(PAGE, 0.27 * table.method.nunique() + 0.75))
    band, core = paper_band(axes, error, report.margin), (results.comparisons.candidate, "more_data")
    names = forest(axes, table, report.confidence, window(table, core, report.confidence, band))
    beside = partial(axes.text, transform=axes.get_yaxis_transform(), ha="right")
    beside(1.19, -0.75, "judged", va="bottom")
    for start in results.comparisons.chosen.values():
        if start.name in names and (found := results.comparisons.of(start, NAIVE)):
            text = signed(POINT * found.gain.mean, POINT * found.gain.half_width)
            weight = "bold" if found.verdict in ("better", "worse") else "normal"
            text = f"{start.data(rate)}:  {text}".removeprefix(":  ")
            beside(1.19, names.index(start.name), text, va="center", weight=weight)
    axes.set_xlabel(results.worded("gain over naïve transfer (points of downstream accuracy)"))
    steps = ", ".join(virtual(int(step), rate) for step in sorted(table.steps[table.steps > 0].unique()))
    key = partial(Line2D, [], [], color=GREY, ls="", marker="o")
    keys = [
        key(ms=5, label="judged"),
        key(ms=3.6, mfc="white", label=f"other steps; top down: {steps}"),
    ]
    figure.legend(handles=[*keys, *axes.get_legend_handles_labels()[0]], loc="outside upper center", ncols=3)
    return figure


@figure(
    "headroom",
    "Headroom: what nets that were really trained on other numbers of source images gain over |D₀|, paired by seeds, with "
    "intervals; in text: fine-tuning from scratch. Shaded: from half of what the paper reports to all of it.",
    needs=["headroom"],
)
def headroom(results: Results) -> Figure:
    report, size, rate = results.params.report, results.params.downsize.source_images, results.params.rate
    table = results["headroom"]
    units = gains(table, table.images == size, ["images", "labels"])
    counts = [f"{count:,} labels" for count in sorted(units["labels"].unique())]
    units["labels"] = units["labels"].map("{:,} labels".format)
    real = units[units.images > 0]
    figure, axes = plt.subplots(figsize=(COLUMN, 2.5))
    sns.lineplot(
        real, x="images", y="gain", hue="labels", style="labels", hue_order=counts, style_order=counts, dashes=False,
        palette=PALETTE[1 : len(counts) + 1], markers=MARKERS[: len(counts)], errorbar=interval(report.confidence),
        err_kws={"alpha": 0.2, "lw": 0}, ax=axes,
    )  # fmt: skip
    paper_band(axes, POINT - units.base[units["labels"] == counts[-1]].mean(), report.margin, vertical=False)
    zero_line(axes, vertical=False)
    for images, name in ((size, r"$|D_0|$"), (round(size / rate), r"$|D_{-1}|$")):
        axes.axvline(images, color=GREY, lw=0.9, ls="--", zorder=1)
        axes.annotate(
            name, (images, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha="center",
            va="bottom", color="0.35", fontsize=8,
        )  # fmt: skip
    scratch = units[(units.images == 0) & (units["labels"] == counts[-1])].gain
    if len(scratch):
        found = mean_interval(scratch, report.confidence)
        axes.plot([], [], " ", label=f"from scratch: {signed(found.mean, found.half_width)}")
    axes.set_xscale("log")
    ticks = sorted(real.images.unique())
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="source images $|D|$", ylabel="gain over $|D_0|$ (points)")
    axes.grid(axis="x", visible=False)
    _legends_above(figure, [axes], 2)
    return figure


def _legends_above(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend for all panels, which have the same entries, outside them."""
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        axes.legend().remove()
    figure.legend(handles, names, loc="outside upper center", ncols=columns, columnspacing=1.4)


@figure(
    "oracle",
    "Where the next point is known: what each start gains downstream over the path's own Θ₀ after one step, with its interval "
    "over source seeds, beside the real Θ₋₁ (dashed).",
    needs=["oracle"],
)
def oracle(results: Results) -> Figure:
    report, table = results.params.report, with_all_labels(results["oracle"])
    units = gains(table, table.method == "naive", ["method", "steps"]).rename(columns={"gain": "value"})
    units = shown(units[units.steps < 2]).assign(chosen=True)
    figure, axes = plt.subplots(figsize=(COLUMN, 0.2 * units.method.nunique() + 0.6))
    forest(axes, units, report.confidence, window(units, (results.oracle.candidate, "more_data"), report.confidence))
    look = look_of("more_data")
    axes.axvline(units.value[units.method == "more_data"].mean(), color=look.colour, ls=look.line, lw=0.9, zorder=1)
    axes.set_xlabel(r"gain over $\Theta_0$ (points)")
    return figure


@figure(
    "learning_curves",
    "Validation accuracy while fine-tuning, predictions at their first step, less naïve transfer's at the same epoch, from the end of the head's phase on "
    "(bands: intervals over source seeds); nets from scratch are far below and left out.",
    needs=["learning_curves"],
)
def learning_curves(results: Results) -> Figure:
    report, table = results.params.report, results["learning_curves"]
    units = gains(table, table.method == "naive", ["method", "labels", "epoch"])
    units = units[~units.method.isin(["naive", "scratch"])].assign(
        start=units.method.map(lambda name: math(label(name)))
    )
    names = ordered(units.method)
    looks = [look_of(name) for name in names]
    order = [math(label(name)) for name in names]
    panels = units["labels"].nunique()
    figure, row = plt.subplots(1, panels, figsize=(COLUMN if panels == 1 else PAGE, 2.6), sharey=True, squeeze=False)
    for axes, (labels, rows) in zip(row[0], units.groupby("labels"), strict=True):
        sns.lineplot(
            rows, x="epoch", y="gain", hue="start", style="start", hue_order=order, style_order=order,
            palette=[look.colour for look in looks], dashes=[DASHES[look.line] for look in looks],
            errorbar=interval(report.confidence), err_kws={"alpha": 0.12, "lw": 0}, lw=1.3, ax=axes,
        )  # fmt: skip
        zero_line(axes, vertical=False)
        axes.set(title=f"{labels:g} labels", xlabel="epoch of fine-tuning", ylabel="gain over naïve (points)")
    _legends_above(figure, row[0], 2 if panels == 1 else 4)
    return figure


@figure(
    "learning_rates",
    "Downstream accuracy against the learning rate of fine-tuning, for naïve transfer, its shrunken weights, the candidate's furthest "
    "prediction and the net that was really trained on more data, with intervals over source seeds; ringed: the rate that "
    "validation images choose. Dotted: the rate at which all starts are compared.",
    needs=["learning_rates"],
)
def learning_rates(results: Results) -> Figure:
    report, table = results.params.report, results["learning_rates"]
    figure, axes = plt.subplots(figsize=(COLUMN, 2.7))
    for name in ordered(table.method):
        rows, look = table[table.method == name], look_of(name)
        units = rows.groupby(["lr", "chosen", "source_seed"], as_index=False)["accuracy"].mean()
        units = units.assign(value=POINT * units.accuracy)
        text = math(Start(name, int(rows.steps.iloc[0])).written(results.params.rate))
        sns.lineplot(
            units, x="lr", y="value", color=look.colour, marker=look.marker, linestyle=look.line, ms=look.size, mew=0,
            errorbar=interval(report.confidence), err_style="bars", err_kws={"lw": 0.9}, label=text, ax=axes,
        )  # fmt: skip
        best = units[units.chosen]
        axes.plot(best.lr.mean(), best.value.mean(), "o", ms=11, mfc="none", mec=look.colour, mew=0.9)
    axes.axvline(results.params.evaluate.fine_tuning.lr, color=GREY, ls=":", lw=1, zorder=1)
    rates = sorted(table.lr.unique())
    axes.set(xscale="log", xlabel="learning rate of fine-tuning", ylabel=results.worded("downstream accuracy (%)"))
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    _legends_above(figure, [axes], 1)
    return figure
