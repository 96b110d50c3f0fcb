"""Micro experiments: every part of the real one, in seconds."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from ruamel.yaml import YAML

from know import params as know_params
from know import paths
from know.data.images import ImageSet

# How long an example takes says how busy the machine is.
T = TypeVar("T")
settings.register_profile("suite", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

LONGEST = (
    "test_pipeline",
    "test_profiles",
    "test_leakage",
    "test_sweep",
    "test_metatrain",
    "test_cli_predict",
    "test_notebook",
)
"""Files that take longest come first, so that no core is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


MICRO = {
    "compute": {"jobs": 1},
    "downsize": {"source_images": 192, "validation_images": 60, "headroom_images": [96], "source_seeds": [0, 1]},
    "forget": {"source": {"max_epochs": 3, "patience": 2}, "epochs": 1},
    "meta_train": {
        "architectures": ["cnn", "shufflenet", "resnet"],
        "runs": {"count": 6, "held_out": 2, "images": [64, 80], "source_epochs": [1, 1], "epochs": [1, 1]},
        "known": {"steps": 20, "batch_size": 256},
        "variants": ["path"],
    },
    "predict": {
        "methods": [
            "known",
            {"method": "known", "variant": "path", "name": "scale_free"},
            "linear",
            {"method": "task_vector", "scale": [0.5, 1.0]},
        ],
        "controls": [
            "shrunk",
            {"control": "shrink", "shrink": [0.6, 0.9]},
            {
                "control": "shrink_perturb",
                "of": "scale_free",
                "name": "scale_free_shrunk",
                "shrink": 0.9,
                "perturb": 0.1,
            },
            "trained_on",
        ],
        "steps": 2,
    },
    "evaluate": {
        "validation_images": 60,
        "labels": 24,
        "fractions": [0.5, 1.0],
        "downstream_seeds": [0, 1],
        "steps": "chosen",
        "tuned": ["naive", "known"],
        "learning_rates": [0.01],
        "head_zero": True,
        "fine_tuning": {"head_epochs": 1, "epochs": 1},
    },
}


def _merge(base: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            _merge(base[key], value)
        else:
            base[key] = value


def write_params(path: Path, changes: dict, base: Path = paths.PARAMS) -> None:
    """``base``, by default the committed params.yaml, with some values changed."""
    yaml = YAML()
    values = yaml.load(base.read_text())
    _merge(values, changes)
    with path.open("w") as file:
        yaml.dump(values, file)


def until(found: Callable[[], T]) -> T:
    """What ``found`` gives once it is true, which must be within ten seconds."""
    begun = time.monotonic()
    while not (value := found()):
        assert time.monotonic() - begun < 10
        time.sleep(0.05)
    return value


def copy_to(root: Path) -> None:
    """Copy the repository's files that git does not ignore, but for what the pipeline made."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=paths.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.split("\0")[:-1]:
        if (paths.ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("reports/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(paths.ROOT / name, root / name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the pipeline's processes: sums of floats depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def micro_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> know_params.Params:
    """Micro parameters, with everything that the stages write under this folder."""
    for name in ("SPLITS", "TRAJECTORIES", "META", "HYPERMODEL", "PREDICTIONS", "RESULTS", "RUNS"):
        monkeypatch.setattr(paths, name, folder / "data" / name.lower())
    for name in ("BUILD", "REPORTS"):
        monkeypatch.setattr(paths, name, folder / name.lower())
    write_params(folder / "params.yaml", MICRO | {"reports": str(folder / "reports")})
    return know_params.load(folder / "params.yaml")


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> know_params.Params:
    """``micro_in`` a folder of the test's own."""
    return micro_in(tmp_path, monkeypatch)


@pytest.fixture
def run_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, which need not load PyTorch again: its arguments to exit code, output and errors."""
    from know import cli

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["know", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def toy() -> ImageSet:
    """120 random 28×28 images of three classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    noise = torch.randint(0, 60, (120, 1, 28, 28), generator=generator)
    return ImageSet((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, ("a", "b", "c"))
