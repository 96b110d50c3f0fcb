"""What more data really buys, and how much of it a prediction recovers: the headroom, and the path whose next point is known.

On the oracle track Θ_{-1} was really trained on D_{-1}, and fine-tuning it on D_0 gave the track's own Θ_0. So predictions
from Θ_{S-1} … Θ_0 can be held against the weights that they are meant to recover.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from know.analysis.statistics import Estimate, Interval, mean_interval, paired_p, recovery
from know.report.figures import label
from know.report.tables import (
    NAIVE,
    Start,
    data_of,
    difference,
    number,
    p_text,
    percent,
    points,
    pooled,
    starts_in_order,
    verdict,
)

MORE: Start = ("more_data", 1)

# --- headroom ---------------------------------------------------------------------------------------------------


def _sizes(headroom: pd.DataFrame) -> pd.DataFrame:
    """Pooled accuracy: rows of how many source images, a column a source seed."""
    units = pooled(headroom.assign(method="images", steps=headroom.images))
    return units.droplevel("method").rename_axis("images")


def headroom_table(headroom: pd.DataFrame, labels: int, confidence: float) -> pd.DataFrame:
    """Downstream accuracy of nets trained on so many source images (0: from scratch), and the gain over the size before."""
    units, rows = _sizes(headroom), []
    for before, images in zip([None, *units.index[:-1]], units.index, strict=True):
        row: dict[str, object] = {"source images": images}
        own = headroom[headroom.images == images]
        for fraction, values in own.groupby("fraction"):
            estimate = mean_interval(values.groupby(values.seed // 1000).accuracy.mean(), confidence)
            row[f"{round(float(str(fraction)) * labels)} labels"] = percent(estimate.mean, estimate.half_width)
        gain = None if before is None else (units.loc[images] - units.loc[before]).dropna()
        row["gain over the row above"] = "–" if gain is None else points(mean_interval(gain, confidence))
        row["p"] = "–" if gain is None else p_text(paired_p(gain))
        rows.append(row)
    return pd.DataFrame(rows)


def more_images(
    headroom: pd.DataFrame, source_images: int, rate: float, confidence: float
) -> tuple[int, Estimate] | None:
    """|D_{-1}| = |D_0|/r, and what it gains over |D_0| = ``source_images`` downstream, pooled; None if either is missing."""
    units = _sizes(headroom)
    wanted = source_images / rate
    larger = [int(images) for images in units.index if abs(images - wanted) < 1]
    if source_images not in units.index or not larger:
        return None
    return larger[0], mean_interval((units.loc[larger[0]] - units.loc[source_images]).dropna(), confidence)


def headroom_sentence(headroom: pd.DataFrame, source_images: int, rate: float, confidence: float) -> str:
    """What |D_0|/r instead of |D_0| images buy downstream, and what each further size does."""
    found = more_images(headroom, source_images, rate, confidence)
    if found is None:
        return "Headroom: no net was trained on 1/r times the source images."
    images, gain = found
    word = "there is headroom" if verdict(gain) == "better" else "WARNING: no clear headroom"
    text = f"From {source_images:,} to {images:,} source images downstream accuracy changes by {points(gain)} points: {word}"
    units = _sizes(headroom)
    beyond = [size for size in units.index if size > images]
    if beyond:
        last = mean_interval((units.loc[beyond[-1]] - units.loc[source_images]).dropna(), confidence)
        text += f"; with {beyond[-1]:,} images it is {points(last)} ({verdict(last)})"
    return f"{text}."


# --- recovery ---------------------------------------------------------------------------------------------------


def recovery_ratios(table: pd.DataFrame, confidence: float, column: str = "accuracy") -> dict[Start, Interval]:
    """The recovery ratio of each predicted start, pooled over labels; nothing where naïve or the real Θ_{-1} is missing.

    Args:
        table: method, steps, fraction, seed, and ``column``; ``transfer.csv`` or ``oracle.csv``.
    """
    units = pooled(table, column)
    if NAIVE not in units.index or MORE not in units.index:
        return {}
    return _ratios(units, confidence)


def _ratios(units: pd.DataFrame, confidence: float) -> dict[Start, Interval]:
    starts = [start for start in units.index if start[0] not in ("naive", "scratch", "more_data")]
    ratios = {}
    for start in starts_in_order(starts):
        three = units.loc[[start, NAIVE, MORE]].dropna(axis=1)
        if three.shape[1]:
            predicted, naive, real = three.to_numpy()
            ratios[start] = recovery(predicted, naive, real, confidence)
    return ratios


def ratio_text(ratio: Interval | None) -> str:
    """ "0.31 (0.12 to 0.55)"; "unbounded" where more data does not clearly help, so that there is nothing to recover."""
    if ratio is None:
        return "–"
    if not ratio.bounded:
        return "unbounded"
    return f"{number(ratio.value, digits=2)} ({number(ratio.low, digits=2)} to {number(ratio.high, digits=2)})"


def recovery_table(transfer: pd.DataFrame, rate: float, confidence: float) -> pd.DataFrame:
    """The recovery ratio of each start and step on the main track, whose real Θ_{-1} was trained independently."""
    rows = [
        {"start": label(start[0]), "data": data_of(start, rate), "recovery ratio": ratio_text(ratio)}
        for start, ratio in recovery_ratios(transfer, confidence).items()
    ]
    return pd.DataFrame(rows, columns=["start", "data", "recovery ratio"])


def oracle_gains(oracle: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Pooled gain of each start of the oracle track over the track's own Θ_0: method, gain, half_width."""
    units = pooled(oracle)
    rows = []
    for start in starts_in_order([start for start in units.index if start[0] != "naive"]):
        gain = mean_interval(difference(units, start, NAIVE), confidence)
        rows.append((start[0], gain.mean, gain.half_width))
    return pd.DataFrame(rows, columns=["method", "gain", "half_width"])


def oracle_table(oracle: pd.DataFrame, labels: int, confidence: float) -> pd.DataFrame:
    """Downstream, on the oracle track: accuracy by labels, gain over the track's Θ_0 and recovery ratio, pooled."""
    gains = oracle_gains(oracle, confidence).set_index("method")
    ratios = {method: ratio for (method, _), ratio in recovery_ratios(oracle, confidence).items()}
    rows = []
    for method, _ in starts_in_order(list(pooled(oracle).index)):
        row: dict[str, object] = {"start": label(method)}
        for fraction, values in oracle[oracle.method == method].groupby("fraction"):
            estimate = mean_interval(values.groupby(values.seed // 1000).accuracy.mean(), confidence)
            row[f"{round(float(str(fraction)) * labels)} labels"] = percent(estimate.mean, estimate.half_width)
        known = method in gains.index
        row["gain"] = percent(gains.gain[method], gains.half_width[method], True) if known else "–"
        row["recovery ratio"] = ratio_text(ratios.get(method))
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def calibration_table(source: pd.DataFrame | None, oracle: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Accuracy, loss and calibration error on the oracle track: of the source task before fine-tuning with the recovery ratio
    of its accuracy (if measured), and loss and calibration error downstream after it."""
    columns = {name: pooled(oracle, name) for name in ("loss", "ece") if name in oracle}
    before: dict[str, pd.DataFrame] = {}
    ratios: dict[Start, Interval] = {}
    if source is not None:
        before = {
            name: source.pivot_table(index=["method", "steps"], columns="seed", values=name)
            for name in ("accuracy", "loss", "ece")
        }
        if {NAIVE, MORE} <= set(before["accuracy"].index):
            ratios = _ratios(before["accuracy"], confidence)
    starts = starts_in_order(
        list(dict.fromkeys(s for units in (*before.values(), *columns.values()) for s in units.index))
    )
    words = {"accuracy": (100, 1, " (%)"), "loss": (1, 3, ""), "ece": (100, 1, " (%)")}
    rows = []
    for start in starts:
        row = {"start": label(start[0])}
        for task, tables in (("source", before), ("downstream", columns)):
            for name, units in tables.items():
                factor, digits, unit = words[name]
                column = f"{task} {'ECE' if name == 'ece' else name}{unit}"
                if start in units.index:
                    estimate = mean_interval(units.loc[start].dropna(), confidence)
                    row[column] = number(factor * estimate.mean, factor * estimate.half_width, digits)
                if (task, name) == ("source", "accuracy"):
                    row["source recovery"] = ratio_text(ratios.get(start))
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


# --- geometry ---------------------------------------------------------------------------------------------------


def geometry_table(geometry: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Cosine and norm ratio of the predicted and the real step: for the whole net with intervals, means by kind."""
    totals = geometry[geometry.layer == "all"]
    rows = []
    for method in _methods(totals):
        row = {"start": label(method)}
        for column, name in (("cosine", "cosine"), ("norm_ratio", "norm ratio")):
            values = totals[totals.method == method].set_index("kind")[column].groupby(level="kind")
            for kind in ("all", "conv", "fc", "bias"):
                if kind not in values.groups:
                    continue
                own = values.get_group(kind).dropna()
                estimate = mean_interval(own, confidence) if len(own) else Estimate(np.nan, np.inf, 0)
                half_width = estimate.half_width if kind == "all" else np.inf
                row[f"{name}, {'net' if kind == 'all' else kind}"] = number(
                    estimate.mean, half_width, 2, column == "cosine"
                )
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def layers_table(
    geometry: pd.DataFrame, confidence: float, methods: tuple[str, ...] = ("known", "scale_free")
) -> pd.DataFrame:
    """Cosine and norm ratio of the predicted and the real step of each layer, with intervals over source seeds."""
    single = geometry[geometry.layer != "all"]
    order = list(dict.fromkeys(single.layer))
    rows = []
    for method in methods:
        for layer in order:
            own = single[(single.method == method) & (single.layer == layer)]
            if own.empty:
                continue
            row = {
                "start": label(method),
                "layer": layer,
                "kind": own.kind.iloc[0],
                "weights": int(own.weights.iloc[0]),
            }
            for column, name in (("cosine", "cosine"), ("norm_ratio", "norm ratio")):
                values = own[column].dropna()
                estimate = mean_interval(values, confidence) if len(values) else Estimate(np.nan, np.inf, 0)
                row[name] = number(estimate.mean, estimate.half_width, 2, column == "cosine")
            rows.append(row)
    return pd.DataFrame(rows, columns=["start", "layer", "kind", "weights", "cosine", "norm ratio"])


def _methods(table: pd.DataFrame) -> list[str]:
    return [method for method, _ in starts_in_order([(m, 0) for m in dict.fromkeys(table.method)])]


# --- what it says -----------------------------------------------------------------------------------------------


def oracle_sentence(oracle: pd.DataFrame, confidence: float) -> str:
    """What the real Θ_{-1}, KNOWN and scale-free KNOWN gain over the oracle track's Θ_0 downstream, and what they recover."""
    gains = oracle_gains(oracle, confidence).set_index("method")
    ratios: Mapping[str, Interval] = {m: ratio for (m, _), ratio in recovery_ratios(oracle, confidence).items()}
    words = []
    for method in ("more_data", "known", "scale_free"):
        if method in gains.index:
            gain = Estimate(gains.gain[method], gains.half_width[method], 0)
            text = f"{label(method)} {points(gain)} points ({verdict(gain)}"
            text += f"; recovery ratio {ratio_text(ratios[method])})" if method in ratios else ")"
            words.append(text)
    return f"Where the next point is known, against its Θ₀: {', '.join(words)}."
