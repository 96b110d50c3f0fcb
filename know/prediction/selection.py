"""Which weights to use, decided by a score of the user's own validation data: Θ_0 unless something beats it clearly.

Most predictions will not win, and the best of many candidates looks better than it is. So each is held to Θ_0 by an interval
that is wide enough for all of them at once (Bonferroni), and what does not exclude 0 is not a gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from know.prediction.controls import Control
from know.prediction.engine import Predictor
from know.prediction.retrodict import retrodict
from know.weights.algebra import Weights
from know.weights.kinds import State

THETA_0 = "Θ_0"
ENOUGH = 30
"""Values that an interval needs."""
LEVEL = 0.95
Score = Callable[[State], object]
"""Higher is better: a number, or one for each of the same validation samples, in the same order."""


def candidates(
    trajectory: Sequence[State],
    methods: Mapping[str, Predictor],
    steps: Sequence[int] = (1,),
    scales: Sequence[float] = (1.0,),
    controls: Mapping[str, Control] | None = None,
    fresh: State | None = None,
) -> Iterator[tuple[str, State]]:
    """Names and states: Θ_0; then Θ_0 + c·(Θ̂_{-k} - Θ_0) for each method, step k and scale c; then the controls, of the
    first method's prediction."""
    theta_0 = Weights(trajectory[-1])
    yield THETA_0, trajectory[-1]
    for name, predictor in methods.items():
        predicted = retrodict(trajectory, predictor, max(steps))
        for step in steps:
            for scale in scales:
                away = Weights(predicted[step - 1], theta_0.kinds) - theta_0
                state = predicted[step - 1] if scale == 1 else (theta_0 + scale * away).state()
                yield f"{name} step {step}" + (f" × {scale:g}" if scale != 1 else ""), state
    for name, control in (controls or {}).items():
        begun = control(trajectory, next(iter(methods.values())), max(steps), fresh=fresh)
        for step, state in enumerate(begun, start=1):
            if len(begun) == 1 or step in steps:
                yield f"{name} step {step}" if len(begun) > 1 else name, state


@dataclass(frozen=True)
class Scored:
    """A candidate's mean score, its gain over Θ_0 and the half-width of that gain's interval (None: one number only)."""

    name: str
    score: float
    gain: float
    half: float | None
    clear: bool


@dataclass(frozen=True)
class Selection:
    """Every candidate's score, in their order, the one that is chosen, and its state."""

    table: list[Scored]
    chosen: Scored
    state: State


def values_of(result: object, name: str) -> np.ndarray:
    """What a score returned, float64 (n,); n = 1 for a number.

    Raises:
        ValueError: it is something else; names the candidate.
    """
    array = result.detach().cpu().double().numpy() if isinstance(result, Tensor) else np.asarray(result)
    try:
        array = np.atleast_1d(array.astype(np.float64))
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"the score of {name} must be a number, or one for each sample; got a {type(result).__name__}")
    return array


def quantile(level: float, count: int) -> float:
    """Student's t for a two-sided interval of ``level`` from ``count`` ≥ 30 values (Abramowitz & Stegun, 26.7.5)."""
    z, n = NormalDist().inv_cdf((1 + level) / 2), count - 1
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / n**power for power, term in enumerate(terms, start=1))


def _held(name: str, values: np.ndarray, reference: np.ndarray, others: int, margin: float | None) -> Scored:
    """A candidate beside Θ_0, one of ``others``."""
    if len(values) != len(reference):
        raise ValueError(f"the score of {name} has {len(values)} values, that of {THETA_0} {len(reference)}")
    difference = values - reference
    gain, half = float(difference.mean()), None
    if len(values) >= ENOUGH:
        spread = difference.std(ddof=1) / len(values) ** 0.5
        half = quantile(1 - (1 - LEVEL) / others, len(values)) * float(spread)
    bars = [bar for bar in (half, margin) if bar is not None]
    clear = gain > max(bars) if bars else False
    return Scored(name, float(values.mean()), gain, half, clear)


@torch.no_grad()
def select(
    given: Iterable[tuple[str, State]],
    count: int,
    score: Score,
    margin: float | None = None,
    on_score: Callable[[Scored], None] = lambda scored: None,
) -> Selection:
    """Score each candidate and choose: of those that beat Θ_0 clearly the one of the best mean, else Θ_0.

    Clearly: by more than the half-width of the paired 95 % interval, simultaneous over the candidates, and by more than
    ``margin`` if that is given. A score of a single number has no interval, so that there only ``margin`` can be exceeded.

    Args:
        given: as ``candidates`` makes them, Θ_0 first.
        count: how many they are, Θ_0 included.
        on_score: told of each, as it comes.

    Raises:
        ValueError: the scores are no numbers, or not of the same samples.
    """
    rest = iter(given)
    name, kept = next(rest)
    reference = values_of(score(kept), name)
    chosen = Scored(name, float(reference.mean()), 0.0, None, False)
    table = [chosen]
    on_score(chosen)
    for name, state in rest:
        scored = _held(name, values_of(score(state), name), reference, count - 1, margin)
        if scored.clear and (chosen is table[0] or scored.score > chosen.score):
            chosen, kept = scored, state
        table.append(scored)
        on_score(scored)
    return Selection(table, chosen, kept)
