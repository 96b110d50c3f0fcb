"""Figures of the images: a few of each task, and how many of each class are in D_0, D_1, …."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from know.data.images import ImageSet
from know.figures.registry import figure
from know.figures.style import BLUE, COLUMN, PAGE

if TYPE_CHECKING:
    from know.report.results import Results


MOST = 12  # classes of which images are shown


def samples(source: ImageSet, downstream: ImageSet, count: int = 8) -> Figure:
    """A few training images of each class, or of the first ``MOST``: the source task's left, the downstream task's right."""
    rows = min(MOST, max(len(source.classes), len(downstream.classes)))
    figure, panels = plt.subplots(1, 2, figsize=(PAGE, 0.36 * rows + 0.3))
    for task, title, axes in zip((source, downstream), ("source", "downstream"), panels, strict=True):
        first = [(task.labels == i).nonzero()[:count, 0] for i in range(len(task.classes[:MOST]))]
        shown = [task.select(index).images.permute(0, 2, 3, 1).numpy() for index in first]
        strips = [np.concatenate(list(images), axis=1).squeeze() for images in shown]
        axes.imshow(np.concatenate(strips), cmap="gray_r", interpolation="nearest")
        height = strips[0].shape[0]
        axes.set(yticks=height * (np.arange(len(strips)) + 0.5), xticks=[], title=f"{title} task")
        axes.set_yticklabels(task.classes[:MOST])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_anchor("N")
    return figure


@figure("downsizing", "Images of each class in D₀, D₁, … of one source seed.", needs=["downsize"], shown=False)
def downsizing(results: Results) -> Figure:
    table = results["downsize"]
    one = table[(table.source_seed == table.source_seed.min()) & table.subset.str.match(r"D_\d")]
    one = one.assign(subset="$" + one.subset + "$", **{"class": one["class"].astype(str)})
    classes = sorted(one["class"].unique())[::-1]
    told = {"hue": "class", "hue_order": classes, "palette": "cividis"} if len(classes) <= 20 else {"color": BLUE}
    figure, axes = plt.subplots(figsize=(COLUMN if len(classes) <= 5 or "hue" not in told else PAGE, 1.9))
    sns.histplot(
        one, y="subset", weights="images", multiple="stack", discrete=True, shrink=0.75, alpha=1, linewidth=0.4, edgecolor="white",
        ax=axes, **told,
    )  # fmt: skip
    for i, total in enumerate(one.groupby("subset", sort=False).images.sum()):
        axes.text(total, i, f" {total:.0f}", va="center", fontsize=8)
    axes.set(xlabel="images", ylabel="")
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    if "hue" in told:
        columns = 1 + (len(classes) > 5)
        sns.move_legend(axes, "center left", bbox_to_anchor=(1, 0.5), ncols=columns, title="class", reverse=True)
    return figure
