"""How a process ends: whole files or none, and no worker that outlives the one it works for."""

import io
import os
import signal
import sys
import threading
import time
from types import FrameType

from know import paths

EVERY = 0.5  # seconds between two looks at the parent
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
"""Exit codes, as a shell has them."""


def behave() -> None:
    """For a command: a request to end unwinds as an error does, so that temporaries are removed; and what the encoding of
    the output has no letters for is escaped, for no result should be lost over a Θ."""
    signal.signal(signal.SIGTERM, _exit)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


def serve(parent: int) -> None:
    """For a worker of the process ``parent``: end soon after it, however it ends.

    A parent that is killed tells nobody, and its workers would wait for their next job, or for someone to read their last
    result, for ever.
    """
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    _leave()


def _leave(number: int = 0, frame: FrameType | None = None) -> None:
    """At once: the thread that computes may be anywhere."""
    paths.discard()
    os._exit(TERMINATED)
