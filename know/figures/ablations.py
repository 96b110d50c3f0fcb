"""The figure of the ablations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from know.figures.registry import figure
from know.figures.style import COLUMN, MARKERS, PAGE, PALETTE, POINT, zero_line

if TYPE_CHECKING:
    from know.report.results import Results

ABLATED = {
    "history_length": "history length $S$",
    "rate": "sampling rate $r$",
    "source_images": "source images $|D_0|$",
    "replication": "source seeds",
}


@figure(
    "ablations",
    "KNOWN's gain over naïve transfer against each ablated parameter of the default experiment, on small nets and MNIST, by step.",
    needs=["ablations"],
)
def ablations(results: Results) -> Figure:
    """The gains and their intervals are the sweep's cells', so nothing is estimated here."""
    table = results["ablations"]
    known = table[(table.method == "known") & (table["labels"].astype(str) == "all")]
    known = known.assign(
        number=pd.to_numeric(known.value, errors="coerce"), value=known.value.astype(str).map(_lines)
    ).sort_values("number", kind="stable")
    known["place"] = known.groupby("ablation").value.transform(lambda values: pd.factorize(values)[0])
    steps = sorted(known.steps.unique())
    known["place"] += 0.16 * (known.steps.map(steps.index) - (len(steps) - 1) / 2)
    names = [name for name in ABLATED if name in set(known.ablation)] + sorted(set(known.ablation) - set(ABLATED))
    columns = 2 if len(names) == 4 else min(3, len(names))
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn's own layout, which the one below replaces
        grid = sns.FacetGrid(
            known, col="ablation", col_order=names, col_wrap=columns, sharex=False, height=1.75, aspect=PAGE / columns / 1.75,
            hue="steps", hue_kws={"marker": MARKERS[: len(steps)]}, palette=PALETTE[: len(steps)],
        )  # fmt: skip
        grid.map_dataframe(_points)
    for name, axes in grid.axes_dict.items():
        values = known.value[known.ablation == name].unique()
        axes.set_xticks(range(len(values)), values, fontsize=7 if "\n" in values[0] else 8)
        axes.set(xlim=(-0.6, len(values) - 0.4), xlabel=ABLATED.get(name, name.replace("_", " ")), title="")
        zero_line(axes, vertical=False)
    grid.set_ylabels("gain over naïve (points)")
    grid.figure.set_size_inches(COLUMN if columns == 1 else PAGE, grid.figure.get_figheight())
    grid.figure.set_layout_engine("constrained")
    handles, _ = grid.axes.flat[0].get_legend_handles_labels()
    words = [f"{step:g} step{'s' if step > 1 else ''}" for step in steps]
    grid.figure.legend(handles, words, loc="outside upper center", ncols=len(steps))
    return grid.figure


def _lines(value: str) -> str:
    """A value of two parts in lines that fit under a tick: network, data set."""
    first, *rest = value.split(", ")
    return "\n".join([first, *(part.replace("-", "-\n") for part in rest)])


def _points(data: pd.DataFrame, color: str, marker: str, label: str) -> None:
    half = POINT * data.half_width.where(np.isfinite(data.half_width), 0.0)
    plt.errorbar(
        data.place, POINT * data.gain, half, ls="", elinewidth=0.9, ms=4, color=color, marker=marker, label=label
    )
