"""What every figure shares: colours, the names and styles of the starts, the print style, saving.

Colours are Okabe and Ito's, told apart by colour-blind readers. A start keeps its style throughout: related ones share
a colour and differ in dashes and marker, so that they are told apart in grey print as well.
"""

from __future__ import annotations

import os
import textwrap
import zlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from know.paths import atomic

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
COLUMN, PAGE = 3.25, 6.8  # widths in inches of a column and of a page of a two-column paper


class Style(NamedTuple):
    """How a start is written and drawn."""

    label: str
    colour: str
    line: str
    marker: str


METHOD_STYLE: dict[str, Style] = {
    "scratch": Style("from scratch", GREY, ":", "x"),
    "naive": Style("naïve transfer (Θ₀)", BLACK, "-", "+"),
    "more_data": Style("real Θ₋₁", GREEN, "--", "*"),
    "known": Style("KNOWN", RED, "-", "o"),
    "scale_free": Style("scale-free KNOWN", PINK, "-", "D"),
    "wnn": Style("WNN", PINK, "--", "<"),
    "linear": Style("linear", BLUE, "-", "^"),
    "log": Style("logarithmic", BLUE, "--", "v"),
    "exponential": Style("exponential", BLUE, ":", "s"),
    "average": Style("average", GREY, "-.", "h"),
    "task_vector": Style("task vector", SKY, "-", "P"),
    "expo": Style("ExPO", SKY, "--", "X"),
    "tsv": Style("task singular vectors", SKY, ":", "d"),
    "shrunk": Style("Θ₀ shrunk to KNOWN's norms", ORANGE, "-", "s"),
    "shrink_perturb": Style("shrink and perturb", ORANGE, "--", "p"),
    "scale_free_shrunk": Style("scale-free KNOWN + best shrinkage", PINK, ":", "P"),
    "repeated": Style("KNOWN on Θ₀ repeated", BLACK, "--", "^"),
    "random_direction": Style("Θ₀ + noise of KNOWN's norm", GREY, "-", "v"),
    "flipped": Style("KNOWN's step flipped", GREY, "--", "d"),
    "trained_on": Style("Θ₀ trained on, same compute", GREEN, "-", "h"),
}
REFERENCES = ("scratch", "naive", "more_data")
FAMILIES: dict[str, tuple[str, ...]] = {
    "learned": ("known", "scale_free", "wnn"),
    "fits of the path": ("linear", "log", "exponential", "average"),
    "task vectors": ("task_vector", "expo", "tsv"),
    "shrinking": ("shrunk", "shrink_perturb", "scale_free_shrunk"),
    "controls of the step": ("repeated", "random_direction", "flipped", "trained_on"),
}
OTHERS = "others"
KIND_COLOUR = {"conv": BLUE, "fc": RED, "bias": GREEN}
_BY_LABEL = {style.label: style for style in METHOD_STYLE.values()}


def style_of(method: str) -> Style:
    """The style of a start by its name or its label; an unknown one gets a style that depends on its name alone."""
    if known := METHOD_STYLE.get(method) or _BY_LABEL.get(method):
        return known
    number = zlib.crc32(method.encode())
    return Style(method.replace("_", " "), (BLACK, BLUE, GREEN, PINK, SKY)[number % 5], "-.", "8H4>"[number // 5 % 4])


def ordered(methods: Iterable[str]) -> list[str]:
    """The distinct names in the order of every legend and table; unknown ones last, by name."""
    names = set(methods)
    return [name for name in METHOD_STYLE if name in names] + sorted(names - set(METHOD_STYLE))


def families(methods: Iterable[str]) -> dict[str, list[str]]:
    """The names by family, in order; without the references, and without families of which none is there."""
    names = [name for name in ordered(methods) if name not in REFERENCES]
    known = {name for members in FAMILIES.values() for name in members}
    found = {title: [name for name in names if name in members] for title, members in FAMILIES.items()}
    found[OTHERS] = [name for name in names if name not in known]
    return {title: members for title, members in found.items() if members}


def label(method: str) -> str:
    """A start's name in figures and tables."""
    return style_of(method).label


def math_label(method: str, width: int = 80) -> str:
    """``label`` with its symbols as mathtext, since text fonts lack the subscripts; wrapped to ``width`` characters."""
    lines = textwrap.wrap(label(method), width)
    return "\n".join(lines).replace("Θ₀", r"$\Theta_0$").replace("Θ₋₁", r"$\Theta_{-1}$")


def virtual(step: int, rate: float) -> str:
    """ "×4" for two steps at r = 0.5: how much data a prediction stands for."""
    return f"×{rate**-step:.3g}"


def step_count(step: float) -> str:
    """ "1 step", "2 steps"."""
    return f"{step:g} step{'s' if step > 1 else ''}"


def use_style() -> None:
    """The committed style, for every figure made after."""
    plt.style.use(str(resources.files("know") / "report" / "templates" / "know.mplstyle"))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``name.pdf`` and ``name.png``, the same bytes for the same figure."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    for suffix in ("pdf", "png"):
        with atomic(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix)
