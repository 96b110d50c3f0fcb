"""Forgetting of a user's own model: any module, its checkpoint Θ_0, and an image folder or any data set.

Writes the trajectory that ``know predict`` reads, one checkpoint at a time, so that a killed run continues after its
last finished subset. Subsets are the experiment's, and so is, to the bit, what training does, unless the user brings a loss
or an optimiser. What cannot be used is a ``ValueError`` of one line.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from scipy import stats
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from know.data.images import equal_batches
from know.data.own import DatasetPart, Normalisation, Samples, content_of, image_folder, labels_of, strata_of
from know.data.subsets import nested_subsets, stratified_order
from know.options import Count, LearningRate, Rate, Section, imported, made_by, reason
from know.paths import atomic, claimed, sweep
from know.run.progress import track
from know.seeds import derive
from know.tasks.loss import loss_of
from know.tasks.measures import outcomes
from know.training.forgetting import state_of
from know.training.loop import as_it_trains, seeded, steps_of
from know.training.options import Mode
from know.weights.files import Checkpoint, Choice, load_state, save_state
from know.weights.kinds import State, kinds_of
from know.weights.marks import Mark, digest_of, mark_in
from know.weights.modules import load_weights

Loss = Callable[[nn.Module, Any], Tensor]
"""The mean loss of a batch, a scalar; the batch is what the data set's samples are collated to, on the model's device."""
Optimisers = Callable[[nn.Module, int], tuple[Optimizer, LRScheduler | None]]
"""Of the model, and of how many steps it will be trained: an optimiser, and its schedule, which makes a step at each of its."""


class Settings(Section):
    """How to forget: S = ``length`` checkpoints at sampling rate r = ``rate``, ``epochs`` on each subset.

    ``lr``: Adam's, at a constant rate, where the user brings no optimiser.

    ``mode``: "sequential", the paper's: Θ_k from Θ_{k-1}; "restart": every Θ_k from the weights that the factory returns.
    """

    rate: Rate = 0.5
    length: Annotated[int, Field(ge=2)] = 5
    epochs: Count = 3
    batch_size: Count = 32
    lr: LearningRate = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0
    mode: Mode = "sequential"


def model_from(factory: str, seed: int) -> nn.Module:
    """The module that the user's factory builds, under ``seed``."""
    torch.manual_seed(seed)
    net = made_by(factory, "--model")
    if not isinstance(net, nn.Module):
        raise ValueError(f"--model {factory}: returned a {type(net).__name__}, not a torch.nn.Module")
    return net


def loss_named(name: str) -> Loss:
    """The user's loss, ``package.module:function``."""
    function = _function(name, "--loss")

    def loss(net: nn.Module, batch: object) -> Tensor:
        try:
            value = function(net, batch)
        except Exception as error:
            raise ValueError(f"--loss {name}: the call failed: {reason(error)}") from error
        if not isinstance(value, Tensor) or value.ndim:
            found = f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"--loss {name}: must return the batch's mean, a tensor without dimensions, got {found}")
        return value

    return loss


def optimisers_named(name: str) -> Optimisers:
    """The user's optimisers, ``package.module:function``, with or without a schedule."""
    function = _function(name, "--optimizer")

    def optimiser(net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler | None]:
        try:
            made = function(net, steps)
        except Exception as error:
            raise ValueError(f"--optimizer {name}: the call failed: {reason(error)}") from error
        found = made if isinstance(made, tuple) else (made, None)
        if len(found) != 2 or not isinstance(found[0], Optimizer) or not isinstance(found[1], LRScheduler | None):
            raise ValueError(
                f"--optimizer {name}: must return an optimiser, or one and its schedule, got a {type(made).__name__}"
            )
        return found

    return optimiser


def _function(name: str, option: str) -> Callable[..., object]:
    function = imported(name, option)
    if not callable(function):
        raise ValueError(f"{option} {name}: a {type(function).__name__}, not a function")
    return function


@dataclass(frozen=True)
class Measured:
    """Θ_k on D_0, in an order of which D_k is the first ``kept`` samples.

    ``values``, float64 (units,), on the CPU: 1 or 0 for each image, as it is right or wrong; with the ``sizes`` (units,) of
    batches, none of which crosses the border of a subset, the loss of each.
    """

    k: int
    kept: int
    values: Tensor
    sizes: Tensor | None = None

    def __str__(self) -> str:
        what, of = ("images", "accuracy") if self.sizes is None else ("samples", "loss")
        total = int(self._sizes.sum())
        text = f"Θ_{self.k}  {self.kept} of {total} {what}, {of} {self.mean(0, self.kept)} on them"
        return text + (f", {self.mean(self.kept, total)} on those dropped" if self.kept < total else "")

    @property
    def _sizes(self) -> Tensor:
        return torch.ones(len(self.values), dtype=torch.int64) if self.sizes is None else self.sizes

    def among(self, first: int, last: int) -> Tensor:
        """Which units lie in the samples ``first`` … ``last`` - 1: bool (units,)."""
        ends = self._sizes.cumsum(0)
        return (ends > first) & (ends <= last)

    def mean(self, first: int, last: int) -> str:
        """Over these samples, in words."""
        inside = self.among(first, last)
        mean = ((self.values * self._sizes)[inside].sum() / self._sizes[inside].sum()).item()
        return f"{100 * mean:.1f} %" if self.sizes is None else f"{mean:.4g}"


def verdict(theta_0: Measured, last: Measured) -> tuple[bool, str]:
    """Whether the most forgotten weights are worse than Θ_0 on the samples that they no longer saw, and that in words.

    The mean difference, image by image, or batch by batch of a loss, must exceed its 95 % interval. Without forgetting, the
    trajectory is no path of growing data, and extrapolating it cannot be expected to help.
    """
    total = int(last._sizes.sum())
    dropped = last.among(last.kept, total)
    worse = (last.values - theta_0.values)[dropped] * (-1 if last.sizes is None else 1)
    count = len(worse)  # of a single one there is no interval
    half = stats.t.ppf(0.975, count - 1) * worse.std().item() / count**0.5 if count > 1 else math.inf
    what, of = ("images", "accuracy") if last.sizes is None else ("samples", "the loss")
    before, after = (measured.mean(last.kept, total) for measured in (theta_0, last))
    text = f"on the {total - last.kept} {what} dropped, {of} goes from {before} to {after}"
    if worse.mean().item() > half:
        return True, f"Forgetting observed: {text}."
    return False, (
        f"WARNING: no clear forgetting: {text}. Had Θ_0 converged? Weights that are still learning improve on less data."
        " Train Θ_0 for longer, or forget for longer (--epochs, --lr); expect little of a prediction from these."
    )


class Run:
    """One forgetting run into a folder: ``forget.json`` (what it is), ``theta_0.safetensors`` … ``theta_{S-1}``.

    Args:
        net: as its factory returned it; ``theta_0``, which is from ``source``, is loaded into it.
        labels: of ``dataset``, int64 (N,); with a loss, whatever is to be balanced in the subsets.
        loss: if not a classifier's cross-entropy; then it is measured too, in place of accuracy.
        optimisers: if not Adam at ``settings.lr``, anew for each subset.
        identity: what else tells this run from another (the factory's name, the data's).

    Raises:
        ValueError: model, weights and data do not fit each other, a class is too small for the smallest subset, or the
            folder holds another run.
    """

    def __init__(
        self,
        net: nn.Module,
        theta_0: Mapping[str, Tensor],
        dataset: Samples,
        labels: Tensor,
        out: Path,
        settings: Settings,
        device: torch.device,
        workers: int = 0,
        source: str = "Θ_0",
        identity: Mapping[str, object] | None = None,
        loss: Loss | None = None,
        optimisers: Optimisers | None = None,
    ) -> None:
        self.settings, self.out, self.loss, self.optimisers = settings, out, loss, optimisers
        _check_classes(labels, getattr(dataset, "classes", None), settings)
        order = stratified_order(labels, settings.seed)
        subsets = nested_subsets(order, settings.rate, settings.length)
        self.parts = [DatasetPart(dataset, subset, device, workers) for subset in subsets]
        borders = [0, *(len(subset) for subset in reversed(subsets))]
        self.shells = [DatasetPart(dataset, order[a:b], device, workers) for a, b in itertools.pairwise(borders)]
        self.net = net.to(device)
        self.initial = state_of(net)
        load_weights(net, theta_0, source)
        self.theta_0 = state_of(net)
        self._check_forward(int(labels.max()))
        digests = {"theta_0": _digest(self.theta_0.values()), "samples": len(labels), "labels": _digest([labels])}
        self.identity = {**(identity or {}), **settings.model_dump(), **digests}

    def path(self, k: int) -> Path:
        """Where Θ_k is."""
        return self.out / f"theta_{k}.safetensors"

    def measured(self) -> Iterator[Measured]:
        """Forget, and measure Θ_0, …, Θ_{S-1} on D_0, each as soon as it is on disk; what is there already is kept."""
        self.out.mkdir(parents=True, exist_ok=True)
        with claimed(self.out):
            yield from self._measured()

    def _measured(self) -> Iterator[Measured]:
        self._claim()
        settings, done = self.settings, 0
        while done + 1 < settings.length and self.path(done + 1).exists():
            done += 1
        for k in range(done + 1):
            load_weights(self.net, self._written(k), str(self.path(k)))
            yield self._measure(k)
        for k in range(done + 1, settings.length):
            if settings.mode == "restart":
                self.net.load_state_dict(self.initial)
            self._train(k)
            self._save(state_of(self.net), k)
            yield self._measure(k)

    def _train(self, k: int) -> None:
        """Fine-tune the net on D_k."""
        settings, part, seed = self.settings, self.parts[k], derive("forget", self.settings.seed, k)
        steps = settings.epochs * math.ceil(len(part) / settings.batch_size)
        generator = torch.Generator().manual_seed(seed)
        passes = (part.batches(settings.batch_size, generator) for _ in range(settings.epochs))
        as_it_trains(self.net)
        with seeded(seed, part.device):
            batches = itertools.chain.from_iterable(passes)
            done = steps_of(self.net, batches, self._loss, *self._optimiser(steps))
            for _ in track(done, steps, f"Θ_{k} of Θ_{settings.length - 1}"):
                pass

    def _optimiser(self, steps: int) -> tuple[Optimizer, LRScheduler | None]:
        if self.optimisers is not None:
            return self.optimisers(self.net, steps)
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, self.settings.lr, fused=True), None

    def _loss(self, net: nn.Module, batch: Any) -> Tensor:
        return loss_of(net, *batch) if self.loss is None else self.loss(net, batch)

    def predict_command(self) -> str:
        """The ``know predict`` to run next, oldest checkpoint first; the module tells which of its floating-point
        tensors are buffers where their names alone do not."""
        checkpoints = [str(self.path(k)) for k in reversed(range(self.settings.length))]
        kinds = kinds_of(self.theta_0)
        buffers = [name for name, _ in self.net.named_buffers() if kinds.get(name, "buffer") != "buffer"]
        options = [word for name in buffers for word in ("--kind", f"{name}=buffer")]
        return shlex.join(["know", "predict", *checkpoints, "--out", str(self.out / "enhanced.safetensors"), *options])

    def _measure(self, k: int) -> Measured:
        size, text = self.settings.batch_size, f"measuring Θ_{k}"
        if self.loss is None:
            _, right = outcomes(self.net, replace(self.parts[0], shown=text), size)
            return Measured(k, len(self.parts[k]), right.double().cpu())
        self.net.eval()
        sizes = [len(batch) for shell in self.shells for batch in equal_batches(len(shell), size, None)]
        batches = itertools.chain.from_iterable(shell.batches(size) for shell in self.shells)
        with seeded(self.settings.seed, self.parts[0].device), torch.no_grad():  # the loss draws the same for every Θ_k
            losses = [self._loss(self.net, batch).item() for batch in track(batches, len(sizes), text)]
        return Measured(k, len(self.parts[k]), torch.tensor(losses, dtype=torch.float64), torch.tensor(sizes))

    def _claim(self) -> None:
        """The folder is this run's from now on, if it was no other's."""
        record = self.out / "forget.json"
        sweep(self.out)
        if record.exists():
            try:
                there = dict(json.loads(record.read_text()))
            except (ValueError, TypeError):
                raise ValueError(f"{record}: not the record of a run; choose another --out or remove it") from None
            now = self.identity
            if other := [key for key in {**now, **there} if there.get(key) != now.get(key)]:
                change = f"{other[0]} was {there.get(other[0])!r}, now {now.get(other[0])!r}"
                raise ValueError(f"{record}: the folder holds another run: {change}; choose another --out or remove it")
        elif taken := [path for path in map(self.path, range(self.settings.length)) if path.exists()]:
            raise ValueError(f"{taken[0]}: exists, and is not of such a run; choose another --out")
        else:
            with atomic(record) as temporary:
                temporary.write_text(json.dumps(self.identity, indent=2) + "\n")
        if not self.path(0).exists():
            self._save(self.theta_0, 0)

    def _mark(self, state: Mapping[str, Tensor], k: int) -> Mark:
        run = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        return Mark(run, k, self.settings.length, self.settings.rate, digest_of(state))

    def _save(self, state: Mapping[str, Tensor], k: int) -> None:
        save_state(state, self.path(k), self._mark(state, k).metadata())

    def _written(self, k: int) -> State:
        """Θ_k as this run wrote it. Raises ValueError: it is another's, or has been changed."""
        state = load_state(self.path(k))
        with Checkpoint(self.path(k)) as checkpoint:
            if mark_in(checkpoint.metadata) != self._mark(state, k):
                raise ValueError(
                    f"{self.path(k)}: not as this run wrote it; remove it and those after it, to have them made anew"
                )
        return state

    def _check_forward(self, largest: int) -> None:
        """A batch through the model in training mode, before hours are spent; its BatchNorm is put back after."""
        batch = next(self.parts[0].batches(self.settings.batch_size))
        self._optimiser(1)
        if self.loss is None:
            self._check_logits(batch[0], largest)
        elif not self.loss(self.net.train(), batch).requires_grad:
            raise ValueError("the loss does not depend on any parameter that is trained: is it computed under no_grad?")
        load_weights(self.net, self.theta_0, "Θ_0")

    def _check_logits(self, inputs: Tensor, largest: int) -> None:
        try:
            with torch.no_grad():
                logits = self.net.train()(inputs)
        except Exception as error:
            raise ValueError(f"the model fails on inputs of shape {tuple(inputs.shape)}: {reason(error)}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the model must return logits (N, classes) in training mode too, got {shape}")
        if logits.shape[1] <= largest:
            raise ValueError(f"the model has {logits.shape[1]} outputs, and the data class index {largest}")


def _check_classes(labels: Tensor, names: Sequence[str] | None, settings: Settings) -> None:
    share = settings.rate ** (settings.length - 1)
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        if count * share < 1:
            name = names[int(label)] if names else int(label)
            raise ValueError(
                f"class {name!r} has {count} samples, of which the smallest subset keeps {share:.3g}: less than one;"
                f" it takes {-(-1 // share):.0f}, a larger --rate or a smaller --length"
            )


def _digest(tensors: Iterable[Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def forget_own(
    model: str,
    checkpoint: Path,
    data: tuple[Path, int, Normalisation] | str,
    out: Path,
    settings: Settings,
    device: torch.device,
    workers: int = 0,
    key: str | None = None,
    loss: str | None = None,
    optimizer: str | None = None,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> str:
    """``know forget --model …``: everything by name, each result said as it comes.

    Args:
        model: ``package.module:function`` that returns the module.
        key: of the state dict in ``checkpoint``, if that is a training state with several.
        data: an image folder, the side of its images and their normalisation; or ``package.module:function`` that returns
            a data set.
        loss, optimizer: ``package.module:function``, as ``Loss`` and ``Optimisers``.

    Returns:
        The ``know predict`` command to run next.
    """
    theta_0, net = load_state(checkpoint, Choice(key)), model_from(model, settings.seed)
    if isinstance(data, str):
        source, samples, how = f"--dataset {data}", made_by(data, "--dataset"), {}
    else:
        source, samples = f"--images {data[0]}", image_folder(*data)
        how = {"image_size": str(data[1]), "normalisation": data[2], "images": content_of(samples)}
    where = {"data": source} if isinstance(data, str) else {}  # images are known by what they are, not by where
    own = {name: given for name, given in (("loss", loss), ("optimizer", optimizer)) if given is not None}
    labels = labels_of(samples, source) if loss is None else strata_of(samples, source)
    run = Run(
        net, theta_0, samples, labels, out, settings, device, workers, str(checkpoint),
        {"model": model} | where | how | own,
        None if loss is None else loss_named(loss),
        None if optimizer is None else optimisers_named(optimizer),
    )  # fmt: skip
    results = []
    for result in run.measured():
        say(str(result))
        results.append(result)
    observed, text = verdict(results[0], results[-1])
    (say if observed else warn)(text)
    return run.predict_command()
