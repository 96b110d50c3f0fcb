"""Downstream fine-tuning, as in the paper: the new head first with the rest frozen, then everything with a cosine."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from torch import Tensor, nn

from know.data.images import ImageSet
from know.data.subsets import stratified_order
from know.models.build import build, head_names, head_of, new_head
from know.models.names import adapted, kind_of
from know.options import ParamError
from know.seeds import derive
from know.tasks.options import Kind
from know.training.loop import Recipe, batchnorm_parameters, fit
from know.training.options import FineTuning
from know.weights.modules import load_weights

ENCODER = "features."
"""Where a network that has another's body as its encoder holds it."""


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
    architecture: str,
    start: Mapping[str, Tensor] | None,
    data: ImageSet,
    seed: int,
    head_scale: float = 1.0,
    kind: Kind | None = None,
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The network to fine-tune on ``data``: the body of ``start``, or a fresh one (None), under a fresh head times ``head_scale``.

    Args:
        architecture: of ``start``, which may lack its head.
        kind: of the task, if ``architecture`` is for another: ``adapted`` to it, the network has that body as its encoder, and
            whatever else it has is fresh, and alike for every start.

    Returns:
        The network, on the device of ``data``, and its parameters that are not from ``start``: none where nothing is.

    Raises:
        ValueError: ``start`` less its head is not exactly that body; names the first tensor that is missing, unexpected or
            mis-shaped.
    """
    target = adapted(architecture, kind or kind_of(architecture))
    net, new = build(target, data.channels, len(data.outputs), derive("scratch", seed)), set[str]()
    if start is not None:
        source, place = (
            (net, "") if target == architecture else (build(architecture, data.channels, 2, seed=0), ENCODER)
        )
        heads, own = head_names(source), net.state_dict()
        body = {place + name: tensor for name, tensor in start.items() if name not in heads}
        new = head_names(net) | {name for name in own if not name.startswith(place)}
        load_weights(net, body | {name: own[name] for name in new}, architecture)
    new_head(net, len(data.outputs), derive("head weights", seed))
    head = head_of(net)
    head.load_state_dict({name: head_scale * tensor for name, tensor in head.state_dict().items()})
    return net.to(data.device), [parameter for name, parameter in net.named_parameters() if name in new]


def fine_tune(
    net: nn.Module,
    data: ImageSet,
    params: FineTuning,
    seed: int,
    new: Collection[nn.Parameter],
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Fine-tune in place: what is ``new`` first, while the rest is kept, then everything. From scratch there is nothing to
    keep, and ``new`` is empty. BatchNorm trains with what is new, γ, β and statistics, as in the released code. ``on_epoch``
    is called with 0 before the second phase, and after each of its epochs with the epochs done."""
    full = Recipe(params.epochs, params.batch_size, params.lr, "cosine", params.augment, params.weight_decay)
    if new and params.head_epochs:
        head = replace(full, epochs=params.head_epochs, lr=params.head_lr, schedule="constant")
        fit(net, data, head, derive("head", seed), parameters=[*new, *batchnorm_parameters(net)])
    if on_epoch:
        on_epoch(0)
    fit(net, data, full, derive("all", seed), on_epoch=on_epoch and (lambda epoch: on_epoch(epoch + 1)))
