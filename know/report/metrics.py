"""The few numbers that ``dvc metrics diff`` compares and that an ablation collects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from know.analysis.comparisons import Comparison
from know.analysis.starts import NAIVE
from know.report.tables import error_ratios

if TYPE_CHECKING:
    from know.report.results import Results


def metrics(results: Results) -> dict[str, object]:
    """Accuracy of what was chosen, each start's gain over naïve transfer, the gate, the contrasts. What has no bound
    is null."""
    found = results.comparisons
    gains = {start: one.gain for start in found.starts if (one := found.of(start, NAIVE)) is not None}
    values: dict[str, object] = {
        "accuracy": {f"{start.name}_{start.step}": found.accuracy(start).mean for start in found.chosen.values()},
        "gain": {f"{s.name}_{s.step}": {"mean": g.mean, "half_width": _bound(g.half_width)} for s, g in gains.items()},
        "gate": {"forgetting": _brief(results.forgetting)} | ({"headroom": _brief(found.gate)} if found.gate else {}),
        "contrasts": {f"{a}-{b}": _brief(one) for a, b in found.contrasts if (one := found.named(a, b)) is not None},
    }
    values["why"] = results.why.verdict
    if results.has("meta_errors") and "KNOWN" in (ratios := error_ratios(results["meta_errors"])):
        values["known_error_over_no_change"] = ratios["KNOWN"].groupby("kind").median().to_dict()
    return values


def _brief(one: Comparison) -> dict[str, float]:
    return {"mean": one.gain.mean, "p": one.p_holm}


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
