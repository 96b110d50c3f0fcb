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


def asked(targets: Tensor) -> Tensor:
    """What a net should find of targets, (N, …), int64, which does not count where it is IGNORED: of a caption, every word
    after the first."""
    if kind_of(targets) != "captioning":
        return targets
    words = targets[:, 1:]
    return words.masked_fill(words == PAD, IGNORED)


def scored(net: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, outputs, …) for images (N, C, H, W), and what they should find of the targets (N, …), as ``asked`` says.

    A captioner is told the words before each that it is to find (teacher forcing; Williams & Zipser, 1989).
    """
    given = (images, targets[:, :-1]) if kind_of(targets) == "captioning" else (images,)
    return net(*given), asked(targets)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on CUDA, full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def loss_of(net: nn.Module, images: Tensor, targets: Tensor, batch: Tensor | None = None) -> Tensor:
    """Mean cross-entropy (nats) of a batch's positions; or, of a part of a batch whose targets are ``batch``, what it adds to
    that of the batch."""
    with autocast(images.device):
        logits, right = scored(net, images, targets)
        if batch is None:
            return F.cross_entropy(logits, right, ignore_index=IGNORED)
        total = F.cross_entropy(logits, right, ignore_index=IGNORED, reduction="sum")
        return total / (asked(batch) != IGNORED).sum()
