"""Whether checkpoints are given oldest first: known from their marks, else to be judged by how far they are from Θ_0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from know.prediction.engine import PIECE, counterparts, pointwise_of
from know.prediction.retrodict import Predictor
from know.weights.files import Checkpoint, CheckpointError
from know.weights.kinds import TensorKind, kinds_of
from know.weights.marks import mark_in


def run_files(folder: Path) -> list[Path]:
    """The checkpoints that ``know forget`` wrote into ``folder``, Θ_{S-1} first; none if it is no such folder."""
    numbered = {int(path.stem.removeprefix("theta_")): path for path in folder.glob("theta_*.safetensors")
                if path.stem.removeprefix("theta_").isdecimal()}  # fmt: skip
    return [numbered[k] for k in sorted(numbered, reverse=True)]


def in_order(trajectory: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Checkpoints of one forgetting run with the most forgotten first, by their marks; others as they are.

    Raises:
        CheckpointError: a file is there twice, or they are of several runs, or some between them are missing.
    """
    for place, theta in enumerate(trajectory):
        if twice := [other.label for other in trajectory[:place] if other.path.samefile(theta.path)]:
            raise CheckpointError(f"{theta.label}: given twice, also as {twice[0]}")
    marks = [mark_in(theta.metadata) for theta in trajectory]
    marked = [mark for mark in marks if mark]
    if len(marked) < len(marks):
        return list(trajectory)
    if len({mark.run for mark in marked}) > 1:
        other = next(place for place, mark in enumerate(marked) if mark.run != marked[0].run)
        raise CheckpointError(f"{trajectory[other].label}: of another forgetting run than {trajectory[0].label}")
    found = {mark.k: theta for mark, theta in zip(marked, trajectory, strict=True)}
    ks = sorted(found, reverse=True)
    if len(found) < len(marked):
        raise CheckpointError(f"{trajectory[0].label}: the same checkpoint of its run is there twice, as another file")
    if missing := sorted(set(range(ks[-1], ks[0])) - set(ks)):
        raise CheckpointError(f"{trajectory[0].label}: of its run, Θ_{missing[0]} is missing between the others")
    return [found[k] for k in ks]


def distances(
    trajectory: Sequence[Checkpoint], predictor: Predictor, overrides: Sequence[tuple[str, TensorKind]] = ()
) -> list[float]:
    """‖Θ_k - Θ_0‖/‖Θ_0‖ of each but the last, over the first PIECE weights of each tensor that is predicted."""
    theta_0 = trajectory[-1]
    kinds = kinds_of(theta_0.tensors, overrides, pointwise_of(predictor))
    predicted = [name for name, kind in kinds.items() if kind != "buffer"]
    squares = torch.zeros(len(trajectory), dtype=torch.float64)
    named = [counterparts(theta, theta_0, predicted) for theta in trajectory]
    for name in predicted:
        stop = min(PIECE, theta_0.tensors[name].numel())
        newest = theta_0.read(name, 0, stop).double()
        for place, (theta, names) in enumerate(zip(trajectory, named, strict=True)):
            values = newest if theta is theta_0 else newest - theta.read(names[name], 0, stop).double()
            squares[place] += values.square().sum()
    *steps, length = squares.sqrt().tolist()
    return [step / length if length else float("nan") for step in steps]


def judged(trajectory: Sequence[Checkpoint], relative: Sequence[float]) -> list[str]:
    """What there is to say of the order of checkpoints without marks, in lines."""
    listed = ", ".join(
        f"{theta.path.name} {distance:.3g}" for theta, distance in zip(trajectory, relative, strict=False)
    )
    lines = [f"relative distance to Θ_0 = {trajectory[-1].label}: {listed}"]
    if any(not newer < older for older, newer in zip(relative, [*relative[1:], 0.0], strict=True)):
        lines.append(
            "WARNING: the distance to Θ_0 does not shrink along the path: is the most forgotten first, and Θ_0 last?"
        )
    numbers = [re.fullmatch(r"theta_(\d+)", theta.path.stem) for theta in trajectory]
    ks = [int(number[1]) for number in numbers if number]
    if len(ks) == len(trajectory) and ks != sorted(ks, reverse=True):
        lines.append(
            f"WARNING: by their names they are the wrong way round: theta_{min(ks)} is the newest, and goes last"
        )
    return lines
