"""From tidy results to the paper's tables, the sentences that a run says, and the numbers in ``metrics.json``.

Accuracies and gains are shares in data frames and numbers, percent and points in text. The independent units are source
seeds. The primary outcome is *pooled*: one number a source seed, the mean over its downstream seeds and over the numbers
of labels; claims and comparisons are made with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from know.analysis.statistics import (
    Estimate,
    Interval,
    effect_size,
    holm,
    mean_interval,
    mixed_model,
    nested_bootstrap,
    paired_p,
)
from know.paths import atomic
from know.report.figures import METHOD_STYLE, label, virtual

Start = tuple[str, int]
"""A start to fine-tune from: method and steps."""

NAIVE: Start = ("naive", 0)
ONCE = ("scratch", "more_data", "shrink_perturb", "trained_on")
"""Starts whose steps, if any, do not stand for amounts of virtual data."""

# --- units ------------------------------------------------------------------------------------------------------


def by_source_seed(transfer: pd.DataFrame) -> pd.DataFrame:
    """Accuracy averaged over the downstream seeds of each source seed: the independent units.

    Returns:
        Rows of method, steps, fraction; a column a source seed.
    """
    table = transfer.assign(source_seed=transfer.seed // 1000)
    return table.pivot_table(index=["method", "steps", "fraction"], columns="source_seed", values="accuracy")


def pooled_runs(transfer: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """``column`` averaged over fractions, for each pair of seeds; NaN where a fraction is missing.

    Returns:
        Rows of method, steps; columns of source_seed, downstream_seed.
    """
    table = transfer.assign(source_seed=transfer.seed // 1000, downstream_seed=transfer.seed % 1000)
    pair = ["source_seed", "downstream_seed"]
    wide = table.pivot_table(index=["method", "steps"], columns=["fraction", *pair], values=column)
    fractions = transfer.fraction.nunique()
    sums = wide.T.groupby(level=pair).sum(min_count=fractions) / fractions
    return sums.T.dropna(how="all")


def pooled(transfer: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """``pooled_runs`` averaged over downstream seeds: rows of method, steps; a column a source seed."""
    return pooled_runs(transfer, column).T.groupby(level="source_seed").mean().T


def starts_in_order(starts: Sequence[Start]) -> list[Start]:
    """In the order of the figures' legend; those of no known name last."""
    names = [*METHOD_STYLE, *sorted({method for method, _ in starts} - METHOD_STYLE.keys())]
    return sorted(starts, key=lambda start: (names.index(start[0]), start[1]))


def difference(units: pd.DataFrame, start: Start, other: Start) -> pd.Series[float]:
    """Paired difference of two starts over the columns of ``units`` that both have."""
    return (units.loc[start] - units.loc[other]).dropna()


# --- text -------------------------------------------------------------------------------------------------------


def percent(mean: float, half_width: float, signed: bool = False) -> str:
    """ "84.1 ± 0.6" from shares; a single unit has no interval."""
    return number(100 * mean, 100 * half_width, 1, signed)


def number(mean: float, half_width: float = np.inf, digits: int = 3, signed: bool = False) -> str:
    """ "0.841 ± 0.006", or without an interval where there is none; "–" for NaN."""
    if np.isnan(mean):
        return "–"
    text = f"{round(mean, digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # + 0.0: no negative zero
    return text + (f" ± {half_width:.{digits}f}" if np.isfinite(half_width) else "")


def points(estimate: Estimate) -> str:
    """ "+0.3 ± 0.2" points from a difference of shares."""
    return percent(estimate.mean, estimate.half_width, True)


def p_text(p: float) -> str:
    """ "0.012", "< 0.001"."""
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def data_of(start: Start, rate: float) -> str:
    """ "×4", or "–" for starts that stand for no amount of data."""
    method, step = start
    return "–" if method in ONCE else virtual(step, rate)


def name_of(start: Start, rate: float) -> str:
    """ "KNOWN ×2"."""
    return f"{label(start[0])} {data_of(start, rate)}".removesuffix(" –").removesuffix(" ×1")


def verdict(gain: Estimate) -> str:
    """Better or worse by more than the interval, or no clear difference."""
    if not gain.excludes_zero:
        return "no clear difference"
    return "better" if gain.mean > 0 else "worse"


# --- transfer ---------------------------------------------------------------------------------------------------


def summarise(transfer: pd.DataFrame, labels: int, confidence: float) -> pd.DataFrame:
    """Mean accuracy with its interval, and the paired difference to naïve transfer with its interval and p value.

    Args:
        transfer: the columns of ``transfer.csv``.
        labels: how many downstream labels a fraction of 1 stands for.

    Returns:
        Rows of method, steps, fraction, labels, mean, half_width, gain, gain_half_width, p, units, runs, in the order of
        the figures' legend; accuracies are shares.
    """
    units = by_source_seed(transfer)
    runs = transfer.groupby(["method", "steps", "fraction"]).size()
    rows = []
    for method, steps in starts_in_order([*dict.fromkeys((m, s) for m, s, _ in units.index)]):
        for fraction, accuracies in units.loc[(method, steps)].iterrows():
            mean = mean_interval(accuracies.dropna(), confidence)
            paired = (accuracies - units.loc[(*NAIVE, fraction)]).dropna()
            gain = mean_interval(paired, confidence)
            p = paired_p(paired) if method != "naive" else np.nan
            rows.append(
                (method, steps, fraction, round(fraction * labels), mean.mean, mean.half_width, gain.mean,
                 gain.half_width, p, mean.units, runs[method, steps, fraction])
            )  # fmt: skip
    columns = [
        "method",
        "steps",
        "fraction",
        "labels",
        "mean",
        "half_width",
        "gain",
        "gain_half_width",
        "p",
        "units",
        "runs",
    ]
    return pd.DataFrame(rows, columns=columns)


def transfer_table(summary: pd.DataFrame, rate: float) -> pd.DataFrame:
    """The summary as a reader wants it: a row a method and step, a column a number of labels, gains beside."""
    rows: dict[Start, dict[str, str]] = {}
    for row in summary.itertuples():
        start = (str(row.method), int(row.steps))
        cells = rows.setdefault(start, {"start": label(start[0]), "data": data_of(start, rate)})
        cells[f"{row.labels} labels"] = percent(row.mean, row.half_width)
        cells[f"gain, {row.labels}"] = "–" if row.method == "naive" else percent(row.gain, row.gain_half_width, True)
    table = pd.DataFrame(rows.values()).fillna("–")
    plain = [c for c in table.columns if not c.startswith("gain")]
    return table[plain + [c for c in table.columns if c.startswith("gain")]]


def compare(transfer: pd.DataFrame, pairs: Sequence[tuple[Start, Start]], confidence: float) -> pd.DataFrame:
    """Paired differences of pooled accuracy over source seeds, as one family of comparisons.

    Args:
        pairs: start and what it is compared with; those that ``transfer`` lacks are left out.

    Returns:
        start, other, gain, half_width, p, p_holm, effect (Hedges' g), units, verdict: better or worse if the corrected
        p value is below 1 - ``confidence``, else no clear difference.
    """
    units, rows = pooled(transfer), []
    for start, other in pairs:
        if start not in units.index or other not in units.index or (paired := difference(units, start, other)).empty:
            continue
        gain = mean_interval(paired, confidence)
        rows.append((start, other, gain.mean, gain.half_width, paired_p(paired), effect_size(paired), gain.units))
    table = pd.DataFrame(rows, columns=["start", "other", "gain", "half_width", "p", "effect", "units"])
    table.insert(5, "p_holm", holm(table.p))
    clear = table.p_holm < 1 - confidence
    table["verdict"] = np.where(~clear, "no clear difference", np.where(table.gain > 0, "better", "worse"))
    return table


def comparisons(transfer: pd.DataFrame, rate: float, confidence: float) -> pd.DataFrame:
    """Every start but scratch and the real Θ_{-1} against naïve transfer, pooled; a row a start and step."""
    starts = starts_in_order(list(pooled(transfer).index))
    pairs = [(start, NAIVE) for start in starts if start[0] not in ("naive", "scratch", "more_data")]
    return _comparison_table(compare(transfer, pairs, confidence), rate).drop(columns="against")


def main_table(transfer: pd.DataFrame, rate: float, confidence: float) -> pd.DataFrame:
    """Pooled difference to naïve transfer with its interval, in points: a row a start, a column an amount of virtual data."""
    units = pooled(transfer)
    rows: dict[str, dict[str, str]] = {}
    for start in starts_in_order([start for start in units.index if start != NAIVE]):
        method, step = start
        column = "once" if method in ONCE else virtual(step, rate)
        estimate = mean_interval(difference(units, start, NAIVE), confidence)
        rows.setdefault(label(method), {})[column] = points(estimate)
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    columns = sorted(table.columns, key=lambda name: float(name.strip("×")) if name != "once" else 0.0)
    return table[columns].rename_axis("start").reset_index()


def _comparison_table(found: pd.DataFrame, rate: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "start": [label(method) for method, _ in found.start],
            "data": [data_of(start, rate) for start in found.start],
            "against": [label(method) for method, _ in found.other],
            "difference": [percent(row.gain, row.half_width, True) for row in found.itertuples()],
            "verdict": found.verdict,
            "p": found.p.map(p_text),
            "p, Holm": found.p_holm.map(p_text),
            "g": [number(effect, digits=2, signed=True) for effect in found.effect],
            "n": found.units,
        }
    )


def against(transfer: pd.DataFrame, start: Start, other: str) -> Start | None:
    """The step at which ``other`` is to be compared with ``start``: the same, or its only one; None if there is none."""
    steps = sorted(transfer.steps[transfer.method == other].unique())
    if start[1] in steps:
        return other, start[1]
    return (other, int(steps[0])) if len(steps) == 1 else None


CANDIDATES = ("known", "scale_free")
"""The methods that the controls are for."""


def control_pairs(transfer: pd.DataFrame, candidates: Sequence[str] = CANDIDATES) -> list[tuple[Start, Start]]:
    """Each step of each candidate, and every control and other method at that step; not naïve transfer (``comparisons``
    has it), scratch and the real Θ_{-1}. Two candidates are compared once."""
    starts = starts_in_order(list(pooled(transfer).index))
    methods = [m for m in dict.fromkeys(m for m, _ in starts) if m not in ("naive", "scratch", "more_data")]
    return [
        (start, other)
        for i, candidate in enumerate(candidates)
        for start in starts
        if start[0] == candidate
        for method in methods
        if method not in candidates[: i + 1] and (other := against(transfer, start, method))
    ]


def over_steps(transfer: pd.DataFrame) -> pd.DataFrame:
    """``transfer`` with each method's accuracy averaged over its steps; ``steps`` is 0 throughout."""
    return transfer.groupby(["method", "fraction", "seed"], as_index=False).accuracy.mean().assign(steps=0)


def mean_comparisons(transfer: pd.DataFrame, candidate: str, confidence: float) -> pd.DataFrame:
    """A candidate against naïve transfer, every control and every other method: ``compare`` of the means over steps, one
    family. Candidates are compared once, by the first."""
    mean = over_steps(transfer)
    earlier = CANDIDATES[: CANDIDATES.index(candidate) + 1]
    rivals = starts_in_order(list(pooled(mean).index))
    pairs = [((candidate, 0), rival) for rival in rivals if rival[0] not in (*earlier, "scratch", "more_data")]
    return compare(mean, pairs, confidence)


def controls(transfer: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """``mean_comparisons`` of KNOWN, then of scale-free KNOWN, each with a correction of its own."""
    found = pd.concat([mean_comparisons(transfer, candidate, confidence) for candidate in CANDIDATES])
    return _comparison_table(found, 0.5).drop(columns="data")


def controls_by_step(transfer: pd.DataFrame, rate: float, confidence: float) -> pd.DataFrame:
    """KNOWN and scale-free KNOWN against every control and every other method at the same step, pooled, as one family."""
    return _comparison_table(compare(transfer, control_pairs(transfer), confidence), rate)


def robustness(transfer: pd.DataFrame, rate: float, confidence: float) -> pd.DataFrame:
    """The comparisons of ``controls_by_step`` by Student's t over source seeds, by the nested bootstrap, and by a mixed model
    with a random intercept a source seed; an unbalanced design has no bootstrap."""
    runs, rows = pooled_runs(transfer), []
    for start, other in control_pairs(transfer):
        paired = difference(runs, start, other)
        if paired.empty:
            continue
        wide = paired.unstack("downstream_seed")
        full = not wide.isna().to_numpy().any()
        gain = mean_interval(wide.mean(axis=1), confidence)
        rows.append(
            {
                "start": label(start[0]),
                "data": data_of(start, rate),
                "against": label(other[0]),
                "t": points(gain),
                "nested bootstrap": _interval_text(nested_bootstrap(wide, confidence)) if full else "–",
                "mixed model": _interval_text(mixed_model(wide, confidence)),
            }
        )
    return pd.DataFrame(rows, columns=["start", "data", "against", "t", "nested bootstrap", "mixed model"])


def _interval_text(interval: Interval) -> str:
    if not interval.bounded:
        return "–"
    return " to ".join(number(100 * end, digits=1, signed=True) for end in (interval.low, interval.high))


# --- forgetting, the pair of tasks, what a run says -------------------------------------------------------------


def forgetting_drops(table: pd.DataFrame, images: str = "test") -> pd.Series[float]:
    """For each seed: accuracy of Θ_0 less that of the most forgotten Θ_{S-1} on ``images``."""
    wide = table[(table.images == images) & (table.k >= 0)].pivot_table(index="seed", columns="k", values="accuracy")
    return wide.iloc[:, 0] - wide.iloc[:, -1]


def forgetting_verdict(table: pd.DataFrame, learning: pd.DataFrame, confidence: float) -> tuple[bool, str]:
    """Whether accuracy on images that are no longer trained on falls along the trajectory, and Θ_0 had converged.

    Without forgetting there is no path of growing data to read backwards, and extrapolating it cannot be expected to
    help. The verdict is on test images: their accuracy must fall by more than its interval.
    """
    drop = mean_interval(forgetting_drops(table), confidence)
    held = mean_interval(forgetting_drops(table, "dropped"), confidence) if (table.images == "dropped").any() else None
    observed = drop.mean > 0 and drop.excludes_zero
    text = (
        f"{'Forgetting observed' if observed else 'WARNING: no clear forgetting'}: from Θ₀ to the most forgotten weights, "
        f"test accuracy falls by {percent(drop.mean, drop.half_width)} points ({drop.units} seeds)."
    )
    if held is not None and not observed:
        text += " The path is not one of shrinking knowledge; expect extrapolation to be of little use."
    unfinished = learning[(learning.k == 0) & ~learning.converged].seed.unique().tolist()
    if unfinished:
        text += (
            f" WARNING: Θ₀ of seeds {unfinished} had not converged when max_epochs ran out; nets that are still"
            " learning improve on smaller subsets. Raise forget.source.max_epochs."
        )
    return observed, text


def check_pair(summary: pd.DataFrame) -> list[str]:
    """Does the pair of tasks allow a fair test? Naïve transfer must beat scratch, and more data must help."""
    rows = summary.set_index(["method", "steps", "fraction"])
    lines = []
    for fraction in sorted(summary.fraction.unique()):
        parts = []
        if ("scratch", 0, fraction) in rows.index:
            scratch = Estimate(-rows.gain["scratch", 0, fraction], rows.gain_half_width["scratch", 0, fraction], 0)
            beats = verdict(scratch) == "better"
            words = "naïve transfer beats" if beats else "WARNING: naïve transfer does not clearly beat"
            parts.append(f"{words} scratch ({points(scratch)} points)")
        if ("more_data", 1, fraction) in rows.index:
            more = Estimate(rows.gain["more_data", 1, fraction], rows.gain_half_width["more_data", 1, fraction], 0)
            room = "there is headroom" if verdict(more) == "better" else "WARNING: no clear headroom"
            parts.append(f"{room}, the real Θ₋₁ gains {points(more)} points")
        if parts:
            lines.append(f"{int(rows.loc[(*NAIVE, fraction), 'labels'])} labels: {'; '.join(parts)}.")
    return lines


def bottom_line(transfer: pd.DataFrame, labels: int, rate: float, confidence: float) -> str:
    """KNOWN against naïve transfer at each step, pooled, and in words: beats, does worse than, or no clear difference."""
    units = pooled(transfer)
    steps = sorted(step for method, step in units.index if method == "known")
    gains = {step: mean_interval(difference(units, ("known", step), NAIVE), confidence) for step in steps}
    at = {
        word: [virtual(step, rate) for step in steps if verdict(gains[step]) == word]
        for word in ("better", "worse", "no clear difference")
    }
    if at["better"]:
        text = f"KNOWN beats naïve transfer at {', '.join(at['better'])}"
        text += f", and does worse at {', '.join(at['worse'])}" if at["worse"] else ""
    elif at["worse"]:
        text = f"KNOWN does worse than naïve transfer at {', '.join(at['worse'])}, and beats it nowhere"
    else:
        text = "KNOWN and naïve transfer do not clearly differ"
    counts = ", ".join(f"{round(fraction * labels)}" for fraction in sorted(transfer.fraction.unique()))
    each = ", ".join(f"{virtual(step, rate)} {points(gain)}" for step, gain in gains.items())
    seeds = max(gain.units for gain in gains.values())
    return f"**{text}**: {each} points (mean over {counts} labels, {seeds} source seeds, {100 * confidence:g} % intervals)."


def best_start(transfer: pd.DataFrame, rate: float, confidence: float) -> str:
    """The start of the largest pooled gain over naïve transfer, of how many, beside the real Θ_{-1}'s."""
    units = pooled(transfer)
    starts = [start for start in units.index if start[0] not in ("naive", "scratch", "more_data")]
    gains = {start: mean_interval(difference(units, start, NAIVE), confidence) for start in starts}
    best = max(starts, key=lambda start: gains[start].mean)
    text = (
        f"The largest gain over naïve transfer, of {len(starts)} starts, has {name_of(best, rate)}:"
        f" {points(gains[best])} points ({verdict(gains[best])})"
    )
    if ("more_data", 1) in units.index:
        real = mean_interval(difference(units, ("more_data", 1), NAIVE), confidence)
        text += f"; the real Θ₋₁ gains {points(real)} ({verdict(real)})"
    return text + "."


def findings(transfer: pd.DataFrame, rate: float, confidence: float) -> list[str]:
    """KNOWN against its controls and rivals, and scale-free KNOWN against naïve transfer, at each step, pooled; then which
    of the comparisons of ``controls`` remain after Holm's correction. "Better" is by more than the interval."""
    units = pooled(transfer)
    lines = []
    questions = [("known", m) for m in ("shrunk", "shrink_perturb", "linear")] + [("scale_free", "naive")]
    for method, rival in [*questions, ("scale_free_shrunk", "shrink_perturb")]:
        words = []
        for start in starts_in_order([start for start in units.index if start[0] == method]):
            other = NAIVE if rival == "naive" else against(transfer, start, rival)
            if other is not None and other in units.index:
                gain = mean_interval(difference(units, start, other), confidence)
                words.append(f"{virtual(start[1], rate)} {points(gain)} ({verdict(gain)})")
        if words:
            lines.append(f"{label(method)} against {label(rival)}: {', '.join(words)}.")
    found = mean_comparisons(transfer, "known", confidence)
    if len(found) > 1:
        named = {
            word: ", ".join(label(method) for method, _ in found.other[found.verdict == word]) or "none"
            for word in ("better", "worse")
        }
        lines.append(
            f"Of {len(found)} comparisons of KNOWN, mean over steps, with naïve transfer, controls and other methods, after"
            f" Holm's correction it is better than {named['better']}, and worse than {named['worse']}."
        )
    return lines


def findings_page(lines: Sequence[str]) -> str:
    """What a run says, as a Markdown list."""
    return "".join(f"- {line}\n" for line in lines)


# --- other tables -----------------------------------------------------------------------------------------------


def selection_table(selection: pd.DataFrame) -> pd.DataFrame:
    """What was chosen on validation data, for each method that had a choice, beside the candidates it was chosen from."""
    rows = []
    for method, candidates in selection.groupby("method", sort=False):
        chosen = candidates[candidates.chosen].iloc[0]
        rows.append(
            {
                "start": label(str(method)),
                "chosen": chosen.options,
                "validation accuracy": percent(chosen.accuracy, chosen.half_width),
                "candidates": len(candidates),
                "their range": f"{100 * candidates.accuracy.min():.1f} to {100 * candidates.accuracy.max():.1f}",
                "source seeds": chosen.units,
            }
        )
    return pd.DataFrame(rows)


def cost_table(cost: pd.DataFrame) -> pd.DataFrame:
    """Time and memory as measured, three significant digits."""
    values = [f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in cost.value]
    return cost.assign(value=values).astype(object).fillna("")


def forgetting_table(forgetting: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Accuracy of each Θ_k on kept, dropped, validation and test images, as text with its interval."""
    cells = forgetting.groupby(["k", "images"])["accuracy"].agg(lambda a: _estimate(a, confidence))
    table = (
        cells.unstack("images").reindex(columns=["kept", "dropped", "validation", "test"]).astype(object).fillna("–")
    )
    return table.rename_axis("k").reset_index()


def _estimate(values: pd.Series[float], confidence: float) -> str:
    estimate = mean_interval(values, confidence)
    return percent(estimate.mean, estimate.half_width)


def meta_table(errors: pd.DataFrame) -> pd.DataFrame:
    """By kind: the median over held-out runs of each predictor's error relative to no change."""
    wide = errors.pivot_table(index=["kind", "run"], columns="predictor", values="mae")
    order = [name for name in dict.fromkeys(errors.predictor) if name != "no change"]
    ratios = wide.div(wide["no change"], axis=0)[order]
    table = ratios.groupby("kind").median()
    table["runs"] = ratios.groupby("kind").size()
    return table.reset_index()


# --- writing ----------------------------------------------------------------------------------------------------


def write_text(text: str, path: Path) -> None:
    """Write under a temporary name, then rename."""
    with atomic(path) as temporary:
        temporary.write_text(text)


LATEX = str.maketrans(
    {"Θ": r"\ensuremath{\Theta}", "θ": r"\ensuremath{\theta}", "λ": r"\ensuremath{\lambda}", "Σ": r"\ensuremath{\Sigma}"}
    | {"×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}", "→": r"\ensuremath{\to}", "≤": r"\ensuremath{\le}"}
    | {"₋": r"\textsubscript{--}", "ₖ": r"\textsubscript{k}", "\N{COMBINING CIRCUMFLEX ACCENT}": ""}
    | {chr(0x2080 + digit): rf"\textsubscript{{{digit}}}" for digit in range(10)}
    | {"–": "--", "…": r"\dots{}", "’": "'"}
)  # fmt: skip
"""What pdfLaTeX has no character for."""


def write_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``name.csv``, ``name.md`` and ``name.tex`` (booktabs; a wide table's long columns are wrapped)."""
    text = table.rename(columns=str)
    widths = [max(len(c), *text[c].astype(str).str.len()) if len(text) else len(c) for c in text]
    long = [width > 16 and sum(widths) > 100 for width in widths]
    free = max(0.3, 0.95 - 0.011 * sum(width for width, wraps in zip(widths, long, strict=True) if not wraps))
    share = free / max(1, sum(width for width, wraps in zip(widths, long, strict=True) if wraps))
    formats = [rf"p{{{share * w:.2f}\linewidth}}" if wraps else "l" for w, wraps in zip(widths, long, strict=True)]
    latex = text.to_latex(index=False, escape=True, float_format="%.4g", column_format="".join(formats))
    texts = {
        "csv": table.to_csv(index=False, float_format="%.6g"),
        "md": table.replace(r"\|", r"\|", regex=True).to_markdown(index=False, disable_numparse=True, floatfmt=".4g")
        + "\n",
        "tex": latex.translate(LATEX),
    }
    for suffix, content in texts.items():
        write_text(content, folder / f"{name}.{suffix}")


def write_json(values: Mapping[str, object], path: Path) -> None:
    """Write metrics, six significant digits, keys in the order given."""
    rounded = json.loads(json.dumps(values), parse_float=lambda text: float(f"{float(text):.6g}"))
    write_text(json.dumps(rounded, indent=2) + "\n", path)


def metrics(
    transfer: pd.DataFrame,
    summary: pd.DataFrame,
    forgetting: pd.DataFrame,
    meta_errors: pd.DataFrame,
    recovery: Mapping[str, Interval],
    confidence: float,
) -> dict[str, object]:
    """The numbers that ``dvc metrics diff`` compares: transfer accuracy, gain over naïve transfer by labels and pooled,
    headroom, recovery ratios, forgetting, KNOWN's held-out error. An end that has no bound is null."""
    accuracy: dict[str, dict[str, object]] = {}
    gain: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in summary.itertuples():
        start = f"{row.method}_{row.steps}"
        accuracy.setdefault(start, {})[f"labels_{row.labels}"] = float(row.mean)
        if row.method != "naive":
            gain.setdefault(start, {})[f"labels_{row.labels}"] = _ends(mean=row.gain, half_width=row.gain_half_width)
    units = pooled(transfer)
    for method, steps in units.index:
        own = mean_interval(units.loc[(method, steps)].dropna(), confidence)
        accuracy[f"{method}_{steps}"]["pooled"] = _ends(mean=own.mean, half_width=own.half_width)
        if method != "naive":
            found = mean_interval(difference(units, (method, steps), NAIVE), confidence)
            gain[f"{method}_{steps}"]["pooled"] = _ends(mean=found.mean, half_width=found.half_width)
    errors = meta_errors.pivot_table(index="kind", columns="predictor", values="mae")
    ratio = (errors["KNOWN"] / errors["no change"]).to_dict()
    values: dict[str, object] = {"transfer_accuracy": accuracy, "gain": gain}
    if "more_data_1" in gain:
        values["headroom"] = gain["more_data_1"]
    return values | {
        "recovery": {name: _ends(value=one.value, low=one.low, high=one.high) for name, one in recovery.items()},
        "forgetting_drop": float(forgetting_drops(forgetting).mean()),
        "known_error_over_no_change": {str(kind): float(value) for kind, value in ratio.items()},
    }


def _ends(**values: float) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
