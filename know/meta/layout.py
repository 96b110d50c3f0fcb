"""Weight paths on disk in the published meta-dataset's layout, an HDF5 file a run, so that either tool reads the other's.

A file holds ``ConvWeights`` (3, 3, N, P), the 3×3 kernels; ``FCWeights`` (M, P), matrices and, as published, 1×1
convolutions; ``Bias`` (K, P), biases and BatchNorm's affine. Along P, usually 7, index 0 is the weight after the smallest
subset and the last that after all data. The run's hyper-parameters are in the file's name. Files that MATLAB itself
wrote hold the axes in reverse; they are recognised.

Our files may have one array more, ``OtherKernels`` (L, P): convolutions that are no 3×3 ones and count as conv all the
same, in learning as in prediction. Among them are 1×1 ones if the run is of ``pointwise: conv``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from know.paths import atomic
from know.weights.hdf5 import array_of, opened
from know.weights.kinds import KINDS, Kind, Pointwise, State, kinds_of

Array = Literal["ConvWeights", "OtherKernels", "FCWeights", "Bias"]
ARRAYS: dict[Array, Kind] = {"ConvWeights": "conv", "OtherKernels": "conv", "FCWeights": "fc", "Bias": "bias"}
"""Which kind an array's weights are of."""
Paths = dict[Array, Tensor]
"""The weight paths of one run: for each array floats (M, P), most forgotten first; 3×3 kernels in the order of a
(3, 3, N) array."""

SUFFIXES = (".mat", ".h5", ".hdf5")
SPEC = "know_run"  # attribute with the whole of the hyper-parameters, in files that we wrote


def _unit(array: Array) -> int:
    """Scalars of the least that is read at once: 3×3 kernels lie across the array, their nine scalars apart."""
    return 9 if array == "ConvWeights" else 1


class LayoutError(ValueError):
    """A file is not of the published layout. The message is one line that names the file."""


def weight_paths(trajectory: Sequence[State], pointwise: Pointwise = "fc") -> Paths:
    """Every scalar's path along a trajectory, gathered as the layout does, by the kinds that prediction uses."""
    gathered: dict[Array, list[Tensor]] = {}
    homes: dict[Kind, Array] = {"conv": "OtherKernels", "fc": "FCWeights", "bias": "Bias"}
    for name, kind in kinds_of(trajectory[-1], pointwise=pointwise).items():
        if kind == "buffer":
            continue
        path = torch.stack([theta[name].detach().float() for theta in trajectory], -1)
        if kind == "conv" and path.shape[2:-1] == (3, 3):  # as Keras has it: (3, 3, in, out)
            kernels = path.permute(2, 3, 1, 0, 4).reshape(9, -1, len(trajectory))
            gathered.setdefault("ConvWeights", []).append(kernels)
        else:
            gathered.setdefault(homes[kind], []).append(path.reshape(-1, len(trajectory)))
    return {
        array: torch.cat(parts, 1).flatten(0, 1) if array == "ConvWeights" else torch.cat(parts)
        for array, parts in gathered.items()
    }


def file_name(network: str, number: int, rate: float, subsets: int, lr: float, batch_size: int) -> str:
    """A run's file name as published; Power is the smallest subset's, |D_k| = r^k |D_0|."""
    return f"{network}_Trial_{number}_SamplingRate_{rate}_Power_{subsets - 1}_LR_{lr}_BS_{batch_size}.mat"


def hyperparameters(path: Path) -> dict[str, float]:
    """Those named in a file's name, by the published names: SamplingRate, Power, LR, BS, Trial, as far as they are."""
    stem = path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name
    pattern = r"(?:^|_)(Trial|SamplingRate|Power|LR|BS)_([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?=_|$)"
    return {key: float(value) for key, value in re.findall(pattern, stem)}


def save_paths(paths: Mapping[Array, Tensor], file: Path, spec: Mapping[str, Any] | None = None) -> None:
    """Write one run; the same paths give the same bytes. MATLAB reads it as a v7.3 file, its axes reversed.

    Args:
        spec: all of the run's hyper-parameters, kept as an attribute beside what the name says.
    """
    with atomic(file) as temporary:
        with h5py.File(temporary, "w", userblock_size=512, track_order=False) as out:
            for name, path in paths.items():
                array = path.numpy()
                if name == "ConvWeights":
                    array = array.reshape(3, 3, -1, array.shape[1])
                stored = out.create_dataset(name, data=array, track_times=False)
                stored.attrs["MATLAB_class"] = np.bytes_("single")
            if spec is not None:
                out.attrs[SPEC] = json.dumps(spec, sort_keys=True)
        with temporary.open("r+b") as header:  # text, no subsystem data, version 2.0, little endian
            header.write(b"MATLAB 7.3 MAT-file, written by know".ljust(116) + bytes(8) + b"\x00\x02IM")


@dataclass(frozen=True)
class RunFile:
    """One run's file, read a block at a time: what is in memory does not grow with the file.

    ``arrays``: how many scalars there are in each array present; ``length``: P. ``spec``: what ``save_paths`` was given;
    None in files that others wrote.
    """

    path: Path
    arrays: Mapping[Array, int]
    length: int
    reversed: bool
    """The axes are as MATLAB writes them: (P, N, 3, 3), (P, M), (P, K)."""
    spec: Mapping[str, Any] | None

    @classmethod
    def open(cls, path: Path) -> RunFile:
        """Look at the shapes.

        Raises:
            LayoutError: the file is missing, not HDF5, or not of this layout.
        """
        with opened(path, LayoutError) as file:
            shapes: dict[Array, tuple[int, ...]] = {}
            for name in ARRAYS:
                if name in file:
                    stored = array_of(file, name)
                    if stored is None or stored.dtype.kind != "f":
                        raise LayoutError(f"{path}: {name}: expected an array of floats")
                    shapes[name] = stored.shape
            spec = json.loads(file.attrs[SPEC]) if SPEC in file.attrs else None
        if not shapes:
            raise LayoutError(f"{path}: holds none of {', '.join(ARRAYS)}")
        for backwards in (False, True):
            ordered = {name: shape[::-1] if backwards else shape for name, shape in shapes.items()}
            lengths = {shape[-1] for shape in ordered.values()}
            fits = all(
                len(shape) == 4 and shape[:2] == (3, 3) if name == "ConvWeights" else len(shape) == 2
                for name, shape in ordered.items()
            )
            if fits and len(lengths) == 1:
                counts = {name: int(np.prod(shape[:-1])) for name, shape in ordered.items()}
                return cls(path, counts, lengths.pop(), backwards, spec)
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise LayoutError(
            f"{path}: expected ConvWeights (3, 3, N, P), FCWeights (M, P), Bias (K, P) with one P, found {found}"
        )

    @property
    def sizes(self) -> dict[Kind, int]:
        """How many scalars there are of each kind present."""
        return {kind: sum(map(self.arrays.__getitem__, own)) for kind in KINDS if (own := self._of(kind))}

    @property
    def pointwise(self) -> Pointwise:
        """What 1×1 convolutions were filed as; as in the published files if nothing is said."""
        return (self.spec or {}).get("pointwise", "fc")

    def _of(self, kind: Kind) -> list[Array]:
        return [array for array in self.arrays if ARRAYS[array] == kind]

    def read(self, array: Array, start: int = 0, stop: int | None = None) -> Tensor:
        """Paths (n, P) as float32. ``start`` and ``stop`` count scalars; of 3×3 kernels, kernels, all nine scalars each."""
        with opened(self.path, LayoutError) as file:
            stored = file[array]
            part = slice(start, stop)
            if self.reversed:
                block = stored[:, part].transpose()
            else:
                block = stored[:, :, part] if array == "ConvWeights" else stored[part]
        return torch.from_numpy(np.ascontiguousarray(block, np.float32)).reshape(-1, self.length)

    def blocks(self, kind: Kind, scalars: int) -> Iterator[Tensor]:
        """All paths of a kind, in order, in blocks of about ``scalars``."""
        for array in self._of(kind):
            step = max(1, scalars // _unit(array))
            for start in range(0, self.arrays[array] // _unit(array), step):
                yield self.read(array, start, start + step)

    def sample(self, kind: Kind, scalars: int, generator: torch.Generator) -> Tensor:
        """Paths of about ``scalars`` neighbours in one array; all of its, if there are fewer.

        A path drawn from the result is any path of the kind with the same chance: an array is chosen in proportion to its
        scalars, and a block begins anywhere in it and goes on from its end to its beginning. (Blocks that must fit would
        hold the first layers and the heads, at the ends of the files, far more rarely than what is between.) That takes one
        read, or two at the end.
        """
        own = self._of(kind)
        place = int(torch.randint(self.sizes[kind], (), generator=generator))
        for array in own:
            if place < self.arrays[array]:
                break
            place -= self.arrays[array]
        take, there = max(1, scalars // _unit(array)), self.arrays[array] // _unit(array)
        if take >= there:
            return self.read(array)
        start = place // _unit(array)
        block = self.read(array, start, start + take)
        if (beyond := start + take - there) <= 0:
            return block
        return torch.cat([block, self.read(array, 0, beyond)])


def run_files(folder: Path) -> list[RunFile]:
    """The runs in a folder, by name.

    Raises:
        LayoutError: there are none, or one is not of this layout.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and not path.name.startswith("."))
    if not found:
        raise LayoutError(f"{folder}: no runs in it ({', '.join(f'*{suffix}' for suffix in SUFFIXES)})")
    return [RunFile.open(path) for path in found]
