"""Results whose truth is known: what each start gains, in shares of accuracy, over seeds that differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from know.experiment.evaluate import paired_seed

Start = tuple[str, int]
TRUTH: dict[Start, float] = {
    ("scratch", 0): -0.08, ("naive", 0): 0.0, ("more_data", 1): 0.02,
    ("known", 1): 0.01, ("known", 2): 0.015, ("known", 3): 0.02,
    ("scale_free", 1): 0.0, ("scale_free", 2): 0.0, ("scale_free", 3): 0.0,
    ("linear", 1): 0.0, ("linear", 2): -0.01, ("linear", 3): -0.02,
    ("task_vector", 1): -0.01, ("task_vector", 2): -0.03, ("task_vector", 3): -0.06,
    ("shrunk", 1): 0.02, ("shrunk", 2): 0.03, ("shrunk", 3): 0.04,
    ("shrink_perturb", 1): 0.02, ("trained_on", 1): 0.0, ("my_own", 1): 0.03, ("my_own", 2): 0.03, ("my_own", 3): 0.03,
}  # fmt: skip


def transfer(
    truth: Mapping[Start, float] = TRUTH,
    noise: float = 0.001,
    sources: int = 5,
    downstreams: int = 3,
    fractions: tuple[float, ...] = (0.4, 1.0),
) -> pd.DataFrame:
    """``transfer.csv`` in which each start is that much better than naïve transfer, give or take ``noise`` a run."""
    generator, rows = np.random.default_rng(0), []
    for source in range(sources):
        for downstream in range(downstreams):
            for fraction in fractions:
                level = 0.7 + 0.02 * source + 0.01 * downstream + 0.1 * fraction
                for (method, steps), gain in truth.items():
                    accuracy = level + gain + noise * generator.normal()
                    rows.append((method, steps, fraction, paired_seed(source, downstream), accuracy))
    table = pd.DataFrame(rows, columns=["method", "steps", "fraction", "seed", "accuracy"])
    task = {"source": "s:0-1", "arch": "cnn", "downstream": "d:2-3"}
    return table.assign(**task, loss=1 - table.accuracy, ece=(1 - table.accuracy) / 4)


def forgetting(drop: float = 0.02, seeds: int = 5) -> pd.DataFrame:
    """``forgetting.csv``: test accuracy falls by ``drop`` a step, a little more in later seeds."""
    return pd.DataFrame(
        [
            (seed, k, images, 1.0, 0.9 - drop * k + 0.001 * seed * k)
            for seed in range(seeds)
            for k in range(5)
            for images in ("test", "kept", "validation")
        ],
        columns=["seed", "k", "images", "loss", "accuracy"],
    )


def headroom(gains: Mapping[int, float], noise: float = 0.001) -> pd.DataFrame:
    """``headroom.csv``: a net trained on so many images is that much better than one trained on none."""
    table = transfer({("images", images): gain for images, gain in gains.items()}, noise)
    return table.rename(columns={"steps": "images"})[["images", "fraction", "seed", "accuracy"]]


def geometry(cosines: Mapping[str, float]) -> pd.DataFrame:
    """``geometry.csv`` of a net of two layers whose steps have these cosines with the real one, by method."""
    parts = [("conv", "body.0.weight"), ("fc", "head.weight"), ("conv", "all"), ("fc", "all"), ("all", "all")]
    return pd.DataFrame(
        [
            (seed, method, kind, layer, 100, cosine + 0.01 * (seed - 2), 0.5)
            for seed in range(5)
            for method, cosine in cosines.items()
            for kind, layer in parts
        ],
        columns=["seed", "method", "kind", "layer", "weights", "cosine", "norm_ratio"],
    )


def oracle_source(truth: Mapping[Start, float]) -> pd.DataFrame:
    """``oracle_source.csv`` likewise."""
    table = transfer(truth, downstreams=1, fractions=(1.0,))
    return table.assign(seed=table.seed // 1000)[["seed", "method", "steps", "accuracy", "loss", "ece"]]
