"""What a prediction of Θ_{-1} is worth: as a step of weights, on the source task, and as a start for another task."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from know.bench.trajectories import Trajectory, trajectories
from know.data.splits import downstream_task
from know.params import Params
from know.prediction.options import Predict
from know.run.device import here
from know.run.executor import map_all, run_all
from know.run.store import FileInput
from know.stages.evaluate import SCRATCH
from know.stages.predict import Maker, other, predicted_starts, ruled
from know.stages.results import SavedStart, write_state
from know.tasks.measures import outcome
from know.training.forgetting import state_of
from know.training.runs import TransferJob, transfer
from know.weights.geometry import step_geometry
from know.weights.kinds import State

NAIVE = SavedStart("oracle", "naive", 0, 0, "reference")
REAL = SavedStart("oracle", "more_data", 0, 1, "oracle")
TRAJECTORY, START = ["task", "architecture", "number"], ["method", "options", "role"]


@dataclass(frozen=True)
class StartsJob:
    """The starts that ``params.predict`` makes of a trajectory, to be written into ``folder``."""

    params: Params
    trajectory: Trajectory
    folder: Path


@dataclass(frozen=True)
class Scored:
    """A start of a trajectory: cosine of its step with the real one, ratio of their norms (its over the real), and accuracy on
    the source task's test images (share). ``file``: its weights, None for fresh ones."""

    trajectory: Trajectory
    start: SavedStart
    file: FileInput | None = None
    cosine: float = float("nan")
    norm_ratio: float = float("nan")
    source_accuracy: float = float("nan")

    def transfer_jobs(self) -> list[TransferJob]:
        """Its fine-tuning, on the same draws of labels as every start of the trajectory."""
        one, bench = self.trajectory, self.trajectory.bench
        return [
            TransferJob(
                self.file,
                downstream_task(one.downsize),
                one.architecture,
                bench.labels,
                bench.validation_images,
                bench.fine_tuning,
                one.seed,
                draw,
            )
            for draw in range(bench.draws)
        ]


def _starts(job: StartsJob) -> list[Scored]:
    """Θ_0, the real Θ_{-1}, and every prediction and control, all by the same rule for BatchNorm."""
    one, source = job.trajectory, job.trajectory.source
    states, real, test = one.states(), one.real(), source.task.test(here())
    maker, scored = Maker(job.params, source, states[-1]), [Scored(one, SCRATCH)]
    for i, (start, state) in enumerate(ruled(job.params, _made(job, states, real))):
        net = maker.net(start, state)
        file = write_state(state_of(net), job.folder / one.name / f"{i}.safetensors")
        geometry = step_geometry(state, real, states[-1])
        whole = geometry[geometry.kind == "all"].iloc[0]
        accuracy = outcome(net, test).accuracy
        scored.append(Scored(one, start, FileInput.of(file), whole.cosine, whole.norm_ratio, accuracy))
    return scored


def _made(job: StartsJob, states: Sequence[State], real: State) -> Iterator[tuple[SavedStart, State]]:
    yield from ((NAIVE, states[-1]), (REAL, real))
    if job.params.predict.methods:
        fresh = state_of(other(job.trajectory.source).net())
        yield from predicted_starts(job.params, "oracle", states, 1, fresh, job.trajectory.seed)


def score(params: Params, predict: Predict, every: Sequence[Trajectory] | None = None) -> pd.DataFrame:
    """Score what the methods and controls of ``predict`` make of every trajectory, and beside them Θ_0 (naïve transfer), the
    real Θ_{-1} and fresh weights.

    Args:
        every: the trajectories, if not those in ``data/bench``.

    Returns:
        A row a trajectory (task, architecture, number) and start (method, options, role): cosine, norm_ratio,
        source_accuracy, and downstream, the mean over draws of labels, accuracy (on test images) and validation_accuracy. What
        is undefined is NaN.
    """
    every = trajectories(params.bench) if every is None else every
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            StartsJob(params.model_copy(update={"predict": predict, "downsize": one.downsize}), one, Path(folder))
            for one in every
        ]
        scored = [start for own in map_all(_starts, jobs, params.compute, "bench: predictions") for start in own]
        transfers = [job for one in scored for job in one.transfer_jobs()]
        found = iter(run_all(transfer, transfers, params.compute, "bench: fine-tuning"))
    rows = []
    for one in scored:
        trajectory, start, draws = one.trajectory, one.start, [next(found) for _ in range(one.trajectory.bench.draws)]
        rows.append(
            {
                "task": trajectory.task, "architecture": trajectory.architecture, "number": trajectory.number,
                "method": start.method, "options": start.options, "role": start.role,
                "cosine": one.cosine, "norm_ratio": one.norm_ratio, "source_accuracy": one.source_accuracy,
                "accuracy": fmean(draw.test.accuracy for draw in draws),
                "validation_accuracy": fmean(draw.validation.accuracy for draw in draws),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
