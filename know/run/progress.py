"""Progress bars with time left: on the terminal, never in the outputs of a notebook that the pipeline runs.

Such a notebook's kernel has no terminal of its own, so the runner names the user's in ``KNOW_PROGRESS``; an empty name
says that there is none.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
TERMINAL = "KNOW_PROGRESS"


def track(iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate with a bar on the terminal, or below the cell in a notebook that is run by hand."""
    named = os.environ.get(TERMINAL)
    stream, shown = sys.stderr, named is None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    with ExitStack() as stack:
        if named:
            try:
                stream, shown = stack.enter_context(Path(named).open("w")), True
            except OSError:  # closed since the run started; a bar is not worth a failure
                shown = False
        yield from tqdm(iterable, desc=desc, total=total, file=stream, disable=not shown, dynamic_ncols=True)
