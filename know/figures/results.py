"""Figures of what the starts are worth after fine-tuning: accuracy, gains, learning curves, headroom, oracle, ablations."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from know.figures.drawing import Cut, band, bounded, by_labels, by_source, mark_cut, window
from know.figures.style import (
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
STEP_FILL = (1.0, 0.45, 0.0)  # how full the markers of one, two and three (or more) steps are
CUT_KEY = Line2D([], [], color=BLACK, marker="v", ls="", ms=4.5, label="beyond the axis: its value")


def transfer(summary: pd.DataFrame, rate: float) -> Figure:
    """Downstream accuracy against virtual data: a column a family of starts, a row a number of labels.

    Source networks differ more than methods do, so the bars are intervals of the paired difference to naïve transfer.
    A row's scale follows naïve transfer, the real Θ_{-1} and KNOWN; what lies far off is cut, with its value.
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
        low, high = window([core["mean"] - core.half, core["mean"] + core.half], table["mean"], 1.5, 1.0)
        for axes, members in zip(line, groups.values(), strict=True):
            axes.set(ylim=(low, high), xlim=(-0.4, max(steps) + 0.45), xticks=steps)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            cuts = _references(axes, table, first=axes is line[0])
            if "known" not in members:
                _path(axes, table, "known", naive, 0.0, bars=False)
            for i, method in enumerate(members):
                cuts += _path(axes, table, method, naive, 0.13 * (i - (len(members) - 1) / 2))
            mark_cut(axes, cuts)
            any_cut |= any(not low <= cut.value <= high for cut in cuts)
        line[0].set_ylabel(f"{title}\naccuracy (%)")
    for axes, members in zip(panels[-1], groups.values(), strict=True):
        axes.set_xticklabels([virtual(int(step), rate) for step in steps])
        axes.set_xlabel("virtual data")
        axes.legend(
            handles=[_key(method, summary) for method in members],
            loc="upper center",
            bbox_to_anchor=(0.45, -0.34 if len(rows) > 1 else -0.3),
            fontsize=7,
            handlelength=1.9,
            handletextpad=0.5,
            labelspacing=0.35,
            borderpad=0,
        )
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
            x, y, own.half, color=style.colour, ls="", marker=style.marker, ms=3.8, elinewidth=0.8, capsize=0, zorder=3
        )
    return [Cut(at, value, style.colour) for at, value in zip(x, y, strict=True)]


def _key(method: str, summary: pd.DataFrame) -> Line2D:
    style, single = style_of(method), (summary.method == method).sum() == summary["labels"].nunique(dropna=False)
    reference = method in REFERENCES
    return Line2D(
        [], [], color=style.colour, ls="" if single and not reference else style.line, lw=1.2,
        marker="" if reference else style.marker, ms=3.8, label=math_label(method, 19),
    )  # fmt: skip


def gains(summary: pd.DataFrame, rate: float) -> Figure:
    """Paired difference to naïve transfer, in points, with its interval: a row a start, a panel a number of labels.

    One, two and three steps stand below one another in a start's row, ever less filled. What lies far off is in the
    shaded margin, as an arrow with its value.
    """
    rows = summary[summary.method != "naive"]
    groups = {"references": [m for m in ordered(rows.method) if m in REFERENCES], **families(rows.method)}
    place, at = {}, 0.0
    for members in groups.values():
        for method in members:
            place[method] = at
            at += 1.0
        at += 0.35 if members else 0.0
    steps = sorted(int(step) for step in rows.steps[rows.steps > 0].unique())
    titled = list(by_labels(rows))
    figure, panels = plt.subplots(1, len(titled), figsize=(PAGE, 0.235 * at + 0.9), sharey=True, squeeze=False)
    for axes, (title, part) in zip(panels[0], titled, strict=True):
        gain, half = POINT * part.gain, POINT * bounded(part.gain_half_width)
        core = part.method.isin(["known", "more_data"])
        low, high = window([(gain - half)[core], (gain + half)[core], (0 * gain)[core]], gain, 1.5, 1.0)
        cut: dict[tuple[str, bool], list[str]] = {}
        left, right = gain.min() < low, gain.max() > high
        gutter = 0.26 * (high - low)
        for row, value, wide in zip(part.itertuples(), gain, half, strict=True):
            style = style_of(row.method)
            own = sorted(part.steps[part.method == row.method])
            y = place[row.method] + (0.27 * (own.index(row.steps) - (len(own) - 1) / 2))
            fill = STEP_FILL[min(max(int(row.steps), 1), 3) - 1]
            look = {"ms": 4.2, "mec": style.colour, "mfc": _lighter(style.colour, fill), "mew": 0.8, "zorder": 4}
            if value < low or value > high:
                cut.setdefault((row.method, value < low), []).append(f"{value:.1f}".replace("-", "−"))
                edge = low - 0.06 * gutter if value < low else high + 0.06 * gutter
                axes.plot(edge, y, "<" if value < low else ">", **look)
                continue
            axes.plot([max(value - wide, low), min(value + wide, high)], [y, y], color=style.colour, lw=0.9, zorder=3)
            axes.plot(value, y, style.marker, **look)
        for (method, below), texts in cut.items():
            axes.text(
                low - 0.24 * gutter if below else high + 0.24 * gutter,
                place[method],
                "\n".join(texts),
                ha="right" if below else "left",
                va="center",
                fontsize=6,
                linespacing=0.85,
                color=style_of(method).colour,
            )
        for side, edges in ((left, (low - gutter, low)), (right, (high, high + gutter))):
            if side:
                axes.axvspan(*edges, color="0.95", lw=0, zorder=0)
        axes.set(xlim=(low - gutter * left, high + gutter * right), title=title, xlabel="gain over naïve (points)")
        axes.xaxis.set_major_locator(
            FixedLocator([t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high])
        )
        axes.axvline(0, color=BLACK, lw=0.8, zorder=1)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    names = [method for method in place]
    panels[0, 0].set(yticks=[place[name] for name in names], ylim=(at - 0.8, -0.7))
    panels[0, 0].set_yticklabels([math_label(name) for name in names])
    keys = [
        Line2D([], [], ls="", marker="o", ms=4.2, mec=BLACK, mew=0.8, mfc=_lighter(BLACK, STEP_FILL[min(step, 3) - 1]),
               label=f"{virtual(step, rate)} ({step_count(step)})")
        for step in steps
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside upper center", ncols=max(len(keys), 1))
    return figure


def _lighter(colour: str, fill: float) -> tuple[float, float, float]:
    """``colour`` at ``fill`` of its strength on white."""
    red, green, blue = (1 - fill + fill * int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def learning_curves(curves: pd.DataFrame, confidence: float) -> Figure:
    """Validation accuracy while fine-tuning, a panel a share of the labels; bands: intervals over source seeds.

    The scale follows all starts but scratch, whose first epochs may be below it.
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
        axes.set_title(f"{POINT * fraction:.3g} % of the labels")
        axes.set_xlim(left=0)
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
    for y, (name, value, wide) in enumerate(zip(rows.index, gain, half, strict=True)):
        style = style_of(name)
        axes.errorbar(value, y, xerr=wide, color=style.colour, marker=style.marker, ms=4.2, elinewidth=1, capsize=0)
        if style.label == style_of("more_data").label:
            axes.axvline(value, color=style.colour, ls=style.line, lw=0.9, zorder=1)
            axes.axvspan(value - wide, value + wide, color=style.colour, alpha=0.12, lw=0, zorder=0)
    low, high = window([0, *gain], [*(gain - half), *(gain + half)], 0.6, 1.0)
    axes.axvline(0, color=BLACK, lw=0.8, zorder=1)
    axes.set(
        xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)), xlabel=r"gain over $\Theta_0$ (points)"
    )
    axes.set_yticklabels([math_label(name) for name in rows.index])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
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
