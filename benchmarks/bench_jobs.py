"""The executor's speed-up: the same independent forgetting runs through one process and through several, in one run.

python benchmarks/bench_jobs.py [--jobs 2]
"""

import argparse
import time
from functools import partial

import torch

from know.data.images import load
from know.meta.learning import draw_runs, run_paths
from know.params import load as load_params
from know.run.executor import run_all
from know.run.options import Compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=8)
    options = parser.parse_args()
    work = partial(run_paths, images=load("fashion-mnist-embedded", "train"))
    specs = draw_runs(load_params().meta_train)[: options.runs]
    taken, results = {}, {}
    for jobs in (1, options.jobs):
        compute = Compute(device="cpu", jobs=jobs, backend="loky")
        run_all(work, specs[:jobs], compute, "warm-up")  # starting the processes is paid once a stage
        start = time.perf_counter()
        results[jobs] = run_all(work, specs, compute, f"{jobs} processes")
        taken[jobs] = time.perf_counter() - start
    for alone, together in zip(results[1], results[options.jobs], strict=True):
        assert all(torch.equal(alone[kind], together[kind]) for kind in alone), "results depend on the processes"
    print(f"{options.runs} runs: 1 process {taken[1]:.1f} s, {options.jobs} processes {taken[options.jobs]:.1f} s,")
    print(f"speed-up {taken[1] / taken[options.jobs]:.2f}, with the same results bit for bit")


if __name__ == "__main__":
    main()
