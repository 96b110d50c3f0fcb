"""λ_l Θ_0 + β_l (Θ_0 - Θ_1), λ and β linear in depth, with its four numbers fitted to transfer losses.

Coefficients linear in depth are LiNeS's (Wang et al., ICLR 2025), interpolation with Θ_1 is WiSE-FT (Wortsman et al., CVPR 2022), and
β = 0 is shrinkage towards 0, as James and Stein's, with a λ of each depth's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
from torch import Tensor

from know.weights.kinds import State, kinds_of

HEAD = "head"


@dataclass(frozen=True)
class Coefficients:
    """λ (``shrink``) and β (``step``) in the first and in the last layer of the body."""

    shrink_first: float
    shrink_last: float
    step_first: float
    step_last: float

    def __str__(self) -> str:
        return f"λ {self.shrink_first:.2f} to {self.shrink_last:.2f}, β {self.step_first:+.2f} to {self.step_last:+.2f}"

    @property
    def still(self) -> Coefficients:
        """The same λ, and no step."""
        return replace(self, step_first=0.0, step_last=0.0)

    def start(self, theta_0: Mapping[str, Tensor], theta_1: Mapping[str, Tensor]) -> State:
        """The weights; buffers are Θ_0's."""
        kinds, depth = kinds_of(theta_0), depths(theta_0)
        return {
            name: own
            if kinds[name] == "buffer"
            else _between(self.shrink_first, self.shrink_last, depth[name]) * own
            + _between(self.step_first, self.step_last, depth[name]) * (own - theta_1[name])
            for name, own in theta_0.items()
        }


def _between(first: float, last: float, depth: float) -> float:
    return first + depth * (last - first)


def depths(state: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each tensor: 0 in the body's first layer, 1 in its last one and in the head, which transfer replaces."""
    layer_of = {name: name.rpartition(".")[0] for name in state}
    body = list(dict.fromkeys(layer for layer in layer_of.values() if layer.split(".")[0] != HEAD))
    last = max(1, len(body) - 1)
    return {name: body.index(layer) / last if layer in body else 1.0 for name, layer in layer_of.items()}


def design(points: int, shrink: tuple[float, float], step: tuple[float, float], seed: int) -> list[Coefficients]:
    """A Latin hypercube: of each number, one value in the middle of each of ``points`` equal parts of its box."""
    rng = np.random.default_rng(seed)
    columns = [
        low + (high - low) * (rng.permutation(points) + 0.5) / points for low, high in (shrink, shrink, step, step)
    ]
    return [Coefficients(*map(float, row)) for row in zip(*columns, strict=True)]


def fitted(
    tried: Sequence[Coefficients],
    losses: Sequence[float],
    groups: Sequence[str],
    shrink: tuple[float, float],
    step: tuple[float, float],
) -> Coefficients:
    """The minimum in the box of the surface Σ_j (a_j x_j + b_j x_j²) + a constant of each group, by least squares.

    Args:
        tried: the m points, with their ``losses`` and ``groups``: a trajectory's losses have a level of their own.
        shrink, step: the box of λ and of β. Without a minimum in a number's box it is at the better end.
    """
    x = np.array([astuple(one) for one in tried])
    same = np.array(groups)[:, None] == np.array(groups)[None]
    centred = np.eye(len(x)) - same / same.sum(1, keepdims=True)
    a, b = np.linalg.lstsq(centred @ np.hstack([x, x**2]), centred @ np.array(losses), rcond=None)[0].reshape(2, -1)
    best = []
    for linear, square, (low, high) in zip(a, b, (shrink, shrink, step, step), strict=True):
        stationary = float(np.clip(-linear / (2 * square), low, high)) if square > 0 else low
        best.append(min((low, high, stationary), key=lambda v: linear * v + square * v**2))
    return Coefficients(*best)
