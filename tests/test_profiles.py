"""The profiles for a GPU, from end to end on a CPU: shrunk by the documented override, on micro data sets in the layouts in which
the real ones are published."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from layouts import write
from ruamel.yaml import YAML
from test_paper_profile import write_batch

from know import paths
from know.data.catalogue import dataset
from know.params import load
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


def shrunk(profile: str, folder: Path) -> Path:
    """The profile's params.yaml, shrunk, with its report in ``folder``."""
    text = use_profile.merged_text(paths.PARAMS.read_text(), paths.ROOT / "profiles" / f"{profile}.yaml")
    yaml = YAML(typ="safe")
    given = yaml.load(use_profile.shrunk_text(text)) | {"reports": str(folder / "reports")}
    yaml.dump(given, folder / "params.yaml")
    return folder / "params.yaml"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_runs_from_end_to_end(profile, tmp_path):
    params = load(file := shrunk(profile, tmp_path))
    raw = tmp_path / "raw"
    for name in {params.downsize.dataset, params.downsize.downstream_dataset}:
        if name == "cifar100":
            for seed, part in enumerate(("train", "test")):
                write_batch(raw / name / "cifar-100-python" / part, b"fine_labels", 40, seed)
        else:
            write(name, raw / name, classes=2, per_class=14)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("all_stages.py")), str(file), str(tmp_path / "data")],
        env=os.environ | {"KNOW_DATA": str(raw), "KNOW_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(paths.ROOT)},
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    transfer = pd.read_csv(tmp_path / "data" / "results" / "transfer.csv")
    assert set(transfer.arch) == {params.forget.architecture}
    assert set(transfer.metric) == {METRICS[dataset(params.downsize.downstream_dataset).kind]}
    assert {"naive", "scratch", "known", "linear", "task_vector", "shrunk", "naive_tuned"} <= set(transfer.method)
    assert set(transfer.get("held_out", [])) == set(params.evaluate.held_out)
    assert transfer.accuracy.between(0, 1).all() and (tmp_path / "reports" / "figures" / "gains.png").exists()
