"""What it costs on this machine, in one thread: time and memory of forgetting, of meta-training and of prediction.

    python scripts/measure_cost.py [--repeats 2]     # writes data/measured/cost.csv; some minutes

Times are of the processor, which in one thread are those of the clock on an idle machine, and the shortest of the
repeats; with the parameters of params.yaml and its first source seed. Memory is how far a fresh process's peak
(resource's ru_maxrss) rises above what it was when the modules and the data were loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
import torchvision

from know import load_hypermodel, params, paths, retrodict
from know.data.splits import draw_split, meta_pool, source_task
from know.data.subsets import nested_subsets
from know.meta.layout import RunFile, save_paths
from know.meta.learning import train_known
from know.meta.runs import draw_runs, run_paths
from know.models.build import build
from know.params import Params
from know.stages.results import write_csv
from know.training.forgetting import forget
from know.training.loop import Recipe, fit
from know.weights.kinds import State, kinds_of

T = TypeVar("T")
MEASURED = paths.DATA / "measured"
CPU = torch.device("cpu")


def peak() -> float:
    """This process's largest resident memory so far, in MiB."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found / 2**20 if sys.platform == "darwin" else found / 2**10  # bytes there, KiB elsewhere


def shortest(function: Callable[[], T], repeats: int) -> tuple[float, float, T]:
    """Processor seconds of the fastest call, MiB by which the first raised the peak memory, and what the last returned."""
    times, before, extra = [], peak(), 0.0
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
        extra = extra or peak() - before
    return min(times), extra, result


def forgetting(p: Params, repeats: int) -> dict[str, float]:
    """Training Θ_0 for as many epochs as it takes to converge, and the forgetting runs: seconds, and epochs of the first.

    Looking at the validation images is in neither.
    """
    seed, options = p.downsize.source_seeds[0], p.forget
    pool = source_task(p.downsize).pool(CPU)
    split = draw_split(pool.labels, p.downsize, seed)
    order = split.order[: p.downsize.source_images]
    subsets = [pool.select(index) for index in nested_subsets(order, p.rate, p.history_length)]
    source_training = options.source
    later = Recipe(options.epochs, options.batch_size, options.lr, augment=options.augment)

    def train(epochs: int, **until: Any) -> tuple[torch.nn.Module, int]:
        net = build(options.architecture, pool.images.shape[1], len(pool.classes), seed)
        recipe = Recipe(epochs, source_training.batch_size, source_training.lr, augment=source_training.augment)
        history = fit(net, subsets[0], recipe, seed, **until)
        return net, len(history.train_loss)

    validation = pool.select(split.validation)
    net, epochs = train(source_training.max_epochs, validation=validation, patience=source_training.patience)
    training, _, _ = shortest(lambda: train(epochs), repeats)
    further, _, _ = shortest(lambda: forget(net, subsets[1:], later, seed), repeats)
    return {"training": training, "epochs": epochs, "forgetting": further}


def collecting(p: Params, architecture: str, repeats: int, folder: Path) -> dict[str, float]:
    """The first run of the meta-dataset of an architecture, which is also written to ``folder``."""
    spec = next(spec for spec in draw_runs(p.meta_train) if spec.architecture == architecture)
    images = meta_pool(spec.dataset, p.downsize.meta_share)
    seconds, extra, found = shortest(lambda: run_paths(spec, images), repeats)
    save_paths(found, folder / spec.file_name, asdict(spec))
    return {"seconds": seconds, "extra": extra}


def learning(p: Params, folder: Path) -> dict[str, float]:
    """Meta-training the KNOWN of convolutions, once, on what is in ``folder``."""
    runs = [RunFile.open(file) for file in sorted(folder.iterdir())]
    seconds, extra, _ = shortest(
        lambda: train_known(runs, runs[-1:], "conv", p.history_length, p.meta_train.known, p.meta_train.seed), 1
    )
    return {"seconds": seconds, "extra": extra}


def predicting(p: Params, repeats: int) -> dict[str, float]:
    """One step past a random walk of the states of torchvision's ResNet18 with 100 classes."""
    generator = torch.Generator().manual_seed(0)
    state: State = torchvision.models.resnet18(num_classes=100).state_dict()
    trajectory = [state]
    for _ in range(p.history_length - 1):
        trajectory.append(
            {
                name: tensor + 0.001 * torch.randn(tensor.shape, generator=generator)
                if tensor.is_floating_point()
                else tensor
                for name, tensor in trajectory[-1].items()
            }
        )
    model = load_hypermodel("default")
    parameters = sum(state[name].numel() for name, kind in kinds_of(state).items() if kind != "buffer")
    seconds, extra, _ = shortest(lambda: retrodict(trajectory, model), repeats)
    return {"seconds": seconds, "extra": extra, "parameters": parameters}


def _single_threaded() -> None:
    torch.set_num_threads(1)


def fresh(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """``function(*arguments)`` in a new process with one torch thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_single_threaded) as pool:
        return pool.submit(function, *arguments).result()


def measure(p: Params, repeats: int) -> pd.DataFrame:
    """Rows of quantity, value, unit, note."""
    rate, length, epochs = p.rate, p.history_length, p.forget.epochs
    images = p.downsize.source_images
    first = fresh(forgetting, p, repeats)
    ratio = epochs / first["epochs"]
    paper = (1 - rate ** (length - 1)) / (1 - rate)
    seen = sum(rate**k for k in range(1, length))
    setting = f"{p.forget.architecture}, |D_0| = {images}, r = {rate:g}, S = {length}"
    with tempfile.TemporaryDirectory() as folder:
        runs = [fresh(collecting, p, one, repeats, Path(folder)) for one in p.meta_train.architectures]
        known = fresh(learning, p, Path(folder))
    predicted = fresh(predicting, p, repeats)
    names = ", ".join(p.meta_train.architectures)
    per_parameter = predicted["seconds"] / predicted["parameters"]
    machine = f"{_processor()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    rows = [
        ("threads", 1, "", f"{machine}; times are of the processor"),
        ("training Θ_0", first["training"], "s", f"{setting}; without looking at validation images"),
        ("training Θ_0, epochs", first["epochs"], "", f"at most {p.forget.source.max_epochs}"),
        ("training Θ_0, images seen", first["epochs"] * images, "", ""),
        ("forgetting", first["forgetting"], "s", f"Θ_1 … Θ_{length - 1}, {epochs} epochs each"),
        ("forgetting, images seen", epochs * images * seen, "", ""),
        ("forgetting over training", first["forgetting"] / first["training"], "", "measured time"),
        ("forgetting over training, Σ r^k, k ≥ 1", ratio * seen, "", f"times {epochs}/{first['epochs']:g} epochs"),
        ("forgetting over training, (1 - r^(S-1))/(1 - r)", ratio * paper, "", f"the paper's, times {epochs}/{first['epochs']:g} epochs"),
        ("forgetting over training, same epochs", first["forgetting"] / first["training"] / ratio, "", f"measured time an epoch, batches of {p.forget.batch_size} against {p.forget.source.batch_size}; Σ r^k = {seen:.3g}, the paper's formula {paper:.3g}"),
        ("meta-dataset, a run", sum(run["seconds"] for run in runs) / len(runs), "s", f"mean of one run each: {names}"),
        ("meta-dataset, a run's memory", max(run["extra"] for run in runs), "MiB", f"largest of one run each: {names}"),
        ("meta-training a KNOWN", known["seconds"], "s", f"{p.meta_train.known.steps} steps of {p.meta_train.known.batch_size} windows, measured once"),
        ("meta-training a KNOWN, memory", known["extra"], "MiB", ""),
        ("prediction", predicted["seconds"], "s", f"ResNet18, {predicted['parameters']:,} parameters, one step"),
        ("prediction per parameter", per_parameter, "s", f"the paper's: 2.67e-7, {2.67e-7 / per_parameter:.2g} times as much"),
        ("prediction, memory", predicted["extra"], "MiB", f"the result itself: {4 * predicted['parameters'] / 2**20:.0f} MiB"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "value", "unit", "note"])


def _processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return found[0] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    table = measure(params.load(), parser.parse_args().repeats)
    write_csv(table, "cost.csv", MEASURED)
    print(table.to_string(index=False, float_format="{:.3g}".format), f"\n{MEASURED / 'cost.csv'}: written")
