"""The report's tables. Verdicts are those of ``Results.comparisons`` and ``Results.oracle``, none is made here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from know.analysis import ablations
from know.analysis.comparisons import Comparison, Comparisons, compare
from know.analysis.starts import MORE_DATA, NAIVE, SCRATCH, Start, label
from know.analysis.statistics import Interval, mean_interval, mixed_model, nested_bootstrap
from know.analysis.text import NONE, grid, number, p_text, percent, points, ratio_text
from know.analysis.units import difference, runs, summary
from know.figures.registry import table

if TYPE_CHECKING:
    from know.report.results import Results

NOT_RUN = "not run"
HOLM = "Holm's correction and verdict"


@table(
    "main",
    "Main result. Difference to naïve transfer in points of downstream accuracy, with all labels, with its "
    "interval over source seeds: by virtual data, and with its verdict for the step or option that is judged. KNOWN's, in a control's name: the candidate's. "
    f"{HOLM}: known and the starts of report.contrasts as in the table of controls, the others within one family of all starts.",
    ["transfer"],
)
def main(results: Results) -> pd.DataFrame:
    """A row a start: references, methods, and those controls that a contrast names."""
    found, rate = results.comparisons, results.params.rate
    kept = [start for start in found.shown if start != NAIVE]
    cells: dict[tuple[object, str], str] = {}
    for start in kept:
        one = found.of(start, NAIVE)
        if one is None:
            continue
        if not start.once:
            cells[start.label, start.data(rate)] = points(one.gain)
        if start in found.chosen.values():
            cells[start.label, "judged"] = f"{start.data(rate)}: {points(one.gain)}".removeprefix(": ")
            cells[start.label, "verdict"] = one.verdict
    steps = {start.data(rate): None for start in sorted(kept, key=lambda s: s.step) if not start.once}
    return grid(cells, "start", [*steps, "judged", "verdict"], gap="")


def judged(one: Comparison | None) -> dict[str, object]:
    """A comparison as the columns of a table."""
    if one is None:
        return {"difference": NONE, "verdict": NOT_RUN}
    return {
        "difference": points(one.gain),
        "verdict": one.verdict,
        "p": p_text(one.p),
        "p, Holm": p_text(one.p_holm),
        "p, equivalence": p_text(one.p_equal),
        "g": number(one.effect, digits=2, signed=True),
        "n": str(one.gain.units),
    }


def control_pairs(found: Comparisons) -> dict[tuple[str, str], Comparison | None]:
    """The contrasts, then KNOWN and every other start, each at its chosen candidate."""
    rest = [(one.name, other.name) for one, other in found.family("controls")]
    return {pair: found.named(*pair) for pair in (*found.contrasts, *rest)}


@table(
    "controls",
    "The comparisons named in report.contrasts, one family, then KNOWN against every other start, a family of its own; each "
    "start at the step or option that is judged. Difference in points of accuracy with all labels with its interval over source seeds; t "
    "test, with Holm's correction within the family, by which the verdict goes; two one-sided tests of equivalence within ± the "
    "paper's effect, corrected alike; Hedges' g; n source seeds.",
    ["transfer"],
)
def controls(results: Results) -> pd.DataFrame:
    """A row a comparison."""
    found, rate = results.comparisons, results.params.rate

    def written(name: str) -> str:
        return found.chosen[name].written(rate) if name in found.chosen else label(name)

    rows = [
        {"family": "contrasts" if pair in found.contrasts else "controls", "start": written(pair[0])}
        | {"against": written(pair[1])}
        | judged(one)
        for pair, one in control_pairs(found).items()
    ]
    return pd.DataFrame(rows).fillna(NONE)


@table(
    "headroom",
    "What there is to win downstream, in points of accuracy with all labels with its interval over source seeds. Real data: nets trained "
    "on so many images, against Θ₀. Forgetting: what each halving costs, Θₖ against Θ₀. Oracle: the path whose next point is "
    "known, against its own Θ₀, with the share of the real gain that is recovered (Fieller's interval; unbounded: the real Θ₋₁ "
    f"gains too little to divide by). {HOLM} within each part; the most real data, which is the gate, and scratch are each one comparison.",
    ["transfer"],
)
def headroom(results: Results) -> pd.DataFrame:
    """A row a comparison."""
    p, found = results.params, results.comparisons
    real = [start for start in found.starts if start.role == "oracle"]
    rows = [("real data", start.written(p.rate), found.of(start, NAIVE), "") for start in (SCRATCH, *real)]
    if results.has("headroom"):
        own, full = runs(results["headroom"], ["images"]), p.downsize.source_images
        told = {0, full, *(round(full / p.rate**start.step) for start in real)}
        sizes = [int(images) for images in own.index if images not in told]
        rows += [
            ("real data", f"{size:,} images", one, "") for size, one in _against(results, own, sizes, full).items()
        ]
    if results.has("forgotten"):
        own = runs(results["forgotten"], ["k"])
        ks = [int(k) for k in own.index if k > 0]
        rows += [("forgetting", f"Θ{_subscript(k)}", one, "") for k, one in _against(results, own, ks, 0).items()]
    if results.has("oracle"):
        track = results.oracle
        for start in track.starts:
            if start != NAIVE and (one := track.of(start, NAIVE)):
                ratio = None if start == MORE_DATA else track.recovery(start)
                rows.append(("oracle", start.written(p.rate), one, "" if ratio is None else ratio_text(ratio)))
    return pd.DataFrame(
        [
            {"part": part, "start": start, "difference": points(one.gain), "verdict": one.verdict}
            | {"p, Holm": p_text(one.p_holm), "recovered": ratio or NONE, "n": str(one.gain.units)}
            for part, start, one, ratio in rows
            if one
        ]
    )


def _against(results: Results, own: pd.DataFrame, keys: list[int], base: int) -> dict[int, Comparison]:
    """Rows of ``own`` against one of them: one family."""
    if base not in own.index:
        return {}
    gains = {key: mean_interval(difference(own, key, base), results.params.report.confidence) for key in keys}
    return compare({k: gain for k, gain in gains.items() if gain.units}, results.comparisons.margin, own.index.name)


def _subscript(number: int) -> str:
    return "".join(chr(0x2080 + int(digit)) for digit in str(number))


@table(
    "why",
    "To what a gain is owed. Each explanation other than knowledge suffices unless the comparison that asks for more is better; "
    "what is left when none does is knowledge. Differences in points of accuracy, with intervals and Holm's correction as in the "
    "other tables.",
    ["transfer"],
)
def why(results: Results) -> pd.DataFrame:
    """A row an explanation that could be tested."""
    found = results.why
    rows = [
        {"explanation": test.explanation, "asked": test.asked} | judged(test.comparison)
        | {"suffices": NONE if not found.asked else "yes" if test.suffices else "no"}
        for test in found.tests
    ]  # fmt: skip
    gain = (
        {"explanation": "(the gain)", "asked": "does it beat naïve transfer?"} | judged(found.gain) | {"suffices": ""}
    )
    return pd.DataFrame([gain, *rows])


@table(
    "learning_rates",
    "Each start at each learning rate of fine-tuning: test accuracy (%), with its interval over source seeds; in brackets, the rate "
    "at which validation images judge it.",
    ["learning_rates"],
    shown=False,
)
def learning_rates(results: Results) -> pd.DataFrame:
    """A row a start, a column a rate."""
    own = results["learning_rates"]
    cells: dict[tuple[object, str], str] = {}
    for (name, step, rate, chosen), at in own.groupby(["method", "steps", "lr", "chosen"]):
        text = percent(mean_interval(at.groupby("source_seed").accuracy.mean(), results.params.report.confidence))
        start = Start(str(name), int(step)).written(results.params.rate)
        cells[start, f"{rate:g}"] = f"[{text}]" if chosen else text
    return grid(cells, "start", [f"{rate:g}" for rate in sorted(own.lr.unique())])


@table(
    "batchnorm",
    "Starts under both rules for BatchNorm: against naïve transfer under the same rule, the candidate also under naïve transfer's own "
    "(to reset the predicted nets alone is the released code's way) and against the other starts under its rule; in points of accuracy "
    "with intervals and Holm's correction as in the other tables.",
    ["transfer"],
)
def batchnorm(results: Results) -> pd.DataFrame:
    """A row a comparison; empty where nothing was crossed."""
    found, rate = results.comparisons, results.params.rate
    crossed = found.family("crossed")
    own = found.chosen.get(found.candidate)
    made = {(own, NAIVE): found.of(own, NAIVE)} | crossed if own and crossed else crossed
    return pd.DataFrame(
        [{"start": a.written(rate), "against": b.written(rate)} | judged(one) for (a, b), one in made.items()]
    )


@table(
    "labels",
    "The contrasts named beforehand with each number of downstream labels; each number is a family of its own. Difference in "
    "points of accuracy with its interval over source seeds, and verdict.",
    ["transfer"],
)
def labels(results: Results) -> pd.DataFrame:
    """A row a contrast, a column a number of labels; empty where there is only one."""
    every = {max(results["transfer"].fraction): results.comparisons, **results.few}
    cells: dict[tuple[object, str], str] = {}
    for fraction, found in every.items() if results.few else ():
        heading = f"{round(fraction * results.params.evaluate.labels):,} labels"
        for one, other in found.contrasts:
            if (made := found.named(one, other)) is not None:
                cells[(label(one), label(other)), heading] = f"{points(made.gain)} ({made.verdict})"
    return grid(cells, ["start", "against"], list(dict.fromkeys(heading for _, heading in cells)))


@table(
    "claims",
    "Claims of the paper. The verdict on a difference is that of its comparison. What the paper claims of ResNet18 on CIFAR is "
    "tested in its setting only by a run with that network and those data sets. Costs and ablations are the default's, measured "
    "once (data/measured).",
    ["transfer", "forgetting"],
)
def claims(results: Results) -> pd.DataFrame:
    """A row a claim."""
    return results.claims


@table(
    "selection",
    "What was chosen on downstream validation images. Candidates: how many options and steps a method had to choose among; labels: by how many.",
    ["selection"],
)
def selection(results: Results) -> pd.DataFrame:
    """A row a method that had a choice."""
    rows, rate = [], results.params.rate
    for name, candidates in results["selection"].groupby("method", sort=False):
        best = candidates[candidates.chosen.astype(bool)].iloc[0]
        own = [Start(str(name), int(best.steps)).data(rate), "" if pd.isna(best.options) else str(best.options)]
        rows.append(
            {
                "start": label(str(name)),
                "candidates": str(best.candidates),
                "validation labels": f"{best.images:,}",
                "chosen": ", ".join(text for text in own if text),
                "validation accuracy (%)": number(100 * best.accuracy, 100 * best.half_width, 1),
                "of all": f"{100 * candidates.accuracy.min():.1f} to {100 * candidates.accuracy.max():.1f}",
                "n": str(best.units),
            }
        )
    return pd.DataFrame(rows)


# --- files only -----------------------------------------------------------------------------------------------------


@table("transfer", "All fine-tuning runs, one a row.", ["transfer"], shown=False)
def transfer(results: Results) -> pd.DataFrame:
    """As evaluated."""
    return results["transfer"]


@table(
    "transfer_summary",
    "Downstream accuracy, gain over naïve transfer, loss and calibration error by number of labels: shares, with half widths "
    "of their intervals over source seeds.",
    ["transfer"],
    shown=False,
)
def transfer_summary(results: Results) -> pd.DataFrame:
    """Rows of method, steps, labels; accuracies are shares."""
    at = ["labels", "source_seed", "downstream_seed"]
    own = results["transfer"]
    naive = own[(own.method == NAIVE.name) & ~own.crossed].set_index(at).accuracy.rename("naive")
    paired = own.join(naive, on=at)
    values = ["accuracy", "gain", "loss", "ece"]
    return summary(
        paired.assign(gain=paired.accuracy - paired.naive),
        ["method", "steps", "batchnorm", "labels"],
        values,
        results.params.report.confidence,
    )


@table(
    "comparisons",
    "Every comparison that is made, with the family within which Holm's correction was made: differences in shares of "
    "accuracy. Those of KNOWN and the starts of report.contrasts are one family, KNOWN and every other start another, all "
    "starts and naïve transfer a third, KNOWN's steps with real data and with each other a fourth.",
    ["transfer"],
    shown=False,
)
def comparisons(results: Results) -> pd.DataFrame:
    """Numbers, for other programs."""
    return pd.DataFrame(
        [
            {
                "method": start.name,
                "steps": start.step,
                "batchnorm": start.rule,
                "against": other.name,
                "against_steps": other.step,
                "against_batchnorm": other.rule,
                "family": one.family,
                "family_size": one.size,
                "difference": one.gain.mean,
                "half_width": one.gain.half_width,
                "p": one.p,
                "p_holm": one.p_holm,
                "p_equivalence": one.p_equal,
                "g": one.effect,
                "n": one.gain.units,
                "verdict": one.verdict,
            }
            for (start, other), one in results.comparisons.family().items()
        ]
    )


@table(
    "robustness",
    "The differences of the table of controls by three analyses: Student's t over source seeds, the nested bootstrap, and a "
    "mixed model with a random intercept a source seed (the last two are mostly too narrow for few seeds).",
    ["transfer"],
    shown=False,
)
def robustness(results: Results) -> pd.DataFrame:
    """A row a comparison; an unbalanced design has no bootstrap."""
    found, rate, rows = results.comparisons, results.params.rate, []
    for names, one in control_pairs(found).items():
        if one is None:
            continue
        start, other = (found.chosen[name] for name in names)
        wide = (found.runs.loc[start] - found.runs.loc[other]).dropna().unstack("downstream_seed")
        full = not wide.isna().to_numpy().any()
        rows.append(
            {
                "start": start.written(rate),
                "against": other.written(rate),
                "t": points(one.gain),
                "nested bootstrap": _ends(nested_bootstrap(wide, found.confidence)) if full else NONE,
                "mixed model": _ends(mixed_model(wide, found.confidence)),
            }
        )
    return pd.DataFrame(rows)


def _ends(interval: Interval) -> str:
    if not interval.bounded:
        return NONE
    return " to ".join(number(100 * end, digits=1, signed=True) for end in (interval.low, interval.high))


@table(
    "oracle_source",
    "The path whose next point is known, before fine-tuning: source accuracy, loss and calibration error.",
    ["oracle_source"],
    shown=False,
)
def oracle_source(results: Results) -> pd.DataFrame:
    """Rows of method, steps."""
    values = ["accuracy", "loss", "ece"]
    return summary(results["oracle_source"], ["method", "steps"], values, results.params.report.confidence)


@table(
    "geometry",
    "Cosine and ratio of norms of the predicted and the real step, by kind and layer (all: the whole net).",
    ["geometry"],
    shown=False,
)
def geometry(results: Results) -> pd.DataFrame:
    """Rows of method, kind, layer."""
    by, values = ["method", "kind", "layer", "weights"], ["cosine", "norm_ratio"]
    return summary(results["geometry"], by, values, results.params.report.confidence)


@table(
    "forgetting", "Accuracy and loss of Θₖ on kept, dropped, validation and test images.", ["forgetting"], shown=False
)
def forgetting(results: Results) -> pd.DataFrame:
    """Rows of k, images."""
    return summary(results["forgetting"], ["k", "images"], ["accuracy", "loss"], results.params.report.confidence)


@table(
    "meta_validation",
    "Mean absolute error on held-out runs relative to no change: median over runs.",
    ["meta_errors"],
    shown=False,
)
def meta_validation(results: Results) -> pd.DataFrame:
    """A row a kind, a column a predictor."""
    ratios = error_ratios(results["meta_errors"])
    return ratios.groupby("kind").median().assign(runs=ratios.groupby("kind").size()).reset_index()


def error_ratios(errors: pd.DataFrame) -> pd.DataFrame:
    """Each predictor's error over that of no change: rows of kind, run."""
    wide = errors.pivot_table(index=["kind", "run"], columns="predictor", values="mae", sort=False)
    return wide.drop(columns="no change").div(wide["no change"], axis=0).rename_axis(columns=None)


@table("cost", "What it costs: time and memory, as measured on the machine named.", ["cost"], shown=False)
def cost(results: Results) -> pd.DataFrame:
    """As measured, three significant digits."""
    own = results["cost"]
    values = [f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in own.value]
    return own.assign(value=values).astype(object).fillna("")


def _ablation(results: Results, name: str) -> pd.DataFrame:
    return ablations.ablation_table(results["ablations"], name)


for _name, _caption in ablations.CAPTIONS.items():
    table(f"ablation_{_name}", _caption, ["ablations"], shown=False)(partial(_ablation, name=_name))
