"""The bench's scores over all trajectories: means with intervals, verdicts, and what to say of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from know.analysis.comparisons import compare
from know.analysis.starts import MORE_DATA, NAMES, label
from know.analysis.statistics import Estimate, Interval, mean_interval, recovery
from know.analysis.text import grid, number, percent, points, ratio_text
from know.bench.scoring import START, TRAJECTORY
from know.params import Report

OWN = "own"
"""The role of a prediction that is none of the package's."""
REAL = f"{MORE_DATA.label} (Θ₋₁)"
"""What the real Θ_{-1} is called: it stands for one amount of data."""


def summary(scores: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Each start's scores over all trajectories.

    Returns:
        method, options, role, trajectories (how many), cosine and norm_ratio with the real step, source_gain (over Θ_0, on the
        source task) and gain (over naïve transfer, downstream), each with its half_width, accuracy (downstream), verdict, and
        normalised with low and high: 0 naïve transfer, 1 the real Θ_{-1}; NaN where the real one does not clearly gain. The
        verdicts of all methods and controls are corrected as one family; the real Θ_{-1} and fresh weights are one each.
    """
    starts = {key: own.set_index(TRAJECTORY) for key, own in scores.groupby(START, sort=False)}
    naive, real = (
        _reference(starts, role, method) for role, method in (("reference", "naive"), ("oracle", "more_data"))
    )
    gains = {key: _mean(own.accuracy - naive.accuracy, report) for key, own in starts.items()}
    margin = report.margin * (1 - naive.accuracy.mean())

    def judged(keys: Iterable[tuple[str, ...]], headroom: bool = True) -> dict[tuple[str, ...], str]:
        found = compare({key: gains[key] for key in keys}, margin, "bench", headroom)
        return {key: one.verdict for key, one in found.items()}

    verdicts = judged(key for key in starts if key[2] == "oracle")
    headroom = "better" in verdicts.values()
    verdicts |= judged(key for key in starts if key[0] == "scratch")
    verdicts |= judged((key for key in starts if key[2] not in ("oracle", "reference")), headroom)
    rows = []
    for key, own in starts.items():
        ratio = recovery(own.accuracy, naive.accuracy, real.accuracy, report.confidence)
        if not (headroom and ratio.bounded):
            ratio = Interval(np.nan, np.nan, np.nan, ratio.units)
        row: dict[str, object] = dict(zip(START, key, strict=True)) | {"trajectories": len(own)}
        for name, values in (
            ("cosine", own.cosine),
            ("norm_ratio", own.norm_ratio),
            ("source_gain", own.source_accuracy - naive.source_accuracy),
            ("gain", own.accuracy - naive.accuracy),
        ):
            row |= columns(name, _mean(values, report))
        row |= {"accuracy": own.accuracy.mean(), "verdict": verdicts.get(key, "")}
        rows.append(row | {"normalised": ratio.value, "normalised_low": ratio.low, "normalised_high": ratio.high})
    return pd.DataFrame(rows)


def _reference(starts: dict[tuple[str, ...], pd.DataFrame], role: str, method: str) -> pd.DataFrame:
    return next(own for key, own in starts.items() if (key[2], key[0]) == (role, method))


def _mean(values: pd.Series[float], report: Report) -> Estimate:
    return mean_interval(values, report.confidence)


def columns(name: str, estimate: Estimate) -> dict[str, object]:
    """A mean and its half_width as columns of a summary."""
    return {name: estimate.mean, f"{name}_half_width": estimate.half_width}


def cells(scores: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Where there is headroom, a row a task and network.

    Returns:
        task, architecture, trajectories, naive (downstream accuracy), and what fresh weights (scratch) and the real Θ_{-1} gain over
        it, each with its half_width.
    """
    rows = []
    for (task, architecture), own in scores.groupby(TRAJECTORY[:2], sort=False):
        one = own.set_index("number")
        naive = one[(one.method == "naive") & (one.role == "reference")]
        row: dict[str, object] = {"task": task, "architecture": architecture, "trajectories": len(naive)}
        row |= {"naive": naive.accuracy.mean()}
        for name, other in (("scratch", one[one.method == "scratch"]), ("real", one[one.role == "oracle"])):
            row |= columns(f"{name}_gain", _mean(other.accuracy - naive.accuracy, report))
        rows.append(row)
    return pd.DataFrame(rows)


# --- as text ------------------------------------------------------------------------------------------------------


def estimate_in(row: pd.Series, name: str) -> Estimate:
    """Of a summary's row: what ``columns`` made columns of."""
    return Estimate(row[name], row[f"{name}_half_width"], row["trajectories"])


def written(row: pd.Series) -> str:
    """How a start is called: "Θ₀ × λ (shrink=0.8)"."""
    if row["role"] == OWN:
        return f"{row['method']}, yours"
    name = REAL if row["role"] == "oracle" else label(row["method"])
    return f"{name} ({row['options']})" if row["options"] else name


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """A summary as text: references first, then as in every table of starts; gains in points."""
    order = [*NAMES, *found.method]
    places = [(row.role != OWN, order.index(row.method)) for row in found.itertuples()]
    texts: dict[tuple[object, str], str] = {}
    for i in sorted(range(len(found)), key=lambda i: places[i]):
        row = found.iloc[i]
        ratio = Interval(row.normalised, row.normalised_low, row.normalised_high, row.trajectories)
        start = written(row)
        texts[start, "cosine"] = number(row.cosine, row.cosine_half_width, 2)
        texts[start, "norm ratio"] = number(row.norm_ratio, row.norm_ratio_half_width, 2)
        texts[start, "source, points"] = points(estimate_in(row, "source_gain"))
        texts[start, "transfer, points"] = points(estimate_in(row, "gain"))
        texts[start, "normalised"] = ratio_text(ratio) if ratio.bounded else "–"
        texts[start, "verdict"] = row.verdict
    return grid(texts, "start")


def shown_cells(found: pd.DataFrame) -> pd.DataFrame:
    """The cells as text."""
    rows = [
        {
            "task": row.task,
            "network": row.architecture,
            "naïve transfer, %": number(100 * row.naive, digits=1),
            "from scratch, points": points(estimate_in(row, "scratch_gain")),
            f"{REAL}, points": points(estimate_in(row, "real_gain")),
        }
        for _, row in found.iterrows()
    ]
    return pd.DataFrame(rows)


def findings(found: pd.DataFrame) -> list[str]:
    """What a summary says, a sentence each."""
    real, scratch = found[found.role == "oracle"].iloc[0], found[found.method == "scratch"].iloc[0]
    own = found[~found.role.isin(["oracle", "reference"])]
    naive = Estimate(real.accuracy - real.gain, float("inf"), real.trajectories)
    clear = real.verdict == "better"
    said = [
        f"{real.trajectories} trajectories. Naïve transfer reaches {percent(naive)} % downstream; against it, fresh weights gain"
        f" {points(estimate_in(scratch, 'gain'))} points ({scratch.verdict}).",
        f"The real Θ₋₁ gains {points(estimate_in(real, 'gain'))} points ({real.verdict})."
        + ("" if clear else " So there is nothing to recover, and no score is normalised."),
    ]
    methods = own[own.role == "method"]
    for verdict in ("better", "worse", "not clear", "excludes the paper's effect"):
        if names := _names(own[own.verdict == verdict]):
            said.append(f"Against naïve transfer, {verdict}: {names}.")
    if len(methods):
        nearest = methods.loc[methods.cosine.idxmax()]
        said.append(
            f"Of the methods' steps, that of {written(nearest)} is nearest to the real one in direction: cosine"
            f" {number(nearest.cosine, nearest.cosine_half_width, 2)}, at {number(nearest.norm_ratio, digits=2)} times its length."
        )
    return said


def _names(found: pd.DataFrame) -> str:
    return ", ".join(written(row) for _, row in found.iterrows())


def page(scores: pd.DataFrame, report: Report) -> str:
    """Findings, table and cells, as Markdown."""
    found = summary(scores, report)
    return markdown(findings(found), shown(found), shown_cells(cells(scores, report)))


def markdown(said: Sequence[str], *tables: pd.DataFrame) -> str:
    """Sentences as a list, then tables."""
    texts = (table.to_markdown(index=False, disable_numparse=True) + "\n" for table in tables)
    return "\n".join(["".join(f"- {sentence}\n" for sentence in said), *texts])
