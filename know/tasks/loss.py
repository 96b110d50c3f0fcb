"""What is learned. Every kind of task tells apart positions: an image's one, its pixels, or a caption's words; so all have one
loss, and nothing but this module knows how a net is called."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from know.data.names import IGNORED, PAD
from know.tasks.options import Kind


def kind_of(targets: Tensor) -> Kind:
    """The kind of task that these targets are of: labels (N,), masks (N, H, W) or tokens (N, T)."""
    kinds: dict[int, Kind] = {1: "classification", 3: "segmentation", 2: "captioning"}
    return kinds[targets.ndim]


def scored(net: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, outputs, …) for images (N, C, H, W), and the targets (N, …) that they should find, int64, which do not count
    where they are IGNORED.

    A captioner is told the words before each that it is to find (teacher forcing; Williams & Zipser, 1989).
    """
    if kind_of(targets) != "captioning":
        return net(images), targets
    words = targets[:, 1:]
    return net(images, targets[:, :-1]), words.masked_fill(words == PAD, IGNORED)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on CUDA, full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def loss_of(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of a batch's positions."""
    with autocast(images.device):
        logits, right = scored(net, images, targets)
        return F.cross_entropy(logits, right, ignore_index=IGNORED)
