"""Forgetting of a user's own model: any module, its checkpoint Θ_0, and an image folder or any data set.

Writes the trajectory that ``know predict`` reads, one checkpoint at a time, so that a killed run continues after its
last finished subset. Subsets, training loop and forgetting are the experiment's. What cannot be used is a ``ValueError`` of
one line.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from scipy import stats
from torch import Tensor, nn

from know.data.own import DatasetPart, Normalisation, Samples, content_of, image_folder, labels_of
from know.data.subsets import nested_subsets, stratified_order
from know.options import Count, LearningRate, Rate, Section, made_by, reason
from know.paths import atomic, claimed, sweep
from know.tasks.classification import outcomes
from know.training.forgetting import forget_further, state_of
from know.training.loop import Recipe
from know.training.options import Mode
from know.weights.files import Checkpoint, Choice, load_state, save_state
from know.weights.kinds import State, kinds_of
from know.weights.marks import Mark, digest_of, mark_in
from know.weights.modules import load_weights


class Settings(Section):
    """How to forget: S = ``length`` checkpoints at sampling rate r = ``rate``, ``epochs`` of Adam on each subset.

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


@dataclass(frozen=True)
class Measured:
    """Θ_k on the images of D_0, in an order of which D_k is the first ``kept``: ``right``, bool (N,), on the CPU."""

    k: int
    kept: int
    right: Tensor

    def __str__(self) -> str:
        total = len(self.right)
        text = f"Θ_{self.k}  {self.kept} of {total} images, accuracy {_percent(self.right[: self.kept])} on them"
        return text + (f", {_percent(self.right[self.kept :])} on those dropped" if self.kept < total else "")


def _percent(right: Tensor) -> str:
    return f"{100 * right.double().mean().item():.1f} %"


def verdict(theta_0: Measured, last: Measured) -> tuple[bool, str]:
    """Whether the most forgotten weights are worse than Θ_0 on the images that they no longer saw, and that in words.

    The mean difference, image by image, must exceed its 95 % interval. Without forgetting, the trajectory is no path of
    growing data, and extrapolating it cannot be expected to help.
    """
    before, after = (measured.right[last.kept :].double() for measured in (theta_0, last))
    drop, count = before - after, len(before)
    half = stats.t.ppf(0.975, count - 1) * drop.std().item() / count**0.5
    text = f"on the {count} images dropped, accuracy goes from {_percent(before)} to {_percent(after)}"
    if drop.mean().item() > half:
        return True, f"Forgetting observed: {text}."
    return False, (
        f"WARNING: no clear forgetting: {text}. Had Θ_0 converged? Weights that are still learning improve on less data."
        " Train Θ_0 for longer, or forget for longer (--epochs, --lr); expect little of a prediction from these."
    )


class Run:
    """One forgetting run into a folder: ``forget.json`` (what it is), ``theta_0.safetensors`` … ``theta_{S-1}``.

    Args:
        net: as its factory returned it; ``theta_0``, which is from ``source``, is loaded into it.
        labels: of ``dataset``, int64 (N,).
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
    ) -> None:
        self.settings, self.out = settings, out
        _check_classes(labels, getattr(dataset, "classes", None), settings)
        order = stratified_order(labels, settings.seed)
        subsets = nested_subsets(order, settings.rate, settings.length)
        self.parts = [DatasetPart(dataset, subset, device, workers) for subset in subsets]
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
        recipe = Recipe(settings.epochs, settings.batch_size, settings.lr)
        further = forget_further(
            self.net, self.parts[1:], recipe, settings.seed, settings.mode, self.initial, done=done
        )
        for k, theta in enumerate(further, start=done + 1):
            self._save(theta, k)
            yield self._measure(k)

    def predict_command(self) -> str:
        """The ``know predict`` to run next, oldest checkpoint first; the module tells which of its floating-point
        tensors are buffers where their names alone do not."""
        checkpoints = [str(self.path(k)) for k in reversed(range(self.settings.length))]
        kinds = kinds_of(self.theta_0)
        buffers = [name for name, _ in self.net.named_buffers() if kinds.get(name, "buffer") != "buffer"]
        options = [word for name in buffers for word in ("--kind", f"{name}=buffer")]
        return shlex.join(["know", "predict", *checkpoints, "--out", str(self.out / "enhanced.safetensors"), *options])

    def _measure(self, k: int) -> Measured:
        _, right = outcomes(self.net, self.parts[0], self.settings.batch_size)
        return Measured(k, len(self.parts[k]), right.cpu())

    def _claim(self) -> None:
        """The folder is this run's from now on, if it was no other's."""
        record = self.out / "forget.json"
        sweep(self.out)
        if record.exists():
            try:
                there = dict(json.loads(record.read_text()))
            except (ValueError, TypeError):
                raise ValueError(f"{record}: not the record of a run; choose another --out or remove it") from None
            if other := [key for key, value in self.identity.items() if there.get(key) != value]:
                change = f"{other[0]} was {there.get(other[0])!r}, now {self.identity[other[0]]!r}"
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
        inputs, _ = next(self.parts[0].batches(self.settings.batch_size))
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
        load_weights(self.net, self.theta_0, "Θ_0")


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
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> str:
    """``know forget --model …``: everything by name, each result said as it comes.

    Args:
        model: ``package.module:function`` that returns the module.
        key: of the state dict in ``checkpoint``, if that is a training state with several.
        data: an image folder, the side of its images and their normalisation; or ``package.module:function`` that returns
            a data set.

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
    labels, identity = labels_of(samples, source), {"model": model} | where | how
    run = Run(net, theta_0, samples, labels, out, settings, device, workers, str(checkpoint), identity)
    results = []
    for result in run.measured():
        say(str(result))
        results.append(result)
    observed, text = verdict(results[0], results[-1])
    (say if observed else warn)(text)
    return run.predict_command()
