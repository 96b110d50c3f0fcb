"""Progress: a bar with the time left on a terminal, a line a minute elsewhere, never in the outputs of a notebook.

The kernel of a notebook that the pipeline runs has no terminal of its own. So its runs note how far they are in the file
that ``KNOW_PROGRESS`` names, if it names one, and the process that started it shows that (``Watch``).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")
NOTES = "KNOW_PROGRESS"
MINUTE = 60.0


def track(iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate and show how far: on the terminal, below the cell of a notebook run by hand, by the minute elsewhere, or through
    ``Watch``."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if (notes := os.environ.get(NOTES)) is not None:
        yield from _noted(iterable, total, desc, Path(notes)) if notes else iterable
    elif sys.stderr.isatty() or _in_a_notebook():
        yield from tqdm(iterable, desc=desc, total=total, dynamic_ncols=True)
    else:
        yield from _told(iterable, total, desc)


def _told(iterable: Iterable[T], total: int | None, desc: str) -> Iterator[T]:
    started = told = time.monotonic()
    for done, item in enumerate(iterable):
        if (now := time.monotonic()) - told >= MINUTE:
            told = now
            print(line_of("know", desc, done, total, now - started), file=sys.stderr, flush=True)
        yield item


def _in_a_notebook() -> bool:
    """Whether this process is a notebook's kernel; IPython is not loaded to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def _noted(iterable: Iterable[T], total: int | None, desc: str, notes: Path) -> Iterator[T]:
    started, done = time.monotonic(), 0

    def note() -> None:
        temporary = notes.with_name(f"{os.getpid()}.new")
        with contextlib.suppress(OSError):  # whoever watched is gone; a bar is not worth a failure
            temporary.write_text(
                json.dumps({"what": desc, "done": done, "total": total, "seconds": time.monotonic() - started})
            )
            temporary.replace(notes)

    note()
    for item in iterable:
        yield item
        done += 1
        note()


class Watch:
    """Shows how far the runs of the processes are that are started in the block: they note it in ``self.notes``."""

    def __init__(self, stage: str, every: float | None = None) -> None:
        self.stage, self.terminal = stage, sys.stderr.isatty()
        self.every = every or (0.5 if self.terminal else MINUTE)
        self._folder = TemporaryDirectory(prefix="know-progress-")
        self.notes = Path(self._folder.name) / "progress.json"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        os.environ[NOTES] = str(self.notes)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.environ.pop(NOTES, None)
        self._ended.set()
        self._thread.join()
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        self._folder.cleanup()

    def _show(self) -> None:
        while not self._ended.wait(self.every):
            try:
                found = json.loads(self.notes.read_text())
            except (OSError, ValueError):
                continue
            line = line_of(self.stage, found["what"], found["done"], found["total"], found["seconds"])
            print(
                f"\r\033[K{line}" if self.terminal else line,
                end="" if self.terminal else "\n",
                file=sys.stderr,
                flush=True,
            )


def line_of(stage: str, what: str, done: int, total: int | None, seconds: float) -> str:
    """ "forget: forgetting 7 of 24, 3 min left"."""
    text = f"{stage}: {what} {done}" + (f" of {total}" if total else "")
    if not total or not done or done >= total:
        return text
    left = seconds / done * (total - done)
    return f"{text}, {left / 60:.0f} min left" if left >= 90 else f"{text}, {left:.0f} s left"
