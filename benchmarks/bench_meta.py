"""Meta-training's memory and time against the size of the meta-dataset: `python benchmarks/bench_meta.py [--factors 1 2 5 10 20]`.

For each factor, in a process of its own: files of that many times the default meta-dataset's runs, of its networks' sizes, and a
KNOWN of convolutions that takes as many steps more. What it prints should be flat in memory, and in time linear, for a batch
takes as long whatever the number of files.
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from bench_predict import peak_memory

from know.meta.layout import run_files, save_paths, weight_paths
from know.meta.learning import train_known
from know.models.build import build
from know.params import load
from know.training.forgetting import state_of

STEPS = 300  # at 1×


def write_runs(folder: Path, count: int) -> None:
    """Random walks from fresh weights, in runs that take turns at the default's networks."""
    params = load().meta_train
    for number in range(count):
        state = state_of(build(params.architectures[number % len(params.architectures)], 1, 10, number))
        walk = [state]
        for _ in range(params.runs.subsets - 1):
            walk.append(
                {n: v + 0.01 * torch.randn(v.shape) if v.is_floating_point() else v for n, v in walk[-1].items()}
            )
        save_paths(weight_paths(walk), folder / f"run_{number}.mat")


def measured(folder: str, steps: int) -> tuple[float, float]:
    """Seconds of meta-training, and this process's peak of memory over what it held before, in MB."""
    params, runs = load(), run_files(Path(folder))
    torch.set_num_threads(1)
    held_out = params.meta_train.runs.held_out
    options = params.meta_train.known.model_copy(update={"steps": steps})
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight], fused=True).step()  # loads PyTorch's compiler: 140 MB whatever is trained
    before = peak_memory()
    begun = time.perf_counter()
    train_known(runs[held_out:], runs[:held_out], "conv", params.history_length, options, 0)
    seconds = time.perf_counter() - begun
    return seconds, (peak_memory() - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", nargs="+", type=int, default=[1, 2, 5, 10, 20])
    options, params = parser.parse_args(), load().meta_train
    print(f"{'size':>5}{'runs':>6}{'on disk':>10}{'steps':>8}{'time':>9}{'ms a step':>11}{'peak':>9}")
    for factor in options.factors:
        runs, steps = factor * params.runs.count, factor * STEPS
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as process:
            write_runs(Path(folder), runs)
            disk = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
            seconds, extra = process.submit(measured, folder, steps).result()
        print(
            f"{factor:4}×{runs:6}{disk:7.0f} MB{steps:8}{seconds:7.1f} s{1000 * seconds / steps:11.2f}{extra:6.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
