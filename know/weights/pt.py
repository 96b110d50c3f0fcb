"""Files of ``torch.save``, read in pieces, without ever running a pickle's code.

The pickle inside is read by PyTorch's own weights-only unpickler, which calls nothing but what is named here; storages
stay in the file until a piece of them is asked for. What is not as ``torch.save`` writes it is refused.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections import OrderedDict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import Unpickler
from torch.storage import TypedStorage, UntypedStorage

from know.weights.archive import Member, members
from know.weights.kinds import State
from know.weights.reading import CheckpointError, Pieces, unreadable
from know.weights.wrappers import Choice, state_in

LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""The first bytes of what PyTorch wrote before 1.6."""
SPARE = 1 << 20
"""Bytes that any file may unfold to, however small."""


class Ignored:
    """Stands for what training states hold beside weights, and has no content: a subclass each, with the original's name."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_IGNORED = (
    "argparse.Namespace", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "pathlib.PosixPath", "pathlib._local.PosixPath",
)  # fmt: skip
_DICTIONARIES = (
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
STAND_INS: dict[str, type] = {name: type(name, (Ignored,), {}) for name in _IGNORED}
STAND_INS |= dict.fromkeys(_DICTIONARIES, OrderedDict)
"""What is made instead of classes that a training state may hold: none of these is imported or run."""
PLAIN = {
    "collections.OrderedDict", "collections.Counter", "_codecs.encode", "__builtin__.set", "__builtin__.complex",
    "builtins.set", "builtins.complex", "torch.Size", "torch.device", "torch.Tensor", "torch.serialization._get_layout",
    "torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}  # fmt: skip
"""What PyTorch rebuilds dense tensors with. Its own list is longer, and in part takes memory by the size that a file gives."""
LAYOUTS = {"_rebuild_sparse_tensor": "sparse", "_rebuild_qtensor": "quantized", "_rebuild_nested_tensor": "nested"}


def _stand_ins() -> AbstractContextManager[None]:
    return torch.serialization.safe_globals([(cls, name) for name, cls in STAND_INS.items()])


def _check_globals(path: Path, pickle: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name != "GLOBAL":
            continue
        name = str(argument).replace(" ", ".")
        module, _, leaf = name.rpartition(".")
        if layout := LAYOUTS.get(leaf):
            raise CheckpointError(f"{path}: holds a {layout} tensor: only dense ones can be predicted")
        of_torch = module.split(".")[0] == "torch" and (
            leaf.endswith("Storage") or isinstance(getattr(torch, leaf, None), torch.dtype)
        )
        if not (of_torch or name in PLAIN or name in STAND_INS):
            raise CheckpointError(
                f"{path}: holds more than tensors ({name}), which is not run: save model.state_dict() alone"
            )


def flat_piece(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Elements ``start`` to ``stop`` of the flattened tensor, which may be a view of any strides: only they are copied."""
    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    index = torch.arange(start, stop)
    place = torch.zeros_like(index)
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        place += index % size * stride
        index //= size
    return tensor.as_strided((_extent(tensor),), (1,))[place]


def _extent(tensor: Tensor) -> int:
    """How many elements of its storage lie between a tensor's first and its last, both included."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


class Saved:
    """A file of ``torch.save`` as a ``Reader``.

    Tensors that are stored in another order than their own (transposed, channels_last), and all of a file from before
    PyTorch 1.6, are held in memory, as large as they are in the file.

    Args:
        choice: which state dict of a training state.
        unfold: how many times the file's size its tensors may take: a single number can be expanded to any shape.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else than tensors.
    """

    metadata: dict[str, str]

    def __init__(self, path: Path, choice: Choice, unfold: float) -> None:
        self.metadata = {}
        self._path, self._pieces = path, Pieces(path)
        self._members: dict[int, Member] = {}
        self._places: dict[str, int] = {}
        self._held: State = {}
        try:
            legacy = self._pieces.bytes(0, len(LEGACY)) == LEGACY
            held = self._legacy() if legacy else self._archive()
            state, self.chosen = state_in(held, path, choice)
            self.tensors: State = {name: tensor.detach() for name, tensor in state.items()}
            for name, tensor in self.tensors.items():
                self._check(name, tensor, legacy)
            declared = sum(tensor.numel() * tensor.itemsize for tensor in self.tensors.values())
            if declared > unfold * self._pieces.size + SPARE:
                raise CheckpointError(
                    f"{path}: its tensors take {declared:,} bytes and the file {self._pieces.size:,}: more than"
                    f" {unfold:g} times as many; `know predict --unfold` raises the limit"
                )
            if legacy:
                self._held, self.tensors = self.tensors, {n: t.to("meta") for n, t in self.tensors.items()}
            else:
                self._place()
        except Exception as error:  # a damaged archive or pickle fails in any way that a decoder can
            self.close()
            raise unreadable(path, error) from None

    def _archive(self) -> Any:
        found = members(self._pieces)
        roots = [name.removesuffix("data.pkl") for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise CheckpointError(f"{self._path}: not a readable state dict: an archive, but not one of torch.save")
        (root,) = roots
        order = found.get(f"{root}byteorder")
        if order and (text := self._pieces.bytes(order.offset, order.size)) != b"little":
            raise CheckpointError(
                f"{self._path}: its numbers are stored as {text[:20]!r} endian, which is not read here: load it with"
                " torch.load and save it on this machine"
            )
        storages: dict[str, TypedStorage] = {}

        def storage_of(saved: Any) -> TypedStorage:
            kind, key, count = saved[1], str(saved[2]), saved[4]
            if key not in storages:
                dtype = torch.uint8 if kind is UntypedStorage else kind.dtype
                size, member = count * dtype.itemsize, found[f"{root}data/{key}"]
                if member.size != size:
                    raise CheckpointError(f"{self._path}: damaged: storage {key} has {member.size} bytes, not {size}")
                untyped = UntypedStorage(size, device="meta")
                self._members[untyped._cdata] = member
                storages[key] = TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)
            return storages[key]

        member = found[f"{root}data.pkl"]
        pickle = self._pieces.bytes(member.offset, member.size)
        _check_globals(self._path, pickle)
        unpickler = Unpickler(io.BytesIO(pickle), encoding="utf-8")
        unpickler.persistent_load = storage_of  # type: ignore[method-assign]
        with _stand_ins(), warnings.catch_warnings(action="ignore"):  # on a protocol that is then refused
            read = unpickler.load()
        self._storages = storages  # alive for as long as their addresses are looked up
        return read

    def _legacy(self) -> Any:
        with _stand_ins(), warnings.catch_warnings(action="ignore"):  # on sparse tensors, which are refused anyway
            try:
                return torch.load(self._path, map_location="cpu", weights_only=True)
            except NotImplementedError:
                raise CheckpointError(
                    f"{self._path}: holds a sparse tensor: only dense ones can be predicted"
                ) from None

    def _check(self, name: str, tensor: Tensor, legacy: bool) -> None:
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or tensor.is_nested
            or tensor.is_conj()
            or tensor.is_neg()
        ):
            raise CheckpointError(
                f"{self._path}: {name}: holds a sparse or quantized tensor: only dense ones can be predicted"
            )
        if legacy:
            stored = tensor.untyped_storage().nbytes()
        elif (member := self._members.get(tensor.untyped_storage()._cdata)) is not None:
            stored = member.size
        else:
            raise CheckpointError(f"{self._path}: {name}: its values are not in the file")
        if tensor.numel() and (tensor.storage_offset() + _extent(tensor)) * tensor.itemsize > stored:
            raise CheckpointError(f"{self._path}: damaged: {name}: reaches beyond what is stored of it")

    def _place(self) -> None:
        """Where each tensor's first element is; what does not lie in its own order is read now."""
        for name, tensor in self.tensors.items():
            place = (
                self._members[tensor.untyped_storage()._cdata].offset + int(tensor.storage_offset()) * tensor.itemsize
            )
            if tensor.is_contiguous():
                self._places[name] = place
            else:
                raw = self._pieces.fill(name, torch.empty(_extent(tensor), dtype=tensor.dtype), place)
                self._held[name] = raw.as_strided(tensor.shape, tensor.stride())

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""
        if name in self._held:
            return flat_piece(self._held[name], start, stop)
        values = torch.empty(stop - start, dtype=self.tensors[name].dtype)
        return self._pieces.fill(name, values, self._places[name] + start * values.itemsize)

    def close(self) -> None:
        self._pieces.close()
