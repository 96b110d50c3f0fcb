"""Stage 5: fine-tuning on the downstream task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from safetensors.torch import load_file

from know import paths
from know.analysis.statistics import mean_interval
from know.data.images import ImageSet
from know.data.splits import downstream, downstream_parts
from know.params import Params
from know.prediction.options import candidate_names
from know.run.executor import device_of, resumable, run_all
from know.stages.results import (
    oracle_start_path,
    saved_starts,
    start_path,
    trained_path,
    write_csv,
)
from know.training.fine_tuning import Outcome, fine_tune, labelled, outcome, transfer, transferred

Measured = Literal["validation", "test"]


def paired_seed(source_seed: int, downstream_seed: int) -> int:
    """The one number that stands for a pair of seeds in ``transfer.csv``; ``divmod(seed, 1000)`` takes it apart."""
    return 1000 * source_seed + downstream_seed


@dataclass(frozen=True)
class TransferRun:
    """Fine-tuning the weights in a file (None: from scratch) on one draw of the downstream labels."""

    params: Params
    start: Path | None
    source_seed: int
    downstream_seed: int
    fraction: float
    measured: Measured

    @property
    def seed(self) -> int:
        return paired_seed(self.source_seed, self.downstream_seed)

    def setting(self) -> tuple[dict[str, torch.Tensor] | None, ImageSet, ImageSet]:
        """The start, the labelled images and those to measure on."""
        pool, validation, test = _images(self.params)
        data = labelled(pool, round(self.fraction * self.params.evaluate.labels), self.downstream_seed)
        start = None if self.start is None else load_file(self.start)
        return start, data, test if self.measured == "test" else validation


@lru_cache(maxsize=1)
def _images(params: Params) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Of the downstream task: images to label, validation images, test images."""
    device = device_of(params.compute)
    pool, validation = downstream_parts(params.downsize, params.evaluate.validation_images, device)
    return pool, validation, downstream(params.downsize, "test", device)


def _transfer_run(run: TransferRun) -> Outcome:
    start, data, measured = run.setting()
    evaluate = run.params.evaluate
    return transfer(run.params.forget.architecture, start, data, measured, evaluate.fine_tuning, run.seed)


def _curve_run(run: TransferRun) -> list[tuple[int, Outcome]]:
    """Outcomes while fine-tuning: at epoch 0, after the head's phase, and some 20 times in the second."""
    start, data, measured = run.setting()
    options = run.params.evaluate.fine_tuning
    net = transferred(run.params.forget.architecture, start, data, run.seed)
    every, curve = max(1, options.epochs // 20), []

    def follow(epoch: int) -> None:
        if epoch % every == 0:
            curve.append((epoch, outcome(net, measured)))

    fine_tune(net, data, options, run.seed, head_first=start is not None, on_epoch=follow)
    return curve


@dataclass(frozen=True)
class Evaluation:
    """``transfer``: rows of source, arch, downstream, method, steps, fraction, seed, accuracy, loss, ece, on the test images.
    ``selection``: method, candidate, options, accuracy, half_width, units, chosen, on validation images. ``oracle``: method,
    steps, fraction, seed, accuracy, loss, ece, from the path that starts at the real Θ_{-1}. ``headroom``: images, fraction,
    seed, accuracy of nets really trained on so many images. ``curves``: method, steps, fraction, seed, epoch, accuracy, loss
    on validation images while fine-tuning."""

    transfer: pd.DataFrame
    selection: pd.DataFrame
    oracle: pd.DataFrame
    headroom: pd.DataFrame
    curves: pd.DataFrame


FOLLOWED = {("scratch", 0), ("naive", 0), ("more_data", 1), ("known", 1), ("shrunk", 1)}
"""The starts whose fine-tuning is followed for the learning curves, with one draw of labels a source seed."""


RESCALING = {"shrunk", "shrink_perturb"}
"""The controls that are fine-tuned on the path whose next point is known, beside the methods."""


def run(params: Params) -> Evaluation:
    """Choose each method's candidate on validation images; then fine-tune every start on every draw of the downstream
    labels and measure test accuracy, once, at the end."""
    with resumable("evaluate", params, [paths.PREDICTIONS, paths.TRAJECTORIES]) as resume:
        selection = _select(params, resume)
        chosen = {start: start for start in params.predict.starts}
        chosen |= {row.method: f"{row.method}.{row.candidate}" for row in selection[selection.chosen].itertuples()}
        file_of = {"naive": "naive", "more_data": "more_data"} | chosen
        names = {file: start for start, file in file_of.items()}
        on_oracle = {"naive", "more_data", *(one[0].start for one in params.predict.methods), *RESCALING}

        groups: dict[str, list[tuple[tuple[str, int], TransferRun]]] = {"transfer": [], "oracle": [], "headroom": []}
        for fraction, source_seed, downstream_seed in _draws(params):

            def on(
                start: Path | None, draw: tuple[int, int, float] = (source_seed, downstream_seed, fraction)
            ) -> TransferRun:
                return TransferRun(params, start, *draw, "test")

            groups["transfer"].append((("scratch", 0), on(None)))
            for file, step in saved_starts(start_path(source_seed, "naive", 0).parent):
                if file in names:
                    groups["transfer"].append(((names[file], step), on(start_path(source_seed, file, step))))
            if oracle_start_path(source_seed, "naive", 0).exists():
                for file, step in saved_starts(oracle_start_path(source_seed, "naive", 0).parent):
                    if names.get(file) in on_oracle:
                        groups["oracle"].append(((names[file], step), on(oracle_start_path(source_seed, file, step))))
            for images, start in _really_trained(params, source_seed).items():
                groups["headroom"].append((("trained", images), on(start)))
        runs = list(dict.fromkeys(run for group in groups.values() for _, run in group))
        found = dict(zip(runs, run_all(_transfer_run, runs, params.compute, "fine-tuning", resume), strict=True))
        tables = {
            name: pd.DataFrame(
                [
                    {"method": method, "steps": step, "fraction": run.fraction, "seed": run.seed} | asdict(found[run])
                    for (method, step), run in group
                ],
                columns=["method", "steps", "fraction", "seed", "accuracy", "loss", "ece"],
            )
            for name, group in groups.items()
        }
        headroom = tables["headroom"].rename(columns={"steps": "images"})
        scratch = tables["transfer"].query("method == 'scratch'").assign(images=0)
        headroom = pd.concat([scratch, headroom])[["images", "fraction", "seed", "accuracy"]]
        task = {
            "source": _task_name(params.downsize.dataset, params.downsize.source_classes),
            "arch": params.forget.architecture,
            "downstream": _task_name(params.downsize.downstream_dataset, params.downsize.downstream_classes),
        }
        return Evaluation(
            write_csv(pd.DataFrame(task, index=tables["transfer"].index).join(tables["transfer"]), "transfer.csv"),
            write_csv(selection, "selection.csv"),
            write_csv(tables["oracle"], "oracle.csv"),
            write_csv(headroom.sort_values(["images", "fraction", "seed"], ignore_index=True), "headroom.csv"),
            write_csv(_curves(params, groups["transfer"], resume), "learning_curves.csv"),
        )


def _really_trained(params: Params, source_seed: int) -> dict[int, Path]:
    """Nets by how many images they were trained on; Θ_0 and the real Θ_{-1} are starts already."""
    folder, downsize = trained_path(source_seed, 0).parent, params.downsize
    nets = {int(file.stem): file for file in sorted(folder.glob("[0-9]*.safetensors"))}
    nets[downsize.source_images] = start_path(source_seed, "naive", 0)
    if (more := start_path(source_seed, "more_data", 1)).exists():
        nets[round(downsize.source_images / params.rate)] = more
    return nets


def _draws(params: Params) -> list[tuple[float, int, int]]:
    """Every fraction, source seed and downstream seed."""
    return [
        (fraction, source_seed, downstream_seed)
        for fraction in params.evaluate.fractions
        for source_seed in params.downsize.source_seeds
        for downstream_seed in params.evaluate.downstream_seeds
    ]


def _select(params: Params, resume: Path) -> pd.DataFrame:
    """Each candidate's accuracy on validation images after fine-tuning from its first step; the best mean is chosen.

    Over source seeds and fractions, with the first downstream seed's labels.
    """
    candidates = {start: given for start, given in params.predict.starts.items() if len(given) > 1}
    runs = [
        TransferRun(params, start_path(source_seed, file, 1), source_seed, downstream_seed, fraction, "validation")
        for given in candidates.values()
        for file in candidate_names(given)
        for fraction, source_seed, downstream_seed in _draws(params)
        if downstream_seed == params.evaluate.downstream_seeds[0]
    ]
    rows = [
        (run.start.stem.rpartition("_")[0], run.source_seed, found.accuracy)
        for run, found in zip(runs, run_all(_transfer_run, runs, params.compute, "selection", resume), strict=True)
        if run.start is not None
    ]
    table = pd.DataFrame(rows, columns=["file", "source_seed", "accuracy"])
    units = table.groupby(["file", "source_seed"]).accuracy.mean()
    columns = ["method", "candidate", "options", "accuracy", "half_width", "units", "chosen"]
    selection: list[tuple[object, ...]] = []
    for start, given in candidates.items():
        estimates = [mean_interval(units[file], params.report.confidence) for file in candidate_names(given)]
        best = max(range(len(given)), key=lambda i: estimates[i].mean)
        selection += [
            (start, i, one.stated(given), estimate.mean, estimate.half_width, estimate.units, i == best)
            for i, (one, estimate) in enumerate(zip(given, estimates, strict=True))
        ]
    return pd.DataFrame(selection, columns=columns)


def _curves(params: Params, group: Sequence[tuple[tuple[str, int], TransferRun]], resume: Path) -> pd.DataFrame:
    followed = [
        (key, TransferRun(params, run.start, run.source_seed, run.downstream_seed, run.fraction, "validation"))
        for key, run in group
        if key in FOLLOWED
        and run.fraction == max(params.evaluate.fractions)
        and run.downstream_seed == params.evaluate.downstream_seeds[0]
    ]
    curves = run_all(_curve_run, [run for _, run in followed], params.compute, "learning curves", resume / "curves")
    rows = [
        (*key, run.fraction, run.seed, epoch, found.accuracy, found.loss)
        for (key, run), curve in zip(followed, curves, strict=True)
        for epoch, found in curve
    ]
    return pd.DataFrame(rows, columns=["method", "steps", "fraction", "seed", "epoch", "accuracy", "loss"])


def _task_name(dataset: str, classes: Sequence[int]) -> str:
    return f"{dataset}:{'-'.join(map(str, classes))}"
