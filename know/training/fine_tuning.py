"""Downstream fine-tuning, as in the paper: the head first with the rest frozen, then everything with a cosine."""

from collections.abc import Callable, Mapping

from torch import Tensor

from know.data.images import ImageSet
from know.data.subsets import stratified_order
from know.models.small import Net, build, new_head
from know.options import ParamError
from know.seeds import derive
from know.training.loop import Recipe, batchnorm_parameters, fit
from know.training.options import FineTuning


def labelled(pool: ImageSet, count: int, seed: int) -> ImageSet:
    """The first ``count`` of ``pool`` in a stratified random order: larger counts hold the smaller ones.

    Raises:
        ParamError: the pool has fewer.
    """
    if count > len(pool):
        raise ParamError(
            f"evaluate.labels: got {count}; allowed: at most {len(pool)}, the downstream classes' training images less"
            " evaluate.validation_images"
        )
    return pool.select(stratified_order(pool.labels, seed)[:count])


def transferred(
    architecture: str, start: Mapping[str, Tensor] | None, data: ImageSet, seed: int, head_scale: float = 1.0
) -> Net:
    """The network to fine-tune on ``data``: the body of ``start``, or a fresh one (None), under a fresh head times ``head_scale``."""
    net = build(architecture, data.channels, len(data.classes), derive("scratch", seed))
    if start is not None:
        body = {name.removeprefix("features."): t for name, t in start.items() if not name.startswith("head.")}
        net.features.load_state_dict(body)  # strict: only the head may be missing
    new_head(net, len(data.classes), derive("head weights", seed))
    net.head.load_state_dict({name: head_scale * tensor for name, tensor in net.head.state_dict().items()})
    return net.to(data.device)


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
    pretrained weights; BatchNorm trains with the head, γ, β and statistics, as in the released code. ``on_epoch`` is called
    with 0 before the second phase, and after each of its epochs with the epochs done."""
    if head_first and params.head_epochs:
        head = Recipe(params.head_epochs, params.batch_size, params.head_lr, augment=params.augment)
        fit(net, data, head, derive("head", seed), parameters=[*net.head.parameters(), *batchnorm_parameters(net)])
    full = Recipe(params.epochs, params.batch_size, params.lr, "cosine", params.augment)
    if on_epoch:
        on_epoch(0)
    fit(net, data, full, derive("all", seed), on_epoch=on_epoch and (lambda epoch: on_epoch(epoch + 1)))
