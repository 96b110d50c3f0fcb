"""To what a gain over naïve transfer is owed: a verdict by rule, from comparisons that were made elsewhere.

Each explanation other than knowledge names a start that has the same cause and not the knowledge. If the candidate does not
beat that start, the explanation suffices:

- *rescaling*: Θ_0 scaled to the prediction's norms does as well, or the prediction at Θ_0's norms gains nothing;
- *the optimiser*: nothing is left where every start has its own learning rate;
- *BatchNorm*: nothing is left where naïve transfer has BatchNorm treated alike;
- *training time*: the same prediction of a path without forgetting does as well.

Knowledge is what is left: the candidate beats them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from know.analysis.comparisons import NAIVE_TUNED, Comparison, Comparisons
from know.analysis.starts import NAIVE, TUNED, Start
from know.analysis.text import listed


@dataclass(frozen=True)
class Test:
    """A comparison that an explanation must lose: the ``explanation`` suffices unless this one is "better"."""

    explanation: str
    asked: str
    comparison: Comparison

    @property
    def suffices(self) -> bool:
        return self.comparison.verdict != "better"


@dataclass(frozen=True)
class Why:
    """``gain``: the candidate's over naïve transfer, None if it was not run. ``tests``: of the explanations that could be tested.
    ``elsewhere``: the same where both have BatchNorm under another rule, by that rule."""

    gain: Comparison | None
    tests: list[Test]
    elsewhere: dict[str, Why] = field(default_factory=dict)

    @property
    def asked(self) -> bool:
        """Whether there is a gain to explain."""
        return self.gain is not None and self.gain.verdict == "better"

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.gain is None:
            return "not tested"
        if self.gain.verdict == "no headroom":
            return "no headroom: nothing is judged"
        if not self.asked:
            others = [
                f", but one where BatchNorm is {rule} in both" for rule, why in self.elsewhere.items() if why.asked
            ]
            return "there is no gain to explain" + "".join(others)
        if enough := list(dict.fromkeys(test.explanation for test in self.tests if test.suffices)):
            return listed(enough)
        lacking = {"rescaling", "the optimiser", "training time"} - {test.explanation for test in self.tests}
        return f"not decided: {', '.join(sorted(lacking))} not tested" if lacking else "knowledge"


def why(found: Comparisons) -> Why:
    """Of the candidate."""
    name, tests, elsewhere = found.candidate, [], {}
    tuned = found.of(found.chosen.get(name + TUNED), found.chosen.get(NAIVE_TUNED))
    if tuned is not None:
        tests.append(Test("the optimiser", "does it gain where each has its own learning rate?", tuned))
    for start in found.crossings:
        alike = found.of(start, found.alike(start))
        if start.name == name and alike is not None:
            asked = f"does it gain where BatchNorm is treated alike ({found.rule(start)})?"
            tests.append(Test("BatchNorm", asked, alike))
            if start.rule:
                starts = {other: crossed for (other, rule), crossed in found.crossed.items() if rule == start.rule}
                elsewhere[start.rule] = Why(alike, _tests(found, starts))
    return Why(found.named(name, NAIVE.name), _tests(found, found.chosen) + tests, elsewhere)


def _tests(found: Comparisons, starts: Mapping[str, Start]) -> list[Test]:
    """Of these starts, by their names."""

    def test(explanation: str, asked: str, one: str, other: str) -> list[Test]:
        made = found.of(starts.get(one), starts.get(other))
        return [] if made is None else [Test(explanation, asked, made)]

    name = found.candidate
    return [
        *test("rescaling", "does it beat Θ₀ scaled to its norms?", name, "shrunk"),
        *test("rescaling", "does its direction, at Θ₀'s norms, beat naïve transfer?", "direction_only", NAIVE.name),
        *test("training time", "does it beat the same prediction of a path without forgetting?", name, "sham"),
    ]
