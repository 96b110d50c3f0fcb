"""Methods, controls and their candidates: the section ``predict``."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from know.options import Section, distinct
from know.prediction.controls import AnyControl, Shrinkage
from know.prediction.predictors import AnyPredictor


def _combinations(given: object) -> object:
    """An entry with lists among its options as one entry for each combination; another entry as the only one."""
    if isinstance(given, list | tuple):  # done before
        return given
    if not isinstance(given, Mapping):
        return (given,)
    lists = {key: value for key, value in given.items() if isinstance(value, list)}
    return tuple(dict(given) | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


RESERVED = {"naive", "scratch", "more_data", "theta", "trained", "head_zero"}
"""Starts that there are without asking."""


class Predict(Section):
    """Retrodiction past Θ_0.

    Each method and control is a tuple of candidates: just one, unless an option was given as a list. Of several one is
    chosen on downstream validation images.

    ``candidate``: the method that is judged, and to whose prediction the controls are held; where it cannot be run, the first
    that can. ``batchnorm``: the rule for all starts; "reset predicted", the released code's way, resets what was predicted
    and re-estimates what was trained. ``crossed``: starts that are made under the other of "reset" and "re-estimate" too.
    ``kept``: of which steps the weights are kept: "all", or "last", all of the candidate's but of the others only the last.
    """

    methods: tuple[Annotated[tuple[AnyPredictor, ...], Field(min_length=1), BeforeValidator(_combinations)], ...]
    controls: tuple[Annotated[tuple[AnyControl, ...], Field(min_length=1), BeforeValidator(_combinations)], ...]
    candidate: str
    steps: Annotated[int, Field(ge=1, le=10)]
    batchnorm: Literal["copy", "predict", "reset", "re-estimate", "reset predicted"]
    crossed: Annotated[tuple[str, ...], AfterValidator(distinct)]
    kept: Literal["all", "last"]

    @property
    def methods_by_name(self) -> dict[str, tuple[AnyPredictor, ...]]:
        """The candidates of each method, by the name of its start."""
        return {candidates[0].start: candidates for candidates in self.methods}

    @property
    def controls_by_name(self) -> dict[str, tuple[AnyControl, ...]]:
        """The candidates of each control, by the name of its start."""
        return {candidates[0].start: candidates for candidates in self.controls}

    @property
    def runnable(self) -> dict[str, tuple[AnyPredictor, ...]]:
        """Of the methods, those that can be run on this machine."""
        return {name: own for name, own in self.methods_by_name.items() if all(one.missing is None for one in own)}

    @property
    def judged(self) -> str:
        """The candidate, or where it cannot be run the first method that can."""
        runnable = self.runnable
        return self.candidate if self.candidate in runnable else next(iter(runnable), self.candidate)

    @property
    def starts(self) -> dict[str, tuple[AnyPredictor | AnyControl, ...]]:
        """The candidates of each start, by its name."""
        every: list[tuple[AnyPredictor | AnyControl, ...]] = [*self.methods, *self.controls]
        return {candidates[0].start: candidates for candidates in every}

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        single = {candidates[0].start for candidates in self.methods if len(candidates) == 1}
        names = [candidates[0].start for candidates in (*self.methods, *self.controls)]
        if self.candidate not in single:
            raise ValueError(
                f"candidate: got {self.candidate!r}; allowed: a method without candidates, for the controls are held to its"
                f" steps: {', '.join(sorted(single)) or 'there is none'}"
            )
        if taken := [name for name in names if name in RESERVED or names.count(name) > 1]:
            raise ValueError(
                f"methods: got {taken[0]!r}; allowed: each name once (name: gives another one), none of"
                f" {', '.join(sorted(RESERVED))}"
            )
        for candidates in (*self.methods, *self.controls):
            if len({one.start for one in candidates}) > 1:
                raise ValueError(f"methods: got {candidates[0].start!r} among others; allowed: candidates of one name")
            for one in candidates:
                if isinstance(one, Shrinkage) and one.of not in single | {"naive"}:
                    raise ValueError(
                        f"controls: got {one.start} of {one.of!r}; allowed: of naive, or a method without candidates:"
                        f" {', '.join(sorted(single))}"
                    )
        return self
