"""Checkpoints from and to disk, without ever running a pickle's code.

``Checkpoint`` holds no model: tensors are read and written in pieces. What a file is, its content says, not its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from safetensors.torch import save_file
from torch import Tensor

from know.paths import atomic
from know.weights.folders import Sharded, shards_of
from know.weights.kinds import State
from know.weights.pt import LEGACY, Saved
from know.weights.reading import CheckpointError, Pieces, Reader
from know.weights.safetensor import STORABLE, Safetensors, Writer, check_names
from know.weights.wrappers import ALL, Choice, stripped

__all__ = [
    "ALL", "STORABLE", "Checkpoint", "CheckpointError", "Choice", "Writer", "check_names", "load_state", "save_state",
]  # fmt: skip

UNFOLD = 16.0
"""How many times its file's size a checkpoint's tensors may take."""


class Checkpoint:
    """A state dict on disk as a source for ``engine.extrapolate``: what it holds, and pieces of it on demand.

    Args:
        path: a safetensors file, one of ``torch.save``, or a folder with one of them or with shards and their index.
        choice: which tensors of it.
        unfold: how many times the file's size they may take.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else than tensors.
    """

    def __init__(self, path: Path, choice: Choice = ALL, unfold: float = UNFOLD) -> None:
        self.path, self.label = path, str(path)
        self._reader, self.key = _opened(path, choice, unfold)
        try:
            self._names = stripped(list(self._reader.tensors), choice.strip, path)
        except CheckpointError:
            self._reader.close()
            raise
        self.tensors: State = {name: self._reader.tensors[own] for name, own in self._names.items()}
        self.metadata = self._reader.metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._reader.close()

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""
        return self._reader.read(self._names[name], start, stop)


def _opened(path: Path, choice: Choice, unfold: float) -> tuple[Reader, str]:
    if path.is_dir():
        return _folder(path, choice, unfold)
    pieces = Pieces(path)
    head = pieces.bytes(0, len(LEGACY))
    pieces.close()
    if head.startswith(b"PK") or head == LEGACY:
        saved = Saved(path, choice, unfold)
        return saved, saved.chosen
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        if choice.key is not None:
            raise CheckpointError(f"{path}: safetensors hold one state dict, without a key; leave --key out")
        return Safetensors(path), ""
    raise CheckpointError(f"{path}: not a readable state dict: neither safetensors nor a file of torch.save")


def _folder(folder: Path, choice: Choice, unfold: float) -> tuple[Reader, str]:
    files, places = shards_of(folder)
    if places is None:
        return _opened(files[0], choice, unfold)
    readers: dict[str, Reader] = {}
    with ExitStack() as stack:
        for path in files:
            readers[path.name], _ = _opened(path, choice, unfold)
            stack.callback(readers[path.name].close)
        sharded = Sharded(folder, readers, places)
        stack.pop_all()
    return sharded, ""


def load_state(path: Path | str, choice: Choice = ALL, unfold: float = UNFOLD) -> State:
    """A whole state dict, from whatever ``Checkpoint`` reads.

    Raises:
        CheckpointError: see ``Checkpoint``.
    """
    with Checkpoint(Path(path), choice, unfold) as checkpoint:
        return {
            name: checkpoint.read(name, 0, tensor.numel()).reshape(tensor.shape)
            for name, tensor in checkpoint.tensors.items()
        }


def save_state(state: Mapping[str, Tensor], path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors under a temporary name, then rename.

    The format has no shared memory: tied tensors are written once each, and equal."""
    path = Path(path)
    check_names(path, list(state))
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        tensor = tensor.detach().contiguous()
        own[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in storages else tensor
        storages.add(own[name].untyped_storage().data_ptr())
    with atomic(path) as temporary:
        save_file(own, temporary, dict(metadata or {}) or None)
