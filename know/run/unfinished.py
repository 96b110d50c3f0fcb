"""What an unfinished run has reached, beside its record: a run of hours that was killed goes on from there.

A run trains one net after the other, each in one *fit*. A run is a function of its job alone, so that the same job begins the
same fits in the same order: a file each, by their number. One is written at most every ``EVERY`` seconds, so that a
short run writes none, and whole or not at all. All are removed when the run's record is there. Tensors are safetensors, and
the rest is JSON in their header: no pickle.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from know import paths

EVERY = 120.0
"""Seconds of work that a kill may cost. What is written has up to four times a net's size."""
HEADER = "reached"

Reached = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors on the CPU, and plain values as JSON holds them."""


@dataclass
class _Run:
    """``fits``: begun so far. ``written``: when a file last was, or the run began."""

    folder: Path
    fits: int = 0
    written: float = field(default_factory=time.monotonic)


_run: _Run | None = None


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """Let the fits of the block keep what they reach in ``folder``, which is removed when the block ends without an error."""
    global _run
    before, _run = _run, _Run(folder)
    try:
        yield
    finally:
        _run = before
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Place:
    """Where one fit of a run keeps what it has reached."""

    run: _Run
    path: Path

    def read(self) -> Reached | None:
        """What was written last; None if nothing was, or it is damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[HEADER])  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def keep(self, reached: Callable[[], Reached]) -> None:
        """Write what ``reached`` gives, if it is time."""
        if time.monotonic() - self.run.written < EVERY:
            return
        tensors, plain = reached()
        with paths.atomic(self.path) as temporary:
            save_file(dict(tensors), temporary, {HEADER: json.dumps(plain)})
        self.run.written = time.monotonic()


def next_place() -> Place | None:
    """Of the fit that begins now; None outside a run."""
    if _run is None:
        return None
    _run.fits += 1
    return Place(_run, _run.folder / f"fit_{_run.fits}.safetensors")
