"""Import of the released hyper-model, ``KNOWN_{Conv,FC,Bias}.h5``, Keras weights in HDF5. They are read as data alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from know.prediction.known import KNOWN, HyperModel
from know.weights.hdf5 import array_of, opened
from know.weights.kinds import Kind

FILES: dict[Kind, str] = {"conv": "KNOWN_Conv.h5", "fc": "KNOWN_FC.h5", "bias": "KNOWN_Bias.h5"}

PARTS = ("inner", "activation.squeeze", "activation.additive", "activation.gain", "activation.rate", "outer")
LAYERS = [f"{stream}.{part}" for stream in ("weights", "differences") for part in PARTS] + ["out"]
"""KNOWN's layers in the order of Keras' names: dense, dense_1, …, dense_12."""


class KerasError(ValueError):
    """A file is not the released hyper-model's. The message is one line that names the file and the layer."""


def import_keras(folder: Path) -> HyperModel:
    """The hyper-model in a folder that holds ``KNOWN_Conv.h5``, ``KNOWN_FC.h5`` and ``KNOWN_Bias.h5``.

    The history length is read off the first kernel's shape.

    Raises:
        KerasError: a file or a layer is missing, a shape is wrong, or a file is not HDF5.
    """
    networks = {kind: read_known(folder / name) for kind, name in FILES.items()}
    lengths = {kind: known.history_length for kind, known in networks.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{FILES[kind]} {length}" for kind, length in lengths.items())
        raise KerasError(f"{folder}: the history lengths differ: {found}")
    model = HyperModel(networks["conv"].history_length, "imported from Keras")
    for kind, known in networks.items():
        model.of(kind).load_state_dict(known.state_dict())
    return model.eval()


def read_known(path: Path) -> KNOWN:
    """One KNOWN from one Keras file, in which ``dense_1/dense_1/kernel:0`` (in, out) and ``bias:0`` are layer 1's."""
    with opened(path, KerasError) as file:
        kernel = _array(file, path, "dense/dense/kernel:0")
        if kernel.ndim != 2 or kernel.shape[0] < 2 or kernel.shape[1] != 64:
            raise KerasError(f"{path}: dense/dense/kernel:0: expected shape (S, 64), got {kernel.shape}")
        known = KNOWN(kernel.shape[0])
        for number, layer in enumerate(LAYERS):
            name = f"dense_{number}" if number else "dense"
            for theirs, ours in (("kernel:0", "weight"), ("bias:0", "bias")):
                parameter = known.get_parameter(f"{layer}.{ours}")
                array = _array(file, path, f"{name}/{name}/{theirs}").T  # Keras' kernels are (in, out)
                if array.shape != tuple(parameter.shape):
                    expected = tuple(parameter.shape)[::-1]
                    raise KerasError(f"{path}: {name}/{name}/{theirs}: expected shape {expected}, got {array.T.shape}")
                if not np.isfinite(array).all():
                    raise KerasError(f"{path}: {name}/{name}/{theirs}: holds NaN or Inf")
                parameter.data.copy_(torch.from_numpy(np.array(array, np.float32)))
    return known


def _array(file: h5py.File, path: Path, name: str) -> np.ndarray:
    found = array_of(file, name)
    if found is None:
        raise KerasError(f"{path}: {name}: no such layer")
    if found.dtype.kind != "f":
        raise KerasError(f"{path}: {name}: expected an array of floats, got {found.dtype}")
    return np.asarray(found[()])
