"""Safetensors files, read and written in pieces."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from know.weights.kinds import State
from know.weights.reading import CheckpointError, Pieces, unreadable

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Safetensors' names of dtypes."""
STORABLE = {dtype: name for name, dtype in DTYPES.items()}
METADATA = "__metadata__"


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("the header names a tensor twice")
    return found


class Safetensors:
    """A safetensors file as a ``Reader``. Raises CheckpointError: it is missing, damaged, or of a dtype unknown here."""

    def __init__(self, path: Path) -> None:
        self._pieces = Pieces(path)
        self.tensors: State = {}
        self._offsets: dict[str, int] = {}
        try:
            with safe_open(path, "pt"):  # the reference implementation checks the header and the file's length
                pass
            size = int.from_bytes(self._pieces.bytes(0, 8), "little")
            header = json.loads(self._pieces.bytes(8, size), object_pairs_hook=_distinct)
            self.metadata: dict[str, str] = header.pop(METADATA, None) or {}
            for name, entry in header.items():
                if (dtype := DTYPES.get(entry["dtype"])) is None:
                    raise CheckpointError(
                        f"{path}: {name}: dtype {entry['dtype']} is not one that PyTorch computes with"
                    )
                self.tensors[name] = torch.empty(entry["shape"], dtype=dtype, device="meta")
                self._offsets[name] = 8 + size + entry["data_offsets"][0]
        except (OSError, SafetensorError, ValueError, RuntimeError, RecursionError) as error:
            self.close()
            raise unreadable(path, error) from None

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""
        values = torch.empty(stop - start, dtype=self.tensors[name].dtype)
        return self._pieces.fill(name, values, self._offsets[name] + start * values.itemsize)

    def close(self) -> None:
        self._pieces.close()


def check_names(path: Path, names: Sequence[str]) -> None:
    """That safetensors can hold tensors of these names.

    Raises:
        CheckpointError: it names ``path`` and the tensor.
    """
    for name in names:
        if name == METADATA or name != name.encode(errors="replace").decode():  # a lone surrogate has no encoding
            raise CheckpointError(f"{path}: safetensors cannot hold a tensor of the name {name!r}; rename it")


class Writer:
    """A safetensors file whose tensors are written in pieces, in any order.

    Larger elements come first, so that every tensor is aligned. The space is claimed at once where the system can: a
    full disk shows before the work, not after it.

    Args:
        tensors: shapes by name.
        dtypes: by name.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, object] = {METADATA: {"format": "pt"} | dict(metadata)}
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
