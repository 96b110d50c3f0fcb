"""Retrodiction: the recursion that applies a predictor of the next weight of a path to whole models.

A **predictor** maps a window (N, S) of scalars of one kind, most forgotten first, to the next value (N,); see
``know.prediction.predictors``. Recursion, kinds, chunks and BatchNorm are handled here, once, for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from know.prediction.engine import Predictor, extrapolate
from know.prediction.predictors import linear as linear
from know.prediction.predictors import no_change as no_change
from know.prediction.predictors import task_vector as task_vector
from know.weights.kinds import Kind, State, TensorKind, kinds_of, ties
from know.weights.kinds import kind_of as kind_of

BatchNormRule = Literal["copy", "predict", "reset", "re-estimate"]

CHUNK = 1 << 15  # scalars a call: small enough for the hyper-model's activations to stay in cache


@dataclass(frozen=True)
class InMemory:
    """A state dict as a source for ``engine.extrapolate``."""

    label: str
    tensors: Mapping[str, Tensor]

    def read(self, name: str, start: int, stop: int) -> Tensor:
        return self.tensors[name].detach().reshape(-1)[start:stop]


def retrodict(
    trajectory: Sequence[Mapping[str, Tensor]],
    predictor: Predictor,
    steps: int = 1,
    kinds: Mapping[str, TensorKind] | None = None,
) -> list[State]:
    """Θ̂_{-1}, …, Θ̂_{-steps} from Θ_{S-1}, …, Θ_0.

    The arithmetic is in float64 where a checkpoint is, else in float32.

    Args:
        trajectory: S state dicts with the same tensors and shapes, most forgotten first, Θ_0 last. Names may differ by
            what wrappers add (``module.``, ``_orig_mod.``).
        predictor: maps a window (N, S) and its kind to (N,); called from several threads.
        steps: each further step feeds the prediction back as the newest weight of the window.
        kinds: of each of Θ_0's tensors, if not ``kinds_of(theta_0)``.

    Returns:
        ``steps`` state dicts with Θ_0's keys, shapes, dtypes and devices; buffers are copies of Θ_0's, and what is tied
        in Θ_0 is tied.

    Raises:
        ValueError: see ``engine.extrapolate``.
    """
    theta_0 = trajectory[-1]
    kinds, tied = kinds or kinds_of(theta_0), ties(theta_0)
    predicted: list[State] = [{} for _ in range(steps)]
    for state in predicted:
        for name, tensor in theta_0.items():
            fresh = torch.empty_like if kinds[name] != "buffer" else torch.clone
            state[name] = (
                state[tied[name]] if name in tied else fresh(tensor.detach(), memory_format=torch.contiguous_format)
            )

    def write(name: str, start: int, values: Tensor) -> None:
        for state, row in zip(predicted, values, strict=True):
            state[name].view(-1)[start : start + len(row)] = row

    sources = [InMemory(f"trajectory[{place}]", theta) for place, theta in enumerate(trajectory)]
    wanted = {name: kind for name, kind in kinds.items() if kind != "buffer" and name not in tied}
    extrapolate(sources, wanted, predictor, steps, write)
    return predicted


def by_kind(state: Mapping[str, Tensor]) -> dict[Kind, Tensor]:
    """All weights of each kind as one float vector, in the order of the state's names."""
    gathered: dict[Kind, list[Tensor]] = {}
    for name, kind in kinds_of(state).items():
        if kind != "buffer":
            gathered.setdefault(kind, []).append(state[name].detach().flatten().float())
    return {kind: torch.cat(parts) for kind, parts in gathered.items()}


def rescaled(theta_0: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """Θ_0 with the weights of each kind scaled to the norm that they have in ``like``: the control that separates a
    predicted direction from mere shrinking."""
    target, own = by_kind(like), by_kind(theta_0)
    factors = {kind: (target[kind].norm() / own[kind].norm().clamp_min(1e-30)).item() for kind in own}
    scaled: State = {}
    for name, kind in kinds_of(theta_0).items():
        tensor = theta_0[name]
        scaled[name] = tensor.clone() if kind == "buffer" else tensor * factors[kind]
    return scaled


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
