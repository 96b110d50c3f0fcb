"""The stage ``bench``: ``python -m know.bench`` makes the trajectories, if these parameters define others, and scores on them the
methods and controls of ``bench.predict``.

Writes ``data/bench``, and in ``reports/bench`` ``trajectories.csv`` (a row a trajectory and start), ``scores.csv`` (a row a
start) and ``bench.md``, which docs/bench.md shows.
"""

from __future__ import annotations

import sys

from know import paths
from know.bench.scoring import score
from know.bench.table import page, summary
from know.bench.trajectories import make
from know.options import ParamError
from know.params import Params, load
from know.stages.checks import check_hypermodels
from know.stages.results import write_csv


def run(params: Params) -> None:
    """Make what is not there, score, and write."""
    check_hypermodels(params.bench.predict, params.bench.history_length, "bench.predict")
    make(params.bench, params.compute)
    scores, folder = score(params, params.bench.predict), paths.REPORTS / "bench"
    write_csv(scores, "trajectories.csv", folder)
    write_csv(summary(scores, params.report), "scores.csv", folder)
    with paths.atomic(folder / "bench.md") as temporary:
        temporary.write_text(page(scores, params.report))


if __name__ == "__main__":
    try:
        run(load())
    except (ParamError, OSError) as error:
        sys.exit(f"know.bench: {error}")
