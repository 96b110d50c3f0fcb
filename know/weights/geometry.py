"""Steps of weights: how long, and how much they point the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from know.weights.algebra import Weights
from know.weights.kinds import Kind, TensorKind


def step_geometry(
    predicted: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    theta_0: Mapping[str, Tensor],
    kinds: Mapping[str, TensorKind] | None = None,
) -> pd.DataFrame:
    """Cosine and ratio of the norms (predicted over real) of the two steps from Θ_0, where data was held back to train the
    real Θ_{-1}.

    Args:
        kinds: of each tensor, if not ``kinds_of(theta_0)``.

    Returns:
        A row for each layer (a tensor, by its name), then for each kind and for the whole net, whose layer is "all":
        kind, layer, weights (how many), cosine, norm_ratio. A step of norm 0 has no cosine (NaN). Buffers are left out.
    """
    old = Weights(theta_0, kinds)
    new, true = (Weights(state, old.kinds) - old for state in (predicted, real))
    groups = {(kind, name): [name] for name, kind in old.kinds.items()}
    groups |= {(kind, "all"): list(part.kinds) for kind, part in old.by_kind().items()}
    rows = []
    for (group, layer), names in (groups | {("all", "all"): list(old.kinds)}).items():
        one, other = new.of(names), true.of(names)
        rows.append((group, layer, len(other.flat()), one.cosine(other), _ratio(one, other)))
    return pd.DataFrame(rows, columns=["kind", "layer", "weights", "cosine", "norm_ratio"])


class StepSize(NamedTuple):
    """Of one kind: ‖Θ̂‖/‖Θ_0‖, ‖Θ̂ - Θ_0‖/‖Θ_0 - Θ_1‖, and the cosine of these two steps; NaN where a norm is 0."""

    kind: Kind
    norm_ratio: float
    step_ratio: float
    step_cosine: float


def step_sizes(
    predicted: Mapping[str, Tensor],
    theta_0: Mapping[str, Tensor],
    theta_1: Mapping[str, Tensor],
    kinds: Mapping[str, TensorKind] | None = None,
) -> list[StepSize]:
    """How far a prediction goes, for each kind, beside the last act of forgetting. ``kinds`` as for ``step_geometry``."""
    old = Weights(theta_0, kinds)
    new, older = (Weights(state, old.kinds) for state in (predicted, theta_1))
    norms, befores, steps, lasts = (weights.by_kind() for weights in (new, old, new - old, old - older))
    return [
        StepSize(
            kind, _ratio(norms[kind], befores[kind]), _ratio(steps[kind], lasts[kind]), steps[kind].cosine(lasts[kind])
        )
        for kind in befores
    ]


def _ratio(one: Weights, other: Weights) -> float:
    length = other.norm()
    return one.norm() / length if length > 0 else float("nan")
