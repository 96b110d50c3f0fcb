"""Figures of what the starts are worth after fine-tuning: accuracy, gains, learning curves, headroom, oracle, ablations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from know.report.figures.drawing import Cut, band, bounded, by_labels, by_source, cut_off, ticks_within, window
from know.report.figures.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PINK,
    RED,
    REFERENCES,
    SKY,
    families,
    math_label,
    ordered,
    step_count,
    style_of,
    virtual,
)

POINT = 100  # accuracies are shares in the tables, percent in the figures
CUT_KEY = Line2D([], [], color=BLACK, marker="v", ls="", ms=4.5, label="beyond the axis: its value")


def transfer(summary: pd.DataFrame, rate: float) -> Figure:
    """Downstream accuracy against virtual data: a column a family of starts, a row a number of labels.

    Source networks differ more than methods do, so the bars are intervals of the paired difference to naïve transfer.
    A row's scale follows naïve transfer, the real Θ_{-1} and KNOWN; what lies far off, and scratch, is cut, with its value.
    """
    rows = list(by_labels(summary))
    groups = families(summary.method)
    steps = [0, *sorted(summary.steps[summary.steps > 0].unique())]
    figure, panels = plt.subplots(
        len(rows), len(groups), figsize=(PAGE, 1.35 * len(rows) + 1.35), sharex=True, sharey="row", squeeze=False
    )
    any_cut = False
    for (title, part), line in zip(rows, panels, strict=True):
        table = part.assign(mean=POINT * part["mean"], half=POINT * bounded(part.gain_half_width))
        naive = float(table["mean"][table.method == "naive"].iloc[0])
        core = table[table.method.isin(["naive", "more_data", "known"])]
        starts = table[table.method != "scratch"]
        others = [starts["mean"] + side * starts.half for side in (-1, 0, 1)]
        limits = window([core["mean"] - core.half, core["mean"] + core.half], others, 1.5, 1.0)
        cuts = {axes: _references(axes, table, first=axes is line[0]) for axes in line}
        for axes, members in zip(line, groups.values(), strict=True):
            axes.set(xlim=(-0.4, max(steps) + 0.45), xticks=steps)
            if "known" not in members:
                _path(axes, table, "known", naive, 0.0, bars=False)
            for i, method in enumerate(members):
                cuts[axes] += _path(axes, table, method, naive, 0.13 * (i - (len(members) - 1) / 2))
        any_cut |= cut_off(cuts, limits)
        line[0].set_ylabel(f"{title}\naccuracy (%)")
    for axes, members in zip(panels[-1], groups.values(), strict=True):
        axes.set_xticklabels([virtual(int(step), rate) for step in steps])
        axes.set_xlabel("virtual data")
        legend = axes.legend(
            handles=[_key(method, summary) for method in members], loc="upper center", bbox_to_anchor=(0.45, 0.0),
            bbox_transform=axes.transAxes + ScaledTranslation(0, -0.4, figure.dpi_scale_trans), fontsize=7,
            handlelength=1.9, handletextpad=0.5, labelspacing=0.3, borderpad=0, borderaxespad=0,
        )  # fmt: skip
        for entry in legend.get_texts():
            entry.set_linespacing(0.95)
    for axes, title in zip(panels[0], groups, strict=True):
        axes.set_title(title)
    keys = [_key(method, summary) for method in ordered(summary.method) if method in (*REFERENCES, "known")]
    figure.legend(
        handles=[*keys, *([CUT_KEY] if any_cut else [])], loc="outside upper center", ncols=5, columnspacing=1.4
    )
    return figure


def _references(axes: Axes, table: pd.DataFrame, first: bool) -> list[Cut]:
    """Lines across for scratch, naïve and the real Θ_{-1}; those beyond the axis as cuts, in the ``first`` panel only."""
    cuts = []
    for method in REFERENCES:
        style = style_of(method)
        for value in table["mean"][table.method == method]:
            axes.axhline(value, color=style.colour, ls=style.line, lw=1.1, zorder=1)
            cuts += [Cut(0, value, style.colour)] if first else []
    return cuts


def _path(axes: Axes, table: pd.DataFrame, method: str, naive: float, shift: float, bars: bool = True) -> list[Cut]:
    """A method's accuracy by steps, from naïve's on; only a marker for a start that no step leads to another of."""
    own, style = table[table.method == method].sort_values("steps"), style_of(method)
    x, y = own.steps + shift, own["mean"]
    if len(own) > 1:
        axes.plot([0, *x], [naive, *y], color=style.colour, ls=style.line, lw=1.2 if bars else 0.9, zorder=2)
    if bars:
        axes.errorbar(
            x,
            y,
            own.half,
            color=style.colour,
            ls="",
            marker=style.marker,
            ms=3.8,
            elinewidth=0.8,
            capsize=0,
            zorder=2.2,
        )
    return [Cut(at, value, style.colour) for at, value in zip(x, y, strict=True)]


def _key(method: str, summary: pd.DataFrame) -> Line2D:
    style, single = style_of(method), (summary.method == method).sum() == summary["labels"].nunique(dropna=False)
    reference = method in REFERENCES
    return Line2D(
        [], [], color=style.colour, ls="" if single and not reference else style.line, lw=1.2,
        marker="" if reference else style.marker, ms=3.8, label=math_label(method, 19),
    )  # fmt: skip


class Mark(NamedTuple):
    """A start's gain with half its interval, in points; the marker is as full as ``fill`` (0 to 1) says."""

    method: str
    y: float
    value: float
    half: float
    fill: float = 1.0


def _forest(axes: Axes, marks: Sequence[Mark], core: Sequence[str], reach: float = 1.5) -> None:
    """Gains across, with a line at 0. The scale follows 0 and the starts of ``core``; what lies farther off than ``reach``
    (see ``window``) is in a shaded margin, as an arrow with its value."""
    ends = [end for m in marks if m.method in core for end in (m.value - m.half, m.value + m.half)]
    low, high = window([0.0, *ends], [m.value + side * m.half for m in marks for side in (-1, 0, 1)], reach, 1.0)
    gutter = 0.26 * (high - low)
    below, above = (any(m.value < low for m in marks), any(m.value > high for m in marks))
    for cut, edges in ((below, (low - gutter, low)), (above, (high, high + gutter))):
        if cut:
            axes.axvspan(*edges, color="0.95", lw=0, zorder=0)
    for mark in marks:
        style, side = style_of(mark.method), -1 if mark.value < low else 1 if mark.value > high else 0
        look: dict[str, Any] = {
            "ms": 4.2,
            "mec": style.colour,
            "mfc": _lighter(style.colour, mark.fill),
            "mew": 0.8,
            "zorder": 4,
        }
        if side:
            border = low if side < 0 else high
            axes.plot(border + 0.1 * side * gutter, mark.y, "<" if side < 0 else ">", **look)
            axes.text(
                border + 0.28 * side * gutter, mark.y, f"{mark.value:+.1f}".replace("-", "−"), fontsize=5.5,
                ha="right" if side < 0 else "left", va="center", color=style.colour,
            )  # fmt: skip
        else:
            ends = [max(mark.value - mark.half, low), min(mark.value + mark.half, high)]
            axes.plot(ends, [mark.y, mark.y], color=style.colour, lw=0.9, zorder=3)
            axes.plot(mark.value, mark.y, style.marker, **look)
    axes.set_xlim(low - gutter * below, high + gutter * above)
    axes.xaxis.set_major_locator(ticks_within(low, high))
    axes.axvline(0, color=BLACK, lw=0.8, zorder=1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def gains(summary: pd.DataFrame, rate: float) -> Figure:
    """Paired difference to naïve transfer, in points, with its interval: a row a start, a panel a number of labels.

    One, two and three steps stand below one another in a start's row, ever less filled. A panel's scale follows KNOWN
    and the real Θ_{-1}.
    """
    rows = summary[summary.method != "naive"]
    groups = [[m for m in ordered(rows.method) if m in REFERENCES], *families(rows.method).values()]
    place, end = {}, 0.0
    for members in filter(None, groups):
        place.update({method: end + i for i, method in enumerate(members)})
        end += len(members) + 0.35
    steps = sorted(int(step) for step in rows.steps[rows.steps > 0].unique())
    titled = list(by_labels(rows))
    figure, panels = plt.subplots(1, len(titled), figsize=(PAGE, 0.27 * end + 0.9), sharey=True, squeeze=False)
    for axes, (title, part) in zip(panels[0], titled, strict=True):
        marks = []
        for method in place:
            own = part[part.method == method].sort_values("steps")
            for i, row in enumerate(own.itertuples()):
                y = place[method] + 0.31 * (i - (len(own) - 1) / 2)
                marks.append(
                    Mark(method, y, POINT * row.gain, POINT * float(bounded(row.gain_half_width)), _fill(row.steps))
                )
        _forest(axes, marks, ("known", "more_data"))
        axes.set(title=title, xlabel="gain over naïve (points)")
    panels[0, 0].set(yticks=list(place.values()), ylim=(end - 0.75, -0.6))
    panels[0, 0].set_yticklabels([math_label(name) for name in place])
    keys = [
        Line2D([], [], ls="", marker="o", ms=4.2, mec=BLACK, mew=0.8, mfc=_lighter(BLACK, _fill(step)),
               label=f"{virtual(step, rate)} ({step_count(step)})")
        for step in steps
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside upper center", ncols=max(len(keys), 1))
    return figure


def _fill(step: int) -> float:
    """How full the marker of so many steps is: less for each, empty from three on."""
    return (1.0, 1.0, 0.45, 0.0)[min(int(step), 3)]


def _lighter(colour: str, fill: float) -> tuple[float, float, float]:
    """``colour`` at ``fill`` of its strength on white."""
    red, green, blue = (1 - fill + fill * int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def learning_curves(curves: pd.DataFrame, confidence: float) -> Figure:
    """Validation accuracy while fine-tuning, a panel a share of the labels; bands: intervals over source seeds.

    The scale follows all starts but scratch, whose first epochs may be below it.

    Args:
        curves: method, steps, fraction, seed, epoch, accuracy (a share), and labels if the panels are to be named so.
    """
    fractions = sorted(curves.fraction.unique())
    width = COLUMN if len(fractions) == 1 else PAGE
    figure, panels = plt.subplots(1, len(fractions), figsize=(width, 2.6), squeeze=False)
    for axes, fraction in zip(panels[0], fractions, strict=True):
        part, means = curves[curves.fraction == fraction], {}
        for method in ordered(part.method):
            own = sorted(part.steps[part.method == method].unique())
            for step in own:
                one = part[(part.method == method) & (part.steps == step)]
                epochs = sorted(one.epoch.unique())
                samples = [POINT * by_source(one[one.epoch == epoch]) for epoch in epochs]
                style = style_of(method)
                name = math_label(method) + (f", {step_count(step)}" if len(own) > 1 else "")
                means[method, step] = [float(sample.mean()) for sample in samples]
                band(
                    axes, epochs, samples, confidence, color=style.colour, ls=style.line, lw=1.3, label=name,
                    marker=style.marker, ms=3.5, markevery=(0.03 * len(means), 0.25), alpha=1 if step < 2 else 0.6,
                )  # fmt: skip
        core = [values for (method, _), values in means.items() if method != "scratch"]
        late = [values[len(values) // 4 :] for values in means.values()]
        axes.set(
            ylim=window(np.concatenate(core or late), np.concatenate(late), 1.0, 1.0), xlabel="epoch of fine-tuning"
        )
        axes.set_title(
            f"{part['labels'].iloc[0]:g} labels" if "labels" in part else f"{POINT * fraction:.3g} % of the labels"
        )
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[0, 0].set_ylabel("validation accuracy (%)")
    _legend_above(figure, panels.flat, 5 if width == PAGE else 2)
    return figure


def _legend_above(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend for all panels, outside them, each entry once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(
        list(found.values()), list(found), loc="outside upper center", ncols=min(columns, len(found)), columnspacing=1.4
    )


def headroom(table: pd.DataFrame, source_images: int, rate: float, confidence: float) -> Figure:
    """Downstream accuracy of nets really trained on |D| source images: what there is to gain; dotted: from scratch.

    Args:
        table: images (0: from scratch), labels, seed, accuracy (a share).
        source_images: |D_0|, marked, as is |D_{-1}| = |D_0|/r.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.5))
    axes.set_xscale("log")
    looks = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (SKY, "v"), (BLACK, "P")]
    for i, (title, rows) in enumerate(by_labels(table)):
        colour, marker = looks[i % len(looks)]
        real = rows[rows.images > 0]
        sizes = sorted(real.images.unique())
        values = [POINT * by_source(real[real.images == size]) for size in sizes]
        band(axes, sizes, values, confidence, color=colour, marker=marker, label=title)
        if (rows.images == 0).any():
            axes.axhline(POINT * by_source(rows[rows.images == 0]).mean(), color=colour, ls=":", lw=1.1, zorder=1)
    if (table.images == 0).any():
        axes.plot([], [], color=GREY, ls=":", lw=1.1, label="from scratch")
    for size, name, ha in ((source_images, r"$|D_0|$", "right"), (source_images / rate, r"$|D_{-1}|$", "left")):
        axes.axvline(size, color=GREY, lw=0.9, ls="--", zorder=1)
        axes.annotate(
            name, (size, 1), xycoords=("data", "axes fraction"), xytext=(3 if ha == "left" else -3, 2),
            textcoords="offset points", ha=ha, va="bottom", color="0.35", fontsize=8,
        )  # fmt: skip
    sizes = sorted(table.images[table.images > 0].unique())
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel="source images $|D|$", ylabel="downstream accuracy (%)")
    _legend_above(figure, [axes], 3)
    return figure


def oracle(table: pd.DataFrame) -> Figure:
    """Gain over the oracle track's own Θ_0 of each one-step start, with its interval; dashed: the real Θ_{-1}'s.

    Args:
        table: start (a name or a label), gain and half_width (shares), one row a start.
    """
    rows = table.set_index("start").loc[ordered(table.start)]
    gain, half = POINT * rows.gain, POINT * bounded(rows.half_width)
    figure, axes = plt.subplots(figsize=(COLUMN, 0.19 * len(rows) + 0.7))
    marks = [Mark(*mark) for mark in zip(rows.index, range(len(rows)), gain, half, strict=True)]
    real = style_of("more_data")
    _forest(axes, marks, [name for name in rows.index if style_of(name) in (real, style_of("known"))], 4.0)
    for mark in marks:
        if style_of(mark.method) == real:
            axes.axvline(mark.value, color=real.colour, ls=real.line, lw=0.9, zorder=1)
    axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)), xlabel=r"gain over $\Theta_0$ (points)")
    axes.set_yticklabels([math_label(name) for name in rows.index])
    return figure


ABLATED = {
    "history_length": "history length $S$",
    "rate": "sampling rate $r$",
    "source_images": "source images $|D_0|$",
}


def ablations(table: pd.DataFrame) -> Figure:
    """KNOWN's gain over naïve transfer, in points, against each ablated parameter, a line a number of steps.

    Args:
        table: ablation (a parameter's name), value, method, steps, gain and half_width (shares).
    """
    known = table[table.method == "known"]
    present = list(dict.fromkeys(known.ablation))
    names = [name for name in ABLATED if name in present] + [name for name in present if name not in ABLATED]
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(COLUMN if columns == 1 else PAGE, 2.1 * lines + 0.4), sharey=True, squeeze=False
    )
    steps = sorted(known.steps.unique())
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels.flat, names, strict=False):
        part = known[known.ablation == name]
        numbers = pd.to_numeric(part.value, errors="coerce")
        ticks = sorted(numbers.unique()) if numbers.notna().all() else list(dict.fromkeys(part.value.astype(str)))
        numeric, log = (
            numbers.notna().all(),
            bool(numbers.notna().all() and min(ticks) > 0 and max(ticks) > 8 * min(ticks)),
        )
        x = np.log2(numbers) if log else numbers if numeric else part.value.astype(str).map(ticks.index)
        apart = float(np.diff(np.unique(x)).min(initial=1.0)) if len(ticks) > 1 else 1.0
        for i, step in enumerate(steps):
            rows = part[part.steps == step].assign(x=x).sort_values("x")
            axes.errorbar(
                rows.x + 0.09 * apart * (i - (len(steps) - 1) / 2),
                POINT * rows.gain,
                POINT * bounded(rows.half_width),
                color=(RED, ORANGE, BLUE, GREEN)[i % 4],
                marker="os^D"[i % 4],
                ls=("-", "--", ":", "-.")[i % 4],
                lw=1.2,
                elinewidth=0.8,
                capsize=0,
                label=step_count(step),
            )
        axes.axhline(0, color=BLACK, lw=0.8, zorder=1)
        at = np.log2(ticks) if log else ticks if numeric else range(len(ticks))
        axes.set_xticks(list(at), [f"{tick:,g}" if numeric else tick for tick in ticks])
        axes.set_xlabel(ABLATED.get(name, name.replace("_", " ")))
        axes.margins(x=0.12)
    for axes in panels[:, 0]:
        axes.set_ylabel("gain over naïve (points)")
    _legend_above(figure, panels.flat, 4)
    return figure
