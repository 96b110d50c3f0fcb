"""Steps of weights: how long, and how much they point the same way."""

from __future__ import annotations

import pandas as pd

from know.weights.algebra import Weights
from know.weights.kinds import Kind


def step_geometry(predicted: Weights, real: Weights, theta_0: Weights) -> pd.DataFrame:
    """Cosine and ratio of the norms (predicted over real) of the two steps from Θ_0, where data was held back to train the
    real Θ_{-1}.

    Returns:
        A row for each layer (a tensor, by its name), then for each kind and for the whole net, whose layer is "all":
        kind, layer, weights (how many), cosine, norm_ratio. A step of norm 0 has no cosine (NaN). Buffers are left out.
    """
    new, true = predicted - theta_0, real - theta_0
    groups = {(kind, name): [name] for name, kind in theta_0.kinds.items()}
    groups |= {(kind, "all"): list(part.kinds) for kind, part in theta_0.by_kind().items()}
    rows = []
    for (kind, layer), names in (groups | {("all", "all"): list(theta_0.kinds)}).items():
        one, other = new.of(names), true.of(names)
        rows.append((kind, layer, len(other.flat()), one.cosine(other), _ratio(one, other)))
    return pd.DataFrame(rows, columns=["kind", "layer", "weights", "cosine", "norm_ratio"])


def step_sizes(predicted: Weights, theta_0: Weights, theta_1: Weights) -> list[tuple[Kind, float, float, float]]:
    """For each kind: ‖Θ̂‖/‖Θ_0‖, ‖Θ̂ - Θ_0‖/‖Θ_0 - Θ_1‖, and the cosine of these two steps."""
    rows: list[tuple[Kind, float, float, float]] = []
    new, old, step, last = (
        weights.by_kind() for weights in (predicted, theta_0, predicted - theta_0, theta_0 - theta_1)
    )
    for kind in old:
        sizes = _ratio(new[kind], old[kind]), _ratio(step[kind], last[kind])
        rows.append((kind, *sizes, step[kind].cosine(last[kind])))
    return rows


def _ratio(one: Weights, other: Weights) -> float:
    length = other.norm()
    return one.norm() / length if length > 0 else float("nan")
