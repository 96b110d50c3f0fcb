"""The real pipeline: `dvc repro` on micro parameters in a copy of the repository."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import MICRO, copy_to, write_params
from ruamel.yaml import YAML

from know import paths
from know.params import load
from know.stages import estimate
from know.stages.results import SavedStart

LIGHT = MICRO | {
    "meta_train": MICRO["meta_train"]
    | {"architectures": ["cnn"], "runs": MICRO["meta_train"]["runs"] | {"count": 3, "held_out": 1}, "variants": []},
    "predict": {
        "methods": ["known", {"method": "task_vector", "scale": [0.5, 1.0]}],
        "controls": ["shrunk", "trained_on"],
        "steps": 2,
    },
    "evaluate": MICRO["evaluate"]
    | {"fractions": [1.0], "downstream_seeds": [0], "tuned": ["naive"], "followed": ["naive", "known"]},
    "report": {"contrasts": [["known", "naive"], ["known", "shrunk"]]},
}
"""What takes longest is that stages start; the tests in one process run all of MICRO."""
STAGES = ["downsize", "forget", "meta_train", "predict", "evaluate", "ablations", "report"]


class Copy:
    """A git repository of its own with this one's files and micro parameters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        copy_to(root)
        write_params(root / "params.yaml", LIGHT)
        self.git("init", "-q")
        self.commit()

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "state", "--allow-empty")

    def dvc(self, *arguments: str, code: int = 0) -> str:
        # As the Makefile does: the stages call the `python` of the environment that runs the tests, and import this copy,
        # whichever clone is installed there.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=self.root, capture_output=True, text=True,
            env=inherited | {"PATH": path},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def made(self) -> dict[str, str]:
        """Every output's hash, as dvc.lock has it."""
        stages = YAML(typ="safe").load((self.root / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}

    def change(self, **changes: dict) -> None:
        write_params(self.root / "params.yaml", changes, self.root / "params.yaml")


def ran(output: str) -> list[str]:
    """The stages that a `dvc repro` executed, in order."""
    return re.findall(r"Running stage '(\w+)'", output)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = Copy(tmp_path_factory.mktemp("pipeline"))
    assert ran(made.dvc("repro")) == STAGES
    made.commit()
    return made


def test_everything_promised_is_made(copy):
    reports = copy.root / "reports"
    assert {p.name for p in (reports / "notebooks").iterdir()} == {
        f"{p.stem}.html" for p in paths.NOTEBOOKS.glob("*.ipynb")
    }
    for figure in ("schematic", "forgetting", "meta_validation", "predictions", "headroom", "gains", "landscape"):
        assert (reports / "figures" / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
        assert (reports / "figures" / f"{figure}.pdf").read_bytes()[:4] == b"%PDF"
    for table in ("main", "controls", "headroom", "claims", "selection"):
        assert (reports / "tables" / f"{table}.csv").exists() and (reports / "tables" / f"{table}.md").exists()
        assert r"\toprule" in (reports / "tables" / f"{table}.tex").read_text()
    transfer = pd.read_csv(reports / "tables" / "transfer.csv")
    columns = ["source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy"]
    assert list(transfer)[: len(columns)] == columns
    metrics = json.loads((reports / "metrics.json").read_text())
    naive = transfer[(transfer.method == "naive") & ~transfer.crossed & (transfer.fraction == 1)]
    assert metrics["accuracy"]["naive_0"] == pytest.approx(naive.accuracy.mean(), rel=1e-5)


def test_what_was_estimated_is_what_was_run(copy):
    params = load(copy.root / "params.yaml")
    starts = pd.read_csv(copy.root / "data" / "predictions" / "starts.csv", keep_default_na=False)
    planned = estimate.planned_starts(params, {96, 192, 384}, {"features.weight": torch.ones(2, 2)})
    assert sorted(map(str, planned)) == sorted(str(SavedStart(**row)) for row in starts.to_dict("records"))
    records = (copy.root / "data" / "runs").rglob("record.json")
    runs = Counter(json.loads(record.read_text())["run"].rpartition(":")[2] for record in records)
    work = {one.what: one.runs for stage in estimate.works(params).values() for one in stage}
    assert runs["transfer"] == work["fine-tuning"] and runs["learning_curve"] == work["learning curves"]
    assert runs["train_source"] == work["training, at most"] and runs["train_on"] == work["training on"]
    assert runs["forget_path"] == work["forgetting"] + work["as long, on all of D_0"]
    assert runs["meta_run"] == 3


def test_a_second_run_runs_nothing(copy):
    assert ran(copy.dvc("repro")) == []


def test_a_clean_clone_gives_the_same_lock_and_report(copy, tmp_path):
    """Nothing is found there: no cache, no record of a run. `git status` is empty after it."""
    subprocess.run(["git", "clone", "-q", str(copy.root), str(tmp_path / "clone")], check=True)
    clone = object.__new__(Copy)
    clone.root = tmp_path / "clone"
    assert ran(clone.dvc("repro")) == STAGES
    assert clone.made() == copy.made()
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone.root, capture_output=True, text=True, check=True
    )
    assert changed.stdout == ""


def test_an_edit_of_what_is_shown_re_runs_the_notebooks_that_show_it_and_computes_nothing_anew(copy):
    """They find every run in the store, which has all its epochs, whatever the notebooks show of them in the open."""
    records = {path: path.stat().st_mtime_ns for path in (copy.root / "data" / "runs").rglob("record.json")}
    figure = copy.root / "know" / "figures" / "transfer.py"
    figure.write_text(figure.read_text() + "\nPOINT = 100.0\n")
    assert "know/figures" in copy.dvc("status", "evaluate") and "know/figures" not in copy.dvc("status", "forget")
    copy.change(shown_epochs=1)
    assert ran(copy.dvc("repro", "evaluate")) == ["forget", "evaluate"]
    told = (copy.root / "build" / "notebooks" / "02_forget.ipynb").read_text()
    assert "no training was longer than shown_epochs = 1" in told
    assert {path: path.stat().st_mtime_ns for path in (copy.root / "data" / "runs").rglob("record.json")} == records
    copy.git("checkout", "-q", ".")
    assert ran(copy.dvc("repro")) == []  # what was made before the edit comes back from the cache


def test_an_experiment_runs_beside_the_results_and_is_compared(copy):
    """As the README has it: in a copy, then in a table, then here, then gone."""
    readme = (paths.ROOT / "README.md").read_text()
    (show,) = re.findall(r"^dvc (exp show .*)$", readme, re.MULTILINE)
    output = copy.dvc("exp", "run", "--temp", "-S", "evaluate.labels=32", "-n", "more-labels")
    assert ran(output) == ["evaluate", "report"]
    assert copy.git("status", "--porcelain") == "", "the working tree is as it was"
    table = copy.dvc(*shlex.split(show), "--csv").splitlines()
    header = next(line for line in table if line.startswith("Experiment")).split(",")
    assert "evaluate.labels" in header and "gain.known_2.mean" in header and len(header) < 12
    assert any("more-labels" in line for line in table)
    copy.dvc("exp", "apply", "more-labels")
    assert YAML(typ="safe").load((copy.root / "params.yaml").read_text())["evaluate"]["labels"] == 32
    difference = json.loads(copy.dvc("metrics", "diff", "--json"))["reports/metrics.json"]
    assert any("known_2" in name for name in difference)
    shown = json.loads(copy.dvc("plots", "show", "--json").splitlines()[-1])
    assert set(shown["data"]) == {"reports/plots/transfer.csv", "reports/plots/forgetting.csv"}
    copy.git("restore", "params.yaml", "dvc.lock", "reports")
    copy.dvc("checkout")
    assert ran(copy.dvc("repro", "evaluate")) == []  # the earlier evaluation comes back from the cache


def test_the_command_does_outside_dvc_what_the_notebooks_do(copy):
    for command in ("downsize", "forget"):
        done = subprocess.run([sys.executable, "-m", "know", command], cwd=copy.root, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("results: "), done.stderr
    changed = json.loads(copy.dvc("status", "--json"))
    assert not {"downsize", "forget"} & changed.keys()


def test_a_wrong_parameter_fails_at_once_with_one_line(copy):
    copy.change(rate=1.5)
    output = copy.dvc("repro", code=255)
    assert "params.yaml: rate: got 1.5; input should be less than 1" in output and "Traceback" not in output
    copy.git("checkout", "-q", ".")


def test_a_failing_cell_fails_the_stage_and_leaves_the_notebook_in_logs(copy):
    notebook = copy.root / "notebooks" / "06_report.ipynb"
    notebook.write_text(notebook.read_text().replace("report.run(p, results)", "1 / 0"))
    output = copy.dvc("repro", code=255)
    assert "ZeroDivisionError" in output and "logs/06_report.ipynb" in output
    assert "ZeroDivisionError" in (copy.root / "logs" / "06_report.ipynb").read_text()
    copy.git("checkout", "-q", ".")
