"""One executor for runs that do not depend on each other: a process a core, one torch thread each.

A result does not depend on how many processes there are. With a folder to resume from, each finished run is kept
there, so that a killed stage loses only the runs in flight.
"""

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import joblib
import torch

from know import paths
from know.run.options import Compute
from know.run.progress import track

J = TypeVar("J")
R = TypeVar("R")


def device_named(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name.partition(":")[0]):
        raise ValueError(
            f"device {name!r} is not available here; allowed: auto, {', '.join(filter(available.get, available))}"
        )
    return torch.device(name)


def device_of(compute: Compute) -> torch.device:
    """The device that ``compute.device`` names."""
    return device_named(compute.device)


def jobs_of(compute: Compute) -> int:
    """How many processes: as many as cores on the CPU, at most four that share a GPU (small nets leave it idle)."""
    if compute.jobs != "auto":
        return compute.jobs
    cores = joblib.cpu_count()
    return {"cpu": cores, "cuda": min(4, cores)}.get(device_of(compute).type, 1)


def _single_threaded(function: Callable[[J], R], job: J, kept: Path | None) -> R:
    if kept is not None and kept.exists():
        return pickle.loads(kept.read_bytes())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = function(job)
    finally:
        torch.set_num_threads(threads)
    if kept is not None:
        with paths.atomic(kept) as temporary:
            temporary.write_bytes(pickle.dumps(result))
    return result


def run_all(
    function: Callable[[J], R], jobs: Sequence[J], compute: Compute, description: str, resume: Path | None = None
) -> list[R]:
    """``[function(job) for job in jobs]``, in parallel, with a progress bar.

    Args:
        function: importable, and a function of ``job`` alone.
        jobs: with a ``repr`` that tells them apart (frozen dataclasses, tuples).
        resume: where finished runs are kept and found again; see ``resumable``.
    """
    if not jobs:
        return []
    kept = [resume and resume / f"{hashlib.sha256(repr(job).encode()).hexdigest()[:24]}.pickle" for job in jobs]
    with joblib.parallel_config(backend=compute.backend, inner_max_num_threads=_inner_threads(compute)):
        parallel = joblib.Parallel(n_jobs=min(jobs_of(compute), len(jobs)), return_as="generator")
        results: Iterable[R] = parallel(
            joblib.delayed(partial(_single_threaded, function))(job, path) for job, path in zip(jobs, kept, strict=True)
        )
        return list(track(results, total=len(jobs), desc=description))


def _inner_threads(compute: Compute) -> int | None:
    return 1 if compute.backend == "loky" else None  # the other back ends do not take it


def fingerprint(inputs: Iterable[Path]) -> str:
    """A digest of the contents of files and folders, and of this package's code."""
    digest = hashlib.sha256()
    for root in (*inputs, Path(__file__).parent):
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".pyc")
        for file in files:
            digest.update(os.fsencode(file.name) + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def resumable(stage: str, parameters: object, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder in which ``run_all`` keeps what is finished, for as long as the stage is not.

    It belongs to these parameters, these inputs and this code: with others the runs start anew. When the stage
    succeeds it is removed, so that a forced re-run recomputes.
    """
    key = hashlib.sha256((repr(parameters) + fingerprint(inputs)).encode()).hexdigest()[:16]
    folder = paths.BUILD / "partial" / f"{stage}-{key}"
    for stale in folder.parent.glob(f"{stage}-*"):
        if stale != folder:
            shutil.rmtree(stale)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)
