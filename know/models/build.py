"""A network by its name: ours or a library's, freshly initialised or pretrained, and its head, which transfer replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from know.models import captioning, segmentation, small
from know.models.libraries import inputs_of, network
from know.models.names import LIBRARY, kind_of, library_of
from know.options import ParamError
from know.weights.files import load_state
from know.weights.kinds import bare_name
from know.weights.modules import load_weights


def build(architecture: str, channels: int, outputs: int, seed: int, pretrained: Path | str | None = None) -> nn.Module:
    """A network for images of ``channels`` channels: the function of its name here, or a library's network of it.

    Whatever is not pretrained is drawn under ``seed`` without touching the global generator. Ours: He's uniform for convolutions
    and hidden linear layers, PyTorch's default for the head, and what ``captioning`` says for a decoder; a library's network
    keeps the library's initialisation.

    Args:
        outputs: what the head tells apart: classes, or the words of a vocabulary.
        pretrained: "library", the library's weights, or the path of a checkpoint, which may lack the head. A head of another
            number of outputs is a fresh one.

    Raises:
        ParamError: one line: there is no such network, it is not for such images, or what is pretrained cannot be had or
            does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if library_of(architecture) is None:
            net = _own(architecture, channels, outputs)
        elif channels in (1, 3):
            net = network(architecture, outputs, pretrained == LIBRARY)
        else:
            raise ParamError(f"architecture: got {architecture} for {channels} channels; allowed: images of 1 or 3")
        if _outputs(net) != outputs:  # a library's own
            _replace_head(net, outputs)
    if pretrained not in (None, LIBRARY):
        _load(net, Path(pretrained))
    return net


def _own(architecture: str, channels: int, outputs: int) -> nn.Module:
    rooms = {"classification": small, "segmentation": segmentation, "captioning": captioning}
    net: nn.Module = getattr(rooms[kind_of(architecture)], architecture.replace("-", "_"))(channels, outputs)
    for module in net.get_submodule("features").modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def _load(net: nn.Module, path: Path) -> None:
    """Load a checkpoint; the head stays as it is where the file has none of its shapes."""
    own = net.state_dict()
    try:
        given = {bare_name(name): tensor for name, tensor in load_state(path).items()}
        head = {name: own[name] for name in head_names(net)}
        if any(name not in given or given[name].shape != tensor.shape for name, tensor in head.items()):
            given |= head
        load_weights(net, given, str(path))
    except ValueError as error:
        raise ParamError(f"forget.pretrained: {error}") from None


def input_size(architecture: str) -> int | None:
    """Pixels a side of the images that a library's weights were trained on; None if the network has no size of its own."""
    return None if library_of(architecture) is None else inputs_of(architecture).size


# --- the head -----------------------------------------------------------------------------------------------------


def head_of(net: nn.Module) -> nn.Module:
    """The last layer, which gives the outputs: linear, or a convolution."""
    return net.get_submodule(_head_place(net))


def head_names(net: nn.Module) -> set[str]:
    """The names of its head in a network's state dict."""
    place = _head_place(net)
    return {f"{place}.{name}" for name in net.get_submodule(place).state_dict()}


def new_head(net: nn.Module, outputs: int, seed: int) -> None:
    """Replace the head of ``net`` by a fresh one of ``outputs`` outputs, as transfer to another label set does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _replace_head(net, outputs)


def _head_place(net: nn.Module) -> str:
    """The last linear layer or convolution of what the network calls its head: timm's classifier, smp's segmentation head,
    ours; torchvision has no word for it, but it comes last."""
    if callable(classifier := getattr(net, "get_classifier", None)):
        head = classifier()
    else:
        head = getattr(net, "segmentation_head", getattr(net, "head", net))
    layers = [m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)] if isinstance(head, nn.Module) else []
    if not layers:
        raise ParamError(f"architecture: {type(net).__name__} has no single layer as its head; allowed: one that has")
    return next(name for name, module in net.named_modules() if module is layers[-1])


def _outputs(net: nn.Module) -> int:
    return len(head_of(net).get_parameter("weight"))


def _replace_head(net: nn.Module, outputs: int) -> None:
    """As the network's library does it, if it has a way: timm's, less what that makes anew beside the last layer; else by a layer
    as the old one is."""
    if callable(reset := getattr(net, "reset_classifier", None)):
        body = {name: tensor for name, tensor in net.state_dict().items() if name not in head_names(net)}
        reset(outputs)
        load_weights(net, body | {name: net.state_dict()[name] for name in head_names(net)}, "the body")
        return
    old: Any = head_of(net)
    bias = old.bias is not None
    fresh = (
        nn.Linear(old.in_features, outputs, bias)
        if isinstance(old, nn.Linear)
        else nn.Conv2d(old.in_channels, outputs, old.kernel_size, old.stride, old.padding, bias=bias)
    )
    net.set_submodule(_head_place(net), fresh)
