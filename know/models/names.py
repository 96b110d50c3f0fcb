"""The architectures' names; what they are is in ``know.models.small``, a function each. This module imports no torch."""

from typing import Annotated

from pydantic import AfterValidator

ARCHITECTURES = ("cnn", "cnn-bn", "resnet", "mobilenet", "shufflenet", "densenet", "resnet18", "resnet18-released")
TIMM = "timm:"
"""In front of the name of a network of timm's, ``timm:resnet18``."""


def _known(name: str) -> str:
    if name not in ARCHITECTURES and not name.startswith(TIMM):
        raise ValueError(f"allowed: {', '.join(ARCHITECTURES)}, or {TIMM}NAME of a network of timm's")
    return name


Architecture = Annotated[str, AfterValidator(_known)]
"""A parameter that names an architecture."""
