"""What a net is worth on images, batch by batch: no more than a batch's logits are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from know.data.images import Images, Samples
from know.data.names import END, IGNORED, PAD, START, UNKNOWN
from know.tasks.loss import autocast, kind_of, scored
from know.tasks.options import Kind

AT_ONCE, PIXELS = 500, 1 << 22
"""The most images, and the most of their pixels, that pass through a net at once."""
BINS = 15
UNSAID = -1
"""A word that no net says."""


class Metric(Protocol):
    """As torchmetrics' are: fed batch by batch."""

    def update(self, preds: Tensor, target: Tensor) -> None: ...

    def compute(self) -> Tensor: ...


class Found:
    """The share of positions at which the largest logit is the right one."""

    def __init__(self) -> None:
        self.right: list[Tensor] = []
        self.counted: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.right.append((logits.argmax(1) == targets).sum())
        self.counted.append((targets != IGNORED).sum())

    def compute(self) -> Tensor:
        return torch.stack(self.right).sum() / torch.stack(self.counted).sum()


def metric_for(logits: Tensor, targets: Tensor) -> Metric:
    """What ``know.tasks.options.METRICS`` names, for batches like this one."""
    if kind_of(targets) != "segmentation":
        return Found()
    from torchmetrics.classification import MulticlassJaccardIndex  # here, for it takes a second to load

    # Each process measures its own net, whether or not others make the same run with it.
    metric = MulticlassJaccardIndex(logits.shape[1], ignore_index=IGNORED, validate_args=False, sync_on_compute=False)
    return metric.to(logits.device)


@torch.no_grad()
def scores_of(net: nn.Module, data: Samples, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of all samples, in their order, a batch after the other: logits, float (n, outputs, …), and targets (n, …)."""
    net.eval()
    for images, targets in data.batches(batch_size):
        with autocast(data.device):
            logits, right = scored(net, images, targets)
        yield logits.float(), right


def logits_of(net: nn.Module, data: Images) -> Tensor:
    """Of each of the N samples, in their order: logits, float (N, outputs, …)."""
    return torch.cat([logits for logits, _ in scores_of(net, data, at_once(data))])


def outcomes(net: nn.Module, data: Samples, batch_size: int) -> tuple[Tensor, Tensor]:
    """Of a classifier, of each of the N samples, in their order: cross-entropy (nats), float (N,), and whether it is right,
    bool (N,)."""
    found = [
        (F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels)
        for logits, labels in scores_of(net, data, batch_size)
    ]
    losses, right = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(right)


def at_once(data: Images) -> int:
    """How many of these images pass through a net at once where it is not trained."""
    return max(1, min(AT_ONCE, PIXELS // (data.shape[1] * data.shape[2])))


@dataclass(frozen=True)
class Outcome:
    """Of a net on a set of images: the task's metric (``know.tasks.options.METRICS``; share, 0 to 1), cross-entropy (nats), and
    expected calibration error (share), both over positions."""

    accuracy: float
    loss: float
    ece: float


def outcome(net: nn.Module, data: Images) -> Outcome:
    """Metric, loss and calibration of ``net`` on ``data``."""
    losses, counted, calibration = [], [], Calibration()
    metric: Metric | None = None
    for logits, targets in scores_of(net, data, at_once(data)):
        metric = metric or metric_for(logits, targets)
        metric.update(logits, targets)
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        losses.append(loss.reshape(len(targets), -1).sum(1))
        counted.append((targets != IGNORED).sum())
        calibration.update(logits, targets)
    assert metric is not None, "no images"
    mean_loss = torch.cat(losses).sum() / torch.stack(counted).sum()
    return Outcome(metric.compute().item(), mean_loss.item(), calibration.compute())


def measure(net: nn.Module, data: Images) -> tuple[float, float]:
    """Mean cross-entropy (nats) and metric (share, 0 to 1) of ``net`` on ``data``."""
    found = outcome(net, data)
    return found.loss, found.accuracy


class Calibration:
    """Expected calibration error, 0 to 1: Σ_b |B_b|/N · |accuracy(B_b) - confidence(B_b)| over ``bins`` equal bins of the
    largest probability, each open below (Guo et al., ICML 2017); torchmetrics' keeps every confidence, of each pixel too."""

    def __init__(self, bins: int = BINS) -> None:
        self.gap, self.count = torch.zeros(bins, dtype=torch.float64), 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Of a batch: logits (N, outputs, …), targets (N, …)."""
        kept = targets != IGNORED
        confidence, found = logits.softmax(1).max(1)
        confidence, right = (one[kept].cpu().double() for one in (confidence, found == targets))
        bins = len(self.gap)
        place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
        self.gap += torch.bincount(place, weights=right - confidence, minlength=bins)
        self.count += len(place)

    def compute(self) -> float:
        """Of all batches."""
        return (self.gap.abs().sum() / self.count).item()


@torch.no_grad()
def bleu(net: nn.Module, data: Images, kind: Kind) -> float | None:
    """BLEU (Papineni et al., ACL 2002), share, 0 to 1, of the captions that ``net`` gives to images, word by most probable word,
    against their own: of n-grams up to 4 words, or the longest caption if that is shorter; a word that is not in the vocabulary is
    never right. None in a task without captions."""
    if kind != "captioning":
        return None
    net.eval()
    given, own = list[str](), list[str]()
    for images, tokens in data.batches(at_once(data)):
        said = torch.full((len(images), 1), START, device=images.device)
        for _ in range(tokens.shape[1] - 1):
            with autocast(images.device):
                following = net(images, said)[:, :, -1].argmax(1, keepdim=True)
            said = torch.cat([said, following], 1)
        given += map(_words, said.tolist())
        own += map(_words, tokens.masked_fill(tokens == UNKNOWN, UNSAID).tolist())
    from torchmetrics.text import BLEUScore  # here, for it takes a second to load

    metric = BLEUScore(min(4, max(len(caption.split()) for caption in own)))
    return metric(given, [[caption] for caption in own]).item()


def _words(tokens: list[int]) -> str:
    """Those before the end, by their numbers."""
    inside = tokens[: tokens.index(END)] if END in tokens else tokens
    return " ".join(str(token) for token in inside if token not in (PAD, START))
