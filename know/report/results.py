"""A run's results: its parameters and tables, what they say, and the figures and tables of the report made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from know import paths
from know.analysis import ablations, claims
from know.analysis.comparisons import Comparison, Comparisons, compare
from know.analysis.statistics import mean_interval
from know.analysis.units import forgetting_drops
from know.analysis.why import Why, why
from know.data.catalogue import dataset
from know.figures.registry import FIGURES, TABLES
from know.params import Params
from know.tasks.options import METRICS

COST = paths.DATA / "measured" / "cost.csv"
"""What ``scripts/measure_cost.py`` measured on some machine; it is committed, as the ablations are."""


@dataclass(frozen=True)
class Results:
    """``params``, and the tables of ``data/results`` and ``data/measured`` by name."""

    params: Params
    tables: Mapping[str, pd.DataFrame]
    drawn: dict[str, Figure | None] = field(default_factory=dict)

    @classmethod
    def read(cls, params: Params, *names: str, folder: Path | None = None) -> Self:
        """These tables; by default all that the stages have written so far, and what scripts measured.

        A stage's notebook names those that it and the stages before it write: what later stages left may be of another run.
        """
        files = sorted((folder or paths.RESULTS).glob("*.csv"))
        found = {path.stem: pd.read_csv(path) for path in files if path.stem in names or not names}
        if names:
            return cls(params, found)
        if COST.exists():
            found["cost"] = pd.read_csv(COST)
        return cls(params, found | {"ablations": ablations.read()})

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

    @property
    def metric(self) -> str:
        """By what nets are judged (``know.tasks.options.METRICS``)."""
        return METRICS[dataset(self.params.downsize.downstream_dataset).kind]

    @property
    def source_metric(self) -> str:
        """The same of the source task."""
        return METRICS[dataset(self.params.downsize.dataset).kind]

    def worded(self, text: str) -> str:
        """A caption or label by this run's metrics, which texts call source accuracy, and of the downstream task accuracy."""
        return f"source {self.source_metric}".join(
            part.replace("accuracy", self.metric) for part in text.split("source accuracy")
        )

    def table(self, name: str) -> pd.DataFrame | None:
        """The table of this name; None if one that it needs is missing, or it has no rows."""
        entry = TABLES[name]
        made = entry.make(self) if self.has(*entry.needs) else None
        return None if made is None or made.empty else made

    def show(self, name: str) -> Styler | Markdown:
        """The table of this name for a notebook, with its caption; else that there is none."""
        table = self.table(name)
        if table is None:
            return Markdown(f"*Not measured: {name.replace('_', ' ')}.*")
        caption = self.worded(TABLES[name].caption)
        style = table.style.hide(axis="index").set_uuid(name).format(precision=3).set_caption(caption)
        return style.set_table_attributes('class="wrap"')

    # --- what they say, each made once ---------------------------------------------------------------------------

    @cached_property
    def comparisons(self) -> Comparisons:
        """Of ``transfer.csv``: the only place from which its verdicts are taken."""
        report = self.params.report
        return Comparisons(
            self["transfer"], report.confidence, report.margin, report.contrasts, self.params.predict.judged
        )

    @cached_property
    def few(self) -> dict[float, Comparisons]:
        """The same with each smaller share of the labels, most first: a question of its own."""
        report, transfer = self.params.report, self["transfer"]
        judged = {f: transfer[transfer.fraction == f] for f in sorted(set(transfer.fraction), reverse=True)[1:]}
        name = self.params.predict.judged
        return {
            f: Comparisons(own, report.confidence, report.margin, report.contrasts, name) for f, own in judged.items()
        }

    @cached_property
    def why(self) -> Why:
        """To what the candidate's gain is owed."""
        return why(self.comparisons)

    @cached_property
    def oracle(self) -> Comparisons:
        """Of ``oracle.csv``: the path whose next point is known."""
        report = self.params.report
        return Comparisons(self["oracle"], report.confidence, report.margin, candidate=self.params.predict.judged)

    @cached_property
    def forgetting(self) -> Comparison:
        """How far test accuracy falls from Θ_0 to Θ_{S-1}; "better": it falls."""
        fall = mean_interval(forgetting_drops(self["forgetting"]), self.params.report.confidence)
        return compare({"forgetting": fall}, 0.0, "forgetting")["forgetting"]

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Every claim of the paper, with its verdict."""
        p, run = self.params, self["transfer"].iloc[0]
        setting = (
            run.arch.startswith("resnet18") and run.source.startswith("cifar") and run.downstream.startswith("cifar")
        )
        cost = self.tables.get("cost", pd.DataFrame(columns=["quantity", "value"]))
        measured = self.tables.get("ablations", pd.DataFrame(columns=ablations.COLUMNS))
        return claims.table(
            claims.Evidence(
                self.comparisons,
                self.forgetting,
                p.rate,
                p.history_length,
                p.report.margin,
                setting,
                measured,
                cost,
                self.metric,
                "held_out" in self["transfer"],
            )
        )
