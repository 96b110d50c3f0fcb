"""What becomes of BatchNorm in a prediction: its statistics are no weights, and its affine part was fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from know.weights.kinds import State

BatchNormRule = Literal["copy", "predict", "reset", "re-estimate"]


def with_batchnorm(state: Mapping[str, Tensor], theta_0: Mapping[str, Tensor], rule: BatchNormRule) -> State:
    """Apply the rule for BatchNorm layers to a predicted state.

    "copy": all of BatchNorm is Θ_0's. "predict": γ and β as predicted, the statistics Θ_0's. "reset": γ = 1, β = 0,
    mean 0, variance 1, as in the released code. "re-estimate": as "predict"; whoever has the data then averages the
    statistics anew (``know.reestimate_batchnorm``).
    """
    result = dict(state)
    if rule in ("predict", "re-estimate"):
        return result
    layers = [name.removesuffix("running_mean") for name in theta_0 if name.endswith("running_mean")]
    for layer in layers:
        for part, fresh in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            name = layer + part
            if name in theta_0:
                kept = theta_0[name]
                result[name] = kept.clone() if rule == "copy" else torch.full_like(kept, fresh)
    return result


def batchnorm_note(state: Mapping[str, Tensor]) -> str | None:
    """What became of BatchNorm's running statistics in a prediction, for the user; None if there are none."""
    if not any(name.rpartition(".")[2] == "running_mean" for name in state):
        return None
    return "BatchNorm statistics: copied from Θ_0; re-estimate with know.reestimate_batchnorm(model, loader)"
