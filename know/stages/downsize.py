"""Stage 1: the nested subsets."""

from __future__ import annotations

import pandas as pd
import torch

from know.data.splits import draw_split, save_split, source
from know.params import Params
from know.stages.results import split_path, write_csv


def run(params: Params) -> pd.DataFrame:
    """Draw D_0 ⊃ … ⊃ D_{S-1}, the real D_{-1} and the validation images for each source seed.

    Returns:
        Rows of seed, subset, class, images.
    """
    pool = source(params.downsize, "train", torch.device("cpu"))
    rows = []
    for seed in params.downsize.source_seeds:
        split = draw_split(pool.labels, params.downsize, params.rate, params.history_length, seed)
        save_split(split, split_path(seed))
        named = {f"D_{k}": subset for k, subset in enumerate(split.subsets)} | {"validation": split.validation}
        if split.more is not None:
            named["D_-1"] = split.more
        for subset, index in named.items():
            counts = pool.labels[index].bincount(minlength=len(pool.classes)).tolist()
            rows += [(seed, subset, label, n) for label, n in zip(pool.classes, counts, strict=True)]
    return write_csv(pd.DataFrame(rows, columns=["seed", "subset", "class", "images"]), "downsize.csv")
