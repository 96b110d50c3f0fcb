"""The linear map that does KNOWN's work: S coefficients a kind, fitted on the same windows by the same error."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from know.meta.layout import RunFile
from know.meta.learning import stream
from know.paths import atomic
from know.prediction.predictors import LINEAR_MAP
from know.seeds import derive
from know.weights.kinds import KINDS, Kind

WINDOWS, ROUNDS = 1 << 18, 50


def fit_linear_map(runs: Sequence[RunFile], kind: Kind, length: int, seed: int) -> tuple[float, ...]:
    """The coefficients c (S,), oldest first, of w_S ≈ Σ c_t·w_t with the least mean absolute error, KNOWN's own, on windows
    drawn as KNOWN's are; by iteratively reweighted least squares."""
    generator = torch.Generator().manual_seed(derive("linear map", kind, seed))
    own = [run for run in runs if kind in run.sizes]
    batches = itertools.islice(stream(own, kind, length, 1 << 14, generator), WINDOWS >> 14)
    both = torch.cat(list(batches)).double()
    window, change = both[:, :-1], both[:, -1] - both[:, -2]  # of the change, which is small beside the weight
    scale = change.abs().mean().clamp_min(1e-12)
    weight, found = torch.ones_like(change), torch.zeros(length, dtype=torch.double)
    for _ in range(ROUNDS):
        weighted = window * weight[:, None]
        found = torch.linalg.lstsq(weighted.T @ window, weighted.T @ change[:, None]).solution[:, 0]
        weight = 1 / (change - window @ found).abs().clamp_min(1e-4 * scale)
    found[-1] += 1
    return tuple(found.tolist())


def save_linear_map(coefficients: Mapping[Kind, Sequence[float]], folder: Path) -> None:
    """Write the coefficients of each kind beside a hyper-model's networks."""
    with atomic(folder / LINEAR_MAP) as temporary:
        temporary.write_text(json.dumps({kind: list(coefficients[kind]) for kind in KINDS}, indent=2) + "\n")
