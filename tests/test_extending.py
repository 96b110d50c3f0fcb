"""Each diff of docs/extending.md applies to a copy of the repository, and what it adds works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from know import paths

DIFFS = dict(
    re.findall(
        r"^## An? (\w+)[^\n]*\n(?:(?!^## ).)*?^```diff\n(.*?)^```$",
        (paths.ROOT / "docs" / "extending.md").read_text().replace("## A data set", "## A dataset"),
        re.MULTILINE | re.DOTALL,
    )
)


class Extended:
    """A copy of the repository with one of the diffs."""

    def __init__(self, what: str, root: Path) -> None:
        self.root = root
        for folder in ("know", "profiles", "scripts"):
            shutil.copytree(paths.ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(paths.PARAMS, root)
        (root / "change.diff").write_text(DIFFS[what])
        # In a repository of its own: inside another one's folder, git apply would skip what it does not know.
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "state"], ["apply", "change.diff"]):
            subprocess.run(["git", *command], cwd=root, check=True)

    def python(self, *arguments: str | Path) -> str:
        """What Python prints, with the copy's package."""
        environment = os.environ | {
            "PYTHONPATH": str(self.root),
            "KNOW_DATA": str(self.root / "raw"),
            "MPLBACKEND": "agg",
        }
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_there_is_a_diff_for_everything_that_can_be_added():
    assert list(DIFFS) == ["predictor", "control", "dataset", "architecture", "figure", "table", "profile"]


def test_a_predictor(tmp_path):
    copy = Extended("predictor", tmp_path)
    walk = np.cumsum(np.random.default_rng(0).normal(size=(3, 4, 2)), axis=0)
    files = [tmp_path / f"theta_{k}.safetensors" for k in (2, 1, 0)]
    for file, weights in zip(files, walk, strict=True):
        save_file({"layer.weight": torch.tensor(weights)}, file)
    out = tmp_path / "out.safetensors"
    copy.python("-m", "know", "predict", *files, "--method", "drift", "--out", out)
    expected = walk[2] + (walk[2] - walk[0]) / 2
    np.testing.assert_allclose(load_file(out)["layer.weight"].numpy(), expected, rtol=1e-12)


def test_a_control(tmp_path):
    code = """
import torch
from know.params import load
from know.prediction.controls import control
from know.prediction.predictors import linear
a, b = torch.tensor([[1.0]]), torch.tensor([[2.0]])  # the line's next point is 3
print(control("halfway")([{"w.weight": a}, {"w.weight": b}], linear)[0]["w.weight"].item())
"""
    assert float(Extended("control", tmp_path).python("-c", code)) == pytest.approx(2.5)


def test_a_data_set(tmp_path):
    copy = Extended("dataset", tmp_path)
    (tmp_path / "raw" / "leaves").mkdir(parents=True)
    images = np.arange(8 * 3 * 5 * 5, dtype=np.uint8).reshape(8, 3, 5, 5)
    np.savez(tmp_path / "raw" / "leaves" / "train.npz", images=images, labels=np.arange(8, dtype=np.int64) % 4)
    code = """
from know.data.images import load
from know.params import load as parameters
leaves = load("leaves", "train")
part = leaves.of_classes([1, 3])
print(tuple(leaves.images.shape), leaves.classes, part.labels.tolist(), int(part.images.long().sum()))
print(parameters().downsize.dataset)
"""
    file = tmp_path / "params.yaml"
    text = file.read_text()
    for key, classes in (("dataset", "source_classes"), ("downstream_dataset", "downstream_classes")):
        text = re.sub(rf"^  {key}: .*$", f"  {key}: leaves", text, flags=re.MULTILINE)
        text = re.sub(
            rf"^  {classes}: .*$",
            f"  {classes}: {'[0, 1]' if key == 'dataset' else '[2, 3]'}",
            text,
            flags=re.MULTILINE,
        )
    file.write_text(text)
    total = int(images[[1, 3, 5, 7]].astype(int).sum())
    expected = f"(8, 3, 5, 5) ('oak', 'beech', 'birch', 'maple') [0, 1, 0, 1] {total}\nleaves\n"
    assert copy.python("-c", code) == expected


def test_an_architecture(tmp_path):
    copy = Extended("architecture", tmp_path)
    file = tmp_path / "params.yaml"
    file.write_text(re.sub(r"^  architecture: [\w-]+", "  architecture: mlp", file.read_text(), flags=re.MULTILINE))
    code = """
import torch
from know.models.build import build
from know.params import load
net = build(load().forget.architecture, 3, 4, 0)
print(tuple(net(torch.zeros(2, 3, 28, 28)).shape), sum(p.numel() for p in net.parameters()))
"""
    parameters = (49 * 3 + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 4
    assert copy.python("-c", code) == f"(2, 4) {parameters}\n"


RESULTS = """
import pandas as pd
from know.params import load
from know.report.results import Results
rows = [("naive", 0, 0.1), ("naive", 0, 0.3), ("known", 1, 0.4), ("known", 2, 0.5)]
results = Results(load(), {"transfer": pd.DataFrame(rows, columns=["method", "steps", "ece"])})
"""


def test_a_figure(tmp_path):
    code = (
        RESULTS + "results.figure('calibration').savefig('drawn.png')\nprint(Results(load(), {}).figure('calibration'))"
    )
    assert Extended("figure", tmp_path).python("-c", code) == "None\n"
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_a_table(tmp_path):
    code = RESULTS + "print(results.table('calibration').to_csv(index=False))"
    made = Extended("table", tmp_path).python("-c", code).split()
    assert made == ["method,steps,ece", "known,1,0.4", "known,2,0.5", "naive,0,0.2"]


def test_a_profile(tmp_path):
    copy = Extended("profile", tmp_path)
    copy.python("scripts/use_profile.py", "thirds")
    code = (
        "from know.params import load; p = load(); print(p.rate, p.reports, p.downsize.source_images, p.predict.steps)"
    )
    assert copy.python("-c", code) == "0.33 reports/thirds 450 2\n"
    copy.python("scripts/use_profile.py", "quick")
    assert (tmp_path / "params.yaml").read_bytes() == paths.PARAMS.read_bytes()
