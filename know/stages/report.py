"""Stage 6: every registered figure and table, the findings and the metrics."""

from __future__ import annotations

import matplotlib.pyplot as plt

from know import figures, paths
from know.figures.registry import FIGURES, TABLES
from know.params import Params
from know.report.findings import findings, page, summary
from know.report.metrics import metrics
from know.report.results import Results
from know.report.writing import write_json, write_table, write_text
from know.stages.results import write_csv


def run(params: Params, results: Results | None = None) -> list[str]:
    """Write everything that is registered, ``findings.md``, ``summary.md``, ``metrics.json`` and the plots' data where ``params.reports`` says.

    Args:
        results: what ``Results.read`` found, if it was called before.

    Returns:
        The files written, relative to that folder.
    """
    results = results or Results.read(params)
    reports = paths.ROOT / params.reports
    drawn, written = reports / "figures", reports / "tables"
    captions: dict[str, str] = {}
    for name, entry in FIGURES.items():
        if (figure := results.figure(name)) is not None:
            figures.save(figure, drawn, name)
            plt.close(figure)
            captions[name] = results.worded(entry.caption)
    write_json(captions, drawn / "captions.json")
    captions = {}
    for name, entry in TABLES.items():
        if (table := results.table(name)) is not None:
            write_table(table, written, name, entry.shown)
            captions[name] = results.worded(entry.caption)
    write_json(captions, written / "captions.json")

    if (by_labels := results.table("transfer_summary")) is not None:
        named = by_labels.assign(start=by_labels.method + " " + by_labels.steps.astype(str))
        write_csv(named[["start", "labels", "accuracy"]], "transfer.csv", reports / "plots")
    by_k = results["forgetting"].groupby(["images", "k"], as_index=False)["accuracy"].mean()
    write_csv(by_k, "forgetting.csv", reports / "plots")
    write_text(page(findings(results)), reports / "findings.md")
    write_text(page(summary(results)), reports / "summary.md")
    write_json(metrics(results), reports / "metrics.json")
    kinds = ("figures", "tables", "plots")
    return sorted(str(file.relative_to(reports)) for kind in kinds for file in (reports / kind).iterdir())
