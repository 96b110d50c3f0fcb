"""One executor for runs that do not depend on each other: a process a core, one torch thread each.

A result does not depend on how many processes there are. Each run is recorded in the store (``know.run.store``) by the
process that does it, so that whatever stops a stage, finished runs are never done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Generic, TypeVar

import joblib
import torch

from know import paths
from know.options import ParamError
from know.run.arithmetic import changed
from know.run.device import device_named, on
from know.run.options import Compute
from know.run.process import serve
from know.run.progress import track
from know.run.spread import in_processes
from know.run.store import code_digest, found, key_of, once

if TYPE_CHECKING:
    from accelerate import Accelerator
    from dask.distributed import Client

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")


def device_of(compute: Compute) -> torch.device:
    """The device that ``compute.device`` names."""
    return device_named(compute.device)


def jobs_of(compute: Compute) -> int:
    """How many runs at once: as many as their processes have cores on the CPU, at most four that share a GPU (small nets leave
    it idle), one that is spread over GPUs."""
    if compute.jobs != "auto":
        return compute.jobs
    cores = joblib.cpu_count()
    on_gpu = min(4, cores) if compute.processes == 1 else 1
    return {"cpu": max(1, cores // compute.processes), "cuda": on_gpu}.get(device_of(compute).type, 1)


def check_processes(compute: Compute) -> None:
    """Whether this machine can spread a run over ``compute.processes``.

    Raises:
        ParamError: Accelerate is not installed, or there are not as many devices.
    """
    if (asked := compute.processes) == 1:
        return
    if find_spec("accelerate") is None:
        raise ParamError(
            f"compute.processes: got {asked}; allowed: 1, for Accelerate is not installed: pip install 'know[accelerate]'"
        )
    device, jobs = device_of(compute), jobs_of(compute)
    most = {"cpu": asked, "cuda": torch.cuda.device_count() // jobs}.get(device.type, 1)
    if asked > most:
        raise ParamError(
            f"compute.processes: got {asked}; allowed: at most {most}, one for each {device.type} device that is here, with"
            f" {jobs} run{'s' if jobs > 1 else ''} at once"
        )


def numerics(compute: Compute) -> str:
    """What a number may depend on besides its run: the kind of device, and how it computes."""
    device, how = device_of(compute), " compiled" if compute.compile else ""
    if compute.processes > 1:
        how += f" in {compute.processes} shares"
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}" + "".join(changed()) + how
    if device.type != "cuda":
        return device.type + how
    return torch.cuda.get_device_name(device) + (" deterministic" if compute.deterministic else "") + how


@contextmanager
def _as_run(compute: Compute, together: Accelerator | None = None) -> Iterator[None]:
    """As the processes of the executor compute: with one thread, on the device, reproducibly, alone or ``together``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        with on(device_of(compute), compute.compile, together, jobs_of(compute) * compute.processes):
            yield
    finally:
        torch.set_num_threads(threads)


def one(function: Callable[[J], R], job: J, compute: Compute) -> R:
    """``function(job)``, computed once, ever, and as ``run_all`` computes it; by ``compute.processes`` processes.

    Raises:
        ParamError: there cannot be so many of them here.
        RuntimeError: one of them failed.
    """
    if compute.processes == 1:
        with _as_run(compute):
            return once(function, job, numerics(compute))
    key = key_of(function, job, numerics(compute))
    if (recorded := found(function, key)) is not None:
        return recorded
    check_processes(compute)
    in_processes(partial(_shared, function, job, compute, key), compute.processes, device_of(compute).type)
    result = found(function, key)
    assert result is not None, "the first process ends without an error only when it has recorded it"
    return result


def _shared(function: Callable[[J], R], job: J, compute: Compute, key: str, together: Accelerator) -> None:
    """In each of a run's processes: the first one's result is the run's."""
    own = compute.model_copy(update={"device": str(together.device)})
    with _as_run(own, together):
        if not together.is_main_process:
            function(job)
        elif key_of(function, job, numerics(own)) != key:
            raise RuntimeError(f"the code of {function.__module__} changed while it ran: run it again")
        else:
            once(function, job, numerics(own))


@dataclass(frozen=True)
class _Recorded(Generic[J, R]):
    """A function whose results go through the store, so that nothing large is sent between processes; ``code``: its code's
    digest where it was sent from, ``how``: the numerics there."""

    function: Callable[[J], R]
    code: str
    how: str

    def __call__(self, job: J, compute: Compute) -> None:
        if code_digest(self.function.__module__) != self.code:
            raise RuntimeError(f"the code of {self.function.__module__} changed while it ran: run it again")
        if (how := numerics(compute)) != self.how:
            raise RuntimeError(
                f"a worker computes on {how}, and it was asked from {self.how}: give both the same environment"
            )
        one(self.function, job, compute)


def run_all(
    function: Callable[[J], R], jobs: Sequence[J], compute: Compute, description: str, *, spread: bool = False
) -> list[R]:
    """``[function(job) for job in jobs]``, in parallel, with progress; each job is computed once, ever.

    Args:
        function: importable, and a function of ``job`` alone; its return annotation says how its record is read.
        jobs: frozen dataclasses of plain values.
        spread: each job by ``compute.processes`` processes, for it is the training of a net that may be large; else by one.
    """
    compute = compute if spread else compute.alone
    how = numerics(compute)
    keys = [key_of(function, job, how) for job in jobs]
    distinct = dict(zip(keys, jobs, strict=True))  # two jobs may read the same content from two places
    for folder in paths.RUNS.glob("*"):
        paths.sweep(folder)
    results = _kept(function, distinct)
    missing = {key: job for key, job in distinct.items() if key not in results}
    for _ in _parallel(
        _Recorded(function, code_digest(function.__module__), how), [*missing.values()], compute, description
    ):
        pass
    results |= _kept(function, missing)
    if lost := [key for key in missing if key not in results]:
        raise RuntimeError(
            f"{len(lost)} of {len(distinct)} records are not in {paths.RUNS}: the workers have another store of runs;"
            " set KNOW_RUNS to one folder that all can reach"
        )
    return [results[key] for key in keys]


def _kept(function: Callable[[J], R], keys: Iterable[str]) -> dict[str, R]:
    """What has been computed, of the runs of these keys."""
    return {key: result for key in keys if (result := found(function, key)) is not None}


def map_all(function: Callable[[J], R], jobs: Sequence[J], compute: Compute, description: str) -> list[R]:
    """``[function(job) for job in jobs]``, in parallel, with progress, each time anew: for what is quick, or writes files."""
    return list(_parallel(partial(_mapped, function), jobs, compute.alone, description))


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
    if compute.backend == "dask":
        with connected(compute, len(jobs)) as client:
            futures = client.map(function, jobs, [compute] * len(jobs), pure=False)
            yield from track((future.result() for future in futures), total=len(jobs), desc=description)
        return
    options = {"inner_max_num_threads": 1, "initializer": serve, "initargs": (os.getpid(),)}
    with joblib.parallel_config(backend="loky", **options):
        parallel = joblib.Parallel(n_jobs=min(jobs_of(compute), len(jobs)), return_as="generator")
        results = parallel(joblib.delayed(function)(job, compute) for job in jobs)
        yield from track(results, total=len(jobs), desc=description)


@contextmanager
def connected(compute: Compute, most: int) -> Iterator[Client]:
    """A dask client: of the cluster at ``compute.address``, or of one made for the block on this machine, with no more
    workers than ``most``.

    Raises:
        RuntimeError: dask is not installed, nothing answers at the address, or a worker has several threads, in which
            runs would share one random generator.
    """
    try:
        from dask import distributed
    except ImportError:
        raise RuntimeError("compute.backend: dask is not installed: pip install 'know[dask]'") from None
    local = {"n_workers": min(jobs_of(compute), most), "threads_per_worker": 1, "dashboard_address": ":0"}
    try:
        client = distributed.Client(compute.address, **({} if compute.address else local))
    except OSError as error:
        raise RuntimeError(f"compute.address: no dask scheduler answers at {compute.address}: {error}") from None
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            raise RuntimeError("compute.backend: dask's workers must have one thread each: dask worker --nthreads 1")
        yield client
