"""Numbers as text. Accuracies and gains are shares in tables of numbers, percent and points in text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from know.analysis.statistics import Estimate, Interval

NONE = "–"


def number(mean: float, half_width: float = np.inf, digits: int = 3, signed: bool = False) -> str:
    """ "0.841 ± 0.006", or without an interval where there is none; "–" for NaN."""
    if np.isnan(mean):
        return NONE
    text = f"{round(mean, digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # + 0.0: no negative zero
    return text + (f" ± {half_width:.{digits}f}" if np.isfinite(half_width) else "")


def percent(estimate: Estimate, signed: bool = False) -> str:
    """ "84.1 ± 0.6" from shares; a single unit has no interval."""
    return number(100 * estimate.mean, 100 * estimate.half_width, 1, signed)


def points(estimate: Estimate) -> str:
    """ "+0.3 ± 0.2" points from a difference of shares."""
    return percent(estimate, signed=True)


def p_text(p: float) -> str:
    """ "0.012", "< 0.001"."""
    return NONE if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_words(p: float) -> str:
    """ "p = 0.012", "p < 0.001"."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def ratio_text(ratio: Interval) -> str:
    """ "0.31 (0.12 to 0.55)"; "unbounded" where more data does not clearly help, so that there is nothing to recover."""
    if not ratio.bounded:
        return "unbounded"
    value, low, high = (number(one, digits=2) for one in (ratio.value, ratio.low, ratio.high))
    return f"{value} ({low} to {high})"


def listed(words: Sequence[str]) -> str:
    """ "one", "one and two", "one, two and three"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def grid(
    cells: Mapping[tuple[object, str], str], heading: str | Sequence[str], columns: Sequence[str] = (), gap: str = NONE
) -> pd.DataFrame:
    """Rows × columns of text, from (row, column) to entry, rows in the order in which they first come.

    Args:
        heading: of the rows' names; several if a row is called by a tuple.
        columns: their order; by default as they first come.
        gap: for what has no entry.
    """
    headings = [heading] if isinstance(heading, str) else list(heading)
    columns = list(columns or dict.fromkeys(column for _, column in cells))
    rows = {}
    for row in dict.fromkeys(row for row, _ in cells):
        names = row if isinstance(row, tuple) else (row,)
        rows[row] = dict(zip(headings, names, strict=True)) | {c: cells.get((row, c), gap) for c in columns}
    return pd.DataFrame(list(rows.values()), columns=[*headings, *columns])
