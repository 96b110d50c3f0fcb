"""What the sections of ``params.yaml`` are made of. Each room declares its own section; ``know.params`` puts them together.

This module and the rooms' ``options`` import no torch, so that a wrong value is reported before anything heavy is loaded.
"""

import importlib
import operator
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")
N = TypeVar("N", int, float)


class ParamError(ValueError):
    """A parameter is wrong. The message is one line: the key, what was given and what is allowed."""


def reason(error: Exception) -> str:
    """What went wrong in a user's code and where, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    message = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {message} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def imported(name: str, option: str) -> Any:
    """What ``package.module:name`` is; modules are found in the current directory too.

    Raises:
        ValueError: one line that names the ``option``: it cannot be imported, or there is no such name in it.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{option}: got {name!r}; allowed: package.module:name")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return operator.attrgetter(attribute)(importlib.import_module(module_name))
    except AttributeError as error:
        if module_name in sys.modules:
            raise ValueError(f"{option} {name}: {module_name} has no {attribute}") from None
        raise ValueError(f"{option} {name}: {module_name} cannot be imported: {reason(error)}") from error
    except Exception as error:
        raise ValueError(f"{option} {name}: {module_name} cannot be imported: {reason(error)}") from error


def made_by(factory: str, option: str) -> Any:
    """What the function ``package.module:function`` returns; modules are found in the current directory too."""
    function = imported(factory, option)
    if not callable(function):
        raise ValueError(f"{option} {factory}: a {type(function).__name__}, not a function without arguments")
    try:
        return function()
    except Exception as error:
        raise ValueError(f"{option} {factory}: the call failed: {reason(error)}") from error


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
Classes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(distinct)]
RateRange = Annotated[tuple[Rate, Rate], AfterValidator(ascending)]
LearningRateRange = Annotated[tuple[LearningRate, LearningRate], AfterValidator(ascending)]
CountRange = Annotated[tuple[Count, Count], AfterValidator(ascending)]


class Section(BaseModel):
    """A group of parameters. Unknown keys are errors; values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
