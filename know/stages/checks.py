"""What can be known to be wrong before anything runs, but only with the images at hand."""

from __future__ import annotations

import torch

from know.data.splits import downstream_parts, downstream_task, draw_split, source_task
from know.params import Params
from know.training.fine_tuning import labelled


def check_sizes(params: Params) -> None:
    """Whether the data sets have as many images as every stage will ask of them.

    Raises:
        ParamError: one has not; names the key, also of a later stage.
    """
    cpu, evaluate = torch.device("cpu"), params.evaluate
    draw_split(source_task(params.downsize).pool(cpu).labels, params.downsize, seed=0)
    pool, _ = downstream_parts(downstream_task(params.downsize), evaluate.validation_images, cpu)
    labelled(pool, evaluate.labels, seed=0)
