"""Tables as csv, Markdown and LaTeX, and numbers as JSON, with six significant digits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from know.paths import atomic

LATEX = str.maketrans(
    {"Θ": r"\ensuremath{\Theta}", "θ": r"\ensuremath{\theta}", "λ": r"\ensuremath{\lambda}", "Σ": r"\ensuremath{\Sigma}"}
    | {"×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}", "→": r"\ensuremath{\to}", "≤": r"\ensuremath{\le}"}
    | {"₋": r"\textsubscript{--}", "ₖ": r"\textsubscript{k}", "\N{COMBINING CIRCUMFLEX ACCENT}": ""}
    | {chr(0x2080 + digit): rf"\textsubscript{{{digit}}}" for digit in range(10)}
    | {"–": "--", "…": r"\dots{}", "’": "'"}
)  # fmt: skip
"""What pdfLaTeX has no character for."""


def write_text(text: str, path: Path) -> None:
    """Write under a temporary name, then rename."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_table(table: pd.DataFrame, folder: Path, name: str, shown: bool = True) -> None:
    """Write ``name.csv`` and, of a table to be read, ``name.md`` and ``name.tex`` (booktabs; long columns are wrapped)."""
    write_text(table.to_csv(index=False, float_format="%.6g"), folder / f"{name}.csv")
    if not shown:
        return
    text = table.rename(columns=str)
    widths = [max(len(c), *text[c].astype(str).str.len()) if len(text) else len(c) for c in text]
    long = [width > 16 and sum(widths) > 100 for width in widths]
    free = max(0.3, 0.95 - 0.011 * sum(width for width, wraps in zip(widths, long, strict=True) if not wraps))
    share = free / max(1, sum(width for width, wraps in zip(widths, long, strict=True) if wraps))
    formats = [rf"p{{{share * w:.2f}\linewidth}}" if wraps else "l" for w, wraps in zip(widths, long, strict=True)]
    latex = text.to_latex(index=False, escape=True, float_format="%.4g", column_format="".join(formats))
    write_text(latex.translate(LATEX), folder / f"{name}.tex")
    barred = table.replace(r"\|", r"\|", regex=True)
    write_text(barred.to_markdown(index=False, disable_numparse=True, floatfmt=".4g") + "\n", folder / f"{name}.md")


def write_json(values: Mapping[str, object], path: Path) -> None:
    """Write numbers, keys in the order given."""
    rounded = json.loads(json.dumps(values), parse_float=lambda text: float(f"{float(text):.6g}"))
    write_text(json.dumps(rounded, indent=2) + "\n", path)
