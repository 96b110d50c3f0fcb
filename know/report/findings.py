"""What a run says, in sentences that are computed: is it a fair test, what came out, why, and where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from IPython.display import Markdown

from know.analysis import claims
from know.analysis.comparisons import NAIVE_TUNED, Comparison, Comparisons
from know.analysis.starts import MORE_DATA, NAIVE, SCRATCH, TUNED, Start, label, starts
from know.analysis.text import number, p_words, percent, points, ratio_text
from know.analysis.why import Test
from know.report.tables import control_pairs

if TYPE_CHECKING:
    from know.report.results import Results


def page(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "".join(f"- {line}\n" for line in lines)


def told(one: Comparison) -> str:
    """ "-3.7 ± 1.6 points (worse, p = 0.003)": the p value by which the verdict goes."""
    if one.gain.mean == one.gain.half_width == 0:
        return "+0.0 points (the same runs)"
    p = one.p_equal if one.verdict == "excludes the paper's effect" else one.p_holm
    return f"{points(one.gain)} points ({one.verdict}, {p_words(p)})"


def forgetting(results: Results) -> list[str]:
    """Is there forgetting to read backwards?"""
    fall, path = results.forgetting, results["forgetting"]
    means = path[(path.images == "test") & (path.k >= 0)].groupby("k").accuracy.mean()
    each = ", ".join(number(100 * mean, digits=1) for mean in means)
    text = f"from Θ₀ to the most forgotten weights, test accuracy falls by {percent(fall.gain)} points ({each} %)"
    text = text.replace("accuracy", results.source_metric)
    lines = [f"Forgetting is observed: {text}, {fall.gain.units} source seeds."]
    if fall.verdict != "better":
        lines = [f"WARNING: no clear forgetting: {text}. There is no path of shrinking knowledge to read backwards."]
    if results.has("source_learning"):
        learning = results["source_learning"]
        few = results.params.forget.source.max_epochs <= results.params.forget.source.patience
        if few and len(learning):
            lines.append(
                f"Θ₀ is trained for {learning.epoch.max() + 1} epoch{'s' * bool(learning.epoch.max())}, converged or not."
            )
        elif unfinished := sorted(set(learning[(learning.k == 0) & ~learning.converged.astype(bool)].source_seed)):
            lines.append(
                f"WARNING: Θ₀ of source seeds {unfinished} had not converged when max_epochs ran out; nets that still learn"
                " improve on smaller subsets. Raise forget.source.max_epochs."
            )
    return lines


def gate(results: Results) -> list[str]:
    """Is there forgetting to read backwards, and anything to win?"""
    lines, found = forgetting(results), results.comparisons
    if found.gate is None:
        lines.append("Headroom is not known: no net was really trained on more data.")
    else:
        room = "There is headroom" if found.headroom else "WARNING: no clear headroom, so nothing is judged"
        real = {start: found.of(start, NAIVE) for start in found.starts if start.role == "oracle"}
        each = ", ".join(f"{start.data(results.params.rate)} {points(one.gain)}" for start, one in real.items() if one)
        lines.append(
            f"{room}: training on really more source data gains, over naïve transfer, {each} points downstream."
        )
    if pair := found.of(NAIVE, SCRATCH):
        word = "Naïve transfer beats" if pair.verdict == "better" else "WARNING: naïve transfer does not clearly beat"
        lines.append(f"{word} training from scratch: {points(pair.gain)} points.")
    if (costs := results.table("headroom")) is not None and len(costs := costs[costs.part == "forgetting"]):
        each = ", ".join(f"{row.start} {row.difference} ({row.verdict})" for row in costs.itertuples())
        lines.append(f"What forgetting costs downstream, against Θ₀: {each}.")
    if found.narrow:
        lines.append(
            f"The margin is wider than what really more data gains ({_margin(found)}): to exclude half of the paper's effect is not"
            " to exclude a gain as large as that of more data."
        )
    return lines


def result(results: Results) -> list[str]:
    """KNOWN and naïve transfer; each step; the best of all starts."""
    found, rate = results.comparisons, results.params.rate
    lines = []
    name = found.candidate
    if (one := found.named(name, "naive")) is not None:
        known = found.chosen[name]
        words = {
            "better": "beats naïve transfer",
            "worse": "does worse than naïve transfer",
            "excludes the paper's effect": "does not have the paper's effect",
            "not clear": "and naïve transfer do not clearly differ",
            "no headroom": "cannot be judged, for there is no headroom",
        }
        lines.append(
            f"**{known.written(rate)} {words[one.verdict]}**: {told(one)}, {one.gain.units} source seeds,"
            f" {100 * one.gain.confidence:g} % interval. Naïve transfer reaches {percent(found.accuracy(NAIVE))} %;"
            f" {_margin(found)}."
        )
        steps = {start: found.of(start, NAIVE) for start in found.starts if start.name == name}
        each = ", ".join(f"{start.data(rate)} {points(step.gain)}" for start, step in steps.items() if step)
        chose = "Validation images chose" if results.params.evaluate.steps == "chosen" else "Judged beforehand is"
        lines.append(f"{known.label} by virtual data: {each} points. {chose} {known.data(rate)}.")
    if (best := found.best()) is not None:
        start, one, count = best
        named = f"it is one of {one.size} contrasts named beforehand" if one.family == "contrasts" else ""
        lines.append(
            f"The largest gain of {count} starts, chosen after the fact: {start.written(rate)}, {told(one)};"
            f" {named or f'corrected among {one.size} starts'}."
        )
    return lines


def controls(results: Results) -> list[str]:
    """The contrasts, then how KNOWN does against every other start."""
    found, rate = results.comparisons, results.params.rate
    pairs = {pair: one for pair, one in control_pairs(found).items() if one is not None}

    def written(name: str) -> str:
        return found.chosen[name].written(rate)

    lines = [f"{written(a)} against {written(b)}: {told(pairs[a, b])}." for a, b in found.contrasts if (a, b) in pairs]
    against_known = {written(b): one.verdict for (a, b), one in pairs.items() if a == found.candidate}
    if len(against_known) > 1:
        groups = [
            f"{verdict}: {', '.join(name for name, own in against_known.items() if own == verdict)}"
            for verdict in dict.fromkeys(against_known.values())
        ]
        lines.append(
            f"{label(found.candidate)} against {len(against_known)} starts, each as chosen: {'; '.join(groups)}."
        )
    return lines


def why(results: Results) -> list[str]:
    """To what a gain is owed, and what was left out."""
    found = results.why
    lines = [f"**Why: {found.verdict}.**"]
    if not found.asked:
        lines += _elsewhere(results)
    else:
        lines += [f"{_begun(test.explanation)}: {_answered(results, test)}." for test in found.tests]
    if tuned := _tuned(results):
        lines.append(f"Each at its own learning rate, against naïve transfer at its own: {tuned}.")
    methods = results.params.predict.methods_by_name
    ran = set(results["transfer"].method)
    absent = {
        name: own[0].missing or "it could not be had when predictions were made"
        for name, own in methods.items()
        if name not in ran
    }
    return lines + [f"Left out: {label(name)}, for {reason}." for name, reason in absent.items()]


def _begun(text: str) -> str:
    """As a sentence begins."""
    return text[0].upper() + text[1:]


def _tuned(results: Results) -> str:
    """What starts gain where each, naïve transfer too, has its best learning rate."""
    found = results.comparisons
    base = found.chosen.get(NAIVE_TUNED)
    pairs = [
        (start, found.of(start, base)) for start in found.chosen.values() if start.role == "tuned" and start != base
    ]
    return "; ".join(f"{start.written(results.params.rate)} {told(one)}" for start, one in pairs if one is not None)


def _answered(results: Results, test: Test) -> str:
    """What a test asks and the answer; of one at tuned learning rates, also whether anything could be won there."""
    found = results.comparisons
    words = f"{test.asked} {told(test.comparison)}"
    real = found.of(found.chosen.get(found.real.name + TUNED), found.chosen.get(NAIVE_TUNED))
    if test.explanation != "the optimiser" or real is None or real.verdict == "better":
        return words
    return f"{words}, where really more data gains nothing either, {told(real)}"


def _elsewhere(results: Results) -> list[str]:
    """The candidate where BatchNorm is under another rule than naïve transfer's own, a sentence a rule: against naïve transfer under
    that rule, under its own, and, where there is a gain, what it is owed to."""
    found, lines = results.comparisons, []
    for rule, other in results.why.elsewhere.items():
        mixed = found.of(found.crossed[found.candidate, rule], NAIVE)
        parts = [f"{where}, {told(one)}" for where, one in (("in both", other.gain), ("in it alone", mixed)) if one]
        parts += [_answered(results, test) for test in other.tests if other.asked]
        done = {"re-estimate": "re-estimated"}.get(rule, rule)
        lines.append(f"**With BatchNorm {done}** the prediction against naïve transfer: {'; '.join(parts)}.")
    return lines


def oracle(results: Results) -> list[str]:
    """What the real Θ_{-1} and the candidates gain where the next point is known."""
    if not results.has("oracle"):
        return []
    track: Comparisons = results.oracle
    words = []
    for start in (MORE_DATA, Start(track.candidate, 1), Start("scale_free", 1)):
        if (one := track.of(start, NAIVE)) is not None:
            ratio = None if start == MORE_DATA else track.recovery(start)
            recovered = "" if ratio is None else f", recovered {ratio_text(ratio)}"
            words.append(f"{start.label} {told(one)}{recovered}")
    return [f"Where the next point is known, against the path's own Θ₀: {'; '.join(words)}."]


def limitations(results: Results) -> list[str]:
    """How small the experiment is."""
    p, found, run = results.params, results.comparisons, results["transfer"].iloc[0]
    lines = [
        f"One network ({run.arch}), one pair of tasks ({run.source} → {run.downstream}), |D₀| = {p.downsize.source_images:,},"
        f" at most {results['transfer']['labels'].max()} labels."
    ]
    if (one := found.named(found.candidate, "naive")) is not None and one.gain.units > 1:
        lines.append(
            f"{one.gain.units} source seeds: a difference between {label(found.candidate)} and naïve transfer of less than about"
            f" {number(100 * one.gain.half_width, digits=1)} points is not seen."
        )
    if edge := _at_the_edge(results):
        lines.append(
            f"The best learning rate of {', '.join(edge)} is the first or last of those tried: a better one may lie beyond."
        )
    untested = results.claims[results.claims[claims.HERE] == "not tested"].claim
    return [*lines, f"Not tested here: {'; '.join(untested)}."] if len(untested) else lines


def _at_the_edge(results: Results) -> list[str]:
    """The starts whose best learning rate is the lowest or highest that was tried."""
    if not results.has("learning_rates"):
        return []
    rates = results["learning_rates"]
    best = rates[rates.chosen & rates.lr.isin([rates.lr.min(), rates.lr.max()])]
    return [start.label for start in starts(best)]


def summary(results: Results) -> list[str]:
    """What was run, what came out, and why: a few sentences for who reads no more."""
    p, found, run = results.params, results.comparisons, results["transfer"].iloc[0]
    rate, mode = p.rate, "in sequence" if p.forget.mode == "sequential" else "each time from the initial weights"
    lines = [
        f"**What was run.** {run.arch} on {p.downsize.source_images:,} images of {run.source}, fine-tuned on ever fewer of them"
        f" {mode} (r = {rate:g}, S = {p.history_length}); what is predicted from that path is fine-tuned on {p.evaluate.labels:,}"
        f" labels of {run.downstream}, with {len(p.downsize.source_seeds)} source seeds."
    ]
    if (one := found.named(found.candidate, NAIVE.name)) is not None:
        start = found.chosen[found.candidate]
        room = f" Really more data ({found.real.data(rate)}) gains {points(found.gate.gain)}" if found.gate else ""
        room += ", which is less." if found.narrow else "." if room else ""
        lines.append(
            f"**What came out.** {start.written(rate)} against naïve transfer ({percent(found.accuracy(NAIVE))} %): {told(one)};"
            f" {_margin(found)}.{room}"
        )
    elsewhere = [] if results.why.asked else _elsewhere(results)
    return [*lines, f"**Why.** {_begun(results.why.verdict)}{_because(results)}.", *elsewhere]


def _margin(found: Comparisons) -> str:
    """What is judged by: ``report.margin``."""
    return f"half the paper's effect would be {number(100 * found.margin, digits=1)}"


def _because(results: Results) -> str:
    """What the verdict rests on; where there is no gain to explain, what the prediction's parts are worth, and a learning rate."""
    if results.why.asked:
        enough = [test for test in results.why.tests if test.suffices] or results.why.tests
        words = [_answered(results, test) for test in enough]
    else:
        found, rate = results.comparisons, results.params.rate
        worth = [(name, found.named(name, NAIVE.name)) for name in ("shrunk", "direction_only", NAIVE_TUNED)]
        words = [f"{found.chosen[name].written(rate)} {told(one)}" for name, one in worth if one is not None]
    return f": {'; '.join(words)}" if words else ""


PARTS = {f.__name__: f for f in (forgetting, gate, result, why, controls, oracle, limitations)}
"""What ``say`` says, by name."""


def say(results: Results, part: str) -> Markdown:
    """A part of the findings, for a notebook."""
    return Markdown(page(PARTS[part](results)))


def findings(results: Results) -> list[str]:
    """All of it, in the order of the argument: gate, result, why, oracle, claims."""
    parts = (gate, result, why, controls, oracle)
    return [line for part in parts for line in part(results)] + [claims.sentence(results.claims)]
