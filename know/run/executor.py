"""One executor for runs that do not depend on each other: a process a core, one torch thread each.

A result does not depend on how many processes there are. Each run is recorded in the store (``know.run.store``) by the
process that does it, so that whatever stops a stage, finished runs are never done again.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import joblib
import torch

from know import paths
from know.run.device import device_named, on
from know.run.options import Compute
from know.run.process import serve
from know.run.progress import track
from know.run.store import code_digest, key_of, once

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")


def device_of(compute: Compute) -> torch.device:
    """The device that ``compute.device`` names."""
    return device_named(compute.device)


def jobs_of(compute: Compute) -> int:
    """How many processes: as many as cores on the CPU, at most four that share a GPU (small nets leave it idle)."""
    if compute.jobs != "auto":
        return compute.jobs
    cores = joblib.cpu_count()
    return {"cpu": cores, "cuda": min(4, cores)}.get(device_of(compute).type, 1)


def numerics(compute: Compute) -> str:
    """What a number may depend on besides its run: the kind of device, and how CUDA computes."""
    device = device_of(compute)
    if device.type != "cuda":
        return device.type
    return torch.cuda.get_device_name(device) + (" deterministic" if compute.deterministic else "")


@contextmanager
def _as_run(compute: Compute) -> Iterator[None]:
    """As the processes of the executor compute: with one thread, on the device, reproducibly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        with on(device_of(compute)):
            yield
    finally:
        torch.set_num_threads(threads)


def one(function: Callable[[J], R], job: J, compute: Compute) -> R:
    """``function(job)``, computed once, ever, and as ``run_all`` computes it."""
    with _as_run(compute):
        return once(function, job, numerics(compute))


@dataclass(frozen=True)
class _Recorded(Generic[J, R]):
    """A function whose results go through the store, so that nothing large is sent between processes; ``code``: its code's
    digest where it was sent from."""

    function: Callable[[J], R]
    code: str

    def __call__(self, job: J, compute: Compute) -> None:
        if code_digest(self.function.__module__) != self.code:
            raise RuntimeError(f"the code of {self.function.__module__} changed while it ran: run it again")
        one(self.function, job, compute)


def run_all(function: Callable[[J], R], jobs: Sequence[J], compute: Compute, description: str) -> list[R]:
    """``[function(job) for job in jobs]``, in parallel, with progress; each job is computed once, ever.

    Args:
        function: importable, and a function of ``job`` alone; its return annotation says how its record is read.
        jobs: frozen dataclasses of plain values.
    """
    how = numerics(compute)
    keys = [key_of(function, job, how) for job in jobs]
    distinct = dict(zip(keys, jobs, strict=True))  # two jobs may read the same content from two places
    recorded = _Recorded(function, code_digest(function.__module__))
    for folder in paths.RUNS.glob("*"):
        paths.sweep(folder)
    for _ in _parallel(recorded, list(distinct.values()), compute, description):
        pass
    results = {key: one(function, job, compute) for key, job in distinct.items()}
    return [results[key] for key in keys]


def map_all(function: Callable[[J], R], jobs: Sequence[J], compute: Compute, description: str) -> list[R]:
    """``[function(job) for job in jobs]``, in parallel, with progress, each time anew: for what is quick, or writes files."""
    return list(_parallel(partial(_mapped, function), jobs, compute, description))


def _mapped(function: Callable[[J], R], job: J, compute: Compute) -> R:
    with _as_run(compute):
        return function(job)


def _parallel(
    function: Callable[[J, Compute], T],
    jobs: Sequence[J],
    compute: Compute,
    description: str,
) -> Iterator[T]:
    if not jobs:
        return
    options = {"inner_max_num_threads": 1, "initializer": serve, "initargs": (os.getpid(),)}
    with joblib.parallel_config(backend=compute.backend, **(options if compute.backend == "loky" else {})):
        parallel = joblib.Parallel(n_jobs=min(jobs_of(compute), len(jobs)), return_as="generator")
        results = parallel(joblib.delayed(function)(job, compute) for job in jobs)
        yield from track(results, total=len(jobs), desc=description)
