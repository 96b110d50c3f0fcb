"""Whether a recipe leaves headroom: what the real Θ_{-1} gains over naïve transfer, by validation images, on trajectories that are
none of the bench's. ``python -m know.bench.headroom`` prints it, a row a task and network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from know.bench.scoring import score
from know.bench.table import cells, shown_cells
from know.bench.trajectories import forget, trajectories
from know.params import Params, load

PILOT, DRAWS = 999, 8


def headroom(params: Params) -> pd.DataFrame:
    """``cells`` of the trajectories of source seed 999, with eight draws of labels each, measured on validation images."""
    tasks = {name: task.model_copy(update={"source_seeds": (PILOT,)}) for name, task in params.bench.tasks.items()}
    bench = params.bench.model_copy(update={"tasks": tasks, "draws": DRAWS})
    with tempfile.TemporaryDirectory() as folder:
        every = trajectories(bench, Path(folder))
        forget(every, bench.forgetting, params.compute)
        nothing = bench.predict.model_copy(update={"methods": (), "controls": ()})
        scores = score(params.model_copy(update={"bench": bench}), nothing, every)
    return cells(scores.assign(accuracy=scores.validation_accuracy), params.report)


if __name__ == "__main__":
    print(shown_cells(headroom(load())).to_string(index=False))
