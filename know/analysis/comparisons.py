"""One comparison, made in one place and quoted everywhere: paired difference, interval, correction, verdict.

A difference is paired over source seeds. It is *better* or *worse* if a t test, corrected by Holm's method within a family
named beforehand, says so; else it *excludes the paper's effect* if two one-sided tests, corrected alike, show it to be within
± the margin; else it is *not clear*. Where really more data does not help there is no headroom: nothing that a method does
could be told from nothing, and nothing is judged.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import pandas as pd

from know.analysis.starts import MORE_DATA, NAIVE, SCRATCH, TUNED, Start
from know.analysis.statistics import (
    Estimate,
    Interval,
    effect_size,
    holm,
    mean_interval,
    negated,
    p_different,
    p_equivalent,
    recovery,
)
from know.analysis.units import by_source, difference, runs

Verdict = Literal["better", "worse", "excludes the paper's effect", "not clear", "no headroom"]
NAIVE_TUNED = NAIVE.name + TUNED
OTHER_WAY: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Comparison:
    """A difference and what it says. ``p_holm`` and ``p_equal`` (of equivalence) are corrected within a ``family`` of ``size``;
    ``effect`` is Hedges' g."""

    gain: Estimate
    p: float
    p_holm: float
    p_equal: float
    effect: float
    verdict: Verdict
    family: str
    size: int

    @property
    def reversed(self) -> Comparison:
        """The same comparison, of the other with the one."""
        verdict = OTHER_WAY.get(self.verdict, self.verdict)
        return replace(self, gain=negated(self.gain), effect=-self.effect, verdict=verdict)


def compare(
    gains: Mapping[K, Estimate], margins: float | Mapping[K, float], family: str, headroom: bool = True
) -> dict[K, Comparison]:
    """Judge a family of paired differences together.

    Args:
        margins: what counts as the paper's effect, a share of accuracy; of each, or of all.
        headroom: without it nothing is judged.
    """
    margin_of = margins if isinstance(margins, Mapping) else dict.fromkeys(gains, margins)
    p = pd.Series([p_different(gain) for gain in gains.values()], dtype=float)
    equal = pd.Series([p_equivalent(gain, margin_of[key]) for key, gain in gains.items()], dtype=float)
    found = {}
    for (key, gain), raw, p_holm, p_equal in zip(gains.items(), p, holm(p), holm(equal), strict=True):
        verdict = _verdict(gain, p_holm, p_equal) if headroom else "no headroom"
        found[key] = Comparison(gain, raw, p_holm, p_equal, effect_size(gain), verdict, family, len(gains))
    return found


def _verdict(gain: Estimate, p_holm: float, p_equal: float) -> Verdict:
    alpha = 1 - gain.confidence
    if p_holm < alpha:
        return "better" if gain.mean > 0 else "worse"
    return "excludes the paper's effect" if p_equal < alpha else "not clear"


class Comparisons:
    """All comparisons of a table of fine-tuning runs. Each belongs to just one family, the first that names it:

    *gate*: the net that was really trained on most data with naïve transfer; *pair*: naïve transfer with scratch; *contrasts*: those named in params.yaml;
    *controls*: the candidate with every other start at its chosen candidate; *starts*: every start and step with naïve
    transfer; *tuned*: starts with naïve transfer, each at its own best learning rate; *crossed*: starts made under another rule
    for BatchNorm with naïve transfer under that rule and under its own, and the candidate with the others under its rule; *data*: what other amounts of real data gain, the candidate's first step with the real Θ_{-1}, and its last step with its first.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        confidence: float,
        margin: float,
        contrasts: Sequence[tuple[str, str]] = (),
        candidate: str = "known",
    ) -> None:
        """``table``: method, steps, role, fraction, seeds, accuracy, and ``chosen`` where a method has several steps.

        Args:
            margin: as a share of naïve transfer's error.
        """
        self.runs, self.confidence = runs(table), confidence
        every: list[Start] = list(self.runs.index)
        self.starts = [start for start in every if not start.rule]
        """Each under its own rule for BatchNorm; those made under another one too are in ``crossed``."""
        self.candidate = candidate
        picked = table[table.chosen.astype(bool)] if "chosen" in table else table
        names = set(zip(picked.method, picked.steps, strict=True))
        self.chosen = {start.name: start for start in self.starts if (start.name, start.step) in names}
        self.crossed = {(s.name, s.rule): s for s in every if s.rule and (s.name, s.step) in names}
        self._rules = self._own_rules(table)
        self.margin = margin * (1 - self.accuracy(NAIVE).mean)
        self.contrasts = tuple(contrasts)
        self._found: dict[tuple[Start, Start], Comparison] = {}
        self.real = max((start for start in self.starts if start.role == "oracle"), default=MORE_DATA)
        """The net really trained on most data: what the furthest prediction stands for."""
        self.gate = self._family("gate", [(self.real, NAIVE)]).get((self.real, NAIVE))
        """The headroom; None where no net was really trained on more data: then it is not known, and comparisons are judged."""
        self.headroom = self.gate is None or self.gate.verdict == "better"
        self.narrow = self.gate is not None and self.headroom and self.gate.gain.mean < self.margin
        """Whether really more data gains less than the margin."""

        tried = [start for start in self.starts if start.role in ("method", "control")]
        own, steps = self.chosen.get(candidate), [start for start in tried if start.name == candidate]
        chosen = self.chosen
        self._family("pair", [(NAIVE, SCRATCH)])
        self._family("contrasts", [(chosen[a], chosen[b]) for a, b in contrasts if a in chosen and b in chosen])
        if own:
            self._family("controls", [(own, o) for o in sorted(chosen.values()) if o in tried and o.name != candidate])
        self._family("starts", [(start, NAIVE) for start in tried])
        tuned = [start for start in chosen.values() if start.role == "tuned" and start.name != NAIVE_TUNED]
        self._family("tuned", [(start, chosen[NAIVE_TUNED]) for start in tuned if NAIVE_TUNED in chosen])
        self._family("crossed", self._crossed_pairs([start for start in every if start.rule]))
        real = [(start, NAIVE) for start in self.starts if start.role == "oracle"]
        grown = [(steps[0], MORE_DATA), *([(steps[-1], steps[0])] if len(steps) > 1 else [])] if own else []
        self._family("data", [*real, *grown])

    @staticmethod
    def _own_rules(table: pd.DataFrame) -> dict[tuple[str, int], str]:
        """The rule for BatchNorm under which each start is judged."""
        if "batchnorm" not in table:
            return {}
        own = table[~table.crossed.astype(bool)].drop_duplicates(["method", "steps"])
        return dict(zip(zip(own.method, own.steps, strict=True), own.batchnorm, strict=True))

    @property
    def crossings(self) -> list[Start]:
        """The starts, naïve transfer apart, that were made under two rules for BatchNorm: under each that is not naïve transfer's
        own, and, if theirs is not, under naïve transfer's."""
        crossed = [start for (name, _), start in self.crossed.items() if name != NAIVE.name]
        own = [self.chosen[one.name] for one in crossed if one.name in self.chosen]
        return [start for start in own if self.alike(start) != NAIVE] + crossed

    def _crossed_pairs(self, crossed: Sequence[Start]) -> list[tuple[Start, Start]]:
        """Each start of two rules with naïve transfer treated alike; the candidate also with the others that are treated as it is,
        and with naïve transfer under that one's own rule."""
        every = sorted({*self.crossings, *(one for one in crossed if one.name == self.candidate)})
        own, others = ([one for one in every if (one.name == self.candidate) == mine] for mine in (True, False))
        alike = [(one, base) for one in every if (base := self.alike(one)) is not None]
        beside = [(one, other) for other in others if (one := self.crossed.get((self.candidate, other.rule)))]
        bases = [one for one in crossed if one.name == NAIVE.name]
        return [*alike, *beside, *((one, NAIVE) for one in (*own, *bases))]

    def alike(self, start: Start) -> Start | None:
        """Naïve transfer under the start's rule for BatchNorm; None if it was not run."""
        rule = self.rule(start)
        return NAIVE if rule == self.rule(NAIVE) else self.crossed.get((NAIVE.name, rule))

    def rule(self, start: Start) -> str:
        """A start's rule for BatchNorm; "" where the table has none."""
        return start.rule or self._rules.get((start.name, start.step), "")

    def _family(self, name: str, pairs: Sequence[tuple[Start, Start]]) -> dict[tuple[Start, Start], Comparison]:
        new = [pair for pair in pairs if self.of(*pair) is None and set(pair) <= set(self.runs.index)]
        gains = {pair: gain for pair in new if (gain := self._gain(*pair)).units}
        judged = name in ("gate", "pair") or self.headroom
        found = compare(gains, self.margin, name, judged)
        self._found |= found
        return found

    def _gain(self, one: Start, other: Start) -> Estimate:
        return mean_interval(difference(self.runs, one, other), self.confidence)

    def of(self, one: Start | None, other: Start | None) -> Comparison | None:
        """This comparison, whichever way round it was made; None if there is none."""
        if one is None or other is None:
            return None
        if found := self._found.get((one, other)):
            return found
        return found.reversed if (found := self._found.get((other, one))) else None

    def named(self, one: str, other: str) -> Comparison | None:
        """Of two starts, each at its chosen candidate."""
        return self.of(self.chosen.get(one), self.chosen.get(other))

    def family(self, *names: str) -> dict[tuple[Start, Start], Comparison]:
        """The comparisons of these families, by default of all, in the order in which they were named."""
        return {pair: found for pair, found in self._found.items() if not names or found.family in names}

    @property
    def shown(self) -> list[Start]:
        """What the main table and figure show: references, methods, and those controls that a contrast names; tuned starts are
        the learning rates'."""
        named = {name for pair in self.contrasts for name in pair}
        kept = [start for start in self.starts if start.role != "control" or start.name in named]
        return [start for start in kept if start.role != "tuned"]

    def accuracy(self, start: Start) -> Estimate:
        """With all labels, and its interval."""
        return mean_interval(by_source(self.runs.loc[start]), self.confidence)

    def best(self) -> tuple[Start, Comparison, int] | None:
        """The start of the largest gain over naïve transfer, chosen after the fact of how many."""
        tried = {
            one: found for one in self.starts if one.role in ("method", "control") and (found := self.of(one, NAIVE))
        }
        if not tried:
            return None
        best = max(tried, key=lambda start: tried[start].gain.mean)
        return best, tried[best], len(tried)

    def recovery(self, start: Start) -> Interval | None:
        """Which share of the real Θ_{-1}'s gain over naïve transfer a start has, without bounds if that gains nothing; None without
        a real Θ_{-1}."""
        if MORE_DATA not in self.starts:
            return None
        three = self.runs.loc[[start, NAIVE, MORE_DATA]].dropna(axis=1)
        units = three.T.groupby(level="source_seed").mean()
        if units[MORE_DATA].mean() <= units[NAIVE].mean():
            return Interval(float("nan"), float("-inf"), float("inf"), len(units))
        return recovery(units[start], units[NAIVE], units[MORE_DATA], self.confidence) if len(units) else None
