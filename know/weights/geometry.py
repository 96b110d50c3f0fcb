"""A predicted step beside the real one: Θ̂_{-1} - Θ_0 and Θ_{-1} - Θ_0, where data was held back to train Θ_{-1}."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from know.weights.kinds import kinds_of


def step_geometry(
    predicted: Mapping[str, Tensor], real: Mapping[str, Tensor], theta_0: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Cosine and ratio of the norms (predicted over real) of the two steps from Θ_0.

    Returns:
        A row for each layer (a tensor, by its name), then for each kind and for the whole net, whose layer is "all":
        kind, layer, weights (how many), cosine, norm_ratio. A step of norm 0 has no cosine (NaN). Buffers are left out.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    totals: dict[tuple[str, str], list[str]] = {}
    for name, kind in kinds_of(theta_0).items():
        if kind != "buffer":
            groups[kind, name] = [name]
            totals.setdefault((kind, "all"), []).append(name)
    totals["all", "all"] = [name for _, name in groups]
    rows = []
    for (group, layer), names in (groups | totals).items():
        steps = [
            torch.cat([(_double(state[name]) - _double(theta_0[name])).flatten() for name in names])
            for state in (predicted, real)
        ]
        new, true = (step.norm().item() for step in steps)
        dot = torch.dot(*steps).item()
        cosine = dot / (new * true) if new > 0 and true > 0 else float("nan")
        rows.append((group, layer, len(steps[0]), cosine, new / true if true > 0 else float("nan")))
    return pd.DataFrame(rows, columns=["kind", "layer", "weights", "cosine", "norm_ratio"])


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)  # not every accelerator has float64
