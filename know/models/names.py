"""The networks' names, and which kind of task each is for. This module imports no torch; what they are is in
``know.models.small``, ``segmentation``, ``captioning`` and ``libraries``, and ``know.models.build`` makes them."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from know.tasks.options import Kind

ARCHITECTURES = ("cnn", "cnn-bn", "resnet", "mobilenet", "shufflenet", "densenet", "resnet18", "resnet18-released")
"""Classifiers of ``know.models.small``."""
OWN: dict[str, Kind] = {
    **dict.fromkeys(ARCHITECTURES, "classification"),
    "unet": "segmentation",
    "captioner": "captioning",
}
TIMM, TORCHVISION, DEEPLAB, CAPTIONER = "timm:", "torchvision:", "smp:deeplabv3plus-", "captioner:"
LIBRARIES: dict[str, Kind] = {
    TIMM: "classification",
    TORCHVISION: "classification",
    DEEPLAB: "segmentation",
    CAPTIONER: "captioning",
}
"""In front of a library's own name of a network, ``timm:resnet18``, or of an encoder, ``smp:deeplabv3plus-resnet50`` and, of
timm's, ``captioner:pvt_v2_b0``."""

ENCODERS = {TIMM: CAPTIONER}
"""Libraries of classifiers that others' networks of the same name have as their encoder."""

LIBRARY: Literal["library"] = "library"
"""In place of a checkpoint's path: the weights that a network's library has for it."""


def library_of(architecture: str) -> tuple[str, str] | None:
    """The library's prefix and its own name of a network; None if the network is one of ours."""
    for prefix in LIBRARIES:
        if architecture.startswith(prefix) and architecture != prefix:
            return prefix, architecture.removeprefix(prefix)
    return None


def kind_of(architecture: str) -> Kind:
    """The kind of task that a network is for.

    Raises:
        ValueError: there is no such network; says which there are.
    """
    if architecture in OWN:
        return OWN[architecture]
    if (found := library_of(architecture)) is None:
        raise ValueError(
            f"allowed: {', '.join(OWN)}, {TIMM}NAME or {TORCHVISION}NAME of a network there, or {DEEPLAB}ENCODER or"
            f" {CAPTIONER}ENCODER of an encoder of segmentation_models_pytorch or timm"
        )
    return LIBRARIES[found[0]]


def adapted(architecture: str, kind: Kind) -> str:
    """The network for tasks of this kind that has a network's body: itself, or the one whose encoder that classifier is.

    Raises:
        ValueError: there is none; says for which kinds there is one.
    """
    prefix, name = library_of(architecture) or ("", "")
    found = {kind_of(architecture): architecture}
    if prefix in ENCODERS:
        found[LIBRARIES[ENCODERS[prefix]]] = ENCODERS[prefix] + name
    if kind not in found:
        raise ValueError(f"allowed: one for {' or '.join(found)}, with forget.architecture = {architecture}")
    return found[kind]


def _known(name: str) -> str:
    kind_of(name)
    return name


Architecture = Annotated[str, AfterValidator(_known)]
"""A parameter that names an architecture."""
