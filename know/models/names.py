"""The architectures' names; what they are is in ``know.models.small``."""

from typing import Literal

Architecture = Literal["cnn", "cnn-bn", "resnet", "mobilenet", "shufflenet", "densenet", "resnet18"]
