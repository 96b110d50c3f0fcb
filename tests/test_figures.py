"""Figures are drawn from tidy tables such as the stages write, and what a reader must see is there."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from know import figures

RATE = 0.5
SINGLE = ("shrink_perturb", "trained_on", "more_data")  # starts of one step
PREDICTED = [m for m in figures.METHOD_STYLE if m not in figures.REFERENCES]
# True gains over naive in shares after one step, and how they grow by step; two are far off.
GAIN = {"scratch": -0.12, "more_data": 0.02, "known": 0.004, "shrunk": 0.006, "linear": -0.004, "task_vector": -0.03,
        "expo": -0.01, "tsv": -0.02, "flipped": -0.006, "wnn": -0.09}  # fmt: skip


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def starts(methods=PREDICTED, steps=3):
    keys = [("scratch", 0), ("naive", 0), ("more_data", 1)]
    return keys + [(m, s) for m in methods for s in range(1, 2 if m in SINGLE else steps + 1)]


def summary(methods=PREDICTED, labels=(20, 50), units=5, steps=3):
    """What ``report.summarise`` makes of transfer.csv; ``labels`` may hold "pooled"."""
    rng, rows = np.random.default_rng(0), []
    for i, count in enumerate(labels):
        for method, step in starts(methods, steps):
            gain = GAIN.get(method, 0.002) * max(step, 1) + rng.normal(0, 0.001) if method != "naive" else 0.0
            half = float("inf") if units < 2 else 0.0 if method == "naive" else 0.004 + 0.25 * abs(gain)
            wide = float("inf") if units < 2 else 0.024
            rows.append(
                (
                    method,
                    step,
                    (i + 1) / len(labels),
                    count,
                    0.75 + 0.05 * i + gain,
                    wide,
                    gain,
                    half,
                    0.5,
                    units,
                    3 * units,
                )
            )
    columns = [
        "method",
        "steps",
        "fraction",
        "labels",
        "mean",
        "half_width",
        "gain",
        "gain_half_width",
        "p",
        "units",
        "runs",
    ]
    return pd.DataFrame(rows, columns=columns)


def landscape_tables(methods=PREDICTED):
    rng = np.random.default_rng(1)
    side = np.linspace(-1.0, 1.0, 31)
    x, y = (a.ravel() for a in np.meshgrid(3 * side, 2 * side))
    loss = lambda x, y: 0.4 + 0.5 * (x - 1) ** 2 + 1.5 * (y - 0.3 * x) ** 2 + 0.02 * np.exp(2 * abs(y))  # noqa: E731
    k = np.arange(5)
    px, py = 1.2 - 2.6 * (1 - 0.5**k), 0.5 * np.sin(k / 1.5)
    rows = [("theta", int(i), a, b) for i, a, b in zip(k, px, py, strict=True)]
    rows.append(("more_data", 1, 1.75, -0.35))
    for method in methods:
        step = rng.normal(0, 0.16, 2) + (0.12, -0.1)
        step *= 14 if method == "task_vector" else 1
        rows += [(method, s, px[0] + s * step[0], py[0] + s * step[1]) for s in range(1, 2 if method in SINGLE else 4)]
    points = pd.DataFrame(rows, columns=["method", "steps", "x", "y"])
    points["loss"] = loss(points.x, points.y)
    return (
        pd.DataFrame({"x": x, "y": y, "loss": loss(x, y)}),
        points,
        pd.DataFrame({"axis": ["x", "y"], "share": [0.81, 0.13]}),
    )


def curves(methods=("scratch", "naive", "more_data", "known", "shrunk"), sources=5, fractions=(0.4, 1.0)):
    rng, rows = np.random.default_rng(2), []
    for method in methods:
        for fraction in fractions:
            for source in range(sources):
                height, base = rng.normal(0.8, 0.01), 0.62 if method != "scratch" else 0.3
                for downstream in range(3):
                    for epoch in range(21):
                        accuracy = height - (height - base) * np.exp(-epoch / 6) + rng.normal(0, 0.004)
                        rows.append(
                            (method, int(method == "known"), fraction, 1000 * source + downstream, epoch, accuracy, 1.0)
                        )
    return pd.DataFrame(rows, columns=["method", "steps", "fraction", "seed", "epoch", "accuracy", "loss"])


def step_tables(methods=("known", "linear", "tsv"), count=3000):
    rng, frames, geometry = np.random.default_rng(3), [], []
    for kind, scale in (("conv", 0.02), ("fc", 0.006), ("bias", 0.01)):
        real = scale * rng.standard_t(3, count if kind != "bias" else 120)
        for method in methods:
            predicted = (0.15 if method == "known" else 0.4) * real + scale * rng.normal(
                0, 0.3 if method == "known" else 1, len(real)
            )
            frames.append(pd.DataFrame({"method": method, "kind": kind, "predicted": predicted, "real": real}))
            for seed in range(3):
                cosine = np.dot(predicted, real) / np.linalg.norm(predicted) / np.linalg.norm(real) + 0.01 * (seed - 1)
                geometry += [
                    (seed, method, kind, "all", len(real), cosine, 1.0),
                    (seed, method, kind, "0.weight", 9, 0.0, 1.0),
                ]
    columns = ["seed", "method", "kind", "layer", "weights", "cosine", "norm_ratio"]
    return pd.concat(frames), pd.DataFrame(geometry, columns=columns)


def ablation_table():
    rng, rows = np.random.default_rng(4), []
    values = {"history_length": (2, 3, 4, 5), "rate": (0.3, 0.5, 0.7), "source_images": (500, 1000, 2000, 4000, 8000)}
    for name, grid in values.items():
        for method in ("known", "linear"):
            rows += [(name, v, method, s, rng.normal(0.002 * s, 0.003), 0.005) for v in grid for s in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["ablation", "value", "method", "steps", "gain", "half_width"])


def response_table():
    frames = []
    for kind, size, slope in (("conv", 0.3, 0.05), ("fc", 0.15, 0.02), ("bias", 0.2, 0.03)):
        a, b = (x.ravel() for x in np.meshgrid(size * np.linspace(-1, 1, 41), slope * np.linspace(-1, 1, 41)))
        frames.append(
            pd.DataFrame({"kind": kind, "level": a, "slope": b, "residual": np.tanh(0.35 * b - 0.05 * a), "linear": b})
        )
    return pd.concat(frames)


def headroom_table(sources=5):
    rng, rows = np.random.default_rng(5), []
    for labels, top in ((20, 0.78), (50, 0.85)):
        for images in (0, 500, 1000, 2000, 4000, 8000):
            for source in range(sources):
                height = top - (0.1 if images == 0 else 0.07 * (500 / images) ** 0.7)
                rows += [
                    (images, labels / 50, 1000 * source + d, height + rng.normal(0, 0.008), labels) for d in range(3)
                ]
    return pd.DataFrame(rows, columns=["images", "fraction", "seed", "accuracy", "labels"])


def oracle_table():
    keep = [m for m, s in starts(steps=1) if m not in ("naive",)]
    return pd.DataFrame({"start": keep, "gain": [GAIN.get(m, 0.002) for m in keep], "half_width": 0.005})


def predictions_table(methods=PREDICTED, sources=5):
    rng, rows = np.random.default_rng(6), []
    for seed in range(sources):
        rows += [(seed, "naive", 0, 0.89, kind, 1.0, 0.0, np.nan) for kind in ("conv", "fc", "bias")]
        for method, step in starts(methods)[3:]:
            lost = {"known": 0.03, "linear": 0.05, "task_vector": 0.2}.get(method, 0.02) * step**1.3
            for kind, grow in (("conv", 0.01), ("fc", 0.003), ("bias", 0.05)):
                sign = 6 if method == "task_vector" else -1
                ratio = 1 + sign * grow * step * (1 + 0.1 * rng.normal()) * (1 + len(method) % 3) / 2
                rows.append((seed, method, step, max(0.89 - lost, 0.1) + rng.normal(0, 0.005), kind, ratio, 1.0, 0.1))
    columns = ["seed", "method", "step", "source_accuracy", "kind", "norm_ratio", "step_ratio", "step_cosine"]
    return pd.DataFrame(rows, columns=columns)


def forgetting_table(sources=5):
    rng, rows = np.random.default_rng(7), []
    for seed in range(sources):
        for k in range(5):
            for images, accuracy, loss in (
                ("kept", min(0.97 + 0.01 * k, 1), 0.1 / 3**k),
                ("dropped", 0.95 - 0.01 * k, 0.2 + 0.05 * k),
                ("test", 0.89 - 0.008 * k, 0.3 + 0.1 * k),
            ):
                if (images, k) != ("dropped", 0):
                    rows.append((seed, k, images, accuracy + rng.normal(0, 0.006), loss * np.exp(rng.normal(0, 0.2))))
    return pd.DataFrame(rows, columns=["seed", "k", "images", "accuracy", "loss"])


def meta_tables():
    rng, rows = np.random.default_rng(8), []
    for run in range(6):
        for kind in ("conv", "fc", "bias"):
            for name, ratio in (
                ("no change", 1),
                ("linear", 1.02),
                ("KNOWN", 0.9),
                ("scale-free KNOWN", 0.85),
                ("WNN", 0.95),
            ):
                rows.append((run, kind, name, 0.01 * ratio * (1 if ratio == 1 else np.exp(rng.normal(0, 0.12)))))
    step = np.arange(100, 3001, 100)
    learnt = [
        pd.DataFrame({"kind": kind, "step": step, "mae": 0.01 * (1 + 0.1 * np.exp(-step / 500))})
        for kind in ("conv", "fc", "bias")
    ]
    return pd.DataFrame(rows, columns=["run", "kind", "predictor", "mae"]), pd.concat(learnt)


DRAWINGS = {
    "schematic": lambda: figures.schematic(RATE, 5),
    "forgetting": lambda: figures.forgetting(forgetting_table(), RATE, 0.95),
    "meta_validation": lambda: figures.meta_validation(*meta_tables()),
    "predictions": lambda: figures.predictions(predictions_table(), RATE, 0.95),
    "landscape": lambda: figures.landscape(*landscape_tables()),
    "transfer": lambda: figures.transfer(summary(), RATE),
    "transfer_pooled": lambda: figures.transfer(summary(labels=(20, 50, "pooled")), RATE),
    "gains": lambda: figures.gains(summary(), RATE),
    "gains_pooled": lambda: figures.gains(summary(labels=(20, 50, "pooled")), RATE),
    "learning_curves": lambda: figures.learning_curves(curves(), 0.95),
    "steps": lambda: figures.steps(*step_tables()),
    "ablations": lambda: figures.ablations(ablation_table()),
    "response": lambda: figures.response(response_table()),
    "headroom": lambda: figures.headroom(headroom_table(), 2000, RATE, 0.95),
    "oracle": lambda: figures.oracle(oracle_table()),
}
