"""``know select``: Θ_0 unless something beats it clearly on the user's own data."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import stats

from know.cli import main
from know.prediction.controls import control
from know.prediction.known import HyperModel, save_hypermodel
from know.prediction.predictors import predictor
from know.prediction.selection import candidates, quantile, select

SCORES = """
import torch
from know.prediction.predictors import PathPredictor

target = torch.tensor([2.0, 0.0])

def each(state):
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0))
    return -(state["w"] - target).square().sum() + 0.1 * noise

def number(state):
    return -(state["w"] - target).square().sum()

def of_model(net):
    assert not net.training
    return -(net.w - target).square().sum().expand(40)

def noise(state):
    return torch.randn(50, generator=torch.Generator().manual_seed(int(state["w"].sum() * 1e4)))

def text(state):
    return "good"

def fails(state):
    return state["v"]

class Own(PathPredictor):
    hypermodel: str | None = None

    def __call__(self, window, kind):
        assert self.hypermodel == "of_3"
        return window[..., -1]

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``know select`` of the path (-1, 0), (0, 0), (1, 0) in a folder with scores; linear goes on to (2, 0)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "scores", raising=False)
    (tmp_path / "scores.py").write_text(SCORES)
    for k in range(3):
        save_file({"w": torch.tensor([1.0 - k, 0.0])}, f"{k}.safetensors")

    def call(*arguments: str) -> tuple[int, str, str]:
        files = [f"{k}.safetensors" for k in (2, 1, 0)]
        monkeypatch.setattr(sys, "argv", ["know", "select", *files, "--out", "out.safetensors", "--force", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        return (ended.value.code, *capsys.readouterr())

    return call


def test_the_best_that_is_clearly_better_is_written(run):
    code, out, err = run("--score", "scores:each", "--method", "linear", "--steps", "1", "2", "--scale", "0.5", "1")
    assert code == 0 and "Nothing beats" not in err, err
    assert load_file("out.safetensors")["w"].tolist() == [2, 0]
    rows = out.splitlines()
    assert [row.split("  ")[0] for row in rows[:5]] == [
        "Θ_0", "linear step 1 × 0.5", "linear step 1", "linear step 2 × 0.5", "linear step 2",
    ]  # fmt: skip
    assert rows[2].rstrip().endswith("better") and "±" in rows[2] and rows[-1] == "out.safetensors"
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata()["know.selected"] == "linear step 1"


def test_the_score_may_be_of_the_model(run):
    code, _, err = run("--score", "scores:of_model", "--model", "scores:Net", "--method", "linear")
    assert code == 0, err
    assert load_file("out.safetensors")["w"].tolist() == [2, 0]


def test_a_hyper_model_goes_to_the_methods_that_have_one(run, tmp_path):
    """Of a method of one's own too; an option of the method's own comes first."""
    save_hypermodel(HyperModel(3), tmp_path / "of_3")
    given_ = ["--score", "scores:number", "--method", "linear", "--method", "scores:Own", "--hypermodel", "of_3"]
    code, out, err = run(*given_, "--method", "known", "--method", "known,hypermodel=of_3")
    assert code == 0, err
    assert load_file("out.safetensors")["w"].tolist() == [1, 0]
    assert [row.split("  ")[0] for row in out.splitlines()[:-1]] == [
        "Θ_0", "linear step 1", "scores:Own step 1", "known step 1", "known,hypermodel=of_3 step 1",
    ]  # fmt: skip


def test_theta_0_where_nothing_is_clearly_better(run):
    for arguments in (
        ("--score", "scores:number", "--method", "linear"),  # a number alone has no interval
        ("--score", "scores:number", "--method", "linear", "--margin", "1.5"),
        ("--score", "scores:noise", "--method", "linear", "--steps", "1", "2", "3", "--control", "shrink,shrink=0.9"),
        ("--score", "scores:each", "--method", "naive", "--control", "shrink,shrink=0.5"),
    ):
        code, _, err = run(*arguments)
        assert code == 0 and "Nothing beats Θ_0 clearly" in err, (arguments, err)
        assert load_file("out.safetensors")["w"].tolist() == [1, 0]
    assert run("--score", "scores:number", "--method", "linear", "--margin", "0.5")[0] == 0
    assert load_file("out.safetensors")["w"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--score", "scores:text"], 1, "the score of Θ_0 must be a number"),
        (["--score", "scores:fails"], 1, "--score scores:fails: the call failed: KeyError"),
        (["--score", "scores:nothing"], 1, "scores has no nothing"),
        (["--score", "scores:each", "--method", "magic"], 2, "magic"),
        (["--score", "scores:each", "--method", "linear,scale"], 2, "NAME=VALUE"),
        (["--score", "scores:each", "--method", "linear", "--hypermodel", "default"], 2, "none of the methods has one"),
        (["--score", "scores:each", "--method", "linear", "--model", "scores:target"], 1, "a Tensor, not a function"),
    ],
)
def test_what_is_wrong_is_said(run, arguments, code, message):
    if "--method" not in arguments:
        arguments = [*arguments, "--method", "linear"]
    ended, _, err = run(*arguments)
    assert ended == code and message in err


@settings(deadline=None, max_examples=50)
@given(st.integers(30, 10_000), st.floats(0.8, 0.9999))
def test_the_quantile_is_student_s(count, level):
    assert quantile(level, count) == pytest.approx(stats.t.ppf((1 + level) / 2, count - 1), rel=2e-3)


def test_false_alarms_are_as_rare_as_they_should_be():
    """Ten candidates no better than Θ_0, 400 times: one is chosen in at most 5 % of them, but for chance."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        given_ = [("Θ_0", {}), *((f"c{i}", {}) for i in range(10))]
        found = select(given_, len(given_), lambda _: generator.normal(size=60))
        alarms += found.chosen.name != "Θ_0"
    assert alarms <= 0.05 * 400 + 2 * (0.05 * 0.95 * 400) ** 0.5


def test_candidates_are_the_formulas():
    path = [{"w": torch.tensor([1.0 - k, 3.0])} for k in (2, 1, 0)]
    made = dict(
        candidates(
            path, {"linear": predictor("linear")}, [1, 3], [1.0, 2.0],
            {"flip": control("flipped"), "shrink": control("shrink", shrink=0.5)},
        )
    )  # fmt: skip
    assert {name: state["w"].tolist() for name, state in made.items()} == {
        "Θ_0": [1, 3], "linear step 1": [2, 3], "linear step 1 × 2": [3, 3], "linear step 3": [4, 3],
        "linear step 3 × 2": [7, 3], "flip step 1": [0, 3], "flip step 3": [-2, 3], "shrink": [0.5, 1.5],
    }  # fmt: skip
