"""What every kind of checkpoint file shares: how its errors read, and plain reads at a place in it.

Plain reads, because pages of a memory map would count as this process's memory as soon as they are touched.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written. The message is one line that names the file."""


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What the user is told of an error that reading ``path`` ended in."""
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: no such file")
    reason = " ".join(str(error).split())
    if refused := re.search(r"GLOBAL ([\w.]+)", reason):
        return CheckpointError(
            f"{path}: holds more than tensors ({refused[1]}), which is not run: save model.state_dict() alone"
        )
    return CheckpointError(f"{path}: not a readable state dict: {reason[:160] or type(error).__name__}")


class Reader(Protocol):
    """A state dict in a file: what it holds, and pieces of it on demand."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Shapes and dtypes by name, in the file's order; on the ``meta`` device."""

    @property
    def metadata(self) -> dict[str, str]:
        """What a safetensors file says of itself."""

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""

    def close(self) -> None:
        """Give the file back."""


class Pieces:
    """A file open for reads at any place, from any thread. Raises CheckpointError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self.file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable(path, error) from None
        self.size = self.file.seek(0, 2)

    def fill(self, name: str, values: Tensor, offset: int) -> Tensor:
        """Contiguous ``values`` from the bytes at ``offset``, which are the tensor's called ``name``."""
        rest = values.view(torch.uint8).numpy().data
        try:
            with self._lock:
                self.file.seek(offset)
                while rest and (count := self.file.readinto(rest)):  # type: ignore[attr-defined]
                    rest = rest[count:]
        except OSError as error:
            raise CheckpointError(f"{self.path}: {name}: cannot be read: {error.strerror}") from None
        if rest:
            raise CheckpointError(f"{self.path}: {name}: the file ends before the tensor does")
        return values

    def bytes(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on, or as many as there are."""
        with self._lock:
            self.file.seek(offset)
            return self.file.read(min(count, max(self.size - offset, 0)))

    def close(self) -> None:
        self.file.close()
