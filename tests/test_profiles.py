"""The profiles for a GPU, from end to end on a CPU: shrunk by the documented override, on micro data sets in the layouts in which
the real ones are published."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import write
from ruamel.yaml import YAML

from know import paths
from know.data.catalogue import CIFAR10, dataset
from know.params import Params, load
from know.tasks.options import METRICS

sys.path.insert(0, str(paths.ROOT / "scripts"))
import use_profile

pytest.importorskip("timm")
PROFILES = (
    "paper-pvtv2-cifar100",
    "paper-pvtv2-tiny-imagenet",
    "paper-pvtv2-cars",
    "paper-pvtv2-cub",
    "paper-pvtv2-flowers",
)
PROFILES += ("paper-pacs", "paper-segmentation")


def write_batch(file: Path, labels: bytes, count: int, seed: int) -> None:
    """``count`` images of two classes that differ in brightness, as one of CIFAR's batches."""
    right = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 100, (count, 3072)) + 100 * right[:, None]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({b"data": pixels.astype(np.uint8), labels: right.tolist()}, protocol=2))


def write_set(name: str, raw: Path) -> None:
    """A micro data set of two classes, as it is published."""
    if name == "cifar100":
        for seed, part in enumerate(("train", "test")):
            write_batch(raw / name / "cifar-100-python" / part, b"fine_labels", 60, seed)
    elif name == "cifar10":
        for seed, file in enumerate((*CIFAR10.files["train"], *CIFAR10.files["test"])):
            write_batch(raw / name / "cifar-10-batches-py" / file, b"labels", 40, seed)
    else:
        write(name, raw / name, classes=2, per_class=14)


def run(given: str, folder: Path) -> tuple[Params, pd.DataFrame]:
    """Every stage of a params.yaml, its report in ``folder``; what was fine-tuned."""
    yaml = YAML(typ="safe")
    yaml.dump(yaml.load(given) | {"reports": str(folder / "reports")}, file := folder / "params.yaml")
    params, raw = load(file), folder / "raw"
    for name in {params.downsize.dataset, params.downsize.downstream_dataset}:
        write_set(name, raw)
    places = {
        "KNOW_DATA": raw,
        "KNOW_RUNS": folder / "runs",
        "KNOW_RELEASED": folder / "nowhere",
        "PYTHONPATH": paths.ROOT,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("all_stages.py")), str(file), str(folder / "data")],
        env=os.environ | {name: str(place) for name, place in places.items()}, cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (folder / "reports" / "figures" / "gains.png").exists() and not list((folder / "runs").rglob("*.unfinished"))
    return params, pd.read_csv(folder / "data" / "results" / "transfer.csv")


def text_of(profile: str) -> str:
    return use_profile.merged_text(paths.PARAMS.read_text(), paths.ROOT / "profiles" / f"{profile}.yaml")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_runs_from_end_to_end(profile, tmp_path):
    params, transfer = run(use_profile.shrunk_text(text_of(profile)), tmp_path)
    assert set(transfer.arch) == {params.forget.architecture}
    assert set(transfer.metric) == {METRICS[dataset(params.downsize.downstream_dataset).kind]}
    assert {"naive", "scratch", "known", "linear", "task_vector", "shrunk", "naive_tuned"} <= set(transfer.method)
    assert set(transfer.get("held_out", [])) == set(params.evaluate.held_out)
    assert transfer.accuracy.between(0, 1).all()


def test_the_papers_resnet_runs_from_end_to_end(tmp_path):
    """And no stage makes a step that none needs, for each is 45 MB."""
    _, transfer = run(text_of("paper-resnet18-micro"), tmp_path)
    assert set(transfer.arch) == {"resnet18-released"} and set(transfer.source) == {"cifar100:0-1"}
    assert {"scratch", "naive", "known", "linear", "shrunk", "direction_only", "repeated", "naive_tuned"} <= set(
        transfer.method
    )
    assert set(transfer[transfer.method == "known"].steps) == {1, 2}
    assert set(transfer[transfer.method == "linear"].steps) == {2}
    seed = tmp_path / "data" / "predictions" / "main_0"
    assert not list(seed.glob("linear-0-1*")) and list(seed.glob("linear-0-2*")), "no stage needs the first step"
