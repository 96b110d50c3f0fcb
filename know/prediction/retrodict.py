"""Retrodiction: the recursion that applies a predictor of the next weight of a path to whole models.

A **predictor** maps a window (N, S) of scalars of one kind, most forgotten first, to the next value (N,); see
``know.prediction.predictors``. Recursion, kinds and chunks are handled here, once, for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from know.prediction.engine import Predictor, extrapolate, pointwise_of
from know.weights.kinds import State, TensorKind, kinds_of, ties


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
    device: torch.device | None = None,
    compiled: bool = False,
) -> list[State]:
    """Θ̂_{-1}, …, Θ̂_{-steps} from Θ_{S-1}, …, Θ_0.

    The arithmetic is in float64 where a checkpoint is, else in float32.

    Args:
        trajectory: S state dicts with the same tensors and shapes, most forgotten first, Θ_0 last. Names may differ by
            what wrappers add (``module.``, ``_orig_mod.``).
        predictor: maps a window (N, S) and its kind to (N,); called from several threads.
        steps: each further step feeds the prediction back as the newest weight of the window.
        kinds: of each of Θ_0's tensors, if not ``kinds_of(theta_0)``, with 1×1 convolutions as the predictor has them.
        device: where to compute, piece by piece; by default where Θ_0 is.
        compiled: as ``know predict`` does it: by the compiled kernel, if there can be one. Faster, and other in the last bits,
            so the experiment, whose numbers must not depend on a compiler, does without.

    Returns:
        ``steps`` state dicts with Θ_0's keys, shapes, dtypes and devices; buffers are copies of Θ_0's, and what is tied
        in Θ_0 is tied.

    Raises:
        ValueError: see ``engine.extrapolate``.
    """
    theta_0 = trajectory[-1]
    kinds, tied = kinds or kinds_of(theta_0, pointwise=pointwise_of(predictor)), ties(theta_0)
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
    extrapolate(sources, wanted, predictor, steps, write, device=device, compiled=compiled)
    return predicted
