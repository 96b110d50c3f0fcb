"""Each claim of the paper beside what the results say: computed by rule, never typed.

A claim about a difference takes the verdict of that comparison. A claim of several parts holds if all of them do, and does
not hold if any does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from know.analysis import ablations
from know.analysis.comparisons import Comparison, Comparisons, compare
from know.analysis.starts import MORE_DATA, NAIVE, Start
from know.analysis.statistics import unpaired
from know.analysis.text import NONE, points
from know.prediction.known import KNOWN
from know.tasks.options import METRICS

Verdict = Literal["holds", "does not hold", "excludes the paper's effect", "not clear", "no headroom", "not tested"]
VERDICTS: tuple[Verdict, ...] = (
    "holds",
    "does not hold",
    "excludes the paper's effect",
    "not clear",
    "no headroom",
    "not tested",
)
THERE, HERE = "in the paper's setting", "verdict here"
PREDICTION_TIME = "prediction per parameter"
FORGETTING_RATIO = "forgetting over training, same epochs"
"""Quantities of ``data/measured/cost.csv``."""


@dataclass(frozen=True)
class Evidence:
    """What the claims are held against. ``forgetting``: the fall of test accuracy along the path; ``ablations`` and ``cost``:
    the tables of ``data/measured``, empty where nothing was measured; ``metric``: by what nets are judged; ``held_out``: on
    domains that none of them has learned from."""

    transfer: Comparisons
    forgetting: Comparison
    rate: float
    history_length: int
    margin: float
    in_papers_setting: bool
    ablations: pd.DataFrame
    cost: pd.DataFrame
    metric: str = METRICS["classification"]
    held_out: bool = False

    @property
    def candidate(self) -> str:
        """The method that is judged."""
        return self.transfer.candidate


@dataclass(frozen=True)
class Finding:
    """What the results say of a claim: numbers, and the verdict."""

    numbers: str = NONE
    verdict: Verdict = "not tested"


@dataclass(frozen=True)
class Claim:
    """A claim, the paper's figure for it, and how it is judged."""

    text: str
    paper: str
    judge: Callable[[Evidence], Finding]


CLAIMS: list[Claim] = []


def claim(text: str, paper: str) -> Callable[[Callable[[Evidence], Finding]], None]:
    """Register how a claim is judged."""
    return lambda judge: CLAIMS.append(Claim(text, paper, judge))


def said(found: Comparison | None, of_worse: bool = False, words: str = "") -> Finding:
    """A claim that one start is better (``of_worse``: worse) than another."""
    if found is None:
        return Finding()
    verdict = (found.reversed if of_worse else found).verdict
    held: Verdict = "holds" if verdict == "better" else "does not hold" if verdict == "worse" else verdict
    return Finding(f"{words}{points(found.gain)} points (n={found.gain.units})", held)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim of several parts."""
    decisive: tuple[Verdict, ...] = ("does not hold", "no headroom")
    for one in decisive:
        if one in verdicts:
            return one
    return verdicts[0] if len(set(verdicts)) == 1 else "not clear" if verdicts else "not tested"


def table(evidence: Evidence) -> pd.DataFrame:
    """Every claim, the paper's figure, the verdict in the paper's setting, the numbers of this run and the verdict here."""
    rows = []
    for one in CLAIMS:
        found = one.judge(evidence)
        there = found.verdict if evidence.in_papers_setting else "not tested"
        rows.append((one.text, one.paper, there, found.numbers, found.verdict))
    return pd.DataFrame(rows, columns=["claim", "in the paper", THERE, "in this run", HERE])


def sentence(claims: pd.DataFrame) -> str:
    """How many claims of the paper hold, by verdict."""

    def counted(column: str) -> str:
        counts = claims[column].value_counts()
        return ", ".join(f"{name} {counts[name]}" for name in VERDICTS if name in counts)

    return f"{len(claims)} claims of the paper. In this run: {counted(HERE)}. In the paper's own setting: {counted(THERE)}."


# --- the claims ---------------------------------------------------------------------------------------------------


@claim("Fine-tuning on ever smaller subsets forgets", "the idea")
def _forgets(e: Evidence) -> Finding:
    return said(e.forgetting, words="fall on test images: ")


@claim("KNOWN beats naïve transfer", "+0.60 points (×2) to +1.15 (×8)")
def _beats_naive(e: Evidence) -> Finding:
    return said(e.transfer.named(e.candidate, "naive"), words=_chosen(e, e.candidate))


@claim("Its gain grows with the steps", "+0.55 points from ×2 to ×8")
def _grows(e: Evidence) -> Finding:
    steps = _steps(e, e.candidate)
    found = e.transfer.of(steps[-1], steps[0]) if len(steps) > 1 else None
    return said(found, words=f"{steps[0].data(e.rate)} to {steps[-1].data(e.rate)}: " if steps else "")


@claim("One step beats really having 1/r times the data", "half the data, ×2: +0.18 points")
def _beats_more_data(e: Evidence) -> Finding:
    steps = _steps(e, e.candidate)
    found = said(e.transfer.of(steps[0], MORE_DATA) if steps else None)
    # The margin is of another, larger effect: to be within it does not speak against this one.
    return replace(found, verdict="not clear") if found.verdict == "excludes the paper's effect" else found


@claim("KNOWN beats logarithmic extrapolation", "yes")
def _beats_log(e: Evidence) -> Finding:
    return _beats(e, "log")


@claim("KNOWN beats the task vector", "yes")
def _beats_task_vector(e: Evidence) -> Finding:
    return _beats(e, "task_vector")


@claim("KNOWN beats task singular vectors", "yes")
def _beats_tsv(e: Evidence) -> Finding:
    return _beats(e, "tsv")


@claim("Far out the task vector falls below naïve transfer", "yes, ×9 (VOC → Cityscapes)")
def _falls_below(e: Evidence) -> Finding:
    steps = [start for start in _steps(e, "task_vector") if start.step > 1]
    found = e.transfer.of(steps[-1], NAIVE) if steps else None
    return said(found, of_worse=True, words=f"{steps[-1].data(e.rate)}: " if steps else "")


@claim("A longer history helps", "+0.90 points from S = 2 to 5 (×8)")
def _longer_history(e: Evidence) -> Finding:
    own = e.ablations[(e.ablations.ablation == "history_length") & (e.ablations.method == "known")]
    lengths = sorted(set(own.value), key=float)
    if len(lengths) < 2:
        return Finding()
    step = int(own.groupby("value").steps.max().min())
    gains = ablations.gains(e.ablations, "history_length", Start("known", step), e.transfer.confidence)
    short, long = lengths[0], lengths[-1]
    pair = {"S": unpaired(gains[long], gains[short])}
    found = compare(pair, e.transfer.margin, "history length", e.transfer.headroom)["S"]
    return said(found, words=f"S = {short} to {long}, step {step}: ")


@claim("KNOWN gains at every sampling rate", "r = 0.5; r = 1/3 with other networks")
def _every_rate(e: Evidence) -> Finding:
    return _at_every_value(e, "rate", "r = ")


@claim("… with other networks and data sets", "PVTv2, DeepLabV3+; ten data sets")
def _every_network(e: Evidence) -> Finding:
    return _at_every_value(e, "architecture")


@claim("Prediction takes 2.67e-7 s a parameter, by 9,425 weights a kind", "2.67e-7 s, ResNet18")
def _prediction_time(e: Evidence) -> Finding:
    count = sum(parameter.numel() for parameter in KNOWN(history_length=5).parameters())
    values = e.cost.value[e.cost.quantity == PREDICTION_TIME]
    if count != 9425 or values.empty:
        return Finding(f"{count:,} weights", "not tested" if count == 9425 else "does not hold")
    return Finding(f"{float(values.iloc[0]):.3g} s, on another machine", "not tested")


@claim("Forgetting costs (1 - r^(S-1))/(1 - r) of a training, no more", "1.88 at r = 0.5, S = 5")
def _extra_training(e: Evidence) -> Finding:
    return _measured(e, FORGETTING_RATIO, (1 - e.rate ** (e.history_length - 1)) / (1 - e.rate), "of a training")


@claim(
    "Other tasks gain too: domains, segmentation, captioning, ImageNet's weights",
    "PACS, ×3: +4.7 points; VOC → Cityscapes, ×3 to ×9: 69.0 to 71.2 mean IoU; Flickr8k: +2.2; PVTv2, five data sets",
)
def _other_tasks(e: Evidence) -> Finding:
    kind = "domains" if e.held_out else {METRICS[kind]: kind for kind in METRICS}[e.metric]
    if kind == "classification":
        return Finding()
    found = _beats(e, "naive")
    return replace(found, numbers=f"{kind}, {found.numbers}")


def _beats(e: Evidence, other: str) -> Finding:
    """The candidate against another method, each as chosen."""
    return said(e.transfer.named(e.candidate, other), words=_chosen(e, e.candidate, other))


def _steps(e: Evidence, name: str) -> list[Start]:
    return [start for start in e.transfer.starts if start.name == name]


def _chosen(e: Evidence, *names: str) -> str:
    """ "×4 against ×2: ", or "×4: " of both: the candidates that are compared."""
    own, *others = [start.data(e.rate) for name in names if (start := e.transfer.chosen.get(name))] or [""]
    return f"{own} against {others[0]}: " if others and others[0] not in ("", own) else f"{own}: " if own else ""


def _at_every_value(e: Evidence, ablation: str, symbol: str = "") -> Finding:
    """KNOWN's first step against naïve transfer at each value of an ablation."""
    found = ablations.comparisons(e.ablations, ablation, Start("known", 1), e.margin, e.transfer.confidence)
    parts = {value: said(one, words=f"{symbol}{value}: ") for value, one in found.items()}
    return Finding("; ".join(p.numbers for p in parts.values()) or NONE, together([p.verdict for p in parts.values()]))


def _measured(e: Evidence, quantity: str, limit: float, unit: str) -> Finding:
    """A number claimed not to exceed a limit; it was measured once and has no interval."""
    values = e.cost.value[e.cost.quantity == quantity]
    if values.empty:
        return Finding()
    value = float(values.iloc[0])
    return Finding(f"{value:.3g} {unit} (limit {limit:.3g})", "holds" if value <= limit else "does not hold")
