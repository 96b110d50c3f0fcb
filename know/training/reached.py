"""Where a training stands after an epoch: all that the next one depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class History:
    """Losses and accuracies, one entry an epoch; validation lists are empty without validation data."""

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = math.inf


@dataclass
class Standing:
    """A training between two epochs: the net, Adam's moments of its ``trained`` parameters, the schedule, the generators of
    what is random (``generator``, and torch's own of ``device``), the history, and the ``best`` weights so far."""

    net: nn.Module
    trained: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    generator: torch.Generator
    device: torch.device
    history: History
    best: Mapping[str, Tensor]

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of it, as tensors on the CPU by their part and name, and as plain values."""
        parts: dict[str, Mapping[str, Tensor]] = {"net": self.net.state_dict(), "best": self.best}
        parts |= {f"adam {i}": self.optimizer.state[parameter] for i, parameter in enumerate(self.trained)}
        parts["random"] = {"own": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            parts["random"] = {**parts["random"], "cuda": torch.cuda.get_rng_state(self.device)}
        tensors = {
            f"{part}/{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        # The schedule itself is a function, and the same again.
        schedule = self.scheduler.state_dict() | {"lr_lambdas": [None]}
        return tensors, {"schedule": schedule, "history": asdict(self.history)}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Stand where ``saved`` stood."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

        self.net.load_state_dict(part("net"))
        self.best = part("best")
        for i, parameter in enumerate(self.trained):
            moments = {name: own.to(self.device) for name, own in part(f"adam {i}").items()}
            for name, own in moments.items():
                if own.shape == parameter.shape:  # in the parameter's layout, as the fused step reads it
                    moments[name] = torch.empty_like(parameter).copy_(own)
            self.optimizer.state[parameter] = moments
        self.scheduler.load_state_dict(dict(plain["schedule"]))
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr
        random = part("random")
        self.generator.set_state(random["own"])
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)
        self.history.__dict__.update(plain["history"])
