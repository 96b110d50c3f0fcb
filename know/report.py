"""From tidy results to the paper's tables and the numbers in ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from know.figures import METHOD_STYLE, label, virtual
from know.paths import atomic
from know.statistics import Estimate, effect_size, holm, mean_interval, paired_p


def by_source_seed(transfer: pd.DataFrame) -> pd.DataFrame:
    """Accuracy averaged over the downstream seeds of each source seed: the independent units.

    Returns:
        Rows of method, steps, fraction; a column a source seed.
    """
    table = transfer.assign(source_seed=transfer.seed // 1000)
    return table.pivot_table(index=["method", "steps", "fraction"], columns="source_seed", values="accuracy")


def summarise(transfer: pd.DataFrame, labels: int, confidence: float) -> pd.DataFrame:
    """Mean accuracy with its interval, and the paired difference to naïve transfer with its interval and p value.

    Args:
        transfer: the columns of ``transfer.csv``.
        labels: how many downstream labels a fraction of 1 stands for.

    Returns:
        Rows of method, steps, fraction, labels, mean, half_width, gain, gain_half_width, p, seeds, in the order of the
        figures' legend; accuracies are shares.
    """
    units = by_source_seed(transfer)
    runs = transfer.groupby(["method", "steps", "fraction"]).size()
    rows = []
    for key, accuracies in units.iterrows():
        method, steps, fraction = key
        mean = mean_interval(accuracies, confidence)
        difference = accuracies - units.loc[("naive", 0, fraction)]
        gain = mean_interval(difference, confidence)
        p = paired_p(difference) if method != "naive" else np.nan
        rows.append(
            (method, steps, fraction, round(fraction * labels), mean.mean, mean.half_width, gain.mean, gain.half_width, p,
             mean.units, runs[key])
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
    summary = pd.DataFrame(rows, columns=columns)
    rank = {method: i for i, method in enumerate(METHOD_STYLE)}
    return summary.sort_values(
        ["method", "steps", "fraction"], key=lambda c: c.map(rank) if c.name == "method" else c, ignore_index=True
    )


def percent(mean: float, half_width: float, signed: bool = False) -> str:
    """ "84.1 ± 0.6" from shares; a single unit has no interval."""
    sign = "+" if signed else ""
    return f"{100 * mean:{sign}.1f}" + (f" ± {100 * half_width:.1f}" if np.isfinite(half_width) else "")


def transfer_table(summary: pd.DataFrame, rate: float) -> pd.DataFrame:
    """The summary as a reader wants it: a row a method and step, a column a number of labels, gains beside."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in summary.itertuples():
        data = "–" if row.method == "scratch" else virtual(int(row.steps), rate)
        cells = rows.setdefault((label(row.method), data), {})
        cells[f"{row.labels} labels"] = percent(row.mean, row.half_width)
        cells[f"gain, {row.labels}"] = "–" if row.method == "naive" else percent(row.gain, row.gain_half_width, True)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["start", "data"])
    accuracy = [c for c in table.columns if not c.startswith("gain")]
    return table[accuracy + [c for c in table.columns if c.startswith("gain")]].reset_index()


def comparisons(transfer: pd.DataFrame, summary: pd.DataFrame, rate: float) -> pd.DataFrame:
    """Every predicted start against naïve transfer: gain in points, the paired t test's p value, Holm's correction over
    all of these comparisons, and the effect size (Hedges' g), over source seeds as units."""
    units = by_source_seed(transfer)
    rows = summary[~summary.method.isin(["naive", "scratch", "more_data"])].reset_index(drop=True)
    effects = [
        effect_size(units.loc[(row.method, row.steps, row.fraction)] - units.loc[("naive", 0, row.fraction)])
        for row in rows.itertuples()
    ]
    return pd.DataFrame(
        {
            "start": rows.method.map(label),
            "data": rows.steps.map(lambda step: virtual(step, rate)),
            "labels": rows.labels,
            "gain": [percent(row.gain, row.gain_half_width, True) for row in rows.itertuples()],
            "p": rows.p.map("{:.3f}".format),
            "p, Holm": holm(rows.p).map("{:.3f}".format),
            "effect size": [f"{effect:+.2f}" for effect in effects],
            "source seeds": rows.units,
            "runs": rows.runs,
        }
    )


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
        labels = int(rows.loc[("naive", 0, fraction), "labels"])
        scratch = Estimate(-rows.gain["scratch", 0, fraction], rows.gain_half_width["scratch", 0, fraction], 0)
        clear = scratch.mean > 0 and scratch.excludes_zero
        verdict = "naïve transfer beats" if clear else "WARNING: naïve transfer does not clearly beat"
        line = f"{labels} labels: {verdict} scratch ({percent(scratch.mean, scratch.half_width, True)} points)"
        if ("more_data", 1, fraction) in rows.index:
            more = Estimate(rows.gain["more_data", 1, fraction], rows.gain_half_width["more_data", 1, fraction], 0)
            clear = more.mean > 0 and more.excludes_zero
            room = "there is headroom" if clear else "WARNING: no clear headroom"
            line += f"; {room}, the real Θ₋₁ gains {percent(more.mean, more.half_width, True)} points"
        lines.append(line + ".")
    return lines


def findings(transfer: pd.DataFrame, labels: int, rate: float, confidence: float) -> list[str]:
    """KNOWN against naïve transfer, against its own shrinking without a direction, and against linear extrapolation:
    a sentence for each number of labels and each step, in which "better" means by more than the interval."""
    units = by_source_seed(transfer)
    lines = []
    for fraction in sorted(transfer.fraction.unique()):
        for step in sorted(transfer.steps[transfer.method == "known"].unique()):
            known = units.loc[("known", step, fraction)]
            words = []
            for method, other in (("naive", 0), ("shrunk", step), ("linear", step)):
                if (method, other, fraction) not in units.index:
                    continue
                gain = mean_interval(known - units.loc[(method, other, fraction)], confidence)
                verdict = "no clear difference"
                if gain.excludes_zero:
                    verdict = "better" if gain.mean > 0 else "worse"
                words.append(f"against {label(method)} {percent(gain.mean, gain.half_width, True)} ({verdict})")
            lines.append(f"{round(fraction * labels)} labels, KNOWN {virtual(step, rate)}: {'; '.join(words)}.")
    return lines


def findings_page(verdict: str, pair: Sequence[str], lines: Sequence[str]) -> str:
    """What a run says, as a Markdown list: forgetting, whether the test is fair, KNOWN against the others."""
    return "".join(f"- {line}\n" for line in (verdict, *pair, *lines))


def write_text(text: str, path: Path) -> None:
    """Write under a temporary name, then rename."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``name.csv``, ``name.md`` and ``name.tex`` (booktabs)."""
    texts = {
        "csv": table.to_csv(index=False, float_format="%.6g"),
        "md": table.to_markdown(index=False) + "\n",
        "tex": table.rename(columns=str).to_latex(index=False, escape=True, float_format="%.4g"),
    }
    for suffix, text in texts.items():
        write_text(text, folder / f"{name}.{suffix}")


def write_json(values: Mapping[str, object], path: Path) -> None:
    """Write metrics, six significant digits, keys in the order given."""
    rounded = json.loads(json.dumps(values), parse_float=lambda text: float(f"{float(text):.6g}"))
    write_text(json.dumps(rounded, indent=2) + "\n", path)


def metrics(summary: pd.DataFrame, forgetting: pd.DataFrame, meta_errors: pd.DataFrame) -> dict[str, object]:
    """The numbers that ``dvc metrics diff`` compares: transfer accuracy, forgetting, KNOWN's held-out error."""
    accuracy: dict[str, dict[str, float]] = {}
    for row in summary.itertuples():
        accuracy.setdefault(f"{row.method}_{row.steps}", {})[f"labels_{row.labels}"] = float(row.mean)
    errors = meta_errors.pivot_table(index="kind", columns="predictor", values="mae")
    ratio = (errors["KNOWN"] / errors["no change"]).to_dict()
    return {
        "transfer_accuracy": accuracy,
        "forgetting_drop": float(forgetting_drops(forgetting).mean()),
        "known_error_over_no_change": {str(kind): float(value) for kind, value in ratio.items()},
    }


FIGURE_CAPTIONS = {
    "schematic": "The idea: fine-tuning on nested, ever smaller subsets is structured forgetting; read backwards, the "
    "path is one of growing data, and KNOWN predicts one step past the real weights.",
    "forgetting": "Structured forgetting: accuracy and loss of Θ₀, Θ₁, … on kept, dropped and test images (band: "
    "interval of the mean over source seeds).",
    "meta_validation": "KNOWN on held-out runs of the meta-dataset, beside linear extrapolation and relative to no change.",
    "predictions": "Norms of the predicted weights relative to Θ₀'s by kind, and source accuracy before fine-tuning.",
    "transfer": "Downstream accuracy against the amount of virtual data (bars: interval of the paired difference to naïve transfer).",
    "gains": "Gain over naïve transfer, paired by seed, with its interval.",
}
TABLE_CAPTIONS = {
    "transfer": "All fine-tuning runs, one a row.",
    "transfer_summary": "Downstream accuracy (%), and gain over naïve transfer in points, by number of labels: mean and "
    "interval over source seeds.",
    "comparisons": "Each start against naïve transfer, paired by seed: gain in points with its interval, p value of the "
    "t test, with Holm's correction over the whole table, and Hedges' g.",
    "forgetting": "Accuracy (%) of Θₖ: mean and interval over source seeds.",
    "meta_validation": "Mean absolute error on held-out runs relative to no change: median over runs.",
}


def forgetting_table(forgetting: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Accuracy of each Θ_k on kept, dropped, validation and test images, as text with its interval."""
    cells = forgetting.groupby(["k", "images"])["accuracy"].agg(lambda a: _estimate(a, confidence))
    table = cells.unstack("images").fillna("–").reindex(columns=["kept", "dropped", "validation", "test"])
    return table.rename_axis("k").reset_index()


def _estimate(values: pd.Series[float], confidence: float) -> str:
    estimate = mean_interval(values, confidence)
    return percent(estimate.mean, estimate.half_width)


def meta_table(errors: pd.DataFrame) -> pd.DataFrame:
    """By kind: the median over held-out runs of each predictor's error relative to no change."""
    wide = errors.pivot_table(index=["kind", "run"], columns="predictor", values="mae")
    ratios = wide.div(wide["no change"], axis=0)[["linear", "KNOWN"]]
    table = ratios.groupby("kind").median()
    table["runs"] = ratios.groupby("kind").size()
    return table.reset_index()
