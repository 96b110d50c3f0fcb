"""Three predictors that could win, each judged once, as ``bench/beyond.yaml`` names it: ``python -m know.bench.beyond``.

Reads ``data/bench`` and ``reports/bench/trajectories.csv``, and writes into ``reports/bench`` ``beyond.csv`` (a row a trajectory and
start that is judged), ``beyond_summary.csv`` (a row a start), ``beyond_directions.csv`` (a row a trajectory and number of halves),
``beyond_cosine.png`` and ``.pdf``, and the pages ``beyond_directions.md`` and ``beyond.md``, for docs/beyond.md. Every run is found
again in the store.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor

from know import paths
from know.bench.judging import COMMITTED, directions_page, page, summary
from know.bench.layerwise import Coefficients, design, fitted
from know.bench.plan import Beyond, load_plan
from know.bench.scoring import TRAJECTORY, Scored
from know.bench.trajectories import Trajectory, check_made, trajectories
from know.figures.bench import cosine_by_halves
from know.figures.style import save, use_style
from know.options import ParamError
from know.params import Params, load
from know.report.writing import write_text
from know.run.executor import map_all, run_all
from know.run.store import FileInput
from know.seeds import derive
from know.stages.predict import Maker
from know.stages.results import SavedStart, write_csv, write_state
from know.training.distillation import TARGET, DistilJob, distil
from know.training.forgetting import state_of
from know.training.jackknife import AverageJob, GoneOn, GoOnJob, average, go_on, jackknife_step
from know.training.loop import Recipe
from know.training.runs import Transferred, transfer
from know.weights.algebra import Weights
from know.weights.geometry import step_geometry
from know.weights.kinds import State

# --- starts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """Weights to start from on a trajectory, called by their method and options; ``lr``: of the fine-tuning, if not the bench's."""

    trajectory: Trajectory
    method: str
    options: str
    state: State
    lr: float | None = None


@dataclass(frozen=True)
class Start:
    """The same, written by the bench's rule for BatchNorm, with how its step lies to the real one."""

    scored: Scored
    lr: float | None

    @property
    def method(self) -> str:
        return self.scored.start.method

    @property
    def options(self) -> str:
        return self.scored.start.options


@dataclass(frozen=True)
class WriteJob:
    """A start to be written into ``file``."""

    params: Params
    made: Made
    file: Path


def _write(job: WriteJob) -> Start:
    made, one = job.made, job.made.trajectory
    params, theta_0 = job.params.model_copy(update={"downsize": one.downsize}), one.states()[-1]
    start = SavedStart("oracle", made.method, 0, 1, "method", made.options, params.bench.predict.batchnorm)
    net = Maker(params, one.source, theta_0).net(start, made.state)
    file = write_state(state_of(net), job.file)
    whole = step_geometry(made.state, one.real(), theta_0).query("kind == 'all'").iloc[0]
    return Start(Scored(one, start, FileInput.of(file), whole.cosine, whole.norm_ratio), made.lr)


def _theta_0(one: Trajectory) -> FileInput:
    return FileInput.of(one.folder / "theta_0.safetensors")


@dataclass(frozen=True)
class Pair:
    """Where a run on D_0 ends, and those on two complementary halves of it."""

    whole: GoneOn
    halves: tuple[GoneOn, GoneOn]


def step_of(pairs: Sequence[Pair]) -> Weights:
    """The jackknife's step by these pairs."""
    return jackknife_step(
        [Weights(one.whole.state) for one in pairs], [Weights(end.state) for one in pairs for end in one.halves]
    )


def extrapolated(base: Tensor, halves: Sequence[Tensor], scale: float) -> Tensor:
    """f_0 + c (f_0 - mean of the halves' outputs), all logits (N, classes)."""
    return base + scale * (base - torch.stack(list(halves)).mean(0))


@dataclass(frozen=True)
class Trial:
    """The experiment: its parameters, its plan and the bench's trajectories; starts are written into ``folder``."""

    params: Params
    plan: Beyond
    every: Sequence[Trajectory]
    folder: Path

    def pairs(self) -> list[list[Pair]]:
        """Of each trajectory."""
        own = self.plan.jackknife
        recipe = Recipe(own.epochs, own.batch_size, own.lr)
        jobs = [
            GoOnJob(one.source, _theta_0(one), one.downsize.source_images, recipe, pair, part)
            for one in self.every
            for pair in range(own.pairs)
            for part in ("whole", "first", "second")
        ]
        ends = iter(run_all(go_on, jobs, self.params.compute, "beyond: halves"))
        return [[Pair(next(ends), (next(ends), next(ends))) for _ in range(own.pairs)] for _ in self.every]

    def directions(self, pairs: Sequence[Sequence[Pair]]) -> pd.DataFrame:
        """How the jackknife's step lies to the real one, by the number of halves.

        Returns:
            task, architecture, number, halves; cosine and norm_ratio with the real step; agreement: the cosine of the steps by one
            half of the pairs and by the other, which share no run (NaN for a single pair).
        """
        rows = []
        for one, own in zip(self.every, pairs, strict=True):
            real = Weights(one.real()) - Weights(one.states()[-1])
            for halves in self.plan.jackknife.halves:
                used, cut = own[: halves // 2], halves // 4
                step = step_of(used)
                agreement = step_of(used[:cut]).cosine(step_of(used[cut:])) if cut else float("nan")
                lies = step.cosine(real), step.norm() / real.norm()
                rows.append((one.task, one.architecture, one.number, halves, *lies, agreement))
        return pd.DataFrame(rows, columns=[*TRAJECTORY, "halves", "cosine", "norm_ratio", "agreement"])

    def jackknifed(self, pairs: Sequence[Sequence[Pair]]) -> list[Made]:
        """Θ_0 + c·step, of each c."""
        found = []
        for one, own in zip(self.every, pairs, strict=True):
            base, step = Weights(one.states()[-1]), step_of(own)
            found += [Made(one, "jackknife", f"c={c:g}", (base + c * step).state()) for c in self.plan.jackknife.scales]
        return found

    def distilled(self, pairs: Sequence[Sequence[Pair]]) -> list[Made]:
        """Θ_0 with the extrapolated outputs distilled into it, of each c."""
        own = self.plan.distilled
        recipe, asked = Recipe(own.epochs, own.batch_size, own.lr), Recipe(0, own.batch_size, own.lr)
        as_it_is = [
            GoOnJob(one.source, _theta_0(one), one.downsize.source_images, asked, 0, "whole") for one in self.every
        ]
        outputs = run_all(go_on, as_it_is, self.params.compute, "beyond: outputs")
        jobs, called = [], []
        for one, base, ends in zip(self.every, outputs, pairs, strict=True):
            for c in own.scales:
                target = extrapolated(base.outputs, [end.outputs for pair in ends for end in pair.halves], c)
                file = FileInput.of(write_state({TARGET: target}, self.folder / f"{one.name}-{c:g}.safetensors"))
                jobs.append(DistilJob(one.source, _theta_0(one), one.downsize.source_images, file, recipe))
                called.append((one, "distilled", f"c={c:g}"))
        states = run_all(distil, jobs, self.params.compute, "beyond: distillation")
        return [Made(*name, state) for name, state in zip(called, states, strict=True)]

    def layerwise(self) -> list[Made]:
        """By the λ_l and β_l that are best on the trajectories of the other source tasks, and by the same λ_l without a step."""
        own, tried, made = self.plan.layerwise, [], []
        for one in self.every:
            for i, at in enumerate(design(own.points, own.shrink, own.step, derive("layer-wise", one.seed))):
                tried.append((one.task, one.name, at))
                made.append(Made(one, "tried", str(i), at.start(one.states()[-1], one.states()[-2])))
        runs = self.fine_tuned(self.starts(made), self.plan.selection_draws)
        losses = [fmean(draw.validation.loss for draw in own) for own in runs]

        def learned(task: str) -> Coefficients:
            meta = [(at, loss, name) for (of, name, at), loss in zip(tried, losses, strict=True) if of != task]
            points, values, names = zip(*meta, strict=True)
            return fitted(points, values, names, own.shrink, own.step)

        best = {task: learned(task) for task in self.params.bench.tasks}
        found = []
        for one in self.every:
            at, (*_, theta_1, theta_0) = best[one.task], one.states()
            found.append(Made(one, "layerwise", str(at), at.start(theta_0, theta_1)))
            found.append(Made(one, "layerwise_still", str(at.still), at.still.start(theta_0, theta_1)))
        return found

    def references(self) -> list[Made]:
        """Θ_0 at each learning rate, and the average over a run of the jackknife's compute."""
        own = self.plan.jackknife
        recipe = Recipe(own.passes, own.batch_size, own.lr)
        jobs = [AverageJob(one.source, _theta_0(one), one.downsize.source_images, recipe) for one in self.every]
        averages = run_all(average, jobs, self.params.compute, "beyond: averages")
        found = [Made(one, "average", "", state) for one, state in zip(self.every, averages, strict=True)]
        for one in self.every:
            for lr in self.plan.references.learning_rates:
                found.append(Made(one, "naive_tuned", f"lr={lr:g}", one.states()[-1], lr))
        return found

    def starts(self, made: Sequence[Made]) -> list[Start]:
        """Written."""
        jobs = [WriteJob(self.params, one, self.folder / f"{one.method}-{i}.safetensors") for i, one in enumerate(made)]
        return map_all(_write, jobs, self.params.compute, "beyond: starts")

    def fine_tuned(self, starts: Sequence[Start], draws: int) -> list[list[Transferred]]:
        """Each on the first ``draws`` of labels."""
        jobs = []
        for one in starts:
            for job in one.scored.transfer_jobs()[:draws]:
                rate = {} if one.lr is None else {"lr": one.lr}
                jobs.append(replace(job, fine_tuning=job.fine_tuning.model_copy(update=rate)))
        found = iter(run_all(transfer, jobs, self.params.compute, "beyond: fine-tuning"))
        return [[next(found) for _ in range(draws)] for _ in starts]

    def chosen(self, starts: Sequence[Start]) -> list[Start]:
        """Of each method the starts whose options are best on validation images, over all trajectories."""
        draws = self.plan.selection_draws
        scores = pd.DataFrame(
            (one.method, one.options, fmean(draw.validation.accuracy for draw in own))
            for one, own in zip(starts, self.fine_tuned(starts, draws), strict=True)
        )
        best = set(scores.groupby([0, 1])[2].mean().groupby(level=0).idxmax())
        return [one for one in starts if (one.method, one.options) in best]

    def judged(self, starts: Sequence[Start]) -> pd.DataFrame:
        """Starts as ``know.bench.scoring.score`` has them, with one option of each method a trajectory."""
        rows = []
        for one, own in zip(starts, self.fine_tuned(starts, self.params.bench.draws), strict=True):
            at = one.scored.trajectory
            rows.append(
                {
                    "task": at.task, "architecture": at.architecture, "number": at.number,
                    "method": one.method, "options": one.options,
                    "cosine": one.scored.cosine, "norm_ratio": one.scored.norm_ratio,
                    "accuracy": fmean(draw.test.accuracy for draw in own),
                    "validation_accuracy": fmean(draw.validation.accuracy for draw in own),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def committed(plan: Beyond) -> pd.DataFrame:
    """Of the bench's own scores naïve transfer, the real Θ_{-1}, and λΘ_0 with the λ that is best on validation images.

    Raises:
        ParamError: the bench has not scored one of the plan's λ.
    """
    file = paths.REPORTS / "bench" / "trajectories.csv"
    scores = pd.read_csv(file, dtype={"options": str}).fillna({"options": ""})
    named = {f"shrink={value:g}" for value in plan.references.shrink}
    shrunk = scores[(scores.method == "shrink") & scores.options.isin(named)]
    if missing := named - set(shrunk.options):
        raise ParamError(f"references.shrink: {file} has no {min(missing)}; allowed: those in bench.predict.controls")
    best = shrunk.groupby("options").validation_accuracy.mean().idxmax()
    kept = scores[scores.method.isin(COMMITTED) & scores.role.isin(["reference", "oracle"])]
    columns = [*TRAJECTORY, "method", "options", "cosine", "norm_ratio", "accuracy", "validation_accuracy"]
    return pd.concat([kept, shrunk[shrunk.options == best]])[columns]


def run(params: Params, plan: Beyond) -> None:
    """Make the starts, choose, judge, and write.

    Raises:
        ParamError: ``data/bench`` holds other trajectories, or the plan names what the bench has not scored.
    """
    check_made(params.bench)
    folder, scores = paths.REPORTS / "bench", committed(plan)
    with tempfile.TemporaryDirectory() as temporary:
        trial = Trial(params, plan, trajectories(params.bench), Path(temporary))
        pairs = trial.pairs()
        directions = trial.directions(pairs)
        write_csv(directions, "beyond_directions.csv", folder)
        write_text(directions_page(directions, params.report), folder / "beyond_directions.md")
        use_style()
        save(cosine_by_halves(directions, params.report.confidence), folder, "beyond_cosine")
        candidates = trial.starts([*trial.jackknifed(pairs), *trial.distilled(pairs), *trial.references()])
        judged = trial.judged([*trial.chosen(candidates), *trial.starts(trial.layerwise())])
    scores = pd.concat([scores, judged], ignore_index=True)
    write_csv(scores, "beyond.csv", folder)
    write_csv(summary(scores, params.report), "beyond_summary.csv", folder)
    write_text(page(scores, plan, params.report), folder / "beyond.md")


if __name__ == "__main__":
    try:
        run(load(), load_plan())
    except (ParamError, OSError) as error:
        sys.exit(f"know.bench.beyond: {error}")
