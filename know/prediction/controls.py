"""Controls: starts for transfer that share one property of a prediction and lack the others.

====================  ==========================================  ================================================
control               start, for each predicted step              a method that only ties with it gains by …
====================  ==========================================  ================================================
``shrunk``            Θ_0, each kind scaled to the prediction's   smaller (or larger) weights, whatever their
                      norm                                        direction
``shrink_perturb``    λ·Θ_0 + σ·(fresh initial weights)           curing the warm start: weights that are smaller
                                                                  and noisier
``repeated``          the predictor fed Θ_0, Θ_0, …, Θ_0          what it does to any weight: nothing was forgotten
``random_direction``  Θ_0 + noise, each kind of the predicted     moving away from Θ_0, wherever to
                      step's norm
``flipped``           Θ_0 - (Θ̂ - Θ_0)                             the line of the step, not its sense: towards
                                                                  forgetting would do as well
``trained_on``        Θ_0 trained on D_0 for as many images as    compute: training on would have done as well
                      the forgetting runs have seen
====================  ==========================================  ================================================

The rule for BatchNorm is applied to all of them as to the methods. Like ``know.prediction.predictors``, this module does not import
torch before it has work to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from know.prediction.predictors import Options, by_name, option_named

if TYPE_CHECKING:
    from torch import Tensor

    from know.prediction.retrodict import Predictor
    from know.weights.kinds import Kind, State


@dataclass(frozen=True)
class Case:
    """A prediction to be controlled for.

    ``trajectory``: Θ_{S-1}, …, Θ_0. ``predictor``, and what it ``predicted`` from them: Θ̂_{-1}, Θ̂_{-2}, …
    ``fresh``: a freshly initialised net's state. ``seed``: of the random directions, the same on every device.
    ``trained_on``: Θ_0 after the forgetting runs' compute on D_0, if that was done. ``methods``: what other methods
    predicted, by the name of their start.
    """

    trajectory: Sequence[State]
    predictor: Predictor
    predicted: Sequence[State]
    fresh: State
    seed: int
    trained_on: State | None = None
    methods: Mapping[str, Sequence[State]] = field(default_factory=dict)

    @property
    def theta_0(self) -> State:
        return self.trajectory[-1]


class Control(Options):
    """A control with a name; maps a case to as many states as were predicted, or to one if it knows no steps.

    States have Θ_0's keys, shapes and dtypes; buffers are Θ_0's, but for ``trained_on``.
    """

    control: str

    @property
    def chosen(self) -> str:
        return self.control

    def __call__(self, case: Case) -> list[State]:
        raise NotImplementedError


class Shrunk(Control):
    """Θ_0 with the weights of each kind scaled to the norm that they have in the prediction."""

    control: Literal["shrunk"] = "shrunk"

    def __call__(self, case: Case) -> list[State]:
        from know.prediction.retrodict import rescaled

        return [rescaled(case.theta_0, state) for state in case.predicted]


class ShrinkPerturb(Control):
    """Shrink and perturb: θ ← λ·θ_0 + σ·fresh, all weights alike (Ash & Adams, NeurIPS 2020).

    λ = ``shrink`` and σ = ``perturb`` are to be chosen on validation data. It knows nothing of the prediction. With ``of``
    the name of a method's start it does the same to that method's predictions: what they add to the best shrinkage.
    """

    control: Literal["shrink_perturb"] = "shrink_perturb"
    shrink: Annotated[float, Field(ge=0, le=1)]
    perturb: Annotated[float, Field(ge=0)]
    of: str = "naive"

    def __call__(self, case: Case) -> list[State]:
        theta_0 = case.theta_0
        return [
            _start(
                theta_0,
                {n: self.shrink * state[n].float() + self.perturb * case.fresh[n].float() for n in _kinds(theta_0)},
            )
            for state in ([theta_0] if self.of == "naive" else case.methods[self.of])
        ]


class Repeated(Control):
    """The same predictor on a trajectory that stands still at Θ_0: no forgetting, hence no knowledge of it."""

    control: Literal["repeated"] = "repeated"

    def __call__(self, case: Case) -> list[State]:
        from know.prediction.retrodict import retrodict

        return retrodict([case.theta_0] * len(case.trajectory), case.predictor, len(case.predicted))


class RandomDirection(Control):
    """Θ_0 and a Gaussian step, whose norm in each kind is the predicted step's. The direction is one for all steps."""

    control: Literal["random_direction"] = "random_direction"

    def __call__(self, case: Case) -> list[State]:
        import torch

        theta_0, kinds = case.theta_0, _kinds(case.theta_0)
        generator = torch.Generator().manual_seed(case.seed)
        noise = {n: torch.randn(theta_0[n].shape, generator=generator).to(theta_0[n].device) for n in kinds}
        length, starts = _norms(noise, kinds), []
        for state in case.predicted:
            wanted = _norms({name: state[name].float() - theta_0[name].float() for name in kinds}, kinds)
            moved = {n: theta_0[n].float() + wanted[kind] / length[kind] * noise[n] for n, kind in kinds.items()}
            starts.append(_start(theta_0, moved))
        return starts


class Flipped(Control):
    """2Θ_0 - Θ̂: the predicted step taken backwards."""

    control: Literal["flipped"] = "flipped"

    def __call__(self, case: Case) -> list[State]:
        theta_0 = case.theta_0
        return [
            _start(theta_0, {name: 2 * theta_0[name].float() - state[name].float() for name in _kinds(theta_0)})
            for state in case.predicted
        ]


class TrainedOn(Control):
    """Θ_0 trained on: not a step of the weights but of training, for the same compute (``forgetting.extra_compute``).

    Raises:
        ValueError: the case has no such weights.
    """

    control: Literal["trained_on"] = "trained_on"

    def __call__(self, case: Case) -> list[State]:
        if case.trained_on is None:
            raise ValueError("trained_on: Θ_0 was not trained on; it needs the data")
        return [case.trained_on]


def _kinds(state: State) -> dict[str, Kind]:
    """Each weight's kind; no buffers."""
    from know.weights.kinds import kinds_of

    return {name: kind for name, kind in kinds_of(state).items() if kind != "buffer"}


def _norms(tensors: State, kinds: Mapping[str, Kind]) -> dict[Kind, Tensor]:
    """The norm of all tensors of a kind together."""
    squares: dict[Kind, Tensor] = {}
    for name, kind in kinds.items():
        square = tensors[name].square().sum()
        squares[kind] = squares[kind] + square if kind in squares else square
    return {kind: square.sqrt() for kind, square in squares.items()}


def _start(theta_0: State, weights: Mapping[str, Tensor]) -> State:
    """These weights, in Θ_0's dtypes, and Θ_0's buffers."""
    return {name: weights[name].to(t.dtype) if name in weights else t.clone() for name, t in theta_0.items()}


AnyControl = Annotated[
    Annotated[
        Shrunk | ShrinkPerturb | Repeated | RandomDirection | Flipped | TrainedOn, Field(discriminator="control")
    ],
    by_name("control"),
]
"""A field of this type takes a name, ``flipped``, or one with options, ``{control: shrink_perturb, shrink: 0.6, …}``."""

CONTROLS: dict[str, type[Control]] = {
    cls.model_fields["control"].default: cls for cls in get_args(get_args(AnyControl)[0])
}
"""Every control by its name."""


def control(name: str, **options: object) -> Control:
    """The control of this name with these options. Raises ValueError: one line, as ``know.prediction.predictors.option_named``."""
    return option_named(CONTROLS, "control", name, options)
