"""Checkpoints from and to disk, without ever running a pickle's code.

Nothing here holds a model: tensors are read and written in pieces, with plain reads at their place in the file (pages of
a memory map would count as this process's memory as soon as they are touched).
"""

import errno
import json
import os
import pickle
import re
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from know.paths import atomic
from know.weights.kinds import State

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Safetensors' names of dtypes."""
STORABLE = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written. The message is one line that names the file."""


def load_state(path: Path) -> State:
    """A state dict from ``.safetensors``, or from a ``.pt`` or ``.pth`` file that holds tensors alone.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if path.suffix != ".safetensors":
        return _torch_load(path, "cpu")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors under a temporary name, then rename.

    The format has no shared memory: tied tensors are written once each, and equal."""
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        tensor = tensor.detach().contiguous()
        own[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in storages else tensor
        storages.add(own[name].untyped_storage().data_ptr())
    with atomic(path) as temporary:
        save_file(own, temporary)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: no such file")
    reason = " ".join(str(error).split())
    if refused := re.search(r"GLOBAL ([\w.]+)", reason):
        return CheckpointError(
            f"{path}: holds more than tensors ({refused[1]}), which is not run: save model.state_dict() alone"
        )
    return CheckpointError(f"{path}: not a readable state dict: {reason[:160] or type(error).__name__}")


def _torch_load(path: Path, device: str) -> State:
    try:
        with warnings.catch_warnings(action="ignore"):  # on sparse tensors, which are refused anyway
            state = torch.load(path, map_location=device, weights_only=True)
    except NotImplementedError:
        raise CheckpointError(f"{path}: holds a sparse tensor: only dense ones can be predicted") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: not a state dict but a {type(state).__name__}: save model.state_dict()")
    for name, value in state.items():
        if isinstance(value, Mapping) and value and all(isinstance(part, Tensor) for part in value.values()):
            raise CheckpointError(
                f"{path}: a training state, with a state dict inside: extract it with"
                f" torch.save(torch.load({path.name!r}, weights_only=True)[{name!r}], 'weights.pt')"
            )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name}: a {type(value).__name__}, not a tensor: save model.state_dict()")
        if value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(
                f"{path}: {name}: holds a sparse or quantized tensor: only dense ones can be predicted"
            )
    return dict(state)


class Checkpoint:
    """A state dict on disk as a source for ``engine.extrapolate``: what it holds, and pieces of it on demand.

    Tensors that a ``.pt`` file stores in another order than their own (transposed, channels_last), and all of one
    written in PyTorch's format from before 1.6, are held in memory whole.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.metadata: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self._whole: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            self.tensors = self._safetensors(path) if path.suffix == ".safetensors" else self._torch(path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()

    def _safetensors(self, path: Path) -> State:
        try:
            with safe_open(path, "pt"):  # the reference implementation checks the header and the file's length
                pass
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, error) from None
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        self.metadata = header.pop("__metadata__", {})
        tensors: State = {}
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise CheckpointError(f"{path}: {name}: dtype {entry['dtype']} is not one that PyTorch computes with")
            tensors[name] = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]], device="meta")
            self._offsets[name] = 8 + size + entry["data_offsets"][0]
        return tensors

    def _torch(self, path: Path) -> State:
        tensors = _torch_load(path, "meta")
        for name, tensor in tensors.items():
            storage = tensor.untyped_storage()
            start: int | None = getattr(storage, "_checkpoint_offset", None)  # where torch.load found it in the archive
            if start is None:
                self._whole = {name: tensor.reshape(-1) for name, tensor in _torch_load(path, "cpu").items()}
                break
            if tensor.is_contiguous():
                self._offsets[name] = start + int(tensor.storage_offset()) * tensor.itemsize
            else:
                raw = torch.empty(int(storage.nbytes()), dtype=torch.uint8)
                self._fill(name, raw, start)
                strided = raw.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), int(tensor.storage_offset()))
                self._whole[name] = strided.reshape(-1)
        return tensors

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""
        if name in self._whole:
            return self._whole[name][start:stop]
        values = torch.empty(stop - start, dtype=self.tensors[name].dtype)
        self._fill(name, values.view(torch.uint8), self._offsets[name] + start * values.itemsize)
        return values

    def _fill(self, name: str, raw: Tensor, offset: int) -> None:
        rest = raw.numpy().data
        try:
            with self._lock:
                self._file.seek(offset)
                while rest and (count := self._file.readinto(rest)):  # type: ignore[attr-defined]
                    rest = rest[count:]
        except OSError as error:
            raise CheckpointError(f"{self.label}: {name}: cannot be read: {error.strerror}") from None
        if rest:
            raise CheckpointError(f"{self.label}: {name}: the file ends before the tensor does")


class Writer:
    """A safetensors file whose tensors are written in pieces, in any order.

    Larger elements come first, so that every tensor is aligned. The space is claimed at once where the system can: a
    full disk shows before the work, not after it.

    Args:
        tensors: shapes by name.
        dtypes: by name.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], metadata: dict[str, str]
    ) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"} | metadata}
        self._offsets, end = dict[str, int](), 0
        for name in sorted(tensors, key=lambda name: -dtypes[name].itemsize):
            start, end = end, end + tensors[name].numel() * dtypes[name].itemsize
            header[name] = {
                "dtype": STORABLE[dtypes[name]], "shape": list(tensors[name].shape), "data_offsets": [start, end]
            }  # fmt: skip
            self._offsets[name] = start
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        self._data = 8 + len(encoded)
        self._lock = threading.Lock()
        self._file: BinaryIO = path.open("wb", buffering=0)
        try:
            _claim(self._file, self._data + end)
            self._put(0, len(encoded).to_bytes(8, "little") + encoded)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Put flat values, of the tensor's dtype, from the flattened tensor's element ``start`` on."""
        raw = values.cpu().contiguous().view(torch.uint8).numpy().data
        self._put(self._data + self._offsets[name] + start * values.itemsize, raw)

    def _put(self, offset: int, raw: bytes | memoryview) -> None:
        rest = memoryview(raw)
        with self._lock:
            self._file.seek(offset)
            while rest:
                rest = rest[self._file.write(rest) :]


def _claim(file: BinaryIO, size: int) -> None:
    """Let the file have ``size`` bytes, claimed on the disk where the system can."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # not on macOS and Windows
        file.truncate(size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # nor on every file system
            raise
        file.truncate(size)
