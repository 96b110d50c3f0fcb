"""Stage 6: figures, tables, findings, metrics."""

from __future__ import annotations

import matplotlib.pyplot as plt

from know import figures, paths, report
from know.experiment.results import read_csv, write_csv
from know.params import Params


def run(params: Params) -> list[str]:
    """Write every figure and table, ``metrics.json`` and the plots' data under ``reports/``.

    Returns:
        The files written, relative to ``reports/``.
    """
    confidence, rate = params.report.confidence, params.rate
    tables = {
        name: read_csv(f"{name}.csv")
        for name in ("transfer", "forgetting", "source_learning", "meta_errors", "meta_curves", "predictions")
    }
    summary = report.summarise(tables["transfer"], params.evaluate.labels, confidence)
    drawn = {
        "schematic": figures.schematic(rate, params.history_length),
        "forgetting": figures.forgetting(tables["forgetting"], rate, confidence),
        "meta_validation": figures.meta_validation(tables["meta_errors"], tables["meta_curves"]),
        "predictions": figures.predictions(tables["predictions"], rate, confidence),
        "transfer": figures.transfer(summary, rate),
        "gains": figures.gains(summary, rate),
    }
    for name, figure in drawn.items():
        figures.save(figure, paths.REPORTS / "figures", name)
        plt.close(figure)
    report.write_json(report.FIGURE_CAPTIONS, paths.REPORTS / "figures" / "captions.json")
    folder = paths.REPORTS / "tables"
    write_csv(tables["transfer"], "transfer.csv", folder)
    report.write_table(report.transfer_table(summary, rate), folder, "transfer_summary")
    report.write_table(report.comparisons(tables["transfer"], summary, rate), folder, "comparisons")
    report.write_table(report.forgetting_table(tables["forgetting"], confidence), folder, "forgetting")
    report.write_table(report.meta_table(tables["meta_errors"]), folder, "meta_validation")
    report.write_json(report.TABLE_CAPTIONS, folder / "captions.json")
    plots = paths.REPORTS / "plots"
    shown = summary.assign(start=summary.method + " " + summary.steps.astype(str), accuracy=summary["mean"])
    write_csv(shown[["start", "labels", "accuracy"]], "transfer.csv", plots)
    by_k = tables["forgetting"].groupby(["images", "k"], as_index=False)["accuracy"].mean()
    write_csv(by_k, "forgetting.csv", plots)
    _, verdict = report.forgetting_verdict(tables["forgetting"], tables["source_learning"], confidence)
    lines = report.findings(tables["transfer"], params.evaluate.labels, rate, confidence)
    report.write_text(report.findings_page(verdict, report.check_pair(summary), lines), paths.REPORTS / "findings.md")
    values = report.metrics(summary, tables["forgetting"], tables["meta_errors"])
    report.write_json(values, paths.REPORTS / "metrics.json")
    return sorted(
        str(path.relative_to(paths.REPORTS))
        for kind in ("figures", "tables", "plots")
        for path in (paths.REPORTS / kind).iterdir()
    )
