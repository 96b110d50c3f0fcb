"""Checkpoints from and to disk, without ever running a pickle's code."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from know.paths import atomic
from know.prediction import State


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message is one line that names the file."""


def load_state(path: Path) -> State:
    """A state dict from ``.safetensors``, or from a ``.pt`` or ``.pth`` file that holds tensors alone.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: not a readable state dict: {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict: save model.state_dict(), not the model or a training state")
    return dict(state)


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
