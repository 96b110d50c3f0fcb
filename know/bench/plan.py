"""``bench/beyond.yaml``: predictors that could win and how they are judged, named beforehand, as one validated object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from know import paths
from know.options import Count, LearningRate, ParamError, Section, ascending, distinct
from know.params import document

PLAN = paths.ROOT / "bench" / "beyond.yaml"
BEST = "best_reference"
"""Of the references, the one that is best on validation images."""
STARTS = ("jackknife", "layerwise", "layerwise_still", "distilled", BEST)

Scales = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1), AfterValidator(distinct)]
Shares = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1), AfterValidator(distinct)]
Even = Annotated[int, Field(ge=2, multiple_of=2)]
Box = Annotated[tuple[float, float], AfterValidator(ascending)]


class Jackknife(Section):
    """Runs from Θ_0 on: ``halves`` of D_0, in complementary pairs, and one on all of it for each pair."""

    halves: Annotated[tuple[Even, ...], Field(min_length=2), AfterValidator(distinct)]
    epochs: Count
    batch_size: Count
    lr: LearningRate
    scales: Scales

    @property
    def pairs(self) -> int:
        """Of complementary halves, at the most."""
        return max(self.halves) // 2

    @property
    def passes(self) -> int:
        """Over D_0, of all runs together: three for each pair."""
        return 3 * self.pairs * self.epochs


class Layerwise(Section):
    """λ_l Θ_0 + β_l (Θ_0 - Θ_1), fitted within the boxes ``shrink`` of λ and ``step`` of β to ``points`` a trajectory."""

    points: Annotated[int, Field(ge=2)]
    shrink: Box
    step: Box


class Distilled(Section):
    """Outputs extrapolated by ``scales`` and distilled into Θ_0."""

    epochs: Count
    batch_size: Count
    lr: LearningRate
    scales: Scales


class References(Section):
    """What a method must beat: λ of λΘ_0, among those that the bench has scored, and the learning rates of naïve transfer."""

    shrink: Shares
    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1), AfterValidator(distinct)]


class Beyond(Section):
    """All of ``bench/beyond.yaml``."""

    jackknife: Jackknife
    layerwise: Layerwise
    distilled: Distilled
    references: References
    selection_draws: Count
    contrasts: Annotated[tuple[tuple[str, str], ...], Field(min_length=1), AfterValidator(distinct)]

    @model_validator(mode="after")
    def _named(self) -> Self:
        for pair in self.contrasts:
            if len(set(pair)) < 2 or not set(pair) <= set(STARTS):
                raise ValueError(f"contrasts: got {list(pair)}; allowed: two different ones of {', '.join(STARTS)}")
        return self


def load_plan(path: Path = PLAN) -> Beyond:
    """Read and validate a plan.

    Raises:
        ParamError: one line that names the file, the key and what is allowed.
    """
    given = document(path)
    try:
        return Beyond.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ParamError(
            f"{path.name}: {key}: {first['msg'].removeprefix('Value error, ')}".replace(": : ", ": ")
        ) from None
