"""State dicts into modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from know.weights.kinds import bare_name, ties


def load_weights(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names may have a wrapper's prefix and lack copies of tied tensors.

    Raises:
        ValueError: it does not fit; names ``source`` and the first key that is missing, unexpected or mis-shaped.
    """
    own = net.state_dict()
    tied, names = ties(own), {bare_name(name): name for name in own}
    given = {names.get(bare_name(name), name): tensor for name, tensor in state.items()}
    loaded = {tied.get(name, name) for name in given}
    for name, tensor in own.items():
        if tied.get(name, name) not in loaded:
            raise ValueError(f"{source}: does not fit the model: {name!r} {tuple(tensor.shape)} is missing")
    for name, tensor in given.items():
        if name not in own:
            raise ValueError(f"{source}: does not fit the model, which has no {name!r}")
        if tensor.shape != own[name].shape:
            shapes = f"{name!r} is {tuple(tensor.shape)}, the model's {tuple(own[name].shape)}"
            raise ValueError(f"{source}: does not fit the model: {shapes}")
    net.load_state_dict(given, strict=False)
