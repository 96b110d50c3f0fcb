"""The executor's speed-up: the same independent training runs through one process and through several, in one run.

python benchmarks/bench_jobs.py [--jobs 2]
"""

import argparse
import time

import torch

from know.data import load
from know.executor import run_all
from know.models import build
from know.params import Compute
from know.training import Recipe, fit


def train(seed: int) -> float:
    data = load("fashion-mnist-embedded", "train").select(torch.arange(0, 20_000, 10))
    net = build("cnn", 1, len(data.classes), seed)
    return fit(net, data, Recipe(10, 64, 1e-3), seed).train_loss[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=12)
    options = parser.parse_args()
    taken, results = {}, {}
    for jobs in (1, options.jobs):
        compute = Compute(device="cpu", jobs=jobs, backend="loky")
        run_all(train, range(jobs), compute, "warm-up")  # starting the processes is paid once a stage
        start = time.perf_counter()
        results[jobs] = run_all(train, range(options.runs), compute, f"{jobs} processes")
        taken[jobs] = time.perf_counter() - start
    assert results[1] == results[options.jobs], "the results depend on the number of processes"
    print(f"{options.runs} runs: 1 process {taken[1]:.1f} s, {options.jobs} processes {taken[options.jobs]:.1f} s,")
    print(f"speed-up {taken[1] / taken[options.jobs]:.2f}, with the same results bit for bit")


if __name__ == "__main__":
    main()
