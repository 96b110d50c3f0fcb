"""Stage 5: fine-tuning on the downstream task."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from safetensors.torch import load_file

from know import paths
from know.evaluation import labelled, transfer
from know.executor import device_of, resumable, run_all
from know.experiment.results import start_path, write_csv
from know.params import Params
from know.splits import downstream


def paired_seed(source_seed: int, downstream_seed: int) -> int:
    """The one number that stands for a pair of seeds in ``transfer.csv``; ``divmod(seed, 1000)`` takes it apart."""
    return 1000 * source_seed + downstream_seed


@dataclass(frozen=True)
class TransferRun:
    """Fine-tuning one start on one draw of the downstream labels."""

    params: Params
    source_seed: int
    downstream_seed: int
    fraction: float
    method: str
    step: int


def _transfer_run(run: TransferRun) -> float:
    params, device = run.params, device_of(run.params.compute)
    pool, test = (downstream(params.downsize, part, device) for part in ("train", "test"))
    count = round(run.fraction * params.evaluate.labels)
    seed = paired_seed(run.source_seed, run.downstream_seed)
    start = None if run.method == "scratch" else load_file(start_path(run.source_seed, run.method, run.step))
    data = labelled(pool, count, run.downstream_seed)
    return transfer(params.forget.architecture, start, data, test, params.evaluate.fine_tuning, seed).accuracy


def run(params: Params) -> pd.DataFrame:
    """Fine-tune every start on every draw of the downstream labels; test accuracy, once, at the end.

    Returns:
        Rows of source, arch, downstream, method, steps, fraction, seed, accuracy.
    """
    seeds = params.downsize.source_seeds
    first = paths.PREDICTIONS / f"seed_{seeds[0]}"
    starts = sorted((path.stem.rpartition("_")[0], int(path.stem.rpartition("_")[2])) for path in first.iterdir())
    runs = [
        TransferRun(params, source_seed, downstream_seed, fraction, method, step)
        for fraction in params.evaluate.fractions
        for source_seed in seeds
        for downstream_seed in params.evaluate.downstream_seeds
        for method, step in [("scratch", 0), *starts]
    ]
    with resumable("evaluate", params, [paths.PREDICTIONS]) as resume:
        accuracies = run_all(_transfer_run, runs, params.compute, "fine-tuning", resume)
        task = {
            "source": _task_name(params.downsize.dataset, params.downsize.source_classes),
            "arch": params.forget.architecture,
            "downstream": _task_name(params.downsize.downstream_dataset, params.downsize.downstream_classes),
        }
        table = pd.DataFrame(
            [
                task
                | {
                    "method": run.method,
                    "steps": run.step,
                    "fraction": run.fraction,
                    "seed": paired_seed(run.source_seed, run.downstream_seed),
                    "accuracy": accuracy,
                }
                for run, accuracy in zip(runs, accuracies, strict=True)
            ]
        )
        return write_csv(table, "transfer.csv")


def _task_name(dataset: str, classes: tuple[int, ...]) -> str:
    return f"{dataset}:{'-'.join(map(str, classes))}"
