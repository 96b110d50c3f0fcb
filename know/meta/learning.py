"""Meta-training: a KNOWN for each kind, learned from files of weight paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from know.meta.layout import LayoutError, RunFile
from know.meta.options import KnownTraining
from know.meta.runs import windows
from know.prediction.known import KNOWN, Scale, frame, framed
from know.run.device import here
from know.run.store import FileInput
from know.seeds import derive
from know.weights.kinds import Kind

BUFFER = 1 << 18  # windows in memory, from which batches are drawn
VISIT = 1 << 10  # windows taken at each visit to a file


def draw_windows(run: RunFile, kind: Kind, length: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random windows with the weight that follows, (count, length + 1), from one random block of a run; every
    window of the run has the same chance.

    Raises:
        LayoutError: the paths are too short, or hold NaN or Inf.
    """
    if run.length <= length:
        raise LayoutError(f"{run.path}: paths of {run.length} weights; history_length {length} needs {length + 1}")
    found = windows(run.sample(kind, count, generator), length + 1)
    if not found.isfinite().all():
        raise LayoutError(f"{run.path}: {kind} weights: NaN or Inf among them; remove this run")
    return found[torch.randint(len(found), (count,), generator=generator)]


def stream(
    runs: Sequence[RunFile], kind: Kind, length: int, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Endless random batches (batch_size, length + 1) of windows with the weight that follows, from files of any size.

    A buffer of fixed size is filled by visits to the runs, and as many of its windows as a batch has are replaced
    after it. Every round of visits takes the same number of windows from every run, so that large nets do not drown
    small ones.
    """
    visited = (
        draw_windows(runs[i], kind, length, VISIT, generator)
        for _ in itertools.count()
        for i in torch.randperm(len(runs), generator=generator)
    )
    buffer = torch.cat([next(visited) for _ in range(BUFFER // VISIT)])
    for step in itertools.count(1):
        yield buffer[torch.randint(BUFFER, (batch_size,), generator=generator)]
        for _ in range(step * batch_size // VISIT - (step - 1) * batch_size // VISIT):
            buffer[torch.randint(BUFFER, (VISIT,), generator=generator)] = next(visited)


@dataclass(frozen=True)
class Curve:
    """Mean absolute error on windows of the held-out runs against the number of steps."""

    steps: list[int]
    errors: list[float]


def train_known(
    training: Sequence[RunFile],
    held_out: Sequence[RunFile],
    kind: Kind,
    history_length: int,
    params: KnownTraining,
    seed: int,
    scale: Scale = "none",
    device: torch.device | None = None,
) -> tuple[KNOWN, Curve]:
    """Meta-train one KNOWN by the mean absolute error plus its L1 penalty, with Adam.

    The learning rate falls to 0 by a cosine: the penalty on the biases is far steeper than the error, and at a constant
    rate Adam would end with them still jumping about 0. The last weights are kept, so the held-out runs decide nothing.

    Args:
        scale: "path" and "wnn" train in each path's frame. The network moves by less than 1 there, so that a further
            target is cut to 1, which changes no gradient.
    """
    device = device or torch.device("cpu")
    generator, check_generator = (
        torch.Generator().manual_seed(derive(name, kind, seed)) for name in ("batches", "checks")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("KNOWN", kind, seed))
        known = KNOWN(history_length).to(device)
    checks = [
        torch.cat([draw_windows(run, kind, history_length, 500, check_generator) for _ in range(10)]).to(device)
        for run in held_out
        if kind in run.sizes
    ]
    batches = stream([run for run in training if kind in run.sizes], kind, history_length, params.batch_size, generator)
    optimizer = torch.optim.Adam(known.parameters(), params.lr, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, params.steps)
    curve, every = Curve([], []), max(1, params.steps // 20)
    for step, batch in zip(range(1, params.steps + 1), batches, strict=False):
        loss = _residuals(known, batch.to(device), scale)[0].mean() + known.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % every == 0 or step == params.steps:
            with torch.no_grad():
                errors = [(error * unit).mean().item() for error, unit in (_residuals(known, c, scale) for c in checks)]
            curve.steps.append(step)
            curve.errors.append(sum(errors) / len(errors))
    return known.cpu(), curve


def _residuals(known: KNOWN, both: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """Absolute errors (N,) on windows with the weight that follows (N, S + 1), and the unit (N,) they are in."""
    window, target = both[:, :-1], both[:, -1:]
    if scale == "none":
        return (known(window) - target.squeeze(1)).abs(), torch.ones_like(target).squeeze(1)
    origin, unit = frame(window, scale)
    inside, wanted = framed(window, origin, unit), framed(target, origin, unit).squeeze(1)
    step = (wanted - inside[:, -1]).clamp(-1, 1)
    return (known(inside) - inside[:, -1] - step).abs(), unit.squeeze(1)


@dataclass(frozen=True)
class KnownJob:
    """Meta-training one KNOWN on files of weight paths."""

    training: tuple[FileInput, ...]
    held_out: tuple[FileInput, ...]
    kind: Kind
    history_length: int
    options: KnownTraining
    seed: int
    scale: Scale


@dataclass(frozen=True)
class Learned:
    """A KNOWN's state, and its error on the held-out runs while it learned."""

    state: dict[str, Tensor]
    curve: Curve


def learn(job: KnownJob) -> Learned:
    """Meta-train one KNOWN."""
    training, held_out = ([RunFile.open(file.path) for file in files] for files in (job.training, job.held_out))
    known, curve = train_known(
        training, held_out, job.kind, job.history_length, job.options, job.seed, job.scale, here()
    )
    return Learned(known.state_dict(), curve)
