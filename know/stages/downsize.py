"""Stage 1: the nested subsets."""

from __future__ import annotations

import pandas as pd
import torch

from know.data.options import subset_sizes
from know.data.splits import draw_split, more_images, source_task
from know.params import Params
from know.stages.results import split_path, write_csv


def run(params: Params) -> None:
    """Draw D_0 ⊃ … ⊃ D_{S-1}, the real D_{-1} and the validation images for each source seed.

    Writes ``downsize.csv``: source_seed, subset, class, images.
    """
    pool = source_task(params.downsize).pool(torch.device("cpu"))
    sizes = subset_sizes(params.downsize.source_images, params.rate, params.history_length)
    rows = []
    for seed in params.downsize.source_seeds:
        split = draw_split(pool.labels, params.downsize, seed)
        split.write(split_path(seed))
        named = {f"D_{k}": split.order[:size] for k, size in enumerate(sizes)} | {"validation": split.validation}
        if more := more_images(params.downsize, params.rate, len(split.order)):
            named["D_-1"] = split.order[:more]
        for subset, index in named.items():
            counts = pool.labels[index].bincount(minlength=len(pool.classes)).tolist()
            rows += [(seed, subset, label, n) for label, n in zip(pool.classes, counts, strict=True)]
    write_csv(pd.DataFrame(rows, columns=["source_seed", "subset", "class", "images"]), "downsize.csv")
