"""The profiles for a GPU, from end to end on a CPU: shrunk by the documented override, on micro data sets in the layouts in which
the real ones are published."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import write
from ruamel.yaml import YAML

from know import paths
from know.data.catalogue import CIFAR10, dataset
from know.params import load
from know.tasks.options import METRICS

sys.path.insert(0, str(paths.ROOT / "scripts"))
import use_profile

pytest.importorskip("timm")
SMALLER: dict[str, dict[str, object]] = {
    "paper-resnet18": {
        "downsize": {"image_size": 8},  # at full resolution in every layer
        "predict": {"controls": [{"control": "shrunk", "per": "tensor"}, "direction_only", "repeated"], "steps": 2},
        "evaluate": {"tuned": ["naive"], "learning_rates": [0.0008]},
    },
    "paper-segmentation": {"forget": {"architecture": "smp:deeplabv3plus-resnet18"}},
}
"""What is smaller here than the documented override makes it, or there again to be looked at."""
FIRST = ("paper-pacs", "paper-segmentation")
"""Classes of several domains, and masks; captions, and those that take the same way with other data, are thrice as long: `make test-long`."""
PROFILES = [
    pytest.param(name, marks=() if name in FIRST else pytest.mark.long)
    for name in sorted(path.stem for path in (paths.ROOT / "profiles").glob("paper-*.yaml"))
]


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


@pytest.fixture(scope="module")
def experiments(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each profile that is asked for, in which every stage of it has run; in one process, for to load the libraries takes longer than most."""
    folder, yaml, sets = tmp_path_factory.mktemp("profiles"), YAML(typ="safe"), set()
    asked = [getattr(item, "callspec", None) for item in request.session.items if item.path == Path(__file__)]
    for profile in {"paper-resnet18" if one is None else one.params["profile"] for one in asked}:
        merged = use_profile.merged_text(paths.PARAMS.read_text(), paths.ROOT / "profiles" / f"{profile}.yaml")
        file = folder / profile / "params.yaml"
        file.parent.mkdir()
        given = yaml.load(use_profile.shrunk_text(merged)) | {"reports": str(file.parent / "reports")}
        yaml.dump(use_profile.merge(given, SMALLER.get(profile, {})), file)
        params = load(file)
        sets |= {params.downsize.dataset, params.downsize.downstream_dataset}
    for name in sets:
        write_set(name, folder / "raw")
    places = {
        "KNOW_DATA": folder / "raw",
        "KNOW_RUNS": folder / "runs",
        "KNOW_RELEASED": folder / "nowhere",
        "PYTHONPATH": paths.ROOT,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("all_stages.py")), str(folder)],
        env=os.environ | {name: str(place) for name, place in places.items()}, cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not list((folder / "runs").rglob("*.unfinished"))
    yield folder
    shutil.rmtree(folder)  # gigabytes


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_runs_from_end_to_end(profile, experiments):
    folder = experiments / profile
    error = folder / "error.txt"
    assert not error.exists(), error.read_text()
    assert (folder / "reports" / "figures" / "gains.png").exists()
    params, transfer = load(folder / "params.yaml"), pd.read_csv(folder / "data" / "results" / "transfer.csv")
    assert set(transfer.arch) == {params.forget.architecture}
    assert set(transfer.metric) == {METRICS[dataset(params.downsize.downstream_dataset).kind]}
    assert {"naive", "scratch", "known", "linear", "shrunk"} <= set(transfer.method)
    assert set(transfer.get("held_out", [])) == set(params.evaluate.held_out)
    assert ("bleu" in transfer) == (dataset(params.downsize.downstream_dataset).kind == "captioning")
    assert transfer.accuracy.between(0, 1).all()


@pytest.mark.long
def test_the_papers_resnet_makes_no_step_that_none_needs(experiments):
    """For each is 45 MB."""
    folder = experiments / "paper-resnet18"
    transfer = pd.read_csv(folder / "data" / "results" / "transfer.csv")
    assert set(transfer.arch) == {"resnet18-released"} and set(transfer.source) == {"cifar100:0-1"}
    assert {"scratch", "naive", "known", "linear", "shrunk", "direction_only", "repeated", "naive_tuned"} <= set(
        transfer.method
    )
    assert set(transfer[transfer.method == "known"].steps) == {1, 2}
    assert set(transfer[transfer.method == "linear"].steps) == {2}
    seed = folder / "data" / "predictions" / "main_0"
    assert not list(seed.glob("linear-0-1*")) and list(seed.glob("linear-0-2*"))
