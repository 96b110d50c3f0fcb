"""Weight paths on disk in the published meta-dataset's layout, an HDF5 file a run, so that either tool reads the other's.

A file holds ``ConvWeights`` (3, 3, N, P), the 3×3 kernels; ``FCWeights`` (M, P), every other kernel, 1×1 convolutions
among them; ``Bias`` (K, P), biases and BatchNorm's affine. Along P, usually 7, index 0 is the weight after the smallest
subset and the last that after all data. The run's hyper-parameters are in the file's name. Files that MATLAB itself
wrote hold the axes in reverse; they are recognised.

That only 3×3 kernels are "conv" here, while at prediction every convolution is, is the released code's own departure;
the layout dictates it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from know.paths import atomic
from know.weights.kinds import Kind, State, kind_of

Paths = dict[Kind, Tensor]
"""The weight paths of one run: for each kind a float tensor (M, P), most forgotten first; 3×3 kernels in the order of
a (3, 3, N) array."""

DATASETS: dict[Kind, str] = {"conv": "ConvWeights", "fc": "FCWeights", "bias": "Bias"}
SUFFIXES = (".mat", ".h5", ".hdf5")
KERNEL = 9  # scalars of a 3×3 kernel
SPEC = "know_run"  # attribute with the whole of the hyper-parameters, in files that we wrote


class LayoutError(ValueError):
    """A file is not of the published layout. The message is one line that names the file."""


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise LayoutError(f"{path}: no such file") from None
    except OSError as error:
        raise LayoutError(f"{path}: not a readable HDF5 file: {' '.join(str(error).split())}") from None
    with file:
        yield file


def weight_paths(trajectory: Sequence[State]) -> Paths:
    """Every scalar's path along a trajectory, gathered by kind as the layout does."""
    gathered: dict[Kind, list[Tensor]] = {}
    for name, last in trajectory[-1].items():
        kind = kind_of(name, last)
        if kind == "buffer":
            continue
        path = torch.stack([theta[name].detach().float() for theta in trajectory], -1)
        if kind == "conv" and last.shape[2:] == (3, 3):  # as Keras has it: (3, 3, in, out)
            gathered.setdefault("conv", []).append(path.permute(2, 3, 1, 0, 4).reshape(KERNEL, -1, len(trajectory)))
        else:
            gathered.setdefault("fc" if kind == "conv" else kind, []).append(path.reshape(-1, len(trajectory)))
    return {
        kind: torch.cat(parts, 1).flatten(0, 1) if kind == "conv" else torch.cat(parts)
        for kind, parts in gathered.items()
    }


def file_name(network: str, number: int, rate: float, subsets: int, lr: float, batch_size: int) -> str:
    """A run's file name as published; Power is the smallest subset's, |D_k| = r^k |D_0|."""
    return f"{network}_Trial_{number}_SamplingRate_{rate}_Power_{subsets - 1}_LR_{lr}_BS_{batch_size}.mat"


def hyperparameters(path: Path) -> dict[str, float]:
    """Those named in a file's name, by the published names: SamplingRate, Power, LR, BS, Trial, as far as they are."""
    stem = path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name
    pattern = r"(?:^|_)(Trial|SamplingRate|Power|LR|BS)_([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?=_|$)"
    return {key: float(value) for key, value in re.findall(pattern, stem)}


def save_paths(paths: Mapping[Kind, Tensor], file: Path, spec: Mapping[str, Any] | None = None) -> None:
    """Write one run; the same paths give the same bytes. MATLAB reads it as a v7.3 file, its axes reversed.

    Args:
        spec: all of the run's hyper-parameters, kept as an attribute beside what the name says.
    """
    with atomic(file) as temporary:
        with h5py.File(temporary, "w", userblock_size=512, track_order=False) as out:
            for kind, path in paths.items():
                array = path.numpy()
                if kind == "conv":
                    array = array.reshape(3, 3, -1, array.shape[1])
                stored = out.create_dataset(DATASETS[kind], data=array, track_times=False)
                stored.attrs["MATLAB_class"] = np.bytes_("single")
            if spec is not None:
                out.attrs[SPEC] = json.dumps(spec, sort_keys=True)
        with temporary.open("r+b") as header:  # text, no subsystem data, version 2.0, little endian
            header.write(b"MATLAB 7.3 MAT-file, written by know".ljust(116) + bytes(8) + b"\x00\x02IM")


@dataclass(frozen=True)
class RunFile:
    """One run's file, read a block at a time: what is in memory does not grow with the file.

    ``sizes``: how many scalars there are of each kind present; ``length``: P.
    """

    path: Path
    sizes: Mapping[Kind, int]
    length: int
    reversed: bool
    """The axes are as MATLAB writes them: (P, N, 3, 3), (P, M), (P, K)."""

    @classmethod
    def open(cls, path: Path) -> RunFile:
        """Look at the shapes.

        Raises:
            LayoutError: the file is missing, not HDF5, or not of this layout.
        """
        with _reading(path) as file:
            shapes: dict[Kind, tuple[int, ...]] = {}
            for kind, name in DATASETS.items():
                if name in file:
                    stored = file[name]
                    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind != "f":
                        raise LayoutError(f"{path}: {name}: expected an array of floats")
                    shapes[kind] = stored.shape
        if not shapes:
            raise LayoutError(f"{path}: holds none of {', '.join(DATASETS.values())}")
        for backwards in (False, True):
            if run := cls._read_as(path, shapes, backwards):
                return run
        found = ", ".join(f"{DATASETS[kind]} {shape}" for kind, shape in shapes.items())
        raise LayoutError(
            f"{path}: expected ConvWeights (3, 3, N, P), FCWeights (M, P), Bias (K, P) with one P, found {found}"
        )

    @classmethod
    def _read_as(cls, path: Path, shapes: Mapping[Kind, tuple[int, ...]], backwards: bool) -> RunFile | None:
        ordered = {kind: shape[::-1] if backwards else shape for kind, shape in shapes.items()}
        fits = all(
            len(shape) == 4 and shape[:2] == (3, 3) if kind == "conv" else len(shape) == 2
            for kind, shape in ordered.items()
        )
        lengths = {shape[-1] for shape in ordered.values()}
        if not fits or len(lengths) != 1:
            return None
        sizes = {kind: int(np.prod(shape[:-1])) for kind, shape in ordered.items()}
        return cls(path, sizes, lengths.pop(), backwards)

    def read(self, kind: Kind, start: int = 0, stop: int | None = None) -> Tensor:
        """Paths (n, P) as float32. ``start`` and ``stop`` count scalars; of conv, 3×3 kernels, all nine scalars each."""
        with _reading(self.path) as file:
            stored = file[DATASETS[kind]]
            part = slice(start, stop)
            if self.reversed:
                block = stored[:, part].transpose()
            else:
                block = stored[:, :, part] if kind == "conv" else stored[part]
        return torch.from_numpy(np.ascontiguousarray(block, np.float32)).reshape(-1, self.length)

    def blocks(self, kind: Kind, scalars: int) -> Iterator[Tensor]:
        """All paths of a kind, in order, in blocks of about ``scalars``."""
        unit = KERNEL if kind == "conv" else 1
        step = max(1, scalars // unit)
        for start in range(0, self.sizes[kind] // unit, step):
            yield self.read(kind, start, start + step)

    def sample(self, kind: Kind, scalars: int, generator: torch.Generator) -> Tensor:
        """Paths of about ``scalars`` neighbours, from a random place; all of them, if there are fewer."""
        unit = KERNEL if kind == "conv" else 1
        take, there = max(1, scalars // unit), self.sizes[kind] // unit
        start = int(torch.randint(max(1, there - take + 1), (), generator=generator))
        return self.read(kind, start, start + take)

    def spec(self) -> dict[str, Any] | None:
        """What ``save_paths`` was given as ``spec``; None in files that others wrote."""
        with _reading(self.path) as file:
            return json.loads(file.attrs[SPEC]) if SPEC in file.attrs else None


def run_files(folder: Path) -> list[RunFile]:
    """The runs in a folder, by name.

    Raises:
        LayoutError: there are none, or one is not of this layout.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and not path.name.startswith("."))
    if not found:
        raise LayoutError(f"{folder}: no runs in it ({', '.join(f'*{suffix}' for suffix in SUFFIXES)})")
    return [RunFile.open(path) for path in found]
