"""Distillation: weights whose function comes close to given outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from know.data.images import ImageSet, equal_batches, normalise
from know.run.store import FileInput
from know.seeds import derive
from know.training.forgetting import state_of
from know.training.loop import Recipe, steps_of
from know.training.runs import SourceJob

TARGET = "outputs"
"""The tensor of a target's file."""


@dataclass(frozen=True)
class DistilJob:
    """Distilling a ``target``, logits (|D_0|, classes) on D_0's images, the first ``images`` of the source's order, into Θ_0."""

    source: SourceJob
    trained: FileInput
    images: int
    target: FileInput
    recipe: Recipe


def distil(job: DistilJob) -> dict[str, Tensor]:
    """The weights after distillation."""
    net = job.source.net(load_file(job.trained.path))
    target = load_file(job.target.path)[TARGET]
    match_outputs(net, job.source.images_of(job.images), target, job.recipe, derive("distil", job.source.seed))
    return state_of(net)


def match_outputs(net: nn.Module, data: ImageSet, target: Tensor, recipe: Recipe, seed: int) -> None:
    """Train ``net`` in place until its logits on ``data`` are near ``target`` (N, classes): Adam at ``recipe.lr``, mean squared error. The
    logits and not their softmax, which on images that a net has learned says hardly more than the label (Ba & Caruana, NeurIPS 2014)."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), recipe.lr, fused=True)
    target = target.to(data.device)

    def loss(net: nn.Module, index: Tensor) -> Tensor:
        index = index.to(data.device)
        return F.mse_loss(net(normalise(data.images[index])), target[index])

    for _ in range(recipe.epochs):
        for _ in steps_of(net, equal_batches(len(data), recipe.batch_size, generator), loss, optimizer):
            pass
