"""Downstream fine-tuning, as in the paper: the head first with the rest frozen, then everything with a cosine."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from know.data import ImageSet
from know.models import Net, build, new_head
from know.params import FineTuning
from know.subsets import stratified_order
from know.training import Recipe, fit, measure


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


def fine_tune(net: Net, data: ImageSet, params: FineTuning, seed: int, *, head_first: bool) -> None:
    """Fine-tune in place. From scratch there is nothing to keep while the head settles, so ``head_first`` is for
    pretrained weights; BatchNorm's statistics move in both phases, as in the released code."""
    if head_first and params.head_epochs:
        head = Recipe(params.head_epochs, params.batch_size, params.head_lr, augment=params.augment)
        fit(net, data, head, seed, parameters=net.head.parameters())
    full = Recipe(params.epochs, params.batch_size, params.lr, "cosine", params.augment)
    fit(net, data, full, seed + 1)


@dataclass(frozen=True)
class Outcome:
    """Loss (nats) and accuracy (share) on the downstream test images after fine-tuning."""

    loss: float
    accuracy: float


def transfer(
    architecture: str,
    start: Mapping[str, Tensor] | None,
    data: ImageSet,
    test: ImageSet,
    params: FineTuning,
    seed: int,
) -> Outcome:
    """Fine-tune ``start`` (None: from scratch) on ``data`` and measure it once on ``test``.

    Under one ``seed`` every start gets the same head, the same batches and the same order: differences between
    methods are paired.
    """
    net = transferred(architecture, start, data, seed)
    fine_tune(net, data, params, seed, head_first=start is not None)
    return Outcome(*measure(net, test))
