"""What the sections of ``params.yaml`` are made of. Each room declares its own section; ``know.params`` puts them together.

This module and the rooms' ``options`` import no torch, so that a wrong value is reported before anything heavy is loaded.
"""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")
N = TypeVar("N", int, float)


class ParamError(ValueError):
    """A parameter is wrong. The message is one line: the key, what was given and what is allowed."""


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("the entries must differ")
    return values


def ascending(values: tuple[N, N]) -> tuple[N, N]:
    if values[0] > values[1]:
        raise ValueError("the first must not exceed the second")
    return values


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=1000)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)]
Classes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2), AfterValidator(distinct)]
RateRange = Annotated[tuple[Rate, Rate], AfterValidator(ascending)]
LearningRateRange = Annotated[tuple[LearningRate, LearningRate], AfterValidator(ascending)]
CountRange = Annotated[tuple[Count, Count], AfterValidator(ascending)]


class Section(BaseModel):
    """A group of parameters. Unknown keys are errors; values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
