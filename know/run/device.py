"""Devices by name, and how the runs of this process compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Place(NamedTuple):
    """Where the runs of this process compute, and how: as ``on`` says."""

    device: torch.device = torch.device("cpu")
    compiled: bool = False
    together: Accelerator | None = None
    sharing: int = 1


_place = Place()


def device_named(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name.partition(":")[0]):
        raise ValueError(
            f"device {name!r} is not available here; allowed: auto, {', '.join(filter(available.get, available))}"
        )
    return torch.device(name)


def here() -> torch.device:
    """Where a run computes: a run is a function of its job alone, and its device is the executor's business."""
    return _place.device


def compiled() -> bool:
    """Whether a run compiles the nets that it trains."""
    return _place.compiled


def together() -> Accelerator | None:
    """What connects this process to the others that make the same run with it (``know.run.spread``); None: it makes it alone."""
    return _place.together


def sharing() -> int:
    """How many processes share this machine's cores, this one among them."""
    return _place.sharing


@contextmanager
def on(
    device: torch.device, compiled: bool = False, together: Accelerator | None = None, sharing: int = 1
) -> Iterator[None]:
    """Let the runs in the block compute on this device, with their nets compiled or as they are, ``together`` with other
    processes or alone, ``sharing`` the machine with so many, themselves among them."""
    global _place
    before, _place = _place, Place(device, compiled, together, sharing)
    try:
        yield
    finally:
        _place = before
