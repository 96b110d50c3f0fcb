"""The verdicts on what ``bench/beyond.yaml`` names: gate, contrasts, directions, and what to say of them."""

from __future__ import annotations

import pandas as pd

from know.analysis.comparisons import Comparison, compare
from know.analysis.starts import label
from know.analysis.statistics import Estimate, mean_interval, p_different
from know.analysis.text import grid, number, p_text, p_words, percent, points
from know.bench.plan import BEST, Beyond
from know.bench.scoring import TRAJECTORY
from know.bench.table import REAL, columns, estimate_in, markdown
from know.params import Report

COMMITTED = ("naive", "more_data")
REFERENCES = ("shrink", "naive_tuned", "average")
OWN = {
    "more_data": REAL,
    "jackknife": "jackknife",
    "layerwise": "layer-wise λ, β",
    "layerwise_still": "layer-wise λ, β = 0",
    "distilled": "outputs extrapolated, distilled",
}
"""How the starts are called that no other table has, in order, after the references."""
ORDER = ("naive", "more_data", *REFERENCES, "jackknife", "layerwise", "layerwise_still", "distilled")


def named(method: str) -> str:
    """How a start is called."""
    return OWN.get(method) or label(method)


def _by_method(scores: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """A row a trajectory, a column a start."""
    return scores.pivot(index=TRAJECTORY, columns="method", values=column)


def best_reference(scores: pd.DataFrame) -> str:
    """The reference of the largest mean accuracy on validation images."""
    return str(_by_method(scores, "validation_accuracy")[list(REFERENCES)].mean().idxmax())


def contrasts(scores: pd.DataFrame, plan: Beyond, report: Report) -> dict[tuple[str, str], Comparison]:
    """The gate, a family of its own, then the plan's contrasts, one family; the best reference by its name.

    Args:
        scores: a row a trajectory and start: task, architecture, number, method, accuracy and validation_accuracy (shares).
    """
    accuracy, best = _by_method(scores), best_reference(scores)
    margin = report.margin * (1 - accuracy.naive.mean())

    def gain(one: str, other: str) -> Estimate:
        return mean_interval(accuracy[one] - accuracy[other], report.confidence)

    gate = compare({("more_data", "naive"): gain("more_data", "naive")}, margin, "gate")
    headroom = gate["more_data", "naive"].verdict == "better"
    pairs = [(one, best if other == BEST else other) for one, other in plan.contrasts]
    return gate | compare({pair: gain(*pair) for pair in pairs}, margin, "contrasts", headroom)


def summary(scores: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Each start over all trajectories.

    Returns:
        method, options, trajectories (how many), cosine and norm_ratio with the real step, and the gains over naïve transfer on test
        images (gain) and on validation images (validation_gain), shares, each with its half_width.
    """
    naive = scores[scores.method == "naive"].set_index(TRAJECTORY)
    rows = []
    for method in ORDER:
        own = scores[scores.method == method].set_index(TRAJECTORY)
        row: dict[str, object] = {"method": method, "options": " / ".join(dict.fromkeys(own.options))}
        row |= {"trajectories": len(own)}
        for name, values in (
            ("cosine", own.cosine),
            ("norm_ratio", own.norm_ratio),
            ("gain", own.accuracy - naive.accuracy),
            ("validation_gain", own.validation_accuracy - naive.validation_accuracy),
        ):
            row |= columns(name, mean_interval(values, report.confidence))
        rows.append(row)
    return pd.DataFrame(rows)


def by_halves(directions: pd.DataFrame, report: Report) -> dict[int, dict[str, Estimate]]:
    """The means of cosine, norm_ratio and agreement at each number of halves."""
    names = ("cosine", "norm_ratio", "agreement")
    return {
        int(str(halves)): {name: mean_interval(own[name], report.confidence) for name in names}
        for halves, own in directions.groupby("halves")
    }


def rise(directions: pd.DataFrame, report: Report) -> Estimate:
    """The cosine at the most halves less that at the fewest."""
    cosine = directions.pivot(index=TRAJECTORY, columns="halves", values="cosine")
    return mean_interval(cosine[max(cosine)] - cosine[min(cosine)], report.confidence)


# --- as text ------------------------------------------------------------------------------------------------------


def page(scores: pd.DataFrame, plan: Beyond, report: Report) -> str:
    """Which predictors won and which did not, and the tables, as Markdown."""
    found, judged = summary(scores, report), contrasts(scores, plan, report)
    return markdown(_verdicts(scores, judged), _starts(found), _contrasts(judged))


def directions_page(directions: pd.DataFrame, report: Report) -> str:
    """Whether the jackknife's step comes nearer to the real one with more halves, as Markdown."""
    return markdown(_directions(directions, report), _halves(directions, report))


def _directions(directions: pd.DataFrame, report: Report) -> list[str]:
    means, change = by_halves(directions, report), rise(directions, report)
    fewest, most = min(means), max(means)
    verb = ("rises" if change.mean > 0 else "falls") if change.excludes_zero else "does not clearly change"
    cosine, agreement = (means[most][name] for name in ("cosine", "agreement"))
    return [
        f"The jackknife's cosine with the real step {verb} from B = {fewest} to {most}: by"
        f" {number(change.mean, change.half_width, 3, signed=True)} ({p_words(p_different(change))}, n = {change.units}). At B ="
        f" {most} it is {number(cosine.mean, cosine.half_width)}; the steps by one half of the runs and by the other have a cosine of"
        f" {number(agreement.mean, agreement.half_width, 2)}."
    ]


def _verdicts(scores: pd.DataFrame, judged: dict[tuple[str, str], Comparison]) -> list[str]:
    options, said = scores.groupby("method").options.first(), []

    def written(method: str) -> str:
        chosen = options[method] if not method.startswith("layerwise") else ""
        return f"{named(method)} ({chosen})" if chosen else named(method)

    for (one, other), found in judged.items():
        gain = f"{points(found.gain)} points ({found.verdict}, n = {found.gain.units})"
        if found.family == "gate":
            naive = mean_interval(_by_method(scores).naive)
            said.append(
                f"The gate: against naïve transfer ({percent(naive)} %) the real Θ₋₁ gains {gain}."
                + ("" if found.verdict == "better" else " So nothing is judged.")
            )
            said.append(f"The best reference by validation images is {written(best_reference(scores))}.")
        else:
            held = "holds" if found.verdict == "better" else "does not hold"
            said.append(f"{_capital(written(one))} better than {written(other)} {held}: {gain}.")
    at = scores[scores.method == "layerwise"].groupby("task", sort=False).options.first()
    said.append(
        "Learned on the other source task: " + "; ".join(f"for {task}, {text}" for task, text in at.items()) + "."
    )
    return said


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _starts(found: pd.DataFrame) -> pd.DataFrame:
    texts: dict[tuple[object, str], str] = {}
    for _, row in found.iterrows():
        start = named(row.method)
        texts[start, "chosen"] = row.options or "–"
        texts[start, "cosine"] = number(row.cosine, row.cosine_half_width, 2)
        texts[start, "norm ratio"] = number(row.norm_ratio, row.norm_ratio_half_width, 2)
        for name, heading in (("gain", "gain, points"), ("validation_gain", "on validation images")):
            texts[start, heading] = points(estimate_in(row, name))
    return grid(texts, "start")


def _contrasts(judged: dict[tuple[str, str], Comparison]) -> pd.DataFrame:
    rows = [
        {
            "family": found.family,
            "start": named(one),
            "against": named(other),
            "difference, points": points(found.gain),
            "p, Holm": p_text(found.p_holm),
            "p, equivalence": p_text(found.p_equal),
            "verdict": found.verdict,
            "n": str(found.gain.units),
        }
        for (one, other), found in judged.items()
    ]
    return pd.DataFrame(rows)


def _halves(directions: pd.DataFrame, report: Report) -> pd.DataFrame:
    texts: dict[tuple[object, str], str] = {}
    for halves, means in by_halves(directions, report).items():
        for name, heading in (("cosine", "cosine"), ("norm_ratio", "norm ratio"), ("agreement", "agreement")):
            texts[str(halves), heading] = number(means[name].mean, means[name].half_width)
    return grid(texts, "B")
