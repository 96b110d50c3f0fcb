"""What is computed here, to the bit, a line each: ``python arithmetic_digests.py NET…``. Each part of the method, as the pipeline calls it."""

import hashlib
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import know.bench  # noqa: F401 - before NumPy, as in every process that computes

# isort: split
import numpy as np
import torch
from torch import Tensor

from know import retrodict
from know.analysis.statistics import mean_interval
from know.data.images import ImageSet
from know.meta.layout import RunFile, save_paths, weight_paths
from know.meta.learning import train_known
from know.meta.options import KnownTraining
from know.models.build import build
from know.prediction.known import load_hypermodel
from know.training.forgetting import state_of
from know.training.loop import Recipe, fit
from know.weights.geometry import step_sizes


def told(name: str, tensors: Iterable[Tensor]) -> None:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    print(name, digest.hexdigest()[:16], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 16, 16), generator=generator, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(48) % 5, tuple("abcde"))
    for name in sys.argv[1:]:
        net = build(name, 3, 5, 0)
        trajectory = []
        for seed in range(5):
            fit(net, data, Recipe(1, 16, 0.01, "cosine", "crop-flip"), seed)
            trajectory.append(state_of(net))
        told(f"forget {name}", trajectory[-1].values())
        told(f"predict {name}", retrodict(trajectory, load_hypermodel("default"))[0].values())
    with tempfile.TemporaryDirectory() as folder:
        save_paths(weight_paths(trajectory * 2), Path(folder) / "run.mat")
        runs = [RunFile.open(Path(folder) / "run.mat")]
        options = KnownTraining(steps=20, batch_size=64, lr=0.001)
        told("meta-train", train_known(runs, runs, "conv", 5, options, 0, "wnn")[0].state_dict().values())
    sizes = step_sizes(trajectory[0], trajectory[1], trajectory[2])
    told("geometry", [torch.tensor([size[1:] for size in sizes], dtype=torch.float64)])
    found = mean_interval(np.exp(np.random.default_rng(0).normal(size=9)))
    told("statistics", [torch.tensor([found.mean, found.half_width], dtype=torch.float64)])
