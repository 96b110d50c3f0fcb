"""The ablations: from ``data/measured/ablations.csv``, which ``scripts/sweep.py`` makes, to the paper's tables.

The file is committed and no stage makes it: each of its cells is a run of the whole pipeline with other parameters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from know import paths
from know.analysis.comparisons import Comparison, compare
from know.analysis.starts import MORE_DATA, NAIVE, Start, label, virtual
from know.analysis.statistics import Estimate
from know.analysis.text import NONE, grid, number

FILE = paths.DATA / "measured" / "ablations.csv"
MEND = "make it anew with `python scripts/sweep.py` (`--export COMMIT`: of what ran on a commit)"

SETTINGS = ("history_length", "rate", "source_images", "dataset", "architecture", "mode", "batchnorm")
NUMBERS = ("gain", "half_width", "accuracy", "accuracy_half_width")
"""Shares, with 95 % half widths over ``units`` source seeds; empty where the metrics have none."""
COLUMNS = ("ablation", "value", "experiment", *SETTINGS, "method", "steps", "labels", *NUMBERS, "units")
ROWS = {
    "source_images": {"source_images": "source images", "share": "share"},
    "architecture": {"dataset": "data set", "architecture": "architecture"},
    "history_length": {"history_length": "S"},
    "rate": {"rate": "r"},
    "batchnorm": {"batchnorm": "BatchNorm rule", "architecture": "architecture"},
    "mode": {"mode": "forgetting"},
    "replication": {"value": "source seeds"},
}
"""Each table's ablation, and what tells its rows apart: a column of the file and its heading."""
ENTRIES = "Downstream accuracy (%) and, in brackets, the gain over naïve transfer in points with its interval, with all labels."
CAPTIONS = {
    "source_images": f"How much source data there is. {ENTRIES}",
    "architecture": f"Network and data set. {ENTRIES}",
    "history_length": f"History length S, with a hyper-model meta-trained for each. {ENTRIES}",
    "rate": f"Sampling rate r; a step stands for 1/r times the data. {ENTRIES}",
    "batchnorm": f"The rule for BatchNorm layers, the same for every start. {ENTRIES}",
    "mode": f"Θₖ from Θₖ₋₁ (sequential), or each from the initial weights (restart, as the released script does). {ENTRIES}",
    "replication": f"The same experiment on two sets of source seeds: other data, initial weights and orders. {ENTRIES}",
}


class AblationError(ValueError):
    """The file is not what ``scripts/sweep.py`` writes. The message is one line: the file, what is wrong, the mend."""


def read(file: Path | None = None) -> pd.DataFrame:
    """The sweep's table, one row a cell, start and number of labels (or "all"); without the file, an empty one.

    Returns:
        The columns ``COLUMNS``; ``labels`` is text.

    Raises:
        AblationError: the file is malformed.
    """
    file = file or FILE
    if not file.exists():
        return pd.DataFrame(columns=list(COLUMNS))

    def wrong(what: str) -> AblationError:
        return AblationError(f"{file}: {what}; {MEND}")

    try:
        table = pd.read_csv(file, dtype={"value": str, "labels": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise wrong(f"not a table: {' '.join(str(error).split())}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too many for an index
        raise wrong("lines have more entries than the header")
    if lacking := [name for name in COLUMNS if name not in table]:
        raise wrong(f"lacks the column {lacking[0]}")
    for name in (*NUMBERS, "history_length", "rate", "source_images", "steps", "units"):
        numbers = pd.to_numeric(table[name], errors="coerce")
        if (bad := table[name].notna() & ~np.isfinite(numbers)).any():
            raise wrong(f"line {bad.idxmax() + 2}: {name} is {str(table[name][bad.idxmax()])!r}, not a number")
        if name not in NUMBERS and numbers.isna().any():
            raise wrong(f"line {numbers.isna().idxmax() + 2}: {name} is empty")
        table[name] = numbers
    table["half_width"] = table.half_width.fillna(np.inf)  # of a single source seed
    if (again := table.duplicated(["ablation", "value", "method", "steps", "labels"])).any():
        raise wrong(f"line {again.idxmax() + 2} is there twice")
    return table[list(COLUMNS)]


def note(table: pd.DataFrame) -> str:
    """What a reader should know of how complete the table is: a Markdown line."""
    if table.empty:
        return "No ablation has been run: `python scripts/sweep.py` runs them and writes `data/measured/ablations.csv`."
    lacking = [name for name in ROWS if name not in set(table.ablation)]
    text = f"{table.experiment.nunique()} experiments, {_range(table.units)} source seeds each."
    return text + (f" Not run: {', '.join(lacking)} (`python scripts/sweep.py`)." if lacking else "")


def _range(values: pd.Series[int]) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def gains(table: pd.DataFrame, ablation: str, start: Start, confidence: float) -> dict[str, Estimate]:
    """A start's gain over naïve transfer at each value of an ablation."""
    own = table[(table.ablation == ablation) & (table.labels == "all") & table.gain.notna()]
    rows = own[(own.method == start.name) & (own.steps == start.step)]
    return {row.value: Estimate(row.gain, row.half_width, int(row.units), confidence) for row in rows.itertuples()}


def comparisons(
    table: pd.DataFrame, ablation: str, start: Start, margin: float, confidence: float
) -> dict[str, Comparison]:
    """A start against naïve transfer at each value of an ablation: one family, judged where there is headroom.

    Args:
        margin: as a share of naïve transfer's error, which is another at each value.
    """
    own = table[(table.ablation == ablation) & (table.labels == "all") & (table.method == NAIVE.name)]
    margins = {row.value: margin * (1 - row.accuracy) for row in own.itertuples()}
    known = {value: gain for value, gain in gains(table, ablation, start, confidence).items() if value in margins}
    found = compare(known, margins, ablation)
    real = {value: gain for value, gain in gains(table, ablation, MORE_DATA, confidence).items() if value in margins}
    gate = compare(real, margins, "gate")
    return {
        value: one if value not in gate or gate[value].verdict == "better" else replace(one, verdict="no headroom")
        for value, one in found.items()
    }


def ablation_table(table: pd.DataFrame, ablation: str, labels: str = "all") -> pd.DataFrame:
    """One ablation as a reader wants it: a row a value and start, a column a number of retrodiction steps.

    Entries are "84.1 (+0.3 ± 0.5)". A column is headed by the virtual data that the steps stand for where that is the same
    in all rows; else there is a column with what one step stands for.
    """
    rows = table[(table.ablation == ablation) & (table.labels == labels)]
    rows = rows.assign(share=[f"{100 * share:.3g} %" for share in rows.source_images / rows.source_images.max()])
    headings, varied = ROWS[ablation], len(set(rows.rate)) > 1
    cells: dict[tuple[object, str], str] = {}
    for row in rows.itertuples():
        key = (*(getattr(row, column) for column in headings), label(str(row.method)))
        if varied:
            cells[key, "a step"] = virtual(1, row.rate)
        cells[key, _steps(int(row.steps), varied, row.rate)] = _entry(row.accuracy, row.gain, row.half_width)
    steps = {_steps(int(step), varied, rows.rate.iloc[0]): None for step in sorted(rows.steps.unique())}
    return grid(cells, [*headings.values(), "start"], ["a step", *steps] if varied else list(steps))


def _steps(steps: int, varied: bool, rate: float) -> str:
    return f"{steps} step{'' if steps == 1 else 's'}" if varied else virtual(steps, rate)


def _entry(accuracy: float, gain: float, half_width: float) -> str:
    """ "84.1 (+0.3 ± 0.5)", or what there is of it."""
    change = "" if np.isnan(gain) else number(100 * gain, 100 * half_width, 1, signed=True)
    if np.isnan(accuracy):
        return change or NONE
    return f"{100 * accuracy:.1f}" + (f" ({change})" if change else "")
