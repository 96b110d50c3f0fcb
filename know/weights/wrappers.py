"""The state dict inside a training state: ``{"model": …, "optimizer": …}``, Lightning's and timm's files, an EMA beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from know.weights.kinds import State
from know.weights.reading import CheckpointError

DEPTH = 4
"""How deep a state dict is looked for."""


@dataclass(frozen=True)
class Choice:
    """Which tensors of a file are the weights.

    ``key``: of the state dict in a training state, "model" or "ema.model"; None, the only one there is. ``strip``: what
    names begin with and is taken off them, "model.".
    """

    key: str | None = None
    strip: str = ""


ALL = Choice()
"""Whatever there is."""


def states_in(held: Mapping[Any, Any], key: str = "", depth: int = DEPTH) -> Iterator[tuple[str, State]]:
    """Every state dict in a nested dictionary with its key, "ema.model": dictionaries of tensors, by strings alone.

    An optimiser's moments are none: they are by number.
    """
    if held and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items()):
        yield key, dict(held)
    elif depth:
        for name, value in held.items():
            if isinstance(name, str) and isinstance(value, Mapping):
                yield from states_in(value, f"{key}.{name}" if key else name, depth - 1)


def state_in(held: object, path: Path, choice: Choice) -> tuple[State, str]:
    """The state dict that is chosen of what ``path`` held, and its key, "" if it is all there is.

    Raises:
        CheckpointError: there is none, or several and no choice; names them.
    """
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path}: not a state dict but a {type(held).__name__}: save model.state_dict()")
    found = dict(states_in(held)) if held else {"": State()}
    listed = ", ".join(f"{key} ({len(state)} tensors)" for key, state in found.items())
    if choice.key is not None:
        if choice.key not in found:
            there = listed if "" not in found else "it is a state dict itself"
            raise CheckpointError(f"{path}: no state dict has the key {choice.key!r}; there: {there or 'none'}")
        return found[choice.key], choice.key
    beside = any(isinstance(value, Tensor) and value.ndim for value in held.values())  # not a best accuracy, say
    if not found or (beside and "" not in found):
        name, value = next((n, v) for n, v in held.items() if not isinstance(n, str) or not isinstance(v, Tensor))
        if "." in (kind := type(value).__name__):
            raise CheckpointError(f"{path}: {name}: holds more than tensors ({kind}): save model.state_dict() alone")
        raise CheckpointError(f"{path}: {name}: a {kind}, not a tensor: save model.state_dict()")
    if len(found) > 1:
        raise CheckpointError(f"{path}: a training state with several state dicts, {listed}: choose with --key")
    ((key, state),) = found.items()
    return state, key


def stripped(names: list[str], prefix: str, path: Path) -> dict[str, str]:
    """Each name without ``prefix``, where it has that, → the name itself.

    Raises:
        CheckpointError: none has it, or two are then one.
    """
    found = {name.removeprefix(prefix): name for name in names}
    if prefix and not any(name.startswith(prefix) for name in names):
        raise CheckpointError(f"{path}: --strip-prefix: no tensor's name begins with {prefix!r}, as {names[0]!r}")
    if len(found) < len(names):
        raise CheckpointError(f"{path}: --strip-prefix: without {prefix!r}, two tensors have the same name")
    return found
