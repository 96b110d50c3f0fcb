"""The loss on the plane that a weight path spans: its two first principal components (Li et al., NeurIPS 2018; paper, fig.)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from know.weights.kinds import State, kinds_of


def _flat(state: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([state[name].detach().cpu().double().flatten() for name in names])


@dataclass(frozen=True)
class Plane:
    """An orthonormal plane through Θ_0 in the space of all weights but buffers.

    ``origin``: Θ_0, a state. ``axes``: (2, number of weights), float64. ``share``: of the path's variance about its mean
    along each axis.
    """

    origin: State
    names: tuple[str, ...]
    axes: Tensor
    share: tuple[float, float]

    def coordinates(self, state: Mapping[str, Tensor]) -> tuple[float, float]:
        """Where the projection of a state lies, in the weights' units from Θ_0."""
        x, y = (self.axes @ (_flat(state, self.names) - _flat(self.origin, self.names))).tolist()
        return x, y

    def state(self, x: float, y: float) -> State:
        """The state at a point of the plane; buffers are Θ_0's."""
        weights = _flat(self.origin, self.names) + x * self.axes[0] + y * self.axes[1]
        found, start = dict(self.origin), 0
        for name in self.names:
            like = self.origin[name]
            found[name] = weights[start : start + like.numel()].reshape(like.shape).to(like.dtype)
            start += like.numel()
        return found


def plane_of(trajectory: Sequence[State]) -> Plane:
    """The plane of the first two principal components of a path Θ_{S-1}, …, Θ_0 of three states or more.

    Signs are such that Θ_0 lies right of and above the most forgotten weights.
    """
    if len(trajectory) < 3:
        raise ValueError(f"a path of {len(trajectory)} states spans no plane; at least 3 are needed")
    names = tuple(name for name, kind in kinds_of(trajectory[-1]).items() if kind != "buffer")
    path = torch.stack([_flat(state, names) for state in trajectory])
    _, singular, axes = torch.linalg.svd(path - path.mean(0), full_matrices=False)
    axes = axes[:2] * torch.where(axes[:2] @ (path[-1] - path[0]) < 0, -1.0, 1.0)[:, None]
    variance = singular.square() / singular.square().sum()
    return Plane(trajectory[-1], names, axes, (variance[0].item(), variance[1].item()))


def grid(
    plane: Plane,
    points: Sequence[tuple[float, float]],
    loss: Callable[[State], float],
    size: int = 21,
    margin: float = 0.25,
) -> list[tuple[float, float, float]]:
    """x, y and the loss on ``size`` × ``size`` points that hold ``points``, with a ``margin`` (a share) on each side."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    wide = np.maximum(high - low, 0.25 * (high - low).max()) * (1 + 2 * margin)
    xs, ys = (np.linspace(m - w / 2, m + w / 2, size) for m, w in zip((low + high) / 2, wide, strict=True))
    return [(float(x), float(y), loss(plane.state(float(x), float(y)))) for y in ys for x in xs]
