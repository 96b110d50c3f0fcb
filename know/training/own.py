"""Forgetting of a user's own model: any module, its checkpoint Θ_0, and an image folder or any data set.

Writes the trajectory that ``know predict`` reads, one checkpoint at a time, so that a killed run continues after its
last finished subset. Subsets, training loop and forgetting are the experiment's.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import operator
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from know.analysis.statistics import mean_interval
from know.data.images import equal_batches
from know.data.subsets import nested_subsets, stratified_order
from know.paths import atomic
from know.run.progress import track
from know.training.forgetting import Mode, forget_further, state_of
from know.training.loop import Recipe, outcomes
from know.weights.files import load_state, save_state
from know.weights.kinds import bare_name, kinds_of, ties

Normalisation = Literal["imagenet", "half", "none"]
NORMALISATIONS: dict[Normalisation, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's and timm's pretrained models
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to [-1, 1]
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # [0, 1]
}


class ForgetError(ValueError):
    """The model, the checkpoint, the data or an option cannot be used. The message is one line."""


@dataclass(frozen=True)
class Settings:
    """How to forget: S = ``length`` checkpoints at sampling rate r = ``rate``, ``epochs`` of Adam on each subset.

    ``mode``: "sequential", the paper's: Θ_k from Θ_{k-1}; "restart": every Θ_k from the weights that the factory returns.

    Raises:
        ForgetError: a value is out of its range.
    """

    rate: float = 0.5
    length: int = 5
    epochs: int = 3
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0
    mode: Mode = "sequential"

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("rate", 0 < self.rate < 1, "between 0 and 1, both excluded"),
            ("length", self.length >= 2, "2 or more"),
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch-size", self.batch_size >= 1, "1 or more"),
            ("lr", 0 < self.lr <= 1, "above 0 and at most 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("mode", self.mode in ("sequential", "restart"), "sequential, restart"),
        ):
            if not holds:
                raise ForgetError(f"--{name}: got {getattr(self, name.replace('-', '_'))}; allowed: {allowed}")


# --- what the user names ------------------------------------------------------------------------------------------


def _reason(error: Exception) -> str:
    """What went wrong in the user's code and where, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    message = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {message} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def made_by(factory: str, option: str) -> Any:
    """What the function ``package.module:function`` returns; modules are found in the current directory too.

    Raises:
        ForgetError: it cannot be imported, is no function, or fails.
    """
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise ForgetError(f"{option}: got {factory!r}; allowed: package.module:function")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ForgetError(f"{option} {factory}: {module_name} cannot be imported: {_reason(error)}") from error
    try:
        function = operator.attrgetter(attribute)(module)
    except AttributeError:
        raise ForgetError(f"{option} {factory}: {module_name} has no {attribute}") from None
    if not callable(function):
        raise ForgetError(f"{option} {factory}: a {type(function).__name__}, not a function without arguments")
    try:
        return function()
    except Exception as error:
        raise ForgetError(f"{option} {factory}: the call failed: {_reason(error)}") from error


def model_from(factory: str, seed: int) -> nn.Module:
    """The module that the user's factory builds, under ``seed``."""
    torch.manual_seed(seed)
    net = made_by(factory, "--model")
    if not isinstance(net, nn.Module):
        raise ForgetError(f"--model {factory}: returned a {type(net).__name__}, not a torch.nn.Module")
    return net


def load_weights(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names may have a wrapper's prefix and lack copies of tied tensors.

    Raises:
        ForgetError: it does not fit; names ``source`` and the first key that is missing, unexpected or mis-shaped.
    """
    own = net.state_dict()
    tied, names = ties(own), {bare_name(name): name for name in own}
    given = {names.get(bare_name(name), name): tensor for name, tensor in state.items()}
    loaded = {tied.get(name, name) for name in given}
    for name, tensor in own.items():
        if tied.get(name, name) not in loaded:
            raise ForgetError(f"{source}: does not fit the model: {name!r} {tuple(tensor.shape)} is missing")
    for name, tensor in given.items():
        if name not in own:
            raise ForgetError(f"{source}: does not fit the model, which has no {name!r}")
        if tensor.shape != own[name].shape:
            raise ForgetError(
                f"{source}: does not fit the model: {name!r} is {tuple(tensor.shape)}, the model's"
                f" {tuple(own[name].shape)}"
            )
    net.load_state_dict(given, strict=False)


def _read_image(path: str) -> Image.Image:
    try:
        with Path(path).open("rb") as file:
            return Image.open(file).convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises either for a damaged file
        raise ForgetError(f"{path}: not a readable image ({error}); repair or remove it") from None


def image_folder(folder: Path, size: int, normalisation: Normalisation) -> Dataset[tuple[Tensor, int]]:
    """RGB images under ``FOLDER/class/``: the shorter side resized to ``size``, the middle square, normalised.

    Raises:
        ForgetError: there is no class folder, or one without images.
    """
    if size < 1:
        raise ForgetError(f"--image-size: got {size}; allowed: 1 or more")
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    pipeline = transforms.Compose([*steps, transforms.Normalize(*NORMALISATIONS[normalisation])])
    try:
        return ImageFolder(folder, pipeline, loader=_read_image)
    except OSError as error:
        raise ForgetError(f"--images {folder}: {error}; expected FOLDER/CLASS/image.jpg") from None


def labels_of(dataset: Dataset[tuple[Tensor, int]], source: str) -> Tensor:
    """The class index of each sample, int64 (N,): an image folder knows them, any other data set is read once.

    Raises:
        ForgetError: the data set is empty, fails, or yields something else than (input tensor, class index).
    """
    if isinstance(dataset, ImageFolder):
        return torch.tensor(dataset.targets)
    labels = []
    try:
        for index in track(range(len(dataset)), desc="labels"):  # type: ignore[arg-type]  # an error if it has no length
            inputs, label = dataset[index]
            if not isinstance(inputs, Tensor) or operator.index(label) < 0:
                raise TypeError(f"sample {index} is ({type(inputs).__name__}, {label!r})")
            labels.append(operator.index(label))
    except Exception as error:
        raise ForgetError(f"{source}: each sample must be (input tensor, class index): {_reason(error)}") from error
    if not labels:
        raise ForgetError(f"{source}: no samples")
    return torch.tensor(labels)


@dataclass(frozen=True)
class DatasetPart:
    """Some samples of a data set, as ``know.data.images.Samples`` for the training loop. ``index``: int64 (n,)."""

    dataset: Dataset[tuple[Tensor, int]]
    index: Tensor
    device: torch.device
    workers: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        groups = [self.index[part].tolist() for part in equal_batches(len(self), batch_size, generator)]
        loader = DataLoader(self.dataset, batch_sampler=groups, num_workers=self.workers, generator=generator)
        for inputs, labels in loader:
            yield inputs.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


# --- the run --------------------------------------------------------------------------------------------------------


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
    drop = mean_interval((before - after).numpy())
    text = f"on the {drop.units} images dropped, accuracy goes from {_percent(before)} to {_percent(after)}"
    if drop.mean > 0 and drop.excludes_zero:
        return True, f"Forgetting observed: {text}."
    return False, (
        f"WARNING: no clear forgetting: {text}. Had Θ_0 converged? Weights that are still learning improve on less data."
        " Train Θ_0 for longer, or forget for longer (--epochs, --lr); expect little of a prediction from these."
    )


class Run:
    """One forgetting run into a folder: ``forget.json`` (what it is), ``theta_0.safetensors`` … ``theta_{S-1}``.

    Args:
        net: as its factory returned it; ``theta_0`` is loaded into it.
        labels: of ``dataset``, int64 (N,).
        identity: what else tells this run from another (the factory's name, the data's).

    Raises:
        ForgetError: model, weights and data do not fit each other, a class is too small for the smallest subset, or the
            folder holds another run.
    """

    def __init__(
        self,
        net: nn.Module,
        theta_0: Mapping[str, Tensor],
        dataset: Dataset[tuple[Tensor, int]],
        labels: Tensor,
        out: Path,
        settings: Settings,
        device: torch.device,
        *,
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
        self.identity = {
            **(identity or {}),
            **asdict(settings),
            "theta_0": _digest(self.theta_0.values()),
            "samples": len(labels),
            "labels": _digest([labels]),
        }

    def path(self, k: int) -> Path:
        """Where Θ_k is."""
        return self.out / f"theta_{k}.safetensors"

    def measured(self) -> Iterator[Measured]:
        """Forget, and measure Θ_0, …, Θ_{S-1} on D_0, each as soon as it is on disk; what is there already is kept."""
        self._claim()
        done = 0
        while done + 1 < self.settings.length and self.path(done + 1).exists():
            done += 1
        for k in range(done + 1):
            load_weights(self.net, load_state(self.path(k)), str(self.path(k)))
            yield self._measure(k)
        settings = self.settings
        recipe = Recipe(settings.epochs, settings.batch_size, settings.lr)
        further = forget_further(
            self.net, self.parts[1:], recipe, settings.seed, settings.mode, self.initial, done=done
        )
        for k, theta in enumerate(further, start=done + 1):
            save_state(theta, self.path(k))
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
        record = self.out / "forget.json"
        for stale in self.out.glob(".theta_*.tmp"):  # of a run killed while it wrote
            stale.unlink()
        if record.exists():
            try:
                there = dict(json.loads(record.read_text()))
            except (ValueError, TypeError):
                raise ForgetError(f"{record}: not the record of a run; choose another --out or remove it") from None
            for key, value in self.identity.items():
                if there.get(key) != value:
                    raise ForgetError(
                        f"{record}: the folder holds another run: {key} was {there.get(key)!r}, now {value!r};"
                        " choose another --out or remove it"
                    )
        elif taken := [path for path in map(self.path, range(self.settings.length)) if path.exists()]:
            raise ForgetError(f"{taken[0]}: exists, and is not of such a run; choose another --out")
        else:
            with atomic(record) as temporary:
                temporary.write_text(json.dumps(self.identity, indent=2) + "\n")
        if not self.path(0).exists():
            save_state(self.theta_0, self.path(0))

    def _check_forward(self, largest: int) -> None:
        """A batch through the model in training mode, before hours are spent; its BatchNorm is put back after."""
        inputs, _ = next(self.parts[0].batches(self.settings.batch_size))
        try:
            with torch.no_grad():
                logits = self.net.train()(inputs)
        except Exception as error:
            raise ForgetError(f"the model fails on inputs of shape {tuple(inputs.shape)}: {_reason(error)}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ForgetError(f"the model must return logits (N, classes) in training mode too, got {shape}")
        if logits.shape[1] <= largest:
            raise ForgetError(f"the model has {logits.shape[1]} outputs, and the data class index {largest}")
        load_weights(self.net, self.theta_0, "Θ_0")


def _check_classes(labels: Tensor, names: Sequence[str] | None, settings: Settings) -> None:
    share = settings.rate ** (settings.length - 1)
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        if count * share < 1:
            name = names[int(label)] if names else int(label)
            raise ForgetError(
                f"class {name!r} has {count} samples, of which the smallest subset keeps {share:.3g}: less than one;"
                f" it takes {-(-1 // share):.0f}, a larger --rate or a smaller --length"
            )


def _digest(tensors: Any) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def forget_own(
    model: str,
    checkpoint: Path,
    images: Path | None,
    dataset: str | None,
    out: Path,
    settings: Settings,
    device: torch.device,
    *,
    image_size: int = 224,
    normalisation: Normalisation = "imagenet",
    workers: int = 0,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> str:
    """``know forget --model …``: everything by name, each result said as it comes.

    Args:
        model: ``package.module:function`` that returns the module.
        images, dataset: one of them: an image folder, or ``package.module:function`` that returns a data set.

    Returns:
        The ``know predict`` command to run next.
    """
    theta_0 = load_state(checkpoint)
    net = model_from(model, settings.seed)
    source = f"--images {images}" if images else f"--dataset {dataset}"
    samples = image_folder(images, image_size, normalisation) if images else made_by(str(dataset), "--dataset")
    labels = labels_of(samples, source)
    identity = {"model": model, "data": source}
    if images:
        identity |= {"image_size": str(image_size), "normalisation": normalisation}
    run = Run(
        net, theta_0, samples, labels, out, settings, device, workers=workers, source=str(checkpoint), identity=identity
    )  # fmt: skip
    results = []
    for result in run.measured():
        say(str(result))
        results.append(result)
    observed, text = verdict(results[0], results[-1])
    (say if observed else warn)(text)
    return run.predict_command()
