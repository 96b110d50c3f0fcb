"""One run by several processes of this machine, connected by Hugging Face Accelerate: for a net whose training takes hours.

Each of them makes the run from its beginning, alike; where it trains (``know.training.shares``) each computes its share of every
batch. The first one's result is the run's, and only the first records; the others end with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from know import paths
from know.run.process import serve

if TYPE_CHECKING:
    from accelerate import Accelerator

EVERY, GRACE = 0.1, 5.0
"""Seconds between two looks at the processes, and until those that do not end when asked are killed."""
FATAL = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
"""Exit codes of a process that failed first; one that is aborted follows another's error."""
WORK, MEETING, ERROR = "work", "meeting", "error"
"""Files that the processes share: what to do, where they find each other, and what went wrong first."""


def in_processes(work: Callable[[Accelerator], None], count: int, device: str) -> None:
    """Let ``count`` new processes do ``work``, each on a device of this type ("cpu" or "cuda") of its own, until the first of
    them has done it.

    Args:
        work: pickled, by its importable parts.

    Raises:
        RuntimeError: one of them failed or was killed: says which one was the first, and how.
    """
    with tempfile.TemporaryDirectory(prefix="know-") as name:
        folder = Path(name)
        (folder / WORK).write_bytes(pickle.dumps((work, device)))
        common = {"PYTHONPATH": os.pathsep.join(sys.path), "KNOW_RUNS": str(paths.RUNS), "OMP_NUM_THREADS": "1"}
        common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        processes = list[subprocess.Popen[bytes]]()
        try:
            for rank in range(count):
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "know.run.spread", str(folder), str(os.getpid())],
                        env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL if rank else None,  # they would all warn of the same
                    )
                )
            while processes[0].poll() != 0:
                if failed := _failure(processes, folder / ERROR):
                    raise RuntimeError(failed)
                time.sleep(EVERY)
        finally:
            _end(processes)


def _failure(processes: Sequence[subprocess.Popen[bytes]], error: Path) -> str | None:
    """What went wrong first, if anything did: when one is gone, the others fail as well."""
    codes = [process.poll() for process in processes]
    for rank, code in enumerate(codes):
        if code in FATAL:
            return f"process {rank + 1} of {len(codes)} was killed by signal {-code} (out of memory?)"
    if not any(codes):
        return None
    if error.exists():
        return error.read_text()
    return f"of {len(codes)} processes, the exit codes were {codes}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # it waits for the others in a library
            process.kill()
            process.wait()


def main(folder: Path, parent: int) -> None:
    """One of the processes."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        serve(parent)
        import torch.distributed

        work, device = pickle.loads((folder / WORK).read_bytes())
        from accelerate import Accelerator

        meeting = f"file://{folder / MEETING}"  # not a port, which another program may take meanwhile
        backend = {"cpu": "gloo", "cuda": "nccl"}[device]
        torch.distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=count)
        work(Accelerator(cpu=device == "cpu", mixed_precision="no"))
    except BaseException as error:
        what = traceback.format_exception_only(error)[-1]
        own = folder / f"{ERROR}-{rank}"
        own.write_text(f"process {rank + 1} of {count} failed: {what}\n{traceback.format_exc()}")
        with contextlib.suppress(FileExistsError):
            (folder / ERROR).hardlink_to(own)  # only the first can
        os._exit(1)  # at once: what connects the processes would wait for the others
    if rank:
        threading.Event().wait()  # until the first is done, which may still be reading what this one sent
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
