"""The sweep on real DVC experiments of a one-stage pipeline."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from know import paths
from know.analysis import ablations
from know.params import ParamError

sys.path.insert(0, str(paths.ROOT / "scripts"))
import sweep

DEFINITION = {
    "base": {"predict.methods": ["known", {"method": "tsv", "rank_share": 0.00001}]},
    "ablations": {
        "history_length": [{"sweep": {"history_length": [2, 5]}}],
        "rate": [{"sweep": {"rate": [0.5, 0.9]}}],
        "architecture": [
            {"name": "fashion", "sweep": {"forget.architecture": ["cnn", "resnet"]}, "set": {"rate": 0.25}},
            {
                "name": "mnist",
                "set": {"rate": 0.25, "downsize.dataset": "mnist-embedded", "downsize.source_classes": [0, 1]},
            },
        ],
    },
}
COMMITTED = {
    "history_length": 5,
    "rate": 0.5,
    "downsize": {
        "dataset": "fashion-mnist-embedded", "source_classes": [3, 4], "source_images": 2000, "source_seeds": [0, 1, 2],
    },
    "forget": {"architecture": "cnn", "mode": "sequential"},
    "predict": {"methods": ["known"], "batchnorm": "copy"},
}  # fmt: skip
STAGES = {
    "stages": {
        "report": {
            "cmd": "python report.py",
            "deps": ["report.py"],
            "params": list(COMMITTED),
            "metrics": [{"metrics.json": {"cache": False}}],
        }
    }
}
SCRIPT = """
import json
from ruamel.yaml import YAML
p = YAML(typ="safe").load(open("params.yaml"))
assert p["rate"] != 0.9, "the rate is too much"
gain = {"mean": p["rate"] / 10, "half_width": None if p["history_length"] == 2 else 0.02}
json.dump({"gain": {"known_1": gain, "known_2": gain}, "accuracy": {"naive_0": 0.7, "known_1": 0.8}}, open("metrics.json", "w"))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    sweep.call(root, "git", "init", "-q")
    for key, value in {"user.name": "test", "user.email": "test@example.org"}.items():
        sweep.call(root, "git", "config", key, value)
    sweep.call(root, "dvc", "init", "-q")
    (root / "report.py").write_text(SCRIPT)
    for name, content in {"params.yaml": COMMITTED, "dvc.yaml": STAGES}.items():
        with (root / name).open("w") as file:
            YAML().dump(content, file)
    sweep.call(root, "git", "add", "-A")
    sweep.call(root, "git", "commit", "-qm", "state")
    return root


def test_cells_are_the_places_of_the_grids():
    cells = sweep.cells_of(DEFINITION)
    assert [(cell.ablation, cell.value) for cell in cells] == [
        ("history_length", "2"), ("history_length", "5"), ("rate", "0.5"), ("rate", "0.9"),
        ("architecture", "cnn, fashion"), ("architecture", "resnet, fashion"), ("architecture", "mnist"),
    ]  # fmt: skip
    parameters = cells[-1].parameters(COMMITTED)
    assert parameters["downsize"] == COMMITTED["downsize"] | {"dataset": "mnist-embedded", "source_classes": [0, 1]}
    assert parameters["rate"] == 0.25 and parameters["predict"]["methods"] == DEFINITION["base"]["predict.methods"]
    assert cells[5].parameters(COMMITTED)["forget"] == {"architecture": "resnet", "mode": "sequential"}
    assert COMMITTED["forget"]["architecture"] == "cnn" and COMMITTED["rate"] == 0.5


def test_the_committed_sweep_fits_the_committed_parameters():
    yaml = YAML(typ="safe")
    base, definition = (yaml.load(file.read_text()) for file in (paths.PARAMS, sweep.DEFINITION))
    cells = sweep.cells_of(definition)
    sweep.check(cells, base)
    assert len({(cell.ablation, cell.value) for cell in cells}) == len(cells)
    assert {cell.ablation for cell in cells} == set(ablations.ROWS)
    # Each ablation has the default among its cells, but for those that say why not: they need another net, more images.
    default = sweep.Cell("", "", definition["base"], {}).parameters(base)
    for ablation in set(ablations.ROWS) - {"batchnorm", "rate"}:
        assert [cell.parameters(base) for cell in cells if cell.ablation == ablation].count(default) == 1, ablation
    for key in ("rate", "rat"):
        with pytest.raises(ParamError, match=r"^r 1\.5: rat"):
            sweep.check([sweep.Cell("r", "1.5", {}, {key: 1.5})], base)


def test_a_sweep_runs_in_the_queue_and_goes_on_where_it_was(root, tmp_path):
    cells = {f"{cell.ablation} {cell.value}": cell for cell in sweep.cells_of(DEFINITION)}
    first = [cells[name] for name in ("history_length 2", "history_length 5", "rate 0.5", "rate 0.9")]
    commit = sweep.call(root, "git", "rev-parse", "HEAD").strip()
    file = tmp_path / "measured" / "ablations.csv"
    assert sweep.export(root, first, commit, file) == first and not file.exists()

    sweep.queue(root, first, commit)
    sweep.queue(root, first, commit)  # what waits is not queued again
    states = [one["state"] for one in sweep.experiments(root, commit)[1]]
    assert states == ["queued"] * 3, "S = 5 and r = 0.5 are one experiment"
    sweep.call(root, "dvc", "exp", "run", "--run-all", shown=True)
    assert sorted(one["state"] for one in sweep.experiments(root, commit)[1]) == ["failed", "success", "success"]
    assert sweep.call(root, "git", "status", "--porcelain") == "", "the workspace is as it was"

    assert sweep.export(root, first, commit, file) == [cells["rate 0.9"]]
    table = ablations.read(file)
    names = table.groupby("value").experiment.unique()
    assert names["5"] == names["0.5"] != names["2"] and all(len(one) == 1 for one in names)
    rows = table.set_index(["value", "method", "steps"])
    known = rows.loc[("5", "known", 1)]
    assert (known.gain, known.half_width, known.units, known.history_length) == (0.05, 0.02, 3, 5)
    assert known.accuracy == 0.8 and known.labels == "all" and np.isnan(rows.gain[("5", "naive", 0)])
    assert rows.accuracy[("5", "known", 2)] == pytest.approx(0.75), "naïve transfer's 0.7 and the gain"
    assert not np.isfinite(rows.half_width[("2", "known", 1)])

    before = file.read_bytes()
    more = [*first, cells["architecture mnist"]]
    sweep.call(root, "dvc", "queue", "remove", "--failed")
    until = time.monotonic() + 60
    while any(not one["metrics"] for one in sweep.experiments(root, commit)[1]) and time.monotonic() < until:
        time.sleep(0.5)  # DVC may list what it has just removed for a moment
    while "0 active, 0 idle" not in sweep.call(root, "dvc", "queue", "status") and time.monotonic() < until:
        time.sleep(1)  # its worker, if it has not ended, would begin with what is queued while we look
    sweep.queue(root, more, commit)
    queued = [one["params"]["rate"] for one in sweep.experiments(root, commit)[1] if one["state"] == "queued"]
    assert sorted(queued) == [0.25, 0.9], "only what failed and what is new"
    sweep.call(root, "dvc", "exp", "run", "--run-all", shown=True)
    assert sweep.export(root, more, commit, file) == [cells["rate 0.9"]]
    assert file.read_bytes().startswith(before)
    last = ablations.read(file).iloc[-1]
    assert (last.value, last.dataset, last.rate) == ("mnist", "mnist-embedded", 0.25)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, paths.ROOT / "scripts" / "sweep.py", *arguments]
    return subprocess.run(run, capture_output=True, text=True, cwd=paths.ROOT)


def test_the_command_lists_the_cells():
    listed = command("--list", "history_length")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["history_length", str(s)] for s in (2, 3, 4, 5)
    ]


def test_the_command_names_what_is_wrong():
    done = command("--list", "hystory")
    assert done.returncode == 2 and "no such ablation: hystory; allowed: source_images, " in done.stderr
