"""Stage 6: figures, tables, findings, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from know import paths
from know.analysis import ablations, claims, oracle
from know.analysis.statistics import Interval
from know.params import Params
from know.report import figures
from know.report import tables as report
from know.stages.results import read_csv, write_csv

STAGES = (
    "transfer",
    "forgetting",
    "source_learning",
    "meta_errors",
    "meta_curves",
    "predictions",
    "selection",
    "oracle",
    "oracle_source",
    "geometry",
    "steps",
    "headroom",
    "landscape",
    "landscape_points",
    "landscape_axes",
    "learning_curves",
    "response",
)
"""Tables of the stages before."""
COST = paths.DATA / "measured" / "cost.csv"
"""What ``scripts/measure_cost.py`` measured on some machine; it is committed, as the ablations are."""
ALWAYS = ("transfer", "forgetting", "source_learning", "meta_errors", "meta_curves", "predictions")
TRANSFER_COLUMNS = ["source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy"]

FIGURE_CAPTIONS = {
    "schematic": "F1. The idea: fine-tuning on nested, ever smaller subsets is structured forgetting; read backwards, the "
    "path is one of growing data, and KNOWN predicts one step past the real weights.",
    "forgetting": "F2. Structured forgetting: accuracy and loss of Θ₀, Θ₁, … on kept, dropped and test images (band: "
    "interval of the mean over source seeds).",
    "landscape": "F3. Source validation loss on the plane of the path's first two principal components, with the path and "
    "every predicted point.",
    "transfer": "F4. Downstream accuracy against the amount of virtual data (bars: interval of the paired difference to "
    "naïve transfer).",
    "learning_curves": "F5. Validation accuracy while fine-tuning, from the end of the head's phase on (band: interval over "
    "source seeds).",
    "steps": "F6. Predicted against real steps of single weights, by kind, on the path whose next point is known.",
    "ablations": "F7. KNOWN's gain over naïve transfer against each ablated parameter.",
    "response": "F8. What KNOWN adds to the last weight of a straight path, over its level and slope, beside linear "
    "extrapolation.",
    "gains": "S1. Gain over naïve transfer, paired by seed, with its interval.",
    "headroom": "S2. Headroom: downstream accuracy of nets really trained on so many source images.",
    "oracle": "S3. Where the next point is known: gain of each start over the path's own Θ₀, beside that of the real Θ₋₁.",
    "meta_validation": "S4. KNOWN on held-out runs of the meta-dataset, beside linear extrapolation and relative to no "
    "change.",
    "predictions": "S5. Norms of the predicted weights relative to Θ₀'s by kind, and source accuracy before fine-tuning.",
}
"""Of every figure, in the order of the index: the paper's, then the supplementary ones."""

TABLE_CAPTIONS = {
    "main": "Main result. Difference to naïve transfer in points of downstream accuracy, pooled over numbers of labels, with its "
    "interval over source seeds; by virtual data, or once for starts that know no steps.",
    "ablation_source_images": f"T1. {ablations.CAPTIONS['source_images']}",
    "ablation_architecture": f"T2. {ablations.CAPTIONS['architecture']}",
    "ablation_history_length": f"T3. {ablations.CAPTIONS['history_length']}",
    "ablation_rate": f"T4. {ablations.CAPTIONS['rate']}",
    "controls": "T5. KNOWN and scale-free KNOWN against naïve transfer, every control and every other method: difference in "
    "points of accuracy, mean over steps and numbers of labels, with its interval over source seeds; p value of the paired t "
    "test, with Holm's correction over each one's comparisons, which the verdict goes by; Hedges' g; n source seeds.",
    "cost": "T6. What it costs: time and memory, as measured on the machine named.",
    "claims": "T7. Claims of the paper, and our doubts, beside what this run says: pooled accuracy, interval, source seeds (n). "
    "The verdict is computed: a difference holds if its interval excludes 0 in the claimed direction, does not hold if it "
    "excludes 0 in the other, and is not clear otherwise.",
    "transfer_summary": "S1. Downstream accuracy (%), and gain over naïve transfer in points, by number of labels: mean and "
    "interval over source seeds.",
    "comparisons": "S2. Each start against naïve transfer, pooled over numbers of labels: difference in points with its "
    "interval over source seeds, p value of the paired t test, with Holm's correction over the table, which the verdict goes "
    "by; Hedges' g; n source seeds.",
    "controls_by_step": "S3. The comparisons of T5 at each step, with Holm's correction over all of them.",
    "controls_check": "S4. The differences of S3 by three analyses: Student's t over source seeds, the nested bootstrap, and "
    "a mixed model with a random intercept a source seed (the last two are mostly too narrow for few seeds).",
    "headroom": "S5. Headroom: downstream accuracy (%) of nets really trained on so many source images (0: from scratch), and "
    "the pooled gain in points.",
    "oracle": "S6. Where the next point is known, after fine-tuning: downstream accuracy (%), pooled gain in points over the "
    "path's own Θ₀, and the recovery ratio with Fieller's interval; unbounded: the real Θ₋₁ gains too little to divide by.",
    "oracle_calibration": "S7. The same starts: accuracy, loss and expected calibration error on the source task before "
    "fine-tuning, with the recovery ratio of that accuracy, and loss and calibration error downstream after it.",
    "geometry": "S8. Cosine and ratio of norms of the predicted and the real step, for the whole net (with intervals over "
    "source seeds) and by kind.",
    "geometry_layers": "S9. The same, by layer.",
    "recovery": "S10. Recovery ratio on the main track, whose real Θ₋₁ was trained independently, with Fieller's interval.",
    "ablation_batchnorm": f"S11. {ablations.CAPTIONS['batchnorm']}",
    "ablation_mode": f"S12. {ablations.CAPTIONS['mode']}",
    "ablation_replication": f"S13. {ablations.CAPTIONS['replication']}",
    "selection": "S14. What was chosen on downstream validation images, for each method with a choice.",
    "forgetting": "S15. Accuracy (%) of Θₖ: mean and interval over source seeds.",
    "meta_validation": "S16. Mean absolute error on held-out runs relative to no change: median over runs.",
    "transfer": "S17. All fine-tuning runs, one a row.",
}
"""Of every table, likewise."""


@dataclass(frozen=True)
class Story:
    """The tables of a run, and what is drawn, written and said from them. Those of ``ALWAYS`` are there, others may be not:
    a source set too small for D_{-1} has no oracle, and what scripts measure need not have been measured."""

    params: Params
    tables: Mapping[str, pd.DataFrame]
    drawn: dict[str, Figure | None] = field(default_factory=dict)

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    def get(self, name: str) -> pd.DataFrame | None:
        """A table, or None if it is missing or has no rows."""
        table = self.tables.get(name)
        return None if table is None or table.empty else table

    @cached_property
    def summary(self) -> pd.DataFrame:
        return report.summarise(self["transfer"], self.params.evaluate.labels, self.params.report.confidence)

    def figure(self, name: str) -> Figure | None:
        """The figure of this name, drawn once; None if a table that it needs is missing."""
        if name not in self.drawn:
            needed, draw = self.figure_makers()[name]
            self.drawn[name] = None if any(self.get(one) is None for one in needed) else draw()
        return self.drawn[name]

    def table(self, name: str) -> pd.DataFrame | None:
        """The table of this name; None if one that it needs is missing."""
        needed, make = self.table_makers()[name]
        if any(self.get(one) is None for one in needed):
            return None
        made = make()
        return None if made.empty else made

    def show(self, name: str) -> Styler | str:
        """The table of this name for a notebook, with its caption."""
        table = self.table(name)
        if table is None:
            return f"{name}: not measured in this run"
        style = table.style.hide(axis="index").set_uuid(name).format(precision=3).set_caption(TABLE_CAPTIONS[name])
        return style.set_table_attributes('class="wrap"')

    def _oracle_figure(self) -> Figure:
        gains = oracle.oracle_gains(self["oracle"], self.params.report.confidence)
        return figures.oracle(gains.rename(columns={"method": "start"}))

    def _ablation(self, name: str) -> pd.DataFrame:
        return ablations.ablation_table(self["ablations"], name)

    def figure_makers(self) -> dict[str, tuple[tuple[str, ...], Callable[[], Figure]]]:
        p, t = self.params, self.tables
        rate, confidence, images = p.rate, p.report.confidence, p.downsize.source_images
        return {
            "schematic": ((), lambda: figures.schematic(rate, p.history_length)),
            "forgetting": ((), lambda: figures.forgetting(t["forgetting"], rate, confidence)),
            "landscape": (
                ("landscape", "landscape_points", "landscape_axes"),
                lambda: figures.landscape(t["landscape"], t["landscape_points"], t["landscape_axes"]),
            ),
            "transfer": ((), lambda: figures.transfer(self.summary, rate)),
            "learning_curves": (
                ("learning_curves",),
                lambda: figures.learning_curves(self._labelled("learning_curves"), confidence),
            ),
            "steps": (("steps", "geometry"), lambda: figures.steps(t["steps"], t["geometry"])),
            "ablations": (("ablations",), lambda: figures.ablations(ablations.curves(t["ablations"]))),
            "response": (("response",), lambda: figures.response(t["response"])),
            "gains": ((), lambda: figures.gains(self.summary, rate)),
            "headroom": (
                ("headroom",),
                lambda: figures.headroom(self._labelled("headroom"), images, rate, confidence),
            ),
            "oracle": (("oracle",), self._oracle_figure),
            "meta_validation": ((), lambda: figures.meta_validation(t["meta_errors"], t["meta_curves"])),
            "predictions": ((), lambda: figures.predictions(t["predictions"], rate, confidence)),
        }

    def _labelled(self, name: str) -> pd.DataFrame:
        table = self[name]
        return table.assign(labels=(table.fraction * self.params.evaluate.labels).round().astype(int))

    def table_makers(self) -> dict[str, tuple[tuple[str, ...], Callable[[], pd.DataFrame]]]:
        p, t = self.params, self.tables
        rate, confidence, labels = p.rate, p.report.confidence, p.evaluate.labels
        return {
            **{f"ablation_{name}": (("ablations",), partial(self._ablation, name)) for name in ablations.ROWS},
            "controls": ((), lambda: report.controls(t["transfer"], confidence)),
            "controls_by_step": ((), lambda: report.controls_by_step(t["transfer"], rate, confidence)),
            "cost": (("cost",), lambda: report.cost_table(t["cost"])),
            "claims": ((), lambda: self.claim_table),
            "main": ((), lambda: report.main_table(t["transfer"], rate, confidence)),
            "transfer_summary": ((), lambda: report.transfer_table(self.summary, rate)),
            "comparisons": ((), lambda: report.comparisons(t["transfer"], rate, confidence)),
            "controls_check": ((), lambda: report.robustness(t["transfer"], rate, confidence)),
            "headroom": (("headroom",), lambda: oracle.headroom_table(t["headroom"], labels, confidence)),
            "oracle": (("oracle",), lambda: oracle.oracle_table(t["oracle"], labels, confidence)),
            "oracle_calibration": (
                ("oracle",),
                lambda: oracle.calibration_table(self.get("oracle_source"), t["oracle"], confidence),
            ),
            "geometry": (("geometry",), lambda: oracle.geometry_table(t["geometry"], confidence)),
            "geometry_layers": (("geometry",), lambda: oracle.layers_table(t["geometry"], confidence)),
            "recovery": ((), lambda: oracle.recovery_table(t["transfer"], rate, confidence)),
            "selection": (("selection",), lambda: report.selection_table(t["selection"])),
            "forgetting": ((), lambda: report.forgetting_table(t["forgetting"], confidence)),
            "meta_validation": ((), lambda: report.meta_table(t["meta_errors"])),
        }

    @cached_property
    def claim_table(self) -> pd.DataFrame:
        return claims.table(self.results)

    @property
    def results(self) -> claims.Results:
        p = self.params
        return claims.Results(
            self["transfer"],
            self["forgetting"],
            p.rate,
            p.history_length,
            p.downsize.source_images,
            p.report.confidence,
            **{name: self.get(name) for name in ("headroom", "oracle", "geometry", "ablations", "cost")},
        )

    def forgetting_verdict(self) -> str:
        return report.forgetting_verdict(self["forgetting"], self["source_learning"], self.params.report.confidence)[1]

    def headroom(self) -> list[str]:
        """Whether naïve transfer beats scratch, and more source data helps."""
        lines = report.check_pair(self.summary)
        if (table := self.get("headroom")) is not None:
            p = self.params
            lines.append(oracle.headroom_sentence(table, p.downsize.source_images, p.rate, p.report.confidence))
        return lines

    def bottom_line(self) -> str:
        p = self.params
        return report.bottom_line(self["transfer"], p.evaluate.labels, p.rate, p.report.confidence)

    def best_start(self) -> str:
        return report.best_start(self["transfer"], self.params.rate, self.params.report.confidence)

    def comparisons(self) -> list[str]:
        return report.findings(self["transfer"], self.params.rate, self.params.report.confidence)

    def oracle_lines(self) -> list[str]:
        table = self.get("oracle")
        return [] if table is None else [oracle.oracle_sentence(table, self.params.report.confidence)]

    def limitations(self) -> list[str]:
        """How small the experiment is, from its parameters and results."""
        p, units = self.params, report.pooled_runs(self["transfer"])
        seeds = units.columns.get_level_values("source_seed").nunique()
        naive = report.difference(report.pooled(self["transfer"]), ("known", 1), report.NAIVE)
        detectable = report.mean_interval(naive, p.report.confidence).half_width
        arch, source, downstream = (self["transfer"][column].iloc[0] for column in ("arch", "source", "downstream"))
        untested = self.claim_table[self.claim_table.verdict == "not tested here"].claim
        return [
            f"One network ({arch}), one pair of tasks ({source} → {downstream}), |D₀| = {p.downsize.source_images:,}, at most"
            f" {p.evaluate.labels} labels.",
            f"{seeds} source seeds: a difference between KNOWN and naïve transfer of less than about"
            f" {report.number(100 * detectable, digits=1)} points is not seen.",
            f"Not tested here: {'; '.join(untested).replace('… ', 'KNOWN beats naïve transfer ')}.",
        ]

    def findings(self) -> list[str]:
        """The most important sentences, the most important one first."""
        return [
            self.bottom_line(),
            self.best_start(),
            self.forgetting_verdict(),
            *self.headroom(),
            *self.comparisons(),
            *self.oracle_lines(),
            claims.sentence(self.claim_table),
        ]

    def recovery(self) -> dict[str, Interval]:
        """One step's recovery ratio by method, on the oracle track."""
        table = self.get("oracle")
        if table is None:
            return {}
        return {m: ratio for (m, _), ratio in oracle.recovery_ratios(table, self.params.report.confidence).items()}


def chosen(table: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """``table`` without the candidates that were not chosen, and the chosen one, "method.candidate", by its method's name."""
    names = {f"{row.method}.{row.candidate}": row.method if row.chosen else None for row in selection.itertuples()}
    return table.assign(method=[names.get(name, name) for name in table.method]).dropna(subset=["method"])


def read(params: Params) -> Story:
    """The tables that there are.

    Raises:
        FileNotFoundError: one that every run makes is missing.
    """
    tables = {
        name: read_csv(f"{name}.csv") for name in STAGES if name in ALWAYS or (paths.RESULTS / f"{name}.csv").exists()
    }
    if "selection" in tables:
        of_starts = [name for name, table in tables.items() if "method" in table and name != "selection"]
        tables |= {name: chosen(tables[name], tables["selection"]) for name in of_starts}
    tables["ablations"] = ablations.read()
    if COST.exists():
        tables["cost"] = pd.read_csv(COST)
    return Story(params, tables)


def run(params: Params, story: Story | None = None) -> list[str]:
    """Write every figure and table, ``findings.md``, ``metrics.json`` and the plots' data under ``reports/``.

    Args:
        story: what ``read`` found, if it was called before.

    Returns:
        The files written, relative to ``reports/``.
    """
    story = story or read(params)
    drawn, written = paths.REPORTS / "figures", paths.REPORTS / "tables"
    for name in FIGURE_CAPTIONS:
        if (figure := story.figure(name)) is not None:
            figures.save(figure, drawn, name)
            plt.close(figure)
    for name in story.table_makers():
        if (table := story.table(name)) is not None:
            report.write_table(table, written, name)
    write_csv(story["transfer"][TRANSFER_COLUMNS], "transfer.csv", written)
    for folder, captions in ((drawn, FIGURE_CAPTIONS), (written, TABLE_CAPTIONS)):
        made = {path.stem for path in folder.iterdir()}
        report.write_json({name: text for name, text in captions.items() if name in made}, folder / "captions.json")
    plots, summary = paths.REPORTS / "plots", story.summary
    shown = summary.assign(start=summary.method + " " + summary.steps.astype(str), accuracy=summary["mean"])
    write_csv(shown[["start", "labels", "accuracy"]], "transfer.csv", plots)
    by_k = story["forgetting"].groupby(["images", "k"], as_index=False)["accuracy"].mean()
    write_csv(by_k, "forgetting.csv", plots)
    report.write_text(report.findings_page(story.findings()), paths.REPORTS / "findings.md")
    values = report.metrics(
        story["transfer"],
        summary,
        story["forgetting"],
        story["meta_errors"],
        story.recovery(),
        params.report.confidence,
    )
    report.write_json(values, paths.REPORTS / "metrics.json")
    return sorted(
        str(path.relative_to(paths.REPORTS))
        for kind in ("figures", "tables", "plots")
        for path in (paths.REPORTS / kind).iterdir()
    )
