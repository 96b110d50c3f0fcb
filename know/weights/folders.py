"""Folders of weights as Hugging Face's libraries lay them out: one file, or shards and the index that names them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from know.weights.kinds import State
from know.weights.reading import CheckpointError, Reader
from know.weights.safetensor import Writer

OTHERS = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state.*)\.\w+$")
"""What a trainer saves beside the weights."""
COMPANIONS = {".json", ".txt", ".model", ".jinja", ".py"}
"""Suffixes of what a model's folder needs beside its weights: configuration, tokenizer, templates, code."""
NOT_COPIED = {"trainer_state.json", "forget.json"}
PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")


def shards_of(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """A folder's weight files and, if it has an index, which tensor is in which.

    Raises:
        CheckpointError: there are none, or several without an index, or the index is damaged.
    """
    for pattern in ("*.safetensors.index.json", "*.bin.index.json"):
        if indices := sorted(folder.glob(pattern)):
            return _indexed(_only(folder, indices))
    for pattern in PATTERNS:
        if files := sorted(path for path in folder.glob(pattern) if not OTHERS.match(path.name)):
            return [_only(folder, files)], None
    raise CheckpointError(f"{folder}: a folder without a checkpoint: no {', '.join(PATTERNS)}")


def _only(folder: Path, found: Sequence[Path]) -> Path:
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise CheckpointError(f"{folder}: a folder with several checkpoints, {names}: name the one that is meant")
    return found[0]


def _indexed(index: Path) -> tuple[list[Path], dict[str, str]]:
    try:
        places = json.loads(index.read_text())["weight_map"]
        if not places or not all(isinstance(name, str) and Path(shard).name == shard for name, shard in places.items()):
            raise ValueError("weight_map must name files of the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {' '.join(str(error).split())[:160]}") from None
    return [index.parent / shard for shard in dict.fromkeys(places.values())], places


class Sharded:
    """The shards of a folder as one ``Reader``. Raises CheckpointError if they do not hold what the index says."""

    def __init__(self, folder: Path, readers: Mapping[str, Reader], places: Mapping[str, str]) -> None:
        self._readers = dict(readers)
        self._of = {name: self._readers[shard] for name, shard in places.items()}
        self.metadata = next(iter(self._readers.values())).metadata
        for shard, reader in self._readers.items():
            if unknown := [name for name in reader.tensors if places.get(name) != shard]:
                raise CheckpointError(f"{folder / shard}: holds {unknown[0]!r}, which the index does not say")
        if lacking := [name for name, reader in self._of.items() if name not in reader.tensors]:
            raise CheckpointError(f"{folder / places[lacking[0]]}: lacks {lacking[0]!r}, which the index says is there")
        self.tensors: State = {name: reader.tensors[name] for name, reader in self._of.items()}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""
        return self._of[name].read(name, start, stop)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


class FolderWriter:
    """A folder of safetensors of at most ``shard_size`` bytes each (one tensor at least), with their index if several.

    Arguments otherwise as for ``Writer``.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, Tensor],
        dtypes: Mapping[str, torch.dtype],
        metadata: Mapping[str, str],
        shard_size: int,
    ) -> None:
        groups: list[list[str]] = [[]]
        room = shard_size
        for name, tensor in tensors.items():
            size = tensor.numel() * dtypes[name].itemsize
            if size > room and groups[-1]:
                groups.append([])
                room = shard_size
            groups[-1].append(name)
            room -= size
        folder.mkdir()
        places: dict[str, str] = {}
        self._writers: dict[str, Writer] = {}
        with ExitStack() as stack:
            for number, names in enumerate(groups, start=1):
                one = len(groups) == 1
                shard = "model.safetensors" if one else f"model-{number:05}-of-{len(groups):05}.safetensors"
                own = {name: tensors[name] for name in names}
                writer = stack.enter_context(Writer(folder / shard, own, dtypes, metadata))
                self._writers |= dict.fromkeys(names, writer)
                places |= dict.fromkeys(names, shard)
            if len(groups) > 1:
                total = sum(tensor.numel() * dtypes[name].itemsize for name, tensor in tensors.items())
                index = {"metadata": {"total_size": total}, "weight_map": places}
                (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._open.close()

    def write(self, name: str, start: int, values: Tensor) -> None:
        """As ``Writer.write``."""
        self._writers[name].write(name, start, values)


def copy_companions(source: Path, target: Path) -> None:
    """Copy what a model's folder has beside its weights: configuration, tokenizer, templates, code."""
    for path in sorted(source.iterdir()):
        wanted = path.suffix in COMPANIONS and path.name not in NOT_COPIED and not path.name.endswith(".index.json")
        if wanted and path.is_file():
            shutil.copyfile(path, target / path.name)
