"""What the executor costs and gains: `python benchmarks/bench_jobs.py [--jobs 2] [--runs 8] [--backend loky dask]`.

For each back end, in one run: the overhead of a task that does nothing, and the speed-up of independent runs of the
meta-dataset over one process, whose results must be the same bit for bit.
"""

import argparse
import time
from dataclasses import dataclass

import torch

from know.meta.runs import MetaJob, draw_runs, meta_run
from know.params import load
from know.run.executor import map_all
from know.run.options import Compute

TASKS = 1000


@dataclass(frozen=True)
class Nothing:
    number: int


def nothing(job: Nothing) -> None:
    """The least that a task can do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--backend", nargs="+", default=["loky", "dask"])
    options = parser.parse_args()
    runs = [MetaJob(run) for run in draw_runs(load().meta_train)[: options.runs]]
    begun = time.perf_counter()
    alone = map_all(meta_run, runs, Compute(device="cpu", jobs=1, backend="loky", deterministic=False), "alone")
    one = time.perf_counter() - begun
    print(f"1 process: {len(runs)} runs in {one:.1f} s")
    for backend in options.backend:
        compute = Compute(device="cpu", jobs=options.jobs, backend=backend, deterministic=False)
        taken = []
        for tasks in (options.jobs, options.jobs, TASKS):  # loky starts its processes once, dask once a stage
            begun = time.perf_counter()
            map_all(nothing, [Nothing(number) for number in range(tasks)], compute, backend)
            taken.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        together = map_all(meta_run, runs, compute, backend)
        several = time.perf_counter() - begun
        for a, b in zip(alone, together, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[kind], b[kind]) for kind in a), (
                "results depend on the back end"
            )
        overhead = 1000 * (taken[2] - taken[1]) / (TASKS - options.jobs)
        print(f"{backend}, {options.jobs} processes: {taken[0]:.1f} s to start, {overhead:.1f} ms a task,", end=" ")
        print(f"{len(runs)} runs in {several:.1f} s, speed-up {one / several:.2f}, with the same results bit for bit")


if __name__ == "__main__":
    main()
