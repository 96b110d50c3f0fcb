"""Stage 5: fine-tuning on the downstream task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from know.analysis.statistics import mean_interval
from know.data.splits import downstream_task, source_task
from know.params import Params
from know.run.executor import run_all
from know.run.store import FileInput
from know.stages.results import SavedStart, read_starts, write_csv
from know.training.runs import TransferJob, Transferred, learning_curve, transfer

FOLLOWED = ("scratch", "naive", "more_data", "known", "shrunk")
"""The starts whose fine-tuning is followed for the learning curves: the first step, with one draw of labels a source seed."""
SCRATCH = SavedStart("main", "scratch", 0, 0, "reference")


@dataclass(frozen=True)
class Draw:
    """A share of the labels, and a pair of seeds."""

    fraction: float
    labels: int
    source_seed: int
    downstream_seed: int


def draws(params: Params) -> Iterator[Draw]:
    """Every share of the labels with every pair of seeds."""
    for fraction in params.evaluate.fractions:
        for source_seed in params.downsize.source_seeds:
            for downstream_seed in params.evaluate.downstream_seeds:
                yield Draw(fraction, round(fraction * params.evaluate.labels), source_seed, downstream_seed)


def transfer_job(params: Params, start: SavedStart, draw: Draw) -> TransferJob:
    """Fine-tuning one start on one draw."""
    return TransferJob(
        None if start == SCRATCH else FileInput.of(start.path(draw.source_seed)),
        downstream_task(params.downsize),
        params.forget.architecture,
        draw.labels,
        params.evaluate.validation_images,
        params.evaluate.fine_tuning,
        draw.source_seed,
        draw.downstream_seed,
    )


def run(params: Params) -> None:
    """Fine-tune every start on every draw of the downstream labels; choose candidates by validation images, and judge the
    chosen ones by test images.

    Writes ``transfer.csv``, ``selection.csv``, ``oracle.csv``, ``headroom.csv``, ``forgotten.csv`` and
    ``learning_curves.csv``.
    """
    starts = [SCRATCH, *read_starts()]
    runs = [(start, draw, transfer_job(params, start, draw)) for draw in draws(params) for start in starts]
    found = run_all(transfer, [job for *_, job in runs], params.compute, "fine-tuning")
    table = pd.DataFrame([_row(start, draw, result) for (start, draw, _), result in zip(runs, found, strict=True)])
    on_main = table[(table.track == "main") & ~table.role.isin(["headroom", "path"])]
    selection = select(on_main, params)
    kept = chosen(on_main, selection)
    task = {
        "source": source_task(params.downsize).name,
        "arch": params.forget.architecture,
        "downstream": downstream_task(params.downsize).name,
        "batchnorm": params.predict.batchnorm,
    }
    transferred = kept.assign(**task, seed=1000 * kept.source_seed + kept.downstream_seed)
    outcome, seeds = ["accuracy", "loss", "ece"], ["fraction", "labels", "source_seed", "downstream_seed"]
    columns = ["source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy"]
    more = [
        "role",
        "source_seed",
        "downstream_seed",
        "labels",
        "batchnorm",
        "chosen",
        "validation_accuracy",
        "loss",
        "ece",
    ]
    write_csv(transferred[columns + more], "transfer.csv")
    write_csv(selection, "selection.csv")
    on_oracle = chosen(table[table.track == "oracle"], selection)
    write_csv(on_oracle[["method", "steps", "role", *seeds, *outcome]], "oracle.csv")
    headroom = table[(table.track == "main") & (table.role == "headroom") | (table.method == "scratch")]
    write_csv(headroom.rename(columns={"steps": "images"})[["images", *seeds, "accuracy"]], "headroom.csv")
    path = table[table.role == "path"].rename(columns={"steps": "k"})
    write_csv(path[["k", *seeds, "accuracy"]], "forgotten.csv")
    write_csv(_curves(params, starts), "learning_curves.csv")


def _row(start: SavedStart, draw: Draw, found: Transferred) -> dict[str, object]:
    return asdict(start) | asdict(draw) | asdict(found.test) | {"validation_accuracy": found.validation.accuracy}


def select(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Each candidate's and step's accuracy on downstream validation images; the best mean of each method is chosen.

    Returns:
        method, candidate, steps, options, accuracy, half_width and units (over source seeds), candidates (how many), images
        (validation labels), chosen; of the methods that have more than one.
    """
    rows: list[dict[str, object]] = []
    for method, own in table[table.role.isin(["method", "control"])].groupby("method", sort=False):
        groups = list(own.groupby(["candidate", "steps", "options"], sort=False))
        if len(groups) < 2:
            continue
        units = [group.groupby("source_seed").validation_accuracy.mean() for _, group in groups]
        estimates = [mean_interval(one, params.report.confidence) for one in units]
        best = max(range(len(groups)), key=lambda i: estimates[i].mean)
        rows += [
            {
                "method": method, "candidate": candidate, "steps": steps, "options": options, "accuracy": estimate.mean,
                "half_width": estimate.half_width, "units": estimate.units, "candidates": len(groups),
                "images": params.evaluate.validation_images, "chosen": i == best,
            }
            for i, (((candidate, steps, options), _), estimate) in enumerate(zip(groups, estimates, strict=True))
        ]  # fmt: skip
    columns = [
        "method",
        "candidate",
        "steps",
        "options",
        "accuracy",
        "half_width",
        "units",
        "candidates",
        "images",
        "chosen",
    ]
    return pd.DataFrame(rows, columns=columns)


def chosen(table: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the chosen candidate of each method, at all of its steps; ``chosen`` says which step was: of the nets
    that were really trained on more data, the one on most, which the furthest prediction stands for."""
    best = selection[selection.chosen].set_index("method")
    candidate = table.method.map(best.candidate).fillna(table.candidate)
    steps = table.method.map(best.steps).fillna(table.groupby("method").steps.transform("max"))
    return table.assign(chosen=steps == table.steps)[candidate == table.candidate]


def _curves(params: Params, starts: Sequence[SavedStart]) -> pd.DataFrame:
    followed = [s for s in starts if s.track == "main" and s.method in FOLLOWED and s.steps < 2 and s.candidate == 0]
    largest, first = max(params.evaluate.fractions), params.evaluate.downstream_seeds[0]
    runs = [
        (start, draw, transfer_job(params, start, draw))
        for draw in draws(params)
        for start in followed
        if draw.fraction == largest and draw.downstream_seed == first
    ]
    curves = run_all(learning_curve, [job for *_, job in runs], params.compute, "learning curves")
    rows = [
        {"method": start.method, "steps": start.steps} | asdict(draw)
        | {"epoch": point.epoch, "accuracy": point.outcome.accuracy, "loss": point.outcome.loss}
        for (start, draw, _), curve in zip(runs, curves, strict=True)
        for point in curve
    ]  # fmt: skip
    return pd.DataFrame(rows)
