"""Controls: starts for transfer that share one property of a prediction and lack the others.

====================  ==========================================  ================================================
control               start, for each predicted step              a method that only ties with it gains by …
====================  ==========================================  ================================================
``shrunk``            Θ_0, each kind or each tensor scaled to     smaller (or larger) weights, whatever their
                      the prediction's norm                       direction
``direction_only``    the prediction, each filter scaled to       the direction of the step: a method that has only its
                      Θ_0's norm                                  norms loses all of its gain here
``shrink``            λ·Θ_0                                       weights that are smaller, all alike
``shrink_perturb``    λ·Θ_0 + σ·(fresh initial weights), σ > 0    curing the warm start: weights that are smaller
                                                                  and noisier
``repeated``          the predictor fed Θ_0, Θ_0, …, Θ_0          what it does to any weight: nothing was forgotten
``random_direction``  Θ_0 + noise, each kind of the predicted     moving away from Θ_0, wherever to
                      step's norm
``flipped``           Θ_0 - (Θ̂ - Θ_0)                             the line of the step, not its sense: towards
                                                                  forgetting would do as well
``sham``              the predictor on a path of as many steps    training time: nothing was forgotten on that path
                      of training, always on all of D_0
``average``           the mean of that path's weights (SWA)       compute, spent on an average
``trained_on``        Θ_0 trained on D_0 for as many images as    compute: training on would have done as well
                      the forgetting runs have seen
====================  ==========================================  ================================================

``shrink`` is the first half of ``shrink_perturb``, alone. The rule for BatchNorm is applied to all of them as to the methods. To
add one is to write its class here, or anywhere: ``package.module:Class`` is a name too. Like ``know.prediction.predictors``, this
module does not import torch before it has work to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from know.prediction.choices import Options, any_of, option_named

if TYPE_CHECKING:
    import torch

    from know.prediction.retrodict import Predictor
    from know.weights.algebra import Weights
    from know.weights.kinds import State, TensorKind


@dataclass(frozen=True)
class Case:
    """A prediction to be controlled for.

    ``trajectory``: Θ_{S-1}, …, Θ_0. ``predictor``, and what it ``predicted`` from them: Θ̂_{-1}, Θ̂_{-2}, …
    ``fresh``: a freshly initialised net's state. ``seed``: of the random directions, the same on every device.
    ``trained_on``: Θ_0 after the forgetting runs' compute on D_0, if that was done. ``sham``: the path of as many steps of
    training, but on all of D_0, if there is one; as ``trajectory``. ``methods``: what other methods predicted, by the name
    of their start. ``device``: where to predict; None is where Θ_0 is.
    """

    trajectory: Sequence[State]
    predictor: Predictor
    predicted: Sequence[State]
    fresh: State | None = None
    seed: int = 0
    trained_on: State | None = None
    sham: Sequence[State] = ()
    methods: Mapping[str, Sequence[State]] = field(default_factory=dict)
    device: torch.device | None = None

    def retrodicted(self, trajectory: Sequence[State]) -> list[Weights]:
        """What the predictor makes of another trajectory, in as many steps."""
        from know.prediction.retrodict import retrodict

        states = retrodict(trajectory, self.predictor, len(self.predicted), device=self.device)
        return [self.weights(state) for state in states]

    @cached_property
    def kinds(self) -> dict[str, TensorKind]:
        """Of each tensor, as the predictor has them."""
        from know.prediction.engine import pointwise_of
        from know.weights.kinds import kinds_of

        return kinds_of(self.trajectory[-1], pointwise=pointwise_of(self.predictor))

    def weights(self, state: State) -> Weights:
        """One of its states as a vector."""
        from know.weights.algebra import Weights

        return Weights(state, self.kinds)

    @property
    def theta_0(self) -> Weights:
        return self.weights(self.trajectory[-1])

    @property
    def steps(self) -> list[Weights]:
        """Θ̂_{-1}, Θ̂_{-2}, …"""
        return [self.weights(state) for state in self.predicted]


class Control(Options):
    """A control with a name. A class gives ``starts``: as many as were predicted, or one if it knows no steps.

    States have Θ_0's keys, shapes and dtypes; buffers are Θ_0's, but for ``trained_on``.
    """

    key: ClassVar[str] = "control"
    registry: ClassVar[dict[str, type[Control]]] = {}

    control: str

    def starts(self, case: Case) -> list[Weights]:
        """The weights to start from."""
        raise NotImplementedError

    def states(self, case: Case) -> list[State]:
        """The same as state dicts."""
        return [start.state() for start in self.starts(case)]

    def __call__(
        self,
        trajectory: Sequence[State],
        predictor: Predictor,
        steps: int = 1,
        *,
        fresh: State | None = None,
        seed: int = 0,
    ) -> list[State]:
        """``states`` of what ``predictor`` makes of a trajectory in ``steps`` steps."""
        from know.prediction.retrodict import retrodict

        return self.states(Case(trajectory, predictor, retrodict(trajectory, predictor, steps), fresh, seed))


class Shrunk(Control):
    """Θ_0 with the weights of each kind, or of each tensor (``per``), scaled to the norm that they have in the prediction."""

    control: Literal["shrunk"] = "shrunk"
    per: Literal["kind", "tensor"] = "kind"

    def starts(self, case: Case) -> list[Weights]:
        if self.per == "tensor":
            return [case.theta_0.scaled_each_to(predicted) for predicted in case.steps]
        return [case.theta_0.scaled_to(predicted) for predicted in case.steps]


class DirectionOnly(Control):
    """The prediction with each filter scaled to the norm that it has in Θ_0: what is left of it without its norms."""

    control: Literal["direction_only"] = "direction_only"

    def starts(self, case: Case) -> list[Weights]:
        return [predicted.scaled_each_to(case.theta_0, by_filter=True) for predicted in case.steps]


class Shrinkage(Control):
    """Weights times λ = ``shrink``: Θ_0's, or those that a method predicted, if ``of`` is the name of its start."""

    shrink: Annotated[float, Field(ge=0, le=1)]
    of: str = "naive"

    def shrinkage(self, case: Case) -> list[Weights]:
        """λ·Θ_0, or λ·Θ̂_{-1}, λ·Θ̂_{-2}, …"""
        states = case.trajectory[-1:] if self.of == "naive" else case.methods[self.of]
        return [self.shrink * case.weights(state) for state in states]


class Shrink(Shrinkage):
    """λ·θ_0, all weights alike: shrink and perturb without its noise. λ is to be chosen on validation data."""

    control: Literal["shrink"] = "shrink"

    def starts(self, case: Case) -> list[Weights]:
        return self.shrinkage(case)


class ShrinkPerturb(Shrinkage):
    """Shrink and perturb: θ ← λ·θ_0 + σ·fresh, all weights alike (Ash & Adams, NeurIPS 2020).

    λ and σ = ``perturb`` are to be chosen on validation data. It knows nothing of the prediction. ``of`` a method: what that
    adds to the best shrinkage.

    Raises:
        ValueError: the case has no fresh weights.
    """

    control: Literal["shrink_perturb"] = "shrink_perturb"
    perturb: Annotated[float, Field(gt=0)]

    def starts(self, case: Case) -> list[Weights]:
        if case.fresh is None:
            raise ValueError("shrink_perturb: needs the state of a freshly initialised net, fresh")
        return [shrunk + self.perturb * case.weights(case.fresh) for shrunk in self.shrinkage(case)]


class Repeated(Control):
    """The same predictor on a trajectory that stands still at Θ_0: no forgetting, hence no knowledge of it."""

    control: Literal["repeated"] = "repeated"

    def starts(self, case: Case) -> list[Weights]:
        return case.retrodicted([case.trajectory[-1]] * len(case.trajectory))


def _sham(case: Case, name: str) -> Sequence[State]:
    if not case.sham:
        raise ValueError(f"{name}: there is no path trained on all of D_0; it needs the data")
    return case.sham


class Sham(Control):
    """The same predictor on a path of as many steps of training, always on all of D_0: training time, and no forgetting.

    Raises:
        ValueError: the case has no such path.
    """

    control: Literal["sham"] = "sham"

    def starts(self, case: Case) -> list[Weights]:
        return case.retrodicted(_sham(case, "sham"))


class AverageOnAll(Control):
    """The mean of Θ_0 and the weights after each further piece of training on all of D_0: stochastic weight averaging at a
    constant rate (Izmailov et al., UAI 2018), with the forgetting runs' compute.

    Raises:
        ValueError: the case has no such path.
    """

    control: Literal["average"] = "average"

    def starts(self, case: Case) -> list[Weights]:
        from know.weights.algebra import mean

        *others, last = [case.weights(state) for state in _sham(case, "average")]
        return [mean([last, *others])]


class RandomDirection(Control):
    """Θ_0 and a Gaussian step, whose norm in each kind is the predicted step's. The direction is one for all steps."""

    control: Literal["random_direction"] = "random_direction"

    def starts(self, case: Case) -> list[Weights]:
        theta_0 = case.theta_0
        noise = theta_0.noise(case.seed)
        return [theta_0 + noise.scaled_to(predicted - theta_0) for predicted in case.steps]


class Flipped(Control):
    """2Θ_0 - Θ̂: the predicted step taken backwards."""

    control: Literal["flipped"] = "flipped"

    def starts(self, case: Case) -> list[Weights]:
        return [2 * case.theta_0 - predicted for predicted in case.steps]


class TrainedOn(Control):
    """Θ_0 trained on: not a step of the weights but of training, for the same compute (``forgetting.extra_compute``).

    Raises:
        ValueError: the case has no such weights.
    """

    control: Literal["trained_on"] = "trained_on"

    def starts(self, case: Case) -> list[Weights]:
        if case.trained_on is None:
            raise ValueError("trained_on: Θ_0 was not trained on; it needs the data")
        return [case.weights(case.trained_on)]


if TYPE_CHECKING:
    AnyControl = Control
else:
    AnyControl = any_of(Control)

CONTROLS: dict[str, type[Control]] = Control.registry
"""Every control by its name."""


def control(name: str, **options: object) -> Control:
    """The control of this name, or ``package.module:Class``, with these options. Raises ValueError, as ``option_named``."""
    return option_named(Control, name, options)
