"""Each claim of the paper, and each doubt of a sceptic, beside what the results say: computed by rule, never typed.

A claim about a difference holds if the interval excludes 0 in the claimed direction, does not hold if it excludes 0 in the
other, and is not clear if it contains 0. A claim of several parts holds if all of them do, and does not hold if any does
not. Where the results have nothing to say on a claim it is not tested here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

from know.analysis.oracle import MORE, more_images, ratio_text, recovery_ratios
from know.analysis.statistics import Estimate, mean_interval
from know.prediction.known import KNOWN
from know.report.figures import label, virtual
from know.report.tables import NAIVE, Start, against, difference, forgetting_drops, number, points, pooled

Verdict = Literal["holds", "does not hold", "not clear", "not tested here"]


@dataclass(frozen=True)
class Results:
    """What the claims are held against: the tables of ``data/results`` and ``data/measured``, None where there is none."""

    transfer: pd.DataFrame
    forgetting: pd.DataFrame
    rate: float
    history_length: int
    source_images: int
    confidence: float
    headroom: pd.DataFrame | None = None
    oracle: pd.DataFrame | None = None
    geometry: pd.DataFrame | None = None
    ablations: pd.DataFrame | None = None
    cost: pd.DataFrame | None = None

    @cached_property
    def units(self) -> pd.DataFrame:
        return pooled(self.transfer)


@dataclass(frozen=True)
class Finding:
    """What the results say of a claim: numbers with their interval, unit and number of source seeds, and the verdict."""

    ours: str = "–"
    verdict: Verdict = "not tested here"


NOT_TESTED = Finding()


def judged(low: float, high: float) -> Verdict:
    """Of a quantity claimed to be positive, with this interval."""
    return "holds" if low > 0 else "does not hold" if high < 0 else "not clear"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim of several parts."""
    if not verdicts:
        return "not tested here"
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if set(verdicts) == {"holds"} else "not clear"


def _gain(estimate: Estimate, sign: int = 1) -> Finding:
    """Of a difference of accuracies claimed to be positive (``sign`` 1) or negative (-1)."""
    middle, half = sign * estimate.mean, estimate.half_width
    return Finding(f"{points(estimate)} points (n={estimate.units})", judged(middle - half, middle + half))


def beats(results: Results, method: str, rival: str, steps: Sequence[int] | None = None) -> Finding:
    """``method`` against ``rival`` at the same step (or the only one that it has), pooled; mean over ``steps``, by default all
    of the method's that the rival has."""
    units = results.units
    own = [step for name, step in units.index if name == method and (steps is None or step in steps)]
    parts = []
    for step in own:
        other: Start | None = NAIVE if rival == "naive" else against(results.transfer, (method, step), rival)
        if other is not None and other in units.index:
            parts.append(difference(units, (method, step), other))
    if not parts:
        return NOT_TESTED
    paired = pd.concat(parts, axis=1).dropna().mean(axis=1)
    return _gain(mean_interval(paired, results.confidence)) if len(paired) else NOT_TESTED


def _gain_grows(results: Results) -> Finding:
    units = results.units
    steps = sorted(step for method, step in units.index if method == "known")
    if len(steps) < 2:
        return NOT_TESTED
    return _gain(mean_interval(difference(units, ("known", steps[-1]), ("known", steps[0])), results.confidence))


def _falls_below(results: Results, method: str) -> Finding:
    units = results.units
    steps = sorted(step for name, step in units.index if name == method)
    if len(steps) < 2:
        return NOT_TESTED
    return _gain(mean_interval(difference(units, (method, steps[-1]), NAIVE), results.confidence), -1)


# --- of the ablations -------------------------------------------------------------------------------------------


def _ablation(results: Results, name: str, method: str = "known") -> pd.DataFrame:
    """The pooled rows of one ablation and method."""
    table = results.ablations
    if table is None:
        return pd.DataFrame(columns=["ablation", "value", "method", "steps", "gain", "half_width", "units"])
    rows = table[(table.ablation == name) & (table.method == method)]
    return rows[rows.labels == "pooled"] if "labels" in rows else rows


def _numeric(rows: pd.DataFrame, parameter: str) -> pd.Series[float]:
    """The ablated parameter: its own column, or the value by which the ablation calls it."""
    return pd.to_numeric(rows[parameter if parameter in rows else "value"])


def _unpaired(a: float, half_a: float, b: float, half_b: float, units: int) -> Estimate:
    """A difference of two means of separate experiments, their intervals added as if independent; NaN: no interval."""
    half = (half_a**2 + half_b**2) ** 0.5
    return Estimate(a - b, half if half >= 0 else float("inf"), units)


def _longer_history(results: Results) -> Finding:
    rows = _ablation(results, "history_length")
    rows = rows.assign(length=_numeric(rows, "history_length"))
    if rows.length.nunique() < 2:
        return NOT_TESTED
    common = rows.groupby("length").steps.max().min()
    rows = rows[rows.steps == common].sort_values("length")
    short, long = rows.iloc[0], rows.iloc[-1]
    found = _gain(
        _unpaired(long.gain, long.half_width, short.gain, short.half_width, int(min(long.units, short.units)))
    )
    return Finding(f"S = {long.length:g} less S = {short.length:g} at {common} steps: {found.ours}", found.verdict)


def _half_the_data(results: Results) -> Finding:
    known, naive = (_ablation(results, "source_images", method) for method in ("known", "naive"))
    if known.empty or naive.empty:
        return NOT_TESTED
    known, naive = (rows.assign(number=_numeric(rows, "source_images")) for rows in (known, naive))
    full = naive.loc[naive.number.idxmax()]
    half = known[((known.number / full.number - 0.5).abs() < 0.001) & (known.steps == 1)]
    if half.empty:
        return NOT_TESTED
    one = half.iloc[0]
    units = int(min(one.units, full.units))
    return _gain(_unpaired(one.accuracy, one.accuracy_half_width, full.accuracy, full.accuracy_half_width, units))


def _in_every(results: Results, name: str, symbol: str = "") -> Finding:
    """Whether KNOWN's first step beats naïve transfer at every value of an ablation."""
    rows = _ablation(results, name)
    rows = rows[rows.steps == 1]
    parts = [_gain(_unpaired(row.gain, row.half_width, 0, 0, int(row.units))) for row in rows.itertuples()]
    words = [f"{symbol}{value}: {part.ours}" for value, part in zip(rows.value, parts, strict=True)]
    return Finding("; ".join(words) or "–", together([part.verdict for part in parts]))


# --- of what it costs -------------------------------------------------------------------------------------------


def _cost(results: Results, quantity: str) -> float | None:
    if results.cost is None:
        return None
    values = results.cost.value[results.cost.quantity == quantity]
    return float(values.iloc[0]) if len(values) else None


def _at_most(value: float | None, limit: float, text: str) -> Finding:
    """A measured number claimed not to exceed a limit; it is one measurement and has no interval."""
    return NOT_TESTED if value is None else Finding(text, "holds" if value <= limit else "does not hold")


def _prediction_time(results: Results) -> Finding:
    value = _cost(results, PREDICTION_TIME)
    return _at_most(value, 2.67e-7, f"{value:.3g} s a parameter" if value is not None else "–")


def _extra_training(results: Results) -> Finding:
    rate, length = results.rate, results.history_length
    formula, value = (1 - rate ** (length - 1)) / (1 - rate), _cost(results, FORGETTING_RATIO)
    text = "–" if value is None else f"{value:.3g} (formula {formula:.3g}; images seen {rate * formula:.3g})"
    return _at_most(value, formula, text)


PREDICTION_TIME = "prediction per parameter"
FORGETTING_RATIO = "forgetting over training, same epochs"
"""Quantities of ``data/measured/cost.csv``."""


# --- of the oracle ----------------------------------------------------------------------------------------------


def _headroom(results: Results) -> Finding:
    units, parts = results.units, []
    if MORE in units.index:
        parts.append(("independently trained", mean_interval(difference(units, MORE, NAIVE), results.confidence)))
    if results.oracle is not None:
        own = pooled(results.oracle)
        if MORE in own.index:
            parts.append(("oracle track", mean_interval(difference(own, MORE, NAIVE), results.confidence)))
    if not parts and results.headroom is not None:
        found = more_images(results.headroom, results.source_images, results.rate, results.confidence)
        parts += [] if found is None else [(f"{found[0]:,} images", found[1])]
    findings = [_gain(estimate) for _, estimate in parts]
    words = [f"{where}: {finding.ours}" for (where, _), finding in zip(parts, findings, strict=True)]
    return Finding("; ".join(words) or "–", together([finding.verdict for finding in findings]))


def _recovers(table: pd.DataFrame | None, method: str, confidence: float) -> Finding:
    ratio = None if table is None else recovery_ratios(table, confidence).get((method, 1))
    if table is None or ratio is None:
        return NOT_TESTED
    units = pooled(table)
    helps = difference(units, MORE, NAIVE).mean() > 0  # of a gain below 0 there is nothing to recover
    low, high = (ratio.low, ratio.high) if ratio.bounded and helps else (-1.0, 1.0)
    return Finding(f"{ratio_text(ratio)} (n={ratio.units})", judged(low, high))


def _points_the_right_way(results: Results, method: str) -> Finding:
    if results.geometry is None:
        return NOT_TESTED
    table = results.geometry
    rows = table[(table.method == method) & (table.kind == "all") & (table.layer == "all")].cosine.dropna()
    if rows.empty:
        return NOT_TESTED
    cosine = mean_interval(rows, results.confidence)
    text = f"cosine {number(cosine.mean, cosine.half_width, 2, True)} (n={cosine.units})"
    return Finding(text, judged(cosine.mean - cosine.half_width, cosine.mean + cosine.half_width))


def _forgets(results: Results) -> Finding:
    return _gain(mean_interval(-forgetting_drops(results.forgetting), results.confidence), -1)


def _size() -> Finding:
    count = sum(parameter.numel() for parameter in KNOWN(history_length=5).parameters())
    return Finding(f"{count:,}", "holds" if count == 9425 else "does not hold")


RESNET = "ResNet18, CIFAR-100 → CIFAR-10"
NAIVE_IN_PAPER, KNOWN_IN_PAPER = 92.40, {0.5: {1: 93.00, 2: 93.27, 3: 93.55}}


def table(results: Results) -> pd.DataFrame:
    """Every claim: by whom, the claim, where in the paper and its figure there, ours, and the verdict."""
    rows: list[tuple[str, str, str, str, Finding]] = []

    def paper(claim: str, where: str, figure: str, finding: Finding = NOT_TESTED) -> None:
        rows.append(("paper", claim, where, figure, finding))

    def doubt(claim: str, finding: Finding) -> None:
        rows.append(("ours", claim, "–", "–", finding))

    in_paper = KNOWN_IN_PAPER.get(results.rate, {})
    steps = sorted(results.transfer.steps[results.transfer.method == "known"].unique())
    paper("Test accuracy falls along the path Θ₀, Θ₁, …: forgetting", "the idea", "–", _forgets(results))
    for step in steps:
        figure = f"{in_paper[step] - NAIVE_IN_PAPER:+.2f} points" if step in in_paper else "–"
        paper(
            f"KNOWN {virtual(step, results.rate)} beats naïve transfer",
            RESNET,
            figure,
            beats(results, "known", "naive", [step]),
        )
    paper("The gain grows with the steps", RESNET, "+0.55 points from ×2 to ×8", _gain_grows(results))
    for rival in ("linear", "log", "task_vector", "tsv"):
        compared = "–" if rival == "linear" else "KNOWN above"
        paper(
            f"KNOWN beats {label(rival)}, mean over steps", "compared methods", compared, beats(results, "known", rival)
        )
    paper(
        "The task vector falls below naïve transfer far out",
        "VOC → Cityscapes",
        "below at ×9",
        _falls_below(results, "task_vector"),
    )
    paper(
        f"KNOWN {virtual(1, results.rate)} beats naïve transfer from {virtual(1, results.rate)} the data, really",
        RESNET,
        "+0.18 points (×2)",
        beats(results, "known", "more_data", [1]),
    )
    paper(
        "KNOWN with half the data beats naïve transfer with all, separate runs",
        RESNET,
        "+0.18 points (×2)",
        _half_the_data(results),
    )
    paper("A longer history helps", RESNET, "+0.90 points from S = 2 to 5 (×8)", _longer_history(results))
    paper(
        "KNOWN beats naïve transfer at every sampling rate",
        "r = 0.5; PVTv2, PACS: r = 1/3",
        "gains at ×3, ×9",
        _in_every(results, "rate", "r = "),
    )
    paper(
        "… with other networks and data sets",
        "PVTv2, DeepLabV3+; ten data sets",
        "gains throughout",
        _in_every(results, "architecture"),
    )
    paper("KNOWN has 9,425 parameters", "hyper-model", "9,425", _size())
    paper("Prediction takes at most 2.67e-7 s a parameter", "cost", "2.67e-7 s a parameter", _prediction_time(results))
    paper(
        "Forgetting costs (1 - r^(S-1))/(1 - r) of a training, no more",
        "cost",
        "1.88 at r = 0.5, S = 5",
        _extra_training(results),
    )
    paper("ImageNet-scale transfer", "PVTv2 → CIFAR-100, …", "×3: 82.46 %")
    paper("Domain generalisation", "PACS", "63.48 → 68.21 % (×3)")
    paper("Segmentation", "DeepLabV3+, VOC → Cityscapes", "×3 69.00, ×9 71.22 mIoU")
    paper("Captioning", "Flickr8k", "37.2 → 39.38 %")

    doubt("There is headroom: the real Θ₋₁ beats naïve transfer", _headroom(results))
    for rival in ("shrunk", "shrink_perturb", "trained_on", "repeated", "random_direction", "flipped"):
        doubt(f"KNOWN beats {label(rival)}, mean over steps", beats(results, "known", rival))
    doubt("Scale-free KNOWN beats naïve transfer, mean over steps", beats(results, "scale_free", "naive"))
    doubt(
        "Scale-free KNOWN on the best shrinkage beats the best shrinkage, mean over steps",
        beats(results, "scale_free_shrunk", "shrink_perturb"),
    )
    for method in ("known", "scale_free"):
        name = label(method)[0].upper() + label(method)[1:]
        for track, measured in (("oracle", results.oracle), ("main", results.transfer)):
            recovered = _recovers(measured, method, results.confidence)
            doubt(f"{name} recovers a part of what the real Θ₋₁ gains ({track} track)", recovered)
        doubt(f"{name} steps towards the real Θ₋₁", _points_the_right_way(results, method))
    return pd.DataFrame(
        [(by, claim, where, figure, found.ours, found.verdict) for by, claim, where, figure, found in rows],
        columns=["claim of", "claim", "where", "paper's figure", "ours", "verdict"],
    )  # fmt: skip


def sentence(table: pd.DataFrame) -> str:
    """How many claims of the paper hold, by verdict."""
    counts = table[table["claim of"] == "paper"].verdict.value_counts()
    names = ("holds", "does not hold", "not clear", "not tested here")
    return "Claims of the paper, by verdict: " + ", ".join(f"{name} {counts.get(name, 0)}" for name in names) + "."
