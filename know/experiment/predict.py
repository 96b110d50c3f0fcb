"""Stage 4: the weights past Θ_0."""

from __future__ import annotations

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from know import paths
from know.controls import Case
from know.executor import device_of
from know.experiment.results import more_path, split_path, start_path, trajectory_path, write_csv
from know.forgetting import load_trajectory, state_of
from know.hypermodel import Kind
from know.kinds import State
from know.models import build
from know.params import Params
from know.prediction import (
    by_kind,
    retrodict,
    with_batchnorm,
)
from know.progress import track
from know.splits import load_split, source
from know.training import measure, reestimate_batchnorm


def run(params: Params) -> pd.DataFrame:
    """Retrodict 1 … ``steps`` steps past Θ_0 by each method, and apply the BatchNorm rule to all starts alike.

    Returns:
        Rows of seed, method, step, source accuracy on the test images (before any fine-tuning), and for each kind the
        norm relative to Θ_0's, the step's norm relative to |Θ_0 - Θ_1|, and its cosine with Θ_0 - Θ_1.
    """
    options, device = params.predict, device_of(params.compute)
    (known,) = (method for method in options.methods if method.method == "known")
    pool, test = (source(params.downsize, part, device) for part in ("train", "test"))
    rows = []
    for seed in track(params.downsize.source_seeds, desc="retrodiction"):
        trajectory = load_trajectory(trajectory_path(seed), params.history_length)
        theta_0, split = trajectory[-1], load_split(split_path(seed))
        starts: dict[tuple[str, int], State] = {("naive", 0): theta_0}
        if split.more is not None:
            starts["more_data", 1] = load_file(more_path(seed))
        net = build(params.forget.architecture, pool.images.shape[1], len(pool.classes), seed)
        predicted: dict[str, list[State]] = {
            one.method: retrodict(trajectory, one, options.steps) for one in options.methods
        }
        case = Case(trajectory, known, predicted["known"], state_of(net), seed)
        predicted |= {one.control: one(case) for one in options.controls}
        starts |= {(name, k): state for name, states in predicted.items() for k, state in enumerate(states, start=1)}
        net.to(device)
        data = pool.select(split.subsets[0].to(device))
        for (start, step), state in starts.items():
            net.load_state_dict(state if start == "more_data" else with_batchnorm(state, theta_0, options.batchnorm))
            if options.batchnorm == "re-estimate":
                reestimate_batchnorm(net, data.batches(500))
            with paths.atomic(start_path(seed, start, step)) as temporary:
                save_file(state_of(net), temporary)
            rows += [
                (seed, start, step, measure(net, test)[1], *row) for row in _geometry(state, theta_0, trajectory[-2])
            ]
    columns = ["seed", "method", "step", "source_accuracy", "kind", "norm_ratio", "step_ratio", "step_cosine"]
    return write_csv(pd.DataFrame(rows, columns=columns), "predictions.csv")


def _geometry(state: State, theta_0: State, theta_1: State) -> list[tuple[Kind, float, float, float]]:
    """For each kind: |Θ̂|/|Θ_0|, |Θ̂ - Θ_0|/|Θ_0 - Θ_1| and the cosine between these two steps."""
    rows: list[tuple[Kind, float, float, float]] = []
    flat = [by_kind(theta) for theta in (state, theta_0, theta_1)]
    for kind in flat[0]:
        new, old, older = (theta[kind].double() for theta in flat)
        step, last = new - old, old - older
        cosine = torch.nn.functional.cosine_similarity(step, last, dim=0).item()
        rows.append((kind, (new.norm() / old.norm()).item(), (step.norm() / last.norm()).item(), cosine))
    return rows
