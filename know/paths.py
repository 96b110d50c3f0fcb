"""Where things are, and how they get there: whole, or not at all.

Papermill runs notebooks in the repository's root and Jupyter in their own folder, hence one module.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows has no locks that a folder can hold
    fcntl = None  # type: ignore[assignment]

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
BENCH = DATA / "bench"
"""The trajectories of the bench, in git."""
HYPERMODEL, PREDICTIONS, RESULTS = DATA / "hypermodel", DATA / "predictions", DATA / "results"

DAY = 24 * 60 * 60.0
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp(\.\w+)?")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR}
_open: set[Path] = set()
"""What this process is writing."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)


class WriteError(OSError):
    """The disk is full. The message is one line that names the file."""

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path``, to be written as a file or a folder, that takes its place on success.

    It is on the disk before it takes its place, so that not even a power cut leaves half of it there. If the block fails,
    the temporary is removed and ``path`` stays as it was; what a killed process left is removed by the next to write
    beside it. Parents are created.

    Raises:
        WriteError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = _sibling(path)
    _open.add(temporary)
    try:
        yield temporary
        _flush(temporary)
        _put(temporary, path)
    except (OSError, SafetensorError) as error:
        if (number := _number(error)) in _FULL:
            raise WriteError(number, os.strerror(number), str(path)) from None
        raise
    finally:
        _remove(temporary)
        _open.discard(temporary)


def discard() -> None:
    """Remove what this process is writing: it is about to end in the middle of it."""
    for temporary in list(_open):
        _remove(temporary)


def sweep(folder: Path) -> None:
    """Remove what processes that are no more were writing into a folder."""
    for found in folder.glob(".*.tmp*"):
        if (who := _TEMPORARY.fullmatch(found.name)) and _abandoned(found, who[1], int(who[2])):
            _remove(found)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Be the only one who works in an existing folder. The system ends the claim with the process, however that ends.

    Raises:
        BlockingIOError: another process does.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder}: another process works in it: wait for it, or choose another") from None
        yield
    finally:
        os.close(handle)


def _sibling(path: Path) -> Path:
    """A hidden name beside ``path`` that says who uses it. Not all of a long name fits into one."""
    return path.with_name(f".{path.name[:64]}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def _abandoned(temporary: Path, host: str, process: int) -> bool:
    """Whether who wrote it is no more. Of another machine's processes only a day without a write tells that, and of this
    machine's as well: a new process may have the old one's number."""
    if host == _HOST and not _runs(process):
        return True
    with contextlib.suppress(FileNotFoundError):
        return time.time() - temporary.stat().st_mtime > DAY
    return False


def _runs(process: int) -> bool:
    import psutil  # needed only where something was left

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _flush(temporary: Path) -> None:
    for path in (temporary, *(temporary.rglob("*") if temporary.is_dir() else ())):
        _sync(path)


def _sync(path: Path) -> None:
    """Let what was written to a file or a folder be on the disk."""
    if os.name == "nt":  # which opens no folder, and no file that is only read for this
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(temporary: Path, path: Path) -> None:
    """Rename. A folder that holds something is moved out of the way first, for nothing can be renamed onto it."""
    replaced = list[Path]()
    while True:
        try:
            temporary.replace(path)
            break
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        replaced.append(_sibling(path))
        with contextlib.suppress(FileNotFoundError):  # another process, which writes the same, was faster
            path.replace(replaced[-1])
    _sync(path.parent)
    for old in replaced:
        _remove(old)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def _number(error: OSError | SafetensorError) -> int:
    """The system's number for an error; safetensors and HDF5 have it in their message alone."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"(?:code:|errno =|os error) (\d+)", str(error))
    return int(found[1]) if found else 0
