"""The sweep on real DVC experiments of a one-stage pipeline, and the tables of what it collects."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from scipy import stats

from know import paths
from know.analysis import ablations
from know.analysis.starts import Start

sys.path.insert(0, str(paths.ROOT / "scripts"))
import measure_cost
import sweep

DEFINITION = {
    "base": {"predict.methods": ["known", {"method": "tsv", "rank_share": 0.00001}]},
    "ablations": {
        "history_length": {"S": {"history_length": [2, 5]}},
        "rate": {"r": {"rate": [0.5, 0.9]}},
        "architecture": {
            "base": {"rate": 0.25},
            "arch": {"forget.architecture": ["cnn", "resnet"]},
            "data": {"fashion": {}, "mnist": {"downsize.dataset": "mnist-embedded", "downsize.source_classes": [0, 1]}},
        },
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
json.dump({"gain": {"known_1": {"mean": p["rate"], "half_width": 0.02}}, "accuracy": {"naive_0": p["history_length"] / 10}},
          open("metrics.json", "w"))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> sweep.Repository:
    root = tmp_path_factory.mktemp("sweep")
    made = sweep.Repository(root)
    made.call("git", "init", "-q")
    for key, value in {"user.name": "test", "user.email": "test@example.org"}.items():
        made.call("git", "config", key, value)
    made.dvc("init", "-q")
    (root / "report.py").write_text(SCRIPT)
    for name, content in {"params.yaml": COMMITTED, "dvc.yaml": STAGES}.items():
        with (root / name).open("w") as file:
            YAML().dump(content, file)
    commit(made)
    return made


def commit(repository: sweep.Repository) -> None:
    repository.call("git", "add", "-A")
    repository.call("git", "commit", "-qm", "state")


# --- the grid -------------------------------------------------------------------------------------------------------


def test_the_grid_is_the_product_of_the_axes():
    cells = sweep.grid(DEFINITION)
    assert [cell.name for cell in cells] == [
        "S-2", "S-5", "r-0.5", "r-0.9",
        "arch-cnn_data-fashion", "arch-cnn_data-mnist", "arch-resnet_data-fashion", "arch-resnet_data-mnist",
    ]  # fmt: skip
    last = cells[-1]
    assert (last.ablation, last.value) == ("architecture", "resnet, mnist")
    assert last.overrides == DEFINITION["base"] | {
        "rate": 0.25, "forget.architecture": "resnet", "downsize.dataset": "mnist-embedded", "downsize.source_classes": [0, 1],
    }  # fmt: skip
    parameters = last.parameters(COMMITTED)
    assert parameters["downsize"] == COMMITTED["downsize"] | {"dataset": "mnist-embedded", "source_classes": [0, 1]}
    assert COMMITTED["forget"]["architecture"] == "cnn"


def test_an_override_of_no_parameter_is_named():
    cell = sweep.Cell("rate", "1", "r-1", {"forget.rat": 1})
    with pytest.raises(sweep.SweepError, match=r"r-1: there is no parameter forget\.rat"):
        cell.parameters(COMMITTED)


def test_the_committed_sweep_fits_the_committed_parameters():
    yaml = YAML(typ="safe")
    base, definition = (yaml.load(file.read_text()) for file in (paths.PARAMS, sweep.DEFINITION))
    cells = sweep.grid(definition)
    sweep.check(cells, base)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.ablation for cell in cells} == set(ablations.ROWS)
    # Each ablation has the default among its cells, but for those that say why not: they need another net, more images.
    default = sweep.Cell("", "", "", definition["base"]).parameters(base)
    for ablation in set(ablations.ROWS) - {"batchnorm", "rate"}:
        assert [cell.parameters(base) for cell in cells if cell.ablation == ablation].count(default) == 1, ablation
    wrong = sweep.Cell("rate", "1.5", "r-1.5", {"rate": 1.5})
    with pytest.raises(sweep.SweepError, match=r"r-1\.5\.yaml: rate: got 1\.5"):
        sweep.check([wrong], base)


# --- experiments ----------------------------------------------------------------------------------------------------


def test_a_sweep_runs_in_the_queue_and_goes_on_where_it_was(repository, tmp_path, capsys):
    grid = {cell.name: cell for cell in sweep.grid(DEFINITION)}
    cells = [grid[name] for name in ("S-5", "r-0.5", "r-0.9")]
    failed = sweep.run(repository, cells, queue=True, poll=1)
    assert list(failed) == ["r-0.9"]
    assert "the rate is too much" in Path(failed["r-0.9"]).read_text()
    assert repository.changed() == []  # the workspace is as it was

    file = tmp_path / "measured" / "ablations.csv"
    assert sweep.export(repository, cells, repository.commit(), file) == ["r-0.9"]
    table = ablations.read(file)
    # S = 5 and r = 0.5 are one experiment, the commit's parameters with the base's
    of = list(dict.fromkeys(zip(table.value, table.experiment, strict=True)))
    assert of == [("5", "S-5"), ("0.5", "S-5")]
    rows = table.set_index(["value", "method", "labels"])
    known = rows.loc[("5", "known", "pooled")]
    assert (known.gain, known.half_width, known.units, known.history_length) == (0.5, 0.02, 3, 5)
    assert known.accuracy == pytest.approx(0.5 + 0.5) and np.isnan(known.accuracy_half_width)
    assert np.isnan(rows.gain[("0.5", "naive", "pooled")]) and rows.accuracy[("5", "naive", "pooled")] == 0.5

    capsys.readouterr()
    before = file.read_bytes()
    more = [*cells, grid["arch-resnet_data-mnist"]]
    assert list(sweep.run(repository, more, queue=False)) == ["r-0.9"]  # only what has not run
    assert capsys.readouterr().out.splitlines() == ["1/2 r-0.9", "2/2 arch-resnet_data-mnist"]
    log = repository.root / "logs" / "sweep" / "r-0.9.log"
    assert "the rate is too much" in log.read_text()
    sweep.export(repository, more, repository.commit(), file)
    assert file.read_bytes().startswith(before)
    last = ablations.read(file).iloc[-1]
    assert (last.value, last.architecture, last.dataset, last.rate) == (
        "resnet, mnist",
        "resnet",
        "mnist-embedded",
        0.25,
    )


def test_changed_files_and_commits_without_results_are_refused(repository, tmp_path):
    script = repository.root / "report.py"
    script.write_text(SCRIPT + "\n")
    with pytest.raises(sweep.SweepError, match=r"report\.py: differs from the commit"):
        sweep.run(repository, sweep.grid(DEFINITION), queue=False)
    old = repository.commit()
    commit(repository)
    file = tmp_path / "ablations.csv"
    file.write_text("kept")
    cells = [sweep.Cell("rate", "0.35", "r-0.35", {"rate": 0.35})]
    with pytest.raises(sweep.SweepError, match="no cell has results on commit"):
        sweep.export(repository, cells, repository.commit(), file)
    assert file.read_text() == "kept"
    with pytest.raises(sweep.SweepError, match="nowhere: no such commit"):
        repository.commit("nowhere")
    assert old != repository.commit()


def test_the_command_lists_the_cells():
    command = [sys.executable, paths.ROOT / "scripts" / "sweep.py", "--list", "history_length"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert listed.returncode == 0, listed.stderr
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [(line[1], line[-1]) for line in lines] == [(f"S-{s}", f"history_length={s}") for s in (2, 3, 4, 5)]


def test_the_command_names_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--list", "hystory"])
    assert sweep.main() == 1
    assert capsys.readouterr().err.startswith("hystory: no such ablation; allowed: source_images")


# --- cost ----------------------------------------------------------------------------------------------------------


def test_the_cost_is_of_these_parameters(micro, monkeypatch):
    monkeypatch.setattr(measure_cost, "fresh", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(
        measure_cost.torchvision.models, "resnet18", lambda num_classes: torch.nn.Linear(9, num_classes)
    )
    table = measure_cost.measure(micro, repeats=1)
    assert list(table) == ["quantity", "value", "unit", "note"] and table.quantity.is_unique
    value = table.set_index("quantity").value
    assert value.notna().all() and (value[~value.index.str.endswith("memory")] > 0).all()
    epochs = value["training Θ_0, epochs"]
    assert value["training Θ_0, images seen"] == 192 * epochs and 1 <= epochs <= 3
    assert value["forgetting, images seen"] == 96 + 48 + 24 + 12  # one epoch each
    assert value["forgetting over training, Σ r^k, k ≥ 1"] == pytest.approx((96 + 48 + 24 + 12) / (192 * epochs))
    assert value["forgetting over training, (1 - r^(S-1))/(1 - r)"] == pytest.approx(1.875 / epochs)
    measured = value["forgetting"] / value["training Θ_0"]
    assert value["forgetting over training, same epochs"] == pytest.approx(measured * epochs)
    assert value["prediction per parameter"] == pytest.approx(value["prediction"] / (9 * 100 + 100))


# --- tables ---------------------------------------------------------------------------------------------------------


def row(ablation: str, value: object, method: str, steps: int, **values: object) -> dict[str, object]:
    return {
        "ablation": ablation, "value": value, "experiment": f"{ablation}-{value}", "history_length": 5, "rate": 0.5,
        "source_images": 2000, "dataset": "mnist", "architecture": "cnn", "mode": "sequential", "batchnorm": "copy",
        "method": method, "steps": steps, "labels": "pooled", "gain": np.nan if method == "naive" else 0.0, "half_width": np.nan, "accuracy": 0.8,
        "accuracy_half_width": 0.01, "units": 5,
    } | values  # fmt: skip


ROWS = [
    row("source_images", 2000, "naive", 0),
    row("source_images", 2000, "known", 1, gain=0.004, half_width=0.002, accuracy=0.804),
    row("source_images", 2000, "known", 1, gain=0.1, half_width=0.002, accuracy=0.9, labels="20"),
    row("source_images", 500, "naive", 0, accuracy=0.7, source_images=500),
    row("source_images", 500, "known", 1, gain=-0.001, half_width=0.003, accuracy=0.699, source_images=500),
    row("rate", 0.5, "known", 1, gain=0.01, half_width=0.02, accuracy=np.nan),
    row("rate", 0.25, "known", 2, gain=0.02, half_width=0.02, accuracy=np.nan, rate=0.25),
    row("architecture", "resnet, mnist", "own_method", 1, gain=0.03, half_width=0.01, architecture="resnet"),
]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    pd.DataFrame(ROWS).to_csv(tmp_path / "ablations.csv", index=False)
    return ablations.read(tmp_path / "ablations.csv")


def test_tables_of_known_numbers(table):
    made = {name: ablations.ablation_table(table, name) for name in ablations.ROWS}
    assert list(made) == list(ablations.CAPTIONS)
    assert made["source_images"].to_dict("records") == [
        {"source images": 2000, "share": "100 %", "start": "naïve transfer (Θ₀)", "×1": "80.0", "×2": "–"},
        {"source images": 2000, "share": "100 %", "start": "KNOWN", "×1": "–", "×2": "80.4 (+0.4 ± 0.2)"},
        {"source images": 500, "share": "25 %", "start": "naïve transfer (Θ₀)", "×1": "70.0", "×2": "–"},
        {"source images": 500, "share": "25 %", "start": "KNOWN", "×1": "–", "×2": "69.9 (-0.1 ± 0.3)"},
    ]
    assert made["rate"].to_dict("records") == [
        {"r": 0.5, "start": "KNOWN", "a step": "×2", "1 step": "+1.0 ± 2.0", "2 steps": "–"},
        {"r": 0.25, "start": "KNOWN", "a step": "×4", "1 step": "–", "2 steps": "+2.0 ± 2.0"},
    ]
    assert made["architecture"]["×2"].tolist() == ["80.0 (+3.0 ± 1.0)"]
    assert made["mode"].empty and list(made["mode"]) == ["forgetting", "start"]
    assert "90.0 (+10.0 ± 0.2)" in ablations.ablation_table(table, "source_images", "20").to_string()
    assert "5 source seeds" in ablations.note(table) and "history_length, batchnorm, mode" in ablations.note(table)


def test_a_start_is_compared_with_naive_at_every_value_as_one_family(table):
    known, real = Start("known", 1), row("source_images", 500, "more_data", 1, half_width=0.01)
    found = ablations.comparisons(table, "source_images", known, 0.1, 0.95)
    assert {value: one.verdict for value, one in found.items()} == {
        "2000": "better",
        "500": "excludes the paper's effect",
    }
    t = 0.004 / (0.002 / stats.t.ppf(0.975, 4))
    assert found["2000"].p == pytest.approx(2 * stats.t.sf(t, 4)) and found["2000"].p_holm == pytest.approx(
        2 * found["2000"].p
    )
    dry = pd.concat([table, pd.DataFrame([real | {"value": "500"}])])
    judged = ablations.comparisons(dry, "source_images", known, 0.1, 0.95)
    assert ablations.comparisons(table, "rate", known, 0.1, 0.95) == {}  # without naïve transfer
    assert judged["500"].verdict == "no headroom" and judged["2000"] == found["2000"]


def test_without_the_file_everything_is_empty_and_says_how_to_make_it(tmp_path):
    table = ablations.read(tmp_path / "none.csv")
    assert "python scripts/sweep.py" in ablations.note(table)
    assert all(ablations.ablation_table(table, name).empty for name in ablations.ROWS)
    assert ablations.comparisons(table, "rate", Start("known", 1), 0.1, 0.95) == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a table"),
        ("{header}\n{row},1,2,3,4\n", "lines have more entries than the header"),
        ("ablation,value\nrate,1\n", "lacks the column experiment"),
        ("{header}\n{row}\n{row}\n", "line 3 is there twice"),
        ("{header}\n{bad}\n", "line 2: gain is 'much', not a number"),
        ("{header}\n{empty}\n", "line 2: units is empty"),
        ("{header}\n{infinite}\n", "line 2: accuracy is 'inf', not a number"),
    ],
)
def test_a_malformed_file_is_refused_with_one_line(tmp_path, text, what):
    def line(**values: object) -> str:
        return pd.DataFrame([ROWS[1] | values]).to_csv(index=False, header=False).strip()

    file = tmp_path / "ablations.csv"
    header = ",".join(ablations.COLUMNS)
    file.write_text(
        text.format(
            header=header,
            row=line(),
            bad=line(gain="much"),
            empty=line(units=None),
            infinite=line(accuracy=float("inf")),
        )
    )
    with pytest.raises(ablations.AblationError) as error:
        ablations.read(file)
    message = str(error.value)
    assert (
        message.startswith(f"{file}: ") and what in message and message.endswith(ablations.MEND) and "\n" not in message
    )
