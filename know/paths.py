"""Where things are. Papermill runs notebooks in the repository's root and Jupyter in their own folder, hence one module."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params.yaml"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
LOGS = ROOT / "logs"
REPORTS = ROOT / "reports"
DATA = ROOT / "data"
EMBEDDED = DATA / "embedded"
RAW = Path(os.environ.get("KNOW_DATA", DATA / "raw"))
"""Full data sets, fetched once; not in git."""
SPLITS, TRAJECTORIES, META = DATA / "splits", DATA / "trajectories", DATA / "meta"
RUNS = Path(os.environ.get("KNOW_RUNS", DATA / "runs"))
"""The records of runs: computed once, on this machine; not in git, nor known to DVC."""
HYPERMODEL, PREDICTIONS, RESULTS = DATA / "hypermodel", DATA / "predictions", DATA / "results"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path``, to be written as a file or a folder, that takes its place on success.

    If the block fails, the temporary is removed and ``path`` stays as it was. Parents are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
