"""Downstream fine-tuning, as in the paper: the head first with the rest frozen, then everything with a cosine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from know.analysis.statistics import calibration_error
from know.data.images import ImageSet
from know.data.subsets import stratified_order
from know.models.small import Net, build, new_head
from know.training.loop import Recipe, fit, logits_of
from know.training.options import FineTuning


def labelled(pool: ImageSet, count: int, seed: int) -> ImageSet:
    """The first ``count`` of ``pool`` in a stratified random order: larger counts hold the smaller ones."""
    return pool.select(stratified_order(pool.labels, seed)[:count])


def transferred(architecture: str, start: Mapping[str, Tensor] | None, data: ImageSet, seed: int) -> Net:
    """The network to fine-tune on ``data``: the body of ``start``, or a fresh one (None), under a fresh head."""
    net = build(architecture, data.images.shape[1], len(data.classes), seed)
    if start is not None:
        net.load_state_dict({k: v for k, v in start.items() if not k.startswith("head.")}, strict=False)
    new_head(net, len(data.classes), seed)
    return net.to(data.images.device)


def fine_tune(
    net: Net,
    data: ImageSet,
    params: FineTuning,
    seed: int,
    *,
    head_first: bool,
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Fine-tune in place. From scratch there is nothing to keep while the head settles, so ``head_first`` is for
    pretrained weights; BatchNorm's statistics move in both phases, as in the released code. ``on_epoch`` is called with 0
    before the second phase, and after each of its epochs with the epochs done."""
    if head_first and params.head_epochs:
        head = Recipe(params.head_epochs, params.batch_size, params.head_lr, augment=params.augment)
        fit(net, data, head, seed, parameters=net.head.parameters())
    full = Recipe(params.epochs, params.batch_size, params.lr, "cosine", params.augment)
    if on_epoch:
        on_epoch(0)
    fit(net, data, full, seed + 1, on_epoch=on_epoch and (lambda epoch: on_epoch(epoch + 1)))


@dataclass(frozen=True)
class Outcome:
    """Of a net on a set of images: accuracy (share), cross-entropy (nats), expected calibration error (share)."""

    accuracy: float
    loss: float
    ece: float


def outcome(net: nn.Module, data: ImageSet) -> Outcome:
    """Accuracy, loss and calibration of ``net`` on ``data``."""
    logits, labels = logits_of(net, data)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    ece = calibration_error(logits.softmax(1).cpu().numpy(), labels.cpu().numpy())
    return Outcome(accuracy, cross_entropy(logits, labels).item(), ece)


def transfer(
    architecture: str,
    start: Mapping[str, Tensor] | None,
    data: ImageSet,
    measured: ImageSet,
    params: FineTuning,
    seed: int,
) -> Outcome:
    """Fine-tune ``start`` (None: from scratch) on ``data`` and measure it once, at the end, on ``measured``.

    Under one ``seed`` every start gets the same head, the same batches and the same order: differences between
    methods are paired.
    """
    net = transferred(architecture, start, data, seed)
    fine_tune(net, data, params, seed, head_first=start is not None)
    return outcome(net, measured)
