"""The bench: scores against hand-computed ones, and the command on a micro bench."""

import sys

import numpy as np
import pandas as pd
import pytest
from conftest import write_params
from ruamel.yaml import YAML

from know import paths
from know.bench import headroom
from know.bench.__main__ import run
from know.bench.scoring import START, TRAJECTORY, score
from know.bench.table import cells, findings, shown, summary
from know.cli import main
from know.params import ParamError, load

# --- scores by hand -------------------------------------------------------------------------------------------------


def frame(starts: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """Downstream accuracies of starts, called by method and role, on trajectories 0, 1, …; cosines .5, .7, .6."""
    rows = [
        ("task", "net", i, method, "", role, cosine, 2.0, accuracy / 2, accuracy)
        for (method, role), accuracies in starts.items()
        for i, (cosine, accuracy) in enumerate(zip([0.5, 0.7, 0.6], accuracies, strict=True))
    ]
    columns = [*TRAJECTORY, *START, "cosine", "norm_ratio", "source_accuracy", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


NAIVE, REAL = [0.5, 0.6, 0.7], [0.6, 0.8, 0.85]
REFERENCES = {("scratch", "reference"): [0.4, 0.6, 0.6], ("naive", "reference"): NAIVE, ("more_data", "oracle"): REAL}


def by_method(scores: pd.DataFrame) -> pd.DataFrame:
    return summary(scores, load().report).query("role == 'method'").set_index("method")


def test_nought_is_naive_transfer_and_one_the_real_weights():
    halfway = [(a + b) / 2 for a, b in zip(NAIVE, REAL, strict=True)]
    methods = {("same", "method"): NAIVE, ("right", "method"): REAL, ("halfway", "method"): halfway}
    found = by_method(frame(REFERENCES | methods))
    ratios = found[["normalised", "normalised_low", "normalised_high"]].to_numpy()
    np.testing.assert_allclose(ratios, [[0] * 3, [1] * 3, [0.5] * 3], atol=1e-9)
    half = found.loc["halfway"]
    assert half.gain == pytest.approx(0.075) and half.source_gain == pytest.approx(0.0375)
    # Student's t of two degrees of freedom at 97.5 %, times the standard error of .05, .1, .075 and of .5, .7, .6
    assert half.gain_half_width == pytest.approx(4.302653 * 0.025 / np.sqrt(3), rel=1e-6)
    assert (half.cosine, half.norm_ratio) == (pytest.approx(0.6), 2)
    assert half.cosine_half_width == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)


def test_without_headroom_nothing_is_normalised_and_it_is_said():
    scores = frame(REFERENCES | {("more_data", "oracle"): [0.4, 0.7, 0.7], ("halfway", "method"): [0.5, 0.6, 0.6]})
    found = by_method(scores)
    assert found.verdict.tolist() == ["no headroom"] and found.normalised.isna().all()
    every = summary(scores, load().report)
    assert "nothing to recover, and no score is normalised" in findings(every)[1]
    assert shown(every).set_index("start").normalised.eq("–").all()


def test_a_cell_says_what_really_more_data_gains():
    (cell,) = cells(frame(REFERENCES), load().report).to_dict("records")
    assert (cell["trajectories"], cell["naive"]) == (3, pytest.approx(0.6))
    assert (cell["real_gain"], cell["scratch_gain"]) == (pytest.approx(0.15), pytest.approx(-0.2 / 3))


# --- the command ------------------------------------------------------------------------------------------------------

MICRO = {
    "architectures": ["cnn", "cnn-bn"],
    "rate": 0.5,
    "source": {"max_epochs": 3, "patience": 2, "batch_size": 32, "lr": 0.001, "augment": "none"},
    "forgetting": {"epochs": 1, "batch_size": 32, "lr": 0.001, "augment": "none"},
    "labels": 20,
    "draws": 1,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Parameters of a micro bench, which was made: two trajectories of each of two nets."""
    root = tmp_path_factory.mktemp("bench")
    values = YAML().load(paths.PARAMS.read_text())
    values["compute"]["jobs"] = 1
    bench = values["bench"]
    bench.update(MICRO)
    digits = {"downstream_dataset": "mnist-embedded", "downstream_classes": [1, 3, 5, 7, 9]}
    bench["tasks"] = {"mnist": bench["tasks"]["mnist"] | digits | {"source_images": 80, "source_seeds": [0, 1]}}
    bench["fine_tuning"].update({"head_epochs": 1, "epochs": 1})
    bench["predict"].update({"methods": ["linear"], "candidate": "linear", "controls": ["flipped"]})
    with (root / "params.yaml").open("w") as out:
        YAML().dump(values, out)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BENCH", "REPORTS", "RUNS"):
            patch.setattr(paths, name, root / name.lower())
        run(load(root / "params.yaml"))
        yield root / "params.yaml"


@pytest.fixture
def know(file, monkeypatch, capsys, tmp_path):
    """``know bench`` with the micro bench's parameters, in a folder of one's own: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["know", "bench", *map(str, arguments), "--params", str(file)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return command


CHEAT = '''
from typing import ClassVar

from safetensors.torch import load_file

from know import paths
from know.prediction.predictors import PathPredictor


class Cheat(PathPredictor):
    """Finds the trajectory whose Θ_0 it is shown, and copies its real Θ_{-1}."""

    whole_tensors: ClassVar[bool] = True
    method: str

    def __call__(self, window, kind):
        for file in paths.BENCH.glob("*/theta_0.safetensors"):
            for name, tensor in load_file(file).items():
                if tensor.shape == window.shape[:-1] and tensor.equal(window[..., -1]):
                    return load_file(file.with_name("real.safetensors"))[name]
'''


def test_a_class_of_ones_own_that_is_right_scores_as_the_real_weights_do(know, tmp_path):
    (tmp_path / "mine.py").write_text(CHEAT)
    code, out, err = know("mine:Cheat", "--out", "scores.csv")
    assert code == 0, err
    assert "cheat, yours" in out and "linear" in out
    scores = pd.read_csv("scores.csv").set_index(TRAJECTORY)
    own, real = scores[scores.role == "own"], scores[scores.role == "oracle"]
    assert len(own) == 4
    np.testing.assert_allclose(own[["cosine", "norm_ratio"]], 1, atol=1e-6)
    pd.testing.assert_frame_equal(own[["source_accuracy", "accuracy"]], real[["source_accuracy", "accuracy"]])


def test_no_change_scores_as_naive_transfer_does(know):
    code, _, err = know("naive", "--out", "scores.csv")
    assert code == 0, err
    scores = pd.read_csv("scores.csv").set_index(TRAJECTORY)
    own, naive = scores[scores.role == "own"], scores[(scores.role == "reference") & (scores.method == "naive")]
    assert own.norm_ratio.eq(0).all() and own.cosine.isna().all()
    pd.testing.assert_frame_equal(own[["source_accuracy", "accuracy"]], naive[["source_accuracy", "accuracy"]])


def test_an_option_reaches_the_predictor(know):
    for scale in (0.5, 1.0):
        assert know("task_vector", "--option", f"scale={scale}", "--out", f"{scale}.csv")[0] == 0
    half, whole = (pd.read_csv(f"{scale}.csv").query("role == 'own'").norm_ratio for scale in (0.5, 1.0))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-4)


def test_without_a_method_it_shows_what_the_stage_found(know):
    code, out, _ = know()
    assert code == 0 and "linear" in out and "KNOWN's step flipped" in out and "yours" not in out


def test_bad_input_gives_one_line(know):
    assert know("magic")[0] == 2
    code, _, err = know("linear", "--option", "abscissa=time")
    assert code == 1 and "abscissa" in err and len(err.splitlines()) == 1


def test_trajectories_of_other_parameters_are_refused(file, monkeypatch, capsys, tmp_path):
    write_params(tmp_path / "params.yaml", {"bench": {"forgetting": {"epochs": 2}}}, file)
    monkeypatch.setattr(sys, "argv", ["know", "bench", "linear", "--params", str(tmp_path / "params.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 1 and len(error.splitlines()) == 1 and "does not hold the trajectories" in error


def test_trajectories_that_are_there_are_not_made_again(file, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "RUNS", tmp_path)  # no record of a run
    before = {path: path.stat().st_mtime_ns for path in paths.BENCH.rglob("*.safetensors")}
    scores = (paths.REPORTS / "bench" / "scores.csv").read_bytes()
    run(load(file))
    assert {path: path.stat().st_mtime_ns for path in paths.BENCH.rglob("*.safetensors")} == before
    assert (paths.REPORTS / "bench" / "scores.csv").read_bytes() == scores


def test_headroom_is_looked_for_on_other_trajectories_by_validation_images(file, monkeypatch):
    scored = []
    monkeypatch.setattr(headroom, "score", lambda *given: scored.append(score(*given)) or scored[0])
    monkeypatch.setattr(headroom, "DRAWS", 1)
    found = headroom.headroom(load(file))
    assert [*found.architecture] == ["cnn", "cnn-bn"] and [*scored[0].number.unique()] == [headroom.PILOT]
    naive = scored[0][scored[0].method == "naive"]
    np.testing.assert_array_equal(found.naive, naive.validation_accuracy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"history_length": 9}, "bench.tasks.mnist.source_images: got 80, of which the smallest subset has 0"),
        ({"tasks": {"mnist": {"image_size": "library"}}}, "bench.tasks.mnist.image_size: got library; allowed: pixels"),
        ({"predict": {"steps": 2}}, "bench.predict.steps: got other starts"),
        ({"predict": {"methods": ["linear", "known"]}}, "bench.predict.methods: got known as the pipeline trains it"),
        ({"tasks": {"mnist": {"sourse": 1}}}, "bench.tasks.mnist.sourse: unknown key; allowed: dataset, "),
    ],
)
def test_bad_parameters_give_one_line(changes, reason, file, tmp_path):
    write_params(tmp_path / "params.yaml", {"bench": changes}, file)
    with pytest.raises(ParamError) as error:
        load(tmp_path / "params.yaml")
    assert reason in str(error.value) and "\n" not in str(error.value)
