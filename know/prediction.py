"""Retrodiction: the recursion that applies a predictor of the next weight of a path to whole models.

A **predictor** maps a window (N, S) of scalars of one kind, most forgotten first, to the next value (N,); see
``know.predictors``. Recursion, kinds, chunks and BatchNorm are handled here, once, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from know.hypermodel import Kind
from know.predictors import Extrapolation, PathPredictor
from know.predictors import linear as linear
from know.predictors import no_change as no_change
from know.predictors import task_vector as task_vector

State = dict[str, Tensor]
Predictor = Callable[[Tensor, Kind], Tensor]
BatchNormRule = Literal["copy", "predict", "reset", "re-estimate"]

CHUNK = 1 << 15  # scalars a call: small enough for the hyper-model's activations to stay in cache


def kind_of(name: str, tensor: Tensor) -> Kind | Literal["buffer"]:
    """Which hyper-model a tensor belongs to: three or more dimensions "conv", two "fc", fewer "bias".

    Integer tensors and BatchNorm's running statistics are "buffer": never extrapolated.
    """
    if not tensor.is_floating_point() or name.rpartition(".")[2] in ("running_mean", "running_var"):
        return "buffer"
    return "conv" if tensor.ndim >= 3 else "fc" if tensor.ndim == 2 else "bias"


@torch.no_grad()
def retrodict(trajectory: Sequence[Mapping[str, Tensor]], predictor: Predictor, steps: int = 1) -> list[State]:
    """Θ̂_{-1}, …, Θ̂_{-steps} from Θ_{S-1}, …, Θ_0.

    Args:
        trajectory: S state dicts with the same keys and shapes, most forgotten first, Θ_0 last.
        predictor: maps a window (N, S) and its kind to (N,).
        steps: each further step feeds the prediction back as the newest weight of the window.

    Returns:
        ``steps`` state dicts with Θ_0's keys, shapes and dtypes; buffers are Θ_0's.
    """
    theta_0 = trajectory[-1]
    for theta in trajectory[:-1]:
        if theta.keys() != theta_0.keys():
            differing = sorted(theta.keys() ^ theta_0.keys())
            raise ValueError(f"the states of a trajectory must have the same tensors; {differing[0]!r} is not in all")
    predicted: list[State] = [{} for _ in range(steps)]
    for name, last in theta_0.items():
        kind = kind_of(name, last)
        if kind == "buffer":
            for state in predicted:
                state[name] = last.clone()
            continue
        if shapes := {tuple(theta[name].shape) for theta in trajectory} - {tuple(last.shape)}:
            raise ValueError(f"{name}: shapes differ along the trajectory: {shapes.pop()} and {tuple(last.shape)}")
        path = torch.stack([theta[name].detach().float() for theta in trajectory], -1)
        for state, following in zip(predicted, _continued(path, kind, predictor, steps), strict=True):
            state[name] = following.reshape(last.shape).to(last.dtype)
    return predicted


def _continued(path: Tensor, kind: Kind, predictor: Predictor, steps: int) -> Iterator[Tensor]:
    """The next ``steps`` points of one tensor's path (*shape, S)."""
    whole = isinstance(predictor, PathPredictor) and predictor.whole_tensors and path.ndim > 1
    windows = (path,) if whole else path.reshape(-1, path.shape[-1]).split(CHUNK)
    for step in range(1, steps + 1):
        if isinstance(predictor, Extrapolation) and predictor.direct:
            yield torch.cat([predictor(window, kind, step) for window in windows])
        else:
            following = [predictor(window, kind) for window in windows]
            windows = tuple(torch.cat([w[..., 1:], f[..., None]], -1) for w, f in zip(windows, following, strict=True))
            yield torch.cat(following)


def by_kind(state: Mapping[str, Tensor]) -> dict[Kind, Tensor]:
    """All weights of each kind as one float vector, in the order of the state's names."""
    gathered: dict[Kind, list[Tensor]] = {}
    for name, tensor in state.items():
        kind = kind_of(name, tensor)
        if kind != "buffer":
            gathered.setdefault(kind, []).append(tensor.detach().flatten().float())
    return {kind: torch.cat(parts) for kind, parts in gathered.items()}


def rescaled(theta_0: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """Θ_0 with the weights of each kind scaled to the norm that they have in ``like``: the control that separates a
    predicted direction from mere shrinking."""
    target, own = by_kind(like), by_kind(theta_0)
    factors = {kind: (target[kind].norm() / own[kind].norm().clamp_min(1e-30)).item() for kind in own}
    scaled: State = {}
    for name, tensor in theta_0.items():
        kind = kind_of(name, tensor)
        scaled[name] = tensor.clone() if kind == "buffer" else tensor * factors[kind]
    return scaled


def with_batchnorm(state: Mapping[str, Tensor], theta_0: Mapping[str, Tensor], rule: BatchNormRule) -> State:
    """Apply the rule for BatchNorm layers to a predicted state.

    "copy": all of BatchNorm is Θ_0's. "predict": γ and β as predicted, the statistics Θ_0's. "reset": γ = 1, β = 0,
    mean 0, variance 1, as in the released code. "re-estimate": as "predict"; whoever has the data then averages the
    statistics anew (``torch.optim.swa_utils.update_bn``).
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
