"""The source loss on the plane of a weight path: a run as those of training, computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors.torch import load_file

from know.data.images import held
from know.run.store import FileInput
from know.tasks.measures import measure
from know.training.runs import SourceJob
from know.weights.kinds import State
from know.weights.landscape import grid, plane_of

IMAGES, SIZE = 600, 21
"""The validation images, at most, whose loss is taken, and the points on a side of the grid."""


@dataclass(frozen=True)
class LandscapeJob:
    """The source loss on the plane of a path Θ_{S-1}, …, Θ_0, and where other ``starts`` lie on it.

    ``inside``: those of the starts that the grid holds, beside the path.
    """

    source: SourceJob
    path: tuple[FileInput, ...]
    starts: tuple[FileInput, ...]
    inside: tuple[int, ...]


@dataclass(frozen=True)
class Landscape:
    """``grid``: x, y, loss. ``points``: x, y, loss, and the share of the step from Θ_0 that lies off the plane, of the path and
    then of the starts. ``shares``: of the path's variance along both axes."""

    grid: list[tuple[float, float, float]]
    points: list[tuple[float, float, float, float]]
    shares: list[float]


def landscape(job: LandscapeJob) -> Landscape:
    """Loss on ``IMAGES`` validation images, on a grid of ``SIZE`` × ``SIZE`` points."""
    path = [load_file(file.path) for file in job.path]
    starts = [load_file(file.path) for file in job.starts]
    plane, validation, net = plane_of(path), job.source.validation, job.source.net()
    images = held(validation.select(torch.arange(min(IMAGES, len(validation)))))

    def loss(state: State) -> float:
        net.load_state_dict(state)
        return measure(net, images)[0]

    at = [plane.coordinates(state) for state in (*path, *starts)]
    seen = [*at[: len(path)], *(at[len(path) + i] for i in job.inside)]
    points = [(*where, loss(state), plane.off_plane(state)) for where, state in zip(at, (*path, *starts), strict=True)]
    return Landscape(grid(plane, seen, loss, SIZE), points, list(plane.share))
