"""Which checkpoint of which forgetting run a file is, in its own metadata: so that a trajectory can be put in order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

PREFIX = "know."
"""What the metadata's keys of this package begin with."""


@dataclass(frozen=True)
class Mark:
    """Θ_k of the run called ``run``, which has S = ``length`` checkpoints at sampling rate r = ``rate``.

    ``weights``: the digest of its tensors.
    """

    run: str
    k: int
    length: int
    rate: float
    weights: str

    def metadata(self) -> dict[str, str]:
        """As safetensors hold it."""
        return {PREFIX + key: str(value) for key, value in asdict(self).items()}


def mark_in(metadata: Mapping[str, str]) -> Mark | None:
    """The mark in a file's metadata; None if it has none."""
    try:
        run, k, length, rate, weights = (metadata[PREFIX + key] for key in Mark.__dataclass_fields__)
        return Mark(run, int(k), int(length), float(rate), weights)
    except (KeyError, ValueError):
        return None


def unmarked(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata without what this package wrote there: it does not hold of what is made from the file."""
    return {key: value for key, value in metadata.items() if not key.startswith(PREFIX)}


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, whatever their order; on the CPU."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
