"""Networks of timm, torchvision and segmentation_models_pytorch, under the library's own names in the state dict, so that its
checkpoints load here and ours there.

All take images of one or three channels with values in [-1, 1], as ours do: a hook in front of the network repeats a grey one and
makes of them what the library's weights were trained on.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from know.models.captioning import Captioner
from know.models.names import CAPTIONER, DEEPLAB, TIMM, TORCHVISION, library_of
from know.options import ParamError


@dataclass(frozen=True)
class Inputs:
    """What a network's weights were trained on: mean and standard deviation of the channels, red, green and blue, of values in
    [0, 1], and pixels a side, None if any will do. By default ImageNet's."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size: int | None = None


DPN = Inputs((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
"""Of smp's dual path networks; its other encoders that DeepLabV3+ takes have ImageNet's. (The library itself asks the internet.)"""


def network(architecture: str, outputs: int, library: bool) -> nn.Module:
    """A network by its name.

    Args:
        library: with the library's weights, which it downloads: a classifier's come with their own head, however many
            classes that tells apart; of another network they are the encoder's. Else freshly initialised.

    Raises:
        ParamError: there is no such network, its library is not installed, or the weights cannot be had.
    """
    prefix, name = _parts(architecture)
    make = {TIMM: _timm, TORCHVISION: _torchvision, DEEPLAB: _deeplab, CAPTIONER: _captioner}[prefix]
    inputs = inputs_of(architecture)
    try:
        net = make(architecture, name, outputs, library)
    except ParamError:
        raise
    except Exception as error:  # each library, and what it downloads with, has errors of its own
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ParamError(
            f"forget.pretrained: got library, but the weights of {architecture} cannot be had ({told}); allowed: with a network"
            " connection, or the path of a checkpoint"
            if library
            else f"architecture: got {architecture}, which cannot be made ({told}); allowed: any other"
        ) from error
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (inputs.mean, inputs.std))
    net.register_forward_pre_hook(partial(_normalised, mean=mean, std=std))
    return net


def _normalised(net: nn.Module, given: tuple[Tensor, ...], mean: Tensor, std: Tensor) -> tuple[Tensor, ...]:
    """The forward pass's arguments, whose first are images (N, 1 or 3, H, W) in [-1, 1]; mean and std are (3, 1, 1)."""
    images, *others = given
    mean, std = mean.to(images.device), std.to(images.device)
    return ((images / 2 + 0.5 - mean) / std, *others)


def inputs_of(architecture: str) -> Inputs:
    """What the library's weights of a network were trained on."""
    prefix, name = _parts(architecture)
    if prefix == TORCHVISION:
        trained = _torchvision_models(architecture, name).get_model_weights(name).DEFAULT.transforms()
        return Inputs(tuple(trained.mean), tuple(trained.std), trained.crop_size[0])
    if prefix == DEEPLAB and not name.startswith("tu-"):
        return DPN if name.startswith("dpn") else Inputs()
    config = _timm_library(architecture, name.removeprefix("tu-")).get_pretrained_cfg(name.removeprefix("tu-"))
    return Inputs(config.mean, config.std, None if prefix == DEEPLAB else config.input_size[-1])


def _parts(architecture: str) -> tuple[str, str]:
    found = library_of(architecture)
    assert found is not None, architecture
    return found


def _imported(architecture: str, package: str) -> Any:
    """The package, only now: it loads torch's compiler, which takes seconds in each process."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise ParamError(
            f"architecture: got {architecture}; allowed with {package} installed: pip install {package}"
        ) from None


def _timm_library(architecture: str, name: str) -> Any:
    timm = _imported(architecture, "timm")
    if not timm.is_model(name):
        raise ParamError(f"architecture: got {architecture}; allowed: a network in timm.list_models()")
    return timm


def _timm(architecture: str, name: str, outputs: int, library: bool) -> nn.Module:
    own = {"pretrained": True} if library else {"num_classes": outputs}
    return _timm_library(architecture, name).create_model(name, **own)


def _torchvision_models(architecture: str, name: str) -> Any:
    models = _imported(architecture, "torchvision").models
    if name not in models.list_models(module=models):
        raise ParamError(
            f"architecture: got {architecture}; allowed: a network in torchvision.models.list_models(torchvision.models)"
        )
    return models


def _torchvision(architecture: str, name: str, outputs: int, library: bool) -> nn.Module:
    own = {"weights": "DEFAULT"} if library else {"weights": None, "num_classes": outputs}
    net = _torchvision_models(architecture, name).get_model(name, **own)
    if getattr(net, "aux_logits", False):
        raise ParamError(f"architecture: got {architecture}, which has a second head in training; allowed: any other")
    return net


def _deeplab(architecture: str, name: str, outputs: int, library: bool) -> nn.Module:
    smp = _imported(architecture, "segmentation_models_pytorch")
    universal = name.startswith("tu-")
    if not universal and name not in smp.encoders.get_encoder_names():
        raise ParamError(
            f"architecture: got {architecture}; allowed: an encoder in smp.encoders.get_encoder_names(), or tu-NAME of one of timm's"
        )
    weights = (True if universal else "imagenet") if library else None
    return smp.DeepLabV3Plus(encoder_name=name, encoder_weights=weights, classes=outputs)


def _captioner(architecture: str, name: str, outputs: int, library: bool) -> nn.Module:
    """An encoder of timm's, under three layers of width 256."""
    timm = _timm_library(architecture, name)
    encoder = timm.create_model(
        name, pretrained=library, num_classes=0, global_pool=""
    )  # images to its last feature map
    return Captioner(encoder, encoder.head_hidden_size, outputs, width=256, layers=3, heads=8)
