"""The loss on the plane that a weight path spans: its two first principal components (Li et al., NeurIPS 2018; paper, fig.)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from know.weights.algebra import Weights
from know.weights.kinds import State


@dataclass(frozen=True)
class Plane:
    """An orthonormal plane through Θ_0, the ``origin``, in the space of all weights but buffers.

    ``share``: of the path's variance about its mean along each axis.
    """

    origin: Weights
    axes: tuple[Weights, Weights]
    share: tuple[float, float]

    def coordinates(self, state: Mapping[str, Tensor]) -> tuple[float, float]:
        """Where the projection of a state lies, in the weights' units from Θ_0."""
        step = Weights(state) - self.origin
        return self.axes[0].dot(step), self.axes[1].dot(step)

    def off_plane(self, state: Mapping[str, Tensor]) -> float:
        """The share of the step from Θ_0 to a state that its projection does not show: ‖off the plane‖/‖step‖, 0 to 1; NaN
        for Θ_0 itself."""
        step, (x, y) = Weights(state) - self.origin, self.coordinates(state)
        length = step.norm()
        return (step - (x * self.axes[0] + y * self.axes[1])).norm() / length if length > 0 else float("nan")

    def state(self, x: float, y: float) -> State:
        """The state at a point of the plane; buffers are Θ_0's."""
        return (self.origin + (x * self.axes[0] + y * self.axes[1])).state()


def plane_of(trajectory: Sequence[Mapping[str, Tensor]]) -> Plane:
    """The plane of the first two principal components of a path Θ_{S-1}, …, Θ_0 of three states or more.

    Signs are such that Θ_0 lies right of and above the most forgotten weights.
    """
    if len(trajectory) < 3:
        raise ValueError(f"a path of {len(trajectory)} states spans no plane; at least 3 are needed")
    origin = Weights(trajectory[-1])
    path = torch.stack([Weights(theta).flat() for theta in trajectory])
    _, singular, axes = torch.linalg.svd(path - path.mean(0), full_matrices=False)
    x, y = axes[:2] * torch.where(axes[:2] @ (path[-1] - path[0]) < 0, -1.0, 1.0)[:, None]
    variance = (singular.square() / singular.square().sum()).tolist()
    return Plane(origin, (origin.unflat(x), origin.unflat(y)), (variance[0], variance[1]))


def grid(
    plane: Plane,
    points: Sequence[tuple[float, float]],
    loss: Callable[[State], float],
    size: int,
    margin: float = 0.25,
) -> list[tuple[float, float, float]]:
    """x, y and the loss on ``size`` × ``size`` points that hold ``points``, with a ``margin`` (a share) on each side."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    wide = np.maximum(high - low, 0.25 * (high - low).max()) * (1 + 2 * margin)
    xs, ys = (np.linspace(m - w / 2, m + w / 2, size) for m, w in zip((low + high) / 2, wide, strict=True))
    return [(float(x), float(y), loss(plane.state(float(x), float(y)))) for y in ys for x in xs]
