"""The paper's profile from end to end: its micro form through the real `dvc repro`, on images in CIFAR's published layout."""

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_pipeline import STAGES, Copy, ran

from know import paths
from know.data.catalogue import CIFAR10
from know.data.sources import digest

sys.path.insert(0, str(paths.ROOT / "scripts"))
import use_profile


def write_batch(file: Path, labels: bytes, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` images of two classes that differ in brightness, as one of CIFAR's batches."""
    right = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 100, (count, 3072)) + 100 * right[:, None]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({b"data": pixels.astype(np.uint8), labels: right.tolist()}, protocol=2))
    return pixels.astype(np.uint8).reshape(-1, 3, 32, 32), right


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The repository with profile paper-resnet18-micro, its data sets, and no released hyper-model."""
    for name in ("KNOW_DATA", "KNOW_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KNOW_RELEASED", str(tmp_path / "nowhere"))
    made = Copy(tmp_path / "copy")
    raw, catalogue = made.root / "data" / "raw", made.root / "know" / "data" / "catalogue.py"
    for seed, part in enumerate(("train", "test")):
        write_batch(raw / "cifar100" / "cifar-100-python" / part, b"fine_labels", 60, seed)
    text = catalogue.read_text()
    for part, count in (("train", 10), ("test", 40)):
        files = [raw / "cifar10" / "cifar-10-batches-py" / name for name in CIFAR10.files[part]]
        batches = [write_batch(file, b"labels", count, seed) for seed, file in enumerate(files)]
        images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        text = text.replace(CIFAR10.sha256[part], digest(images, labels))  # or they would not be taken for CIFAR-10
    catalogue.write_text(text)
    shutil.copy(paths.PARAMS, made.root)
    made.commit()
    use_profile.use("paper-resnet18-micro", made.root)
    return made


def test_every_stage_runs_and_what_is_promised_is_made(copy):
    output = copy.dvc("repro")
    assert ran(output) == STAGES
    reports = copy.root / "reports" / "paper-resnet18-micro"
    transfer = pd.read_csv(reports / "tables" / "transfer.csv")
    assert set(transfer.arch) == {"resnet18-released"} and set(transfer.source) == {"cifar100:0-1"}
    assert {"scratch", "naive", "known", "linear", "shrunk", "direction_only", "repeated", "naive_tuned"} <= set(
        transfer.method
    )
    assert set(transfer[transfer.method == "known"].steps) == {1, 2}
    assert set(transfer[transfer.method == "linear"].steps) == {2}
    seed = copy.root / "data" / "predictions" / "main_0"
    assert not list(seed.glob("linear-0-1*")) and list(seed.glob("linear-0-2*")), "no stage needs the first step"
    assert "shown_epochs = 1" in (copy.root / "build" / "notebooks" / "02_forget.ipynb").read_text()
    assert not list((copy.root / "data" / "runs").rglob("*.unfinished"))
