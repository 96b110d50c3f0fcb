"""Predictors of the next weight of a path, chosen by name; the options and the predictor are one object.

A predictor maps a window (N, S) of scalars of one kind, most forgotten first, to their next values (N,). Any such
callable will do. Those here are ``PathPredictor``s, of which some may also

- see whole tensors (``whole_tensors``): windows are then (*shape, S), the next value (*shape). Time is always the last
  dimension, so one formula serves both;
- predict k steps past the real window at once (``direct``), instead of being fed back their own predictions.

w_0 … w_{S-1} is the window, d_i = w_i - w_{i-1}. docs/methods.md lists them all. To add one is to write its class here, or
anywhere: ``package.module:Class`` is a name too. Like ``know.prediction.choices``, this module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from know import paths
from know.prediction.choices import Options, any_of, option_named

if TYPE_CHECKING:
    from torch import Tensor

    from know.prediction.known import HyperModel
    from know.weights.kinds import Kind, Pointwise


RELEASED = "released"
"""The name of the hyper-model that the paper's authors released."""
LINEAR_MAP = "linear_map.json"
"""The file in a hyper-model's folder with the linear map fitted on the same paths."""


class PathPredictor(Options):
    """A predictor with a name, ``method``; ``shortest`` is the least history length S that it can do with."""

    key: ClassVar[str] = "method"
    registry: ClassVar[dict[str, type[PathPredictor]]] = {}
    whole_tensors: ClassVar[bool] = False
    shortest: ClassVar[int] = 1

    method: str

    def __call__(self, window: Tensor, kind: Kind) -> Tensor:
        """The next value (*shape) of each path of a window (*shape, S)."""
        raise NotImplementedError

    @property
    def missing(self) -> str | None:
        """Why it cannot be run on this machine, in a line; None if it can."""
        return None

    @property
    def needs(self) -> int:
        """The least history length that it can do with, with these options."""
        return self.shortest

    def _check(self, window: Tensor) -> None:
        if window.shape[-1] < self.needs:
            raise ValueError(f"{self.method} needs a history of at least {self.needs} weights, got {window.shape[-1]}")


class NoChange(PathPredictor):
    """w_{S-1}: the path stands still. As a start for transfer, naïve transfer."""

    method: Literal["naive"] = "naive"

    def __call__(self, window: Tensor, kind: Kind) -> Tensor:
        return window[..., -1]


class Average(PathPredictor):
    """The mean of the ``last`` weights, or of all (LAWA, SWA, uniform soups): interpolates, so a negative control."""

    method: Literal["average"] = "average"
    last: Annotated[int, Field(ge=1)] | None = None

    @property
    def needs(self) -> int:
        return self.last or self.shortest

    def __call__(self, window: Tensor, kind: Kind) -> Tensor:
        self._check(window)
        return window[..., -(self.last or window.shape[-1]) :].mean(-1)


class Extrapolation(PathPredictor):
    """A predictor with a closed form for any number of steps ahead.

    ``direct``: False, step k feeds the k - 1 earlier predictions back; True, it is k ahead of the real weights.
    """

    direct: bool = False

    def __call__(self, window: Tensor, kind: Kind, ahead: int = 1) -> Tensor:
        """The value (*shape) of each path of a window (*shape, S), ``ahead`` steps past its last point."""
        self._check(window)
        return window[..., -1] + self._change(window, ahead)

    def _change(self, window: Tensor, ahead: int) -> Tensor:
        raise NotImplementedError


class Fit(Extrapolation):
    """The least-squares line a + b·x through the window, evaluated at the next x.

    Options:
        abscissa: where w_t stands. "index", t + 1 = 1 … S, or "samples", |D_k|/|D_0| = ``rate``^{S-1-t}. On a log
            scale the samples are equidistant, so that ``log`` over samples is exactly ``linear`` over the index.
        anchored: start at w_{S-1}, and take only the slope b from the fit.
    """

    shortest: ClassVar[int] = 2

    abscissa: Literal["index", "samples"] = "index"
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    anchored: bool = False

    @model_validator(mode="after")
    def _has_rate(self) -> Self:
        if (self.rate is None) == (self.abscissa == "samples"):
            raise ValueError("rate: the sampling rate r; needed with abscissa = samples, and only then")
        return self

    def _x(self, positions: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _change(self, window: Tensor, ahead: int) -> Tensor:
        length = window.shape[-1]
        t = np.append(np.arange(length), length - 1 + ahead)
        x = self._x(t + 1.0 if self.rate is None else self.rate ** (length - 1.0 - t))
        *fitted, target = x - x[:-1].mean()
        if self.anchored:
            target -= fitted[-1]
        coefficients = (0 if self.anchored else 1 / length) + target * np.array(fitted) / np.square(fitted).sum()
        last = window[..., -1:]
        return (window - last) @ window.new_tensor(coefficients.tolist())  # relative: a path at rest stays there


class Linear(Fit):
    """LinearFit: a + b·x."""

    method: Literal["linear"] = "linear"

    def _x(self, positions: np.ndarray) -> np.ndarray:
        return positions


class Log(Fit):
    """LogFit: a + b·ln x."""

    method: Literal["log"] = "log"

    def _x(self, positions: np.ndarray) -> np.ndarray:
        return np.log(positions)


class Exponential(Extrapolation):
    """ExpFit: w_{S-1} + ρ·d_{S-1}, with one decay ratio ρ = clip(Σ d_i d_{i-1} / Σ d_{i-1}², 0, 1) for each path."""

    shortest: ClassVar[int] = 3

    method: Literal["exponential"] = "exponential"

    def _change(self, window: Tensor, ahead: int) -> Tensor:
        d = window.diff(dim=-1)
        older, newer = d[..., :-1], d[..., 1:]
        energy = older.square().sum(-1)
        ratio = ((newer * older).sum(-1) / energy.where(energy > 0, 1.0)).clamp(0, 1)
        return sum(ratio**k for k in range(1, ahead + 1)) * d[..., -1]


class TaskVector(Extrapolation):
    """Forgetting negated: θ_0 - λ(θ_1 - θ_0), λ = ``scale`` (Ilharco et al., ICLR 2023)."""

    shortest: ClassVar[int] = 2

    method: Literal["task_vector"] = "task_vector"
    scale: Annotated[float, Field(gt=0)] = 1.0

    def _change(self, window: Tensor, ahead: int) -> Tensor:
        return self.scale * ahead * (window[..., -1] - window[..., -2])


class Expo(Extrapolation):
    """ExPO: θ_0 + α(θ_0 - θ_1), a task vector with a small factor ``alpha`` (Zheng et al., 2024, use 0.3 to 0.5)."""

    shortest: ClassVar[int] = 2

    method: Literal["expo"] = "expo"
    alpha: Annotated[float, Field(gt=0)] = 0.5

    def _change(self, window: Tensor, ahead: int) -> Tensor:
        return self.alpha * ahead * (window[..., -1] - window[..., -2])


class TSV(Extrapolation):
    """Task singular vectors of a single task: θ_0 + λ·T_ρ(θ_0 - θ_1), λ = ``scale`` (Gargiulo et al., CVPR 2025).

    T_ρ keeps of a matrix the share ρ = ``rank_share`` of its singular values, the largest, at least one. Convolutions
    are matrices of out × in·k·k; vectors are kept whole. With ρ = 1 it is ``task_vector``.
    """

    whole_tensors: ClassVar[bool] = True
    shortest: ClassVar[int] = 2

    method: Literal["tsv"] = "tsv"
    rank_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    scale: Annotated[float, Field(gt=0)] = 1.0

    def _change(self, window: Tensor, ahead: int) -> Tensor:
        import torch

        step = window[..., -1] - window[..., -2]
        if step.ndim >= 2 and self.rank_share < 1:
            u, s, vh = torch.linalg.svd(step.flatten(1), full_matrices=False)
            kept = max(1, round(self.rank_share * len(s)))
            step = ((u[:, :kept] * s[:kept]) @ vh[:kept]).reshape(step.shape)
        return self.scale * ahead * step


class Known(PathPredictor):
    """The paper's method: a meta-trained KNOWN for each kind, from ``hypermodel``: a shipped one's name, a folder, or
    "released", the authors' (``know.prediction.released``), which ``fetch`` says to look for further than where the user says it
    is. None is the pipeline's own, or its ``variant`` "path", trained on paths in a frame of their own (``Scale``)."""

    reads: ClassVar[tuple[str, ...]] = ("none", "path")
    """The scales of the hyper-models that it takes by name."""

    method: Literal["known"] = "known"
    hypermodel: str | None = None
    fetch: bool = True
    variant: Literal["path"] | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if not self.fetch and self.hypermodel != RELEASED:
            raise ValueError(f"fetch: got false; allowed: true, or hypermodel: {RELEASED}, for no other is fetched")
        if self.hypermodel and self.variant and "variant" in self.model_fields_set:
            raise ValueError("variant: of the pipeline's own hyper-model, so not with hypermodel")
        return self

    @property
    def missing(self) -> str | None:
        if self.hypermodel != RELEASED:
            return None
        from know.prediction.released import missing

        return missing(self.fetch)

    @cached_property
    def model(self) -> HyperModel:
        """The hyper-model, loaded on first use."""
        from know.prediction.known import load_hypermodel

        if self.hypermodel == RELEASED:
            from know.prediction.released import released

            return released(self.fetch)
        return load_hypermodel(self.hypermodel or paths.HYPERMODEL / (self.variant or ""))

    def check(self, history_length: int | None = None) -> None:
        """Load the hyper-model, and hold it to what the method reads, and to a history length.

        Raises:
            ValueError: one line: there is none, or it is another one, and what would do.
        """
        scale, reads = self.model.scale, self.model.history_length
        if scale not in self.reads:
            raise ValueError(
                f"hypermodel {self.hypermodel}: of scale {scale}; {self.method} needs one of scale {' or '.join(self.reads)}"
            )
        if history_length not in (None, reads):
            raise ValueError(
                f"hypermodel {self.hypermodel}: reads {reads} weights, but history_length is {history_length}; allowed:"
                f" history_length = {reads}, or a hyper-model of {history_length}"
            )

    @property
    def pointwise(self) -> Pointwise:
        """What 1×1 convolutions are to the hyper-model."""
        return self.model.pointwise

    def __call__(self, window: Tensor, kind: Kind) -> Tensor:
        return self.model.to(window.device)(window, kind)


class Wnn(Known):
    """WNN: KNOWN's network on paths scaled to their range (a hyper-model of ``scale`` "wnn"), meta-trained on the same data."""

    reads: ClassVar[tuple[str, ...]] = ("wnn",)

    method: Literal["wnn"] = "wnn"  # type: ignore[assignment]
    variant: Literal["wnn"] = "wnn"  # type: ignore[assignment]


class LinearMap(PathPredictor):
    """A meta-trained linear map: Σ c_t·w_t, with S coefficients for each kind, fitted on the windows that KNOWN learns from
    (``know.meta.linear_map``). Whatever KNOWN gains beyond it is owed to its non-linearity."""

    method: Literal["linear_map"] = "linear_map"
    coefficients: Mapping[str, tuple[float, ...]] | None = None
    """Of each kind, oldest first; None are the pipeline's own."""

    @cached_property
    def fitted(self) -> Mapping[str, tuple[float, ...]]:
        """The coefficients, read on first use."""
        return self.coefficients or json.loads((paths.HYPERMODEL / LINEAR_MAP).read_text())

    def __call__(self, window: Tensor, kind: Kind) -> Tensor:
        own = self.fitted[kind]
        if window.shape[-1] != len(own):
            raise ValueError(f"linear_map was fitted on histories of {len(own)} weights, got {window.shape[-1]}")
        return window @ window.new_tensor(own)


if TYPE_CHECKING:
    AnyPredictor = PathPredictor
else:
    AnyPredictor = any_of(PathPredictor)

PREDICTORS: dict[str, type[PathPredictor]] = PathPredictor.registry
"""Every predictor by its name."""


def predictor(method: str, **options: object) -> PathPredictor:
    """The predictor of this name, or ``package.module:Class``, with these options. Raises ValueError, as ``option_named``."""
    return option_named(PathPredictor, method, options)


no_change, linear = NoChange(), Linear()


def task_vector(scale: float) -> TaskVector:
    """θ_0 - λ(θ_1 - θ_0) with λ = ``scale``."""
    return TaskVector(scale=scale)
