"""What a prediction would do: each tensor's kind, size and last step, and what memory and time it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from know.prediction.engine import PIECE, Predictor, counterparts, fast, pointwise_of
from know.weights.files import Checkpoint
from know.weights.kinds import TensorKind, kinds_of


def plan(
    trajectory: Sequence[Checkpoint], predictor: Predictor, steps: int, overrides: Sequence[tuple[str, TensorKind]] = ()
) -> Iterator[str]:
    """Lines: a tensor each (kind, shape, dtype, ‖Θ_0 - Θ_1‖/‖Θ_0‖ of its first PIECE weights), then sums and estimates.

    Raises:
        ValueError: the checkpoints do not fit together.
    """
    theta_0 = trajectory[-1]
    kinds = kinds_of(theta_0.tensors, overrides, pointwise_of(predictor))
    predicted = [name for name, kind in kinds.items() if kind != "buffer"]
    named = [counterparts(theta, theta_0, predicted) for theta in trajectory]
    counts = dict.fromkeys(kinds.values(), 0)
    width = max(len(name) for name in kinds) if kinds else 0
    yield f"{'tensor':{width}}  kind    dtype     relative step  shape"
    for name, tensor in theta_0.tensors.items():
        counts[kinds[name]] += tensor.numel()
        step = ""
        if kinds[name] != "buffer" and len(trajectory) > 1:
            stop = min(PIECE, tensor.numel())
            newest = theta_0.read(name, 0, stop).double()
            older = trajectory[-2].read(named[-2][name], 0, stop).double()
            length = newest.norm().item()
            step = f"{(newest - older).norm().item() / length:.2e}" if length else "–"
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield f"{name:{width}}  {kinds[name]:6}  {dtype:8}  {step:>13}  {tuple(tensor.shape)}"
    yield ", ".join(f"{kind}: {count:,} numbers" for kind, count in counts.items())
    total = sum(count for kind, count in counts.items() if kind != "buffer")
    size = sum(tensor.numel() * tensor.itemsize for tensor in theta_0.tensors.values())
    whole = getattr(predictor, "whole_tensors", False)
    piece = max((theta_0.tensors[name].numel() for name in predicted), default=0) if whole else PIECE
    memory = torch.get_num_threads() * min(piece, max(total, 1)) * (2 * len(trajectory) + steps) * 4
    yield f"writes {size / 1e6:,.1f} MB a step; memory beside the program's own: about {memory / 1e6:,.0f} MB"
    if total and not whole:
        yield f"time: about {_seconds(len(trajectory), predictor, steps, total):,.0f} s of one core's arithmetic, and reading"


def _seconds(length: int, predictor: Predictor, steps: int, total: int) -> float:
    window, predict = torch.randn(PIECE // 8, length).mul_(0.01), fast(predictor, compiled=True)
    with torch.inference_mode():
        predict(window, "conv")
        started = time.perf_counter()
        predict(window, "conv")
    return (time.perf_counter() - started) * steps * total / len(window)
