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

from dataclasses import dataclass

from know.analysis.comparisons import NAIVE_TUNED, Comparison, Comparisons
from know.analysis.starts import NAIVE, TUNED


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
    """``gain``: the candidate's over naïve transfer, None if it was not run. ``tests``: of the explanations that could be tested."""

    gain: Comparison | None
    tests: list[Test]

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
            return "there is no gain to explain"
        if enough := list(dict.fromkeys(test.explanation for test in self.tests if test.suffices)):
            return " and ".join(enough)
        lacking = {"rescaling", "the optimiser", "training time"} - {test.explanation for test in self.tests}
        return f"not decided: {', '.join(sorted(lacking))} not tested" if lacking else "knowledge"


def why(found: Comparisons) -> Why:
    """Of the candidate."""
    name = found.candidate
    own = found.chosen.get(name)
    tuned = found.chosen.get(name + TUNED)
    tests = [
        ("rescaling", "does it beat Θ₀ scaled to its norms?", found.named(name, "shrunk")),
        ("rescaling", "does its direction, at Θ₀'s norms, beat naïve transfer?", found.named("direction_only", NAIVE.name)),
        ("the optimiser", "does it gain where each has its own learning rate?", found.of(tuned, found.chosen.get(NAIVE_TUNED))),
        ("training time", "does it beat the same prediction of a path without forgetting?", found.named(name, "sham")),
    ]  # fmt: skip
    for start in found.crossings:
        if start.name == name:
            asked = f"does it gain where BatchNorm is treated alike ({found.rule(start)})?"
            tests.append(("BatchNorm", asked, found.of(start, found.alike(start))))
    made = [Test(explanation, asked, one) for explanation, asked, one in tests if one is not None]
    return Why(found.of(own, NAIVE), made)
