"""Structured forgetting: from Θ_0, converged on D_0, to the trajectory Θ_{S-1}, …, Θ_1, Θ_0 (paper, Sec. 3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from know.data.images import ImageSet, Samples
from know.paths import atomic
from know.seeds import derive
from know.training.loop import Recipe, fit
from know.training.options import Mode
from know.weights.kinds import State


def state_of(net: nn.Module) -> State:
    """A copy of the state dict, on the CPU, in plain contiguous layout."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in net.state_dict().items()}


def forget(
    net: nn.Module,
    subsets: Sequence[Samples],
    recipe: Recipe,
    seed: int,
    mode: Mode = "sequential",
    initial: Mapping[str, Tensor] | None = None,
) -> list[State]:
    """The trajectory of ``net``, which holds Θ_0 and is left with Θ_{S-1}: S states, most forgotten first, Θ_0 last.

    Arguments as for ``forget_further``.
    """
    return [state_of(net), *forget_further(net, subsets, recipe, seed, mode, initial)][::-1]


def forget_further(
    net: nn.Module,
    subsets: Sequence[Samples],
    recipe: Recipe,
    seed: int,
    mode: Mode = "sequential",
    initial: Mapping[str, Tensor] | None = None,
    done: int = 0,
) -> Iterator[State]:
    """Θ_{done+1}, …, Θ_{S-1} from ``net``, which holds Θ_done: each as soon as it is trained.

    Args:
        subsets: D_1 ⊃ … ⊃ D_{S-1}; D_0 is not needed.
        recipe: of the fine-tuning on each.
        mode: "sequential", the paper's: Θ_k starts from Θ_{k-1}. "restart", the released meta-data script's: every
            Θ_k starts from the same ``initial`` weights, those from which Θ_0 was trained.
    """
    if mode == "restart" and initial is None:
        raise ValueError("mode 'restart' needs the initial weights from which Θ_0 was trained")
    for k, subset in enumerate(subsets[done:], start=done + 1):
        if mode == "restart" and initial is not None:
            net.load_state_dict(initial)
        fit(net, subset, recipe, derive("forget", seed, k))
        yield state_of(net)


@dataclass(frozen=True)
class Redrawn:
    """As many images as a subset has, but drawn anew from all of ``data`` in each pass: in place of D_k, a net trains for as
    many steps and forgets nothing. Samples, as ``know.data.images`` says."""

    data: ImageSet
    size: int

    def __len__(self) -> int:
        return self.size

    @property
    def device(self) -> torch.device:
        return self.data.device

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """``size`` images once, others in each call."""
        drawn = torch.randperm(len(self.data), generator=generator)[: self.size]
        return self.data.select(drawn).batches(batch_size, generator)


def extra_compute(rate: float, history_length: int) -> float:
    """Images that the forgetting runs see, relative to as many epochs on D_0: Σ_{k=1}^{S-1} r^k = r(1 - r^{S-1})/(1 - r).

    So Θ_0 trained on for this many times a forgetting run's epochs has had the same compute: 0.94 at r = 0.5, S = 5.
    (The paper's (1 - r^{S-1})/(1 - r) is 1/r times as much: it counts from |D_0| on.)
    """
    return sum(rate**k for k in range(1, history_length))


def save_trajectory(trajectory: Sequence[Mapping[str, Tensor]], folder: Path) -> None:
    """Write Θ_k as ``theta_k.safetensors``, k = 0 … S-1."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        for k, theta in enumerate(reversed(trajectory)):
            save_file(dict(theta), temporary / f"theta_{k}.safetensors")


def load_trajectory(folder: Path, length: int) -> list[State]:
    """Read Θ_{length-1}, …, Θ_0, most forgotten first."""
    return [load_file(folder / f"theta_{k}.safetensors") for k in reversed(range(length))]
