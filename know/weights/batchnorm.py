"""What becomes of BatchNorm in a prediction: its statistics are no weights, and its affine part was fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from know.weights.kinds import State

BatchNormRule = Literal["copy", "predict", "reset", "re-estimate"]
CROSSED: dict[BatchNormRule, BatchNormRule] = {"reset": "re-estimate", "re-estimate": "reset"}
"""The rule that a start is made under beside its own, where the two are crossed; any other rule's is "reset"."""


def batchnorm_layers(net: nn.Module) -> list[_BatchNorm]:
    """All BatchNorm layers of a net."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def with_batchnorm(state: Mapping[str, Tensor], theta_0: Mapping[str, Tensor], rule: BatchNormRule) -> State:
    """Apply the rule for BatchNorm layers to a state, predicted or trained.

    "copy": all of BatchNorm is Θ_0's. "predict": γ and β are the state's, the statistics Θ_0's. "reset": γ = 1, β = 0,
    mean 0, variance 1, as in the released code. "re-estimate": as "predict"; whoever has the data then averages the
    statistics anew (``know.reestimate_batchnorm``).
    """
    parts = {"running_mean": 0.0, "running_var": 1.0}
    if rule in ("copy", "reset"):
        parts |= {"weight": 1.0, "bias": 0.0}
    layers = [name.removesuffix("running_mean") for name in theta_0 if name.endswith("running_mean")]
    result = dict(state)
    for name, fresh in ((layer + part, fresh) for layer in layers for part, fresh in parts.items()):
        if name in theta_0:
            result[name] = torch.full_like(theta_0[name], fresh) if rule == "reset" else theta_0[name].clone()
    return result


def batchnorm_note(state: Mapping[str, Tensor]) -> str | None:
    """What became of BatchNorm's running statistics in a prediction, for the user; None if there are none."""
    if not any(name.rpartition(".")[2] == "running_mean" for name in state):
        return None
    return "BatchNorm statistics: copied from Θ_0; re-estimate with know.reestimate_batchnorm(model, loader)"
