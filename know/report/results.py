"""A run's results: its parameters and tables, and the figures and tables of the report that are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from know import paths
from know.params import Params
from know.report.registry import FIGURES, TABLES


@dataclass(frozen=True)
class Results:
    """``params``, and the tables of ``data/results`` by name."""

    params: Params
    tables: Mapping[str, pd.DataFrame]
    drawn: dict[str, Figure | None] = field(default_factory=dict)

    @classmethod
    def read(cls, params: Params, folder: Path | None = None) -> Self:
        """Whatever tables the stages have written so far."""
        found = sorted((folder or paths.RESULTS).glob("*.csv"))
        return cls(params, {path.stem: pd.read_csv(path) for path in found})

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    def has(self, *names: str) -> bool:
        """Whether all these tables are there and have rows."""
        return all(name in self.tables and not self.tables[name].empty for name in names)

    def figure(self, name: str) -> Figure | None:
        """The figure of this name, drawn once; None if a table that it needs is missing."""
        if name not in self.drawn:
            entry = FIGURES[name]
            self.drawn[name] = entry.make(self) if self.has(*entry.needs) else None
        return self.drawn[name]

    def table(self, name: str) -> pd.DataFrame | None:
        """The table of this name; None if one that it needs is missing, or it has no rows."""
        entry = TABLES[name]
        made = entry.make(self) if self.has(*entry.needs) else None
        return None if made is None or made.empty else made

    def show(self, name: str) -> Styler | str:
        """The table of this name for a notebook, with its caption."""
        table = self.table(name)
        if table is None:
            return f"{name}: not measured in this run"
        style = table.style.hide(axis="index").set_uuid(name).format(precision=3).set_caption(TABLES[name].caption)
        return style.set_table_attributes('class="wrap"')
