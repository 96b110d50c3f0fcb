"""What every figure shares: colours, the looks of the starts, points and bands with the paper's intervals, saving.

Colours are Okabe and Ito's, told apart by colour-blind readers. A start keeps its look throughout: related ones share a
colour and differ in dashes and marker, so that they are told apart in grey print as well.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from know.analysis.starts import Start, label
from know.analysis.statistics import mean_interval
from know.analysis.text import number
from know.analysis.units import summary
from know.paths import atomic

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"
COLUMN, PAGE = 3.25, 6.8  # widths in inches of a column and of a page of a two-column paper
POINT = 100  # accuracies are shares in the tables, percent in the figures
HALO = [patheffects.withStroke(linewidth=1.6, foreground="white")]
PALETTE = [RED, ORANGE, BLUE, GREEN, PINK, BLACK]  # of what is no start, with the markers beside it
MARKERS = ["o", "s", "^", "D", "v", "P"]
KIND_COLOUR = {"conv": BLUE, "fc": RED, "bias": GREEN}
DASHES: dict[str, tuple[float, ...]] = {"-": (1, 0), "--": (4, 1.5), ":": (1, 1.2), "-.": (5, 1.5, 1, 1.5)}


class Look(NamedTuple):
    """How a start is drawn."""

    colour: str
    line: str
    marker: str

    @property
    def size(self) -> float:
        """Of the marker, in points: a star's body is small."""
        return 9 if self.marker == "*" else 5


LOOKS: dict[str, Look] = {
    "scratch": Look(GREY, ":", "X"),
    "naive": Look(BLACK, "-", "P"),
    "more_data": Look(GREEN, "--", "*"),
    "known": Look(RED, "-", "o"),
    "released": Look(RED, "--", "D"),
    "shipped": Look(RED, ":", "v"),
    "linear_map": Look(BLUE, "-.", ">"),
    "direction_only": Look(ORANGE, "-.", "d"),
    "sham": Look(BLACK, ":", "s"),
    "head_zero": Look(GREEN, ":", "H"),
    "scale_free": Look(PINK, "-", "D"),
    "wnn": Look(PINK, "--", "<"),
    "linear": Look(BLUE, "-", "^"),
    "log": Look(BLUE, "--", "v"),
    "exponential": Look(BLUE, ":", "s"),
    "average": Look(GREY, "-.", "h"),
    "task_vector": Look(SKY, "-", "P"),
    "expo": Look(SKY, "--", "X"),
    "tsv": Look(SKY, ":", "d"),
    "shrunk": Look(ORANGE, "-", "s"),
    "shrink": Look(ORANGE, "--", "p"),
    "shrink_perturb": Look(ORANGE, ":", "8"),
    "repeated": Look(BLACK, "--", "^"),
    "random_direction": Look(GREY, "-", "v"),
    "flipped": Look(GREY, "--", "d"),
    "trained_on": Look(GREEN, "-", "h"),
}


LEFT_OUT = {"naive", "exponential", "expo", "shrink_perturb", "random_direction", "flipped"}
"""The starts of the tables that the figures do not show; others, and a user's own, they do."""


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the starts that figures show."""
    return table[~table.method.isin(LEFT_OUT)]


def look_of(method: str) -> Look:
    """The look of a start; an unknown one gets a look that depends on its name alone."""
    if method in LOOKS:
        return LOOKS[method]
    number = zlib.crc32(method.encode())
    return Look((BLACK, BLUE, GREEN, PINK, SKY)[number % 5], "-.", "8H4>"[number // 5 % 4])


def ordered(methods: Iterable[str]) -> list[str]:
    """The distinct names in the order of every legend and table."""
    return [start.name for start in sorted({Start(name) for name in methods})]


def math(text: str) -> str:
    """``text`` with its Θs as mathtext, since text fonts lack the subscripts."""
    return text.replace("Θ₀", r"$\Theta_0$").replace("Θ₋₁", r"$\Theta_{-1}$")


def signed(value: float, half_width: float = np.inf) -> str:
    """ "+0.3 ± 0.2" points, with a minus as long as the plus."""
    return number(value, half_width, 1, signed=True).replace("-", "−")


def interval(confidence: float) -> Callable[[ArrayLike], tuple[float, float]]:
    """The ends of Student's interval of a mean, as seaborn's ``errorbar`` takes it."""

    def ends(values: ArrayLike) -> tuple[float, float]:
        found = mean_interval(np.asarray(values, dtype=float), confidence)
        return found.mean - found.half_width, found.mean + found.half_width

    return ends


def gains(table: pd.DataFrame, base: pd.Series[bool], by: Sequence[str], value: str = "accuracy") -> pd.DataFrame:
    """Differences in points to the ``base`` rows of the same draw, a row a source seed, the independent unit.

    Args:
        table: ``value`` (a share), the columns of ``by``, and fraction, source_seed, downstream_seed, held_out, epoch as far as they
            tell draws apart.
        by: what is not averaged over; draws are.

    Returns:
        The columns of ``by``, source_seed, gain, and base (in points too).
    """
    draw = [name for name in ("fraction", "source_seed", "downstream_seed", "held_out", "epoch") if name in table]
    paired = table.join(table[base].set_index(draw)[value].rename("base"), on=draw)
    paired = paired.assign(gain=POINT * (paired[value] - paired.base), base=POINT * paired.base)
    return paired.groupby([*by, "source_seed"], as_index=False)[["gain", "base"]].mean()


def zero_line(axes: Axes, vertical: bool = True) -> None:
    """Where nothing is gained."""
    (axes.axvline if vertical else axes.axhline)(0, color=BLACK, lw=0.8, zorder=1)


def paper_band(axes: Axes, error: float, margin: float, vertical: bool = True) -> tuple[float, float]:
    """Shade the gains that the paper reports: ``margin`` to twice that share of naïve transfer's ``error`` (points)."""
    ends = margin * error, 2 * margin * error
    (axes.axvspan if vertical else axes.axhspan)(
        *ends, color=GREEN, alpha=0.13, lw=0, zorder=0, label="paper's effect, half to all"
    )
    return ends


def forest(axes: Axes, table: pd.DataFrame, confidence: float, limits: tuple[float, float] | None = None) -> list[str]:
    """A row a start, its steps below one another, each the mean of ``value`` with its interval; filled if ``chosen``.

    What lies beyond ``limits`` is in a shaded margin, as text.

    Args:
        table: method, steps, value; chosen. A row a source seed.

    Returns:
        The starts, top row first.
    """
    names = ordered(table.method)
    rank = table.groupby("method").steps.rank("dense")
    middle = (table.groupby("method").steps.transform("nunique") + 1) / 2
    row, mean = table.method.map(names.index), table.groupby(["method", "steps"]).value.transform("mean")
    table = table.assign(row=row, y=row + 0.26 * (rank - middle), mean=mean)
    low, high = limits or (-np.inf, np.inf)
    for (method, chosen), rows in table[mean.between(low, high)].groupby(["method", "chosen"]):
        look = look_of(str(method))
        sns.pointplot(
            rows, x="value", y="y", orient="y", native_scale=True, linestyles="none", errorbar=interval(confidence),
            color=look.colour, marker=look.marker, err_kws={"linewidth": 1.4 if chosen else 0.8}, legend=False, ax=axes,
            **({"ms": look.size, "mew": 0, "zorder": 4} if chosen else {"ms": 3.6, "mfc": "white", "mew": 0.8, "zorder": 3}),
        )  # fmt: skip
    if limits:
        _margins(axes, table.drop_duplicates(["method", "steps"]), limits)
        _beyond(axes, table[mean.between(low, high)], confidence, limits)
    zero_line(axes)
    axes.set(ylim=(len(names) - 0.45, -0.55), yticks=range(len(names)), ylabel="")
    axes.set_yticklabels([math(label(name)) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return names


def _beyond(axes: Axes, table: pd.DataFrame, confidence: float, limits: tuple[float, float]) -> None:
    """An arrow where an interval goes on beyond the limits."""
    for _, rows in table.groupby(["method", "steps"]):
        for end, limit, arrow in zip(interval(confidence)(rows.value), limits, ("<", ">"), strict=True):
            if (end - limit) * (1 if arrow == ">" else -1) > 0:
                colour = look_of(rows.method.iloc[0]).colour
                axes.plot(limit, rows.y.iloc[0], marker=arrow, color=colour, ms=4, mew=0, clip_on=False, zorder=5)


def _margins(axes: Axes, marks: pd.DataFrame, limits: tuple[float, float]) -> None:
    low, high = limits
    ticks = [tick for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    for side, beyond in ((-1, marks[marks["mean"] < low]), (1, marks[marks["mean"] > high])):
        if beyond.empty:
            continue
        border, edge = (low, low - 0.17 * (high - low)) if side < 0 else (high, high + 0.17 * (high - low))
        low, high = min(low, edge), max(high, edge)
        axes.axvspan(border, edge, color="0.94", lw=0, zorder=3.5)
        for row, values in beyond.sort_values("steps").groupby("row")["mean"]:
            text = ", ".join(signed(value) for value in values)
            axes.text(
                edge, row, f" ← {text}" if side < 0 else f"{text} → ", ha="left" if side < 0 else "right", va="center",
                fontsize=8, zorder=6,
            )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_xticks(ticks)


def window(
    table: pd.DataFrame, core: Iterable[str], confidence: float, also: Sequence[float] = (), reach: float = 1.0
) -> tuple[float, float]:
    """Limits that hold 0, ``also`` and the intervals of ``core``, and those of every mean near them.

    Near: no farther off than ``reach`` times the width of what must be held.

    Args:
        table: method, steps, value. A row a source seed.
    """
    marks = summary(table, ["method", "steps"], ["value"], confidence)
    half = marks.value_half_width.replace(np.inf, 0.0)  # of a single source seed
    marks = marks.assign(low=marks.value - half, high=marks.value + half)
    core_marks = marks[marks.method.isin(list(core))]
    inner = pd.Series([0.0, *also, *core_marks.low, *core_marks.high])
    far = reach * (inner.max() - inner.min()) or 1.0
    held = marks[marks.value.between(inner.min() - far, inner.max() + far)]
    shown = pd.concat([inner, held.low, held.high]).clip(inner.min() - far, inner.max() + far)
    margin = 0.05 * (shown.max() - shown.min()) or 1.0
    return float(shown.min() - margin), float(shown.max() + margin)


def use_style() -> None:
    """The committed style, for every figure made after."""
    plt.style.use(str(resources.files("know") / "report" / "templates" / "know.mplstyle"))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``name.pdf`` and ``name.png``, the same bytes for the same figure."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    for suffix in ("pdf", "png"):
        with atomic(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix)
