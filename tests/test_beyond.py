"""Predictors that could win: closed forms of the jackknife, the layer-wise fit and distillation, verdicts, and a micro run."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_params
from ruamel.yaml import YAML

from know import paths
from know.bench import __main__ as bench
from know.bench import beyond, judging
from know.bench.layerwise import Coefficients, depths, design, fitted
from know.bench.plan import PLAN, load_plan
from know.bench.scoring import TRAJECTORY
from know.models.small import build
from know.params import ParamError, load
from know.tasks.measures import logits_of
from know.training.distillation import match_outputs
from know.training.forgetting import state_of
from know.training.jackknife import half, jackknife_step
from know.training.loop import Recipe
from know.weights.algebra import Weights

# --- the jackknife --------------------------------------------------------------------------------------------------


def estimate(value: float) -> Weights:
    return Weights({"w": torch.tensor([value], dtype=torch.float64)})


def splits(x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """All divisions into complementary halves, each both ways round."""
    firsts = itertools.combinations(range(len(x)), len(x) // 2)
    return [(x[list(first)], np.delete(x, first)) for first in firsts]


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_complementary_halves_cancel_what_is_linear_in_the_data(steps):
    """Gradient descent on ½·mean (θ - x)²: θ after some steps is linear in the mean, whose halves average to it."""
    x, theta_0, rate = np.array([0.3, -1.2, 2.5, 0.7, 4.0, -0.4]), 5.0, 0.1

    def descended(data: np.ndarray) -> Weights:
        return estimate(theta_0 + (1 - (1 - rate) ** steps) * (data.mean() - theta_0))

    for halves in splits(x):
        assert jackknife_step([descended(x)], [descended(one) for one in halves]).norm() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("scale", "times"), [(0.5, 2), (0.75, 4), (0.875, 8)])
def test_it_goes_on_to_more_data_where_the_bias_is_of_order_one_over_n(scale, times):
    """The plug-in variance has the mean S² (1 - 1/n), S² being the unbiased one: over all halves the step is S²/n exactly."""
    x = np.array([0.3, -1.2, 2.5, 0.7, 4.0, -0.4])
    step = jackknife_step([estimate(x.var())], [estimate(one.var()) for pair in splits(x) for one in pair])
    wanted = x.var(ddof=1) * (1 - 1 / (times * len(x)))
    assert (estimate(x.var()) + scale * step).flat().item() == pytest.approx(wanted, rel=1e-12)


def test_halves_are_complementary_stratified_and_as_long_as_the_whole(toy):
    first, second = (half(toy, part, 3) for part in ("first", "second"))
    rows = [{image.numpy().tobytes() for image in one.images} for one in (first, second)]
    assert len(rows[0]) == len(rows[1]) == 60 and not rows[0] & rows[1]
    for one in (first, second):
        assert len(one) == len(toy) and one.labels.bincount().tolist() == [40, 40, 40]
    assert not torch.equal(first.images, half(toy, "first", 4).images)


# --- layer-wise -----------------------------------------------------------------------------------------------------

BOXES = {"shrink": (0.4, 1.0), "step": (-0.5, 0.5)}


def test_the_fit_finds_the_best_coefficients_whatever_a_trajectorys_level():
    best, every = np.array([0.55, 0.9, 0.2, -0.1]), [one for seed in range(6) for one in design(6, **BOXES, seed=seed)]
    groups = [str(i // 6) for i in range(len(every))]
    x = np.array([[one.shrink_first, one.shrink_last, one.step_first, one.step_last] for one in every])
    losses = ((x - best) ** 2 * [1, 2, 3, 4]).sum(1) + 10 * np.array(groups, dtype=float)
    found = fitted(every, losses, groups, **BOXES)
    assert found == Coefficients(*(pytest.approx(value, abs=1e-9) for value in best))


def test_without_a_minimum_in_the_box_it_is_at_the_better_end():
    every = [one for seed in range(6) for one in design(6, **BOXES, seed=seed)]
    losses = [-(one.shrink_first**2) + one.shrink_last - one.step_first + (one.step_last - 2) ** 2 for one in every]
    found = fitted(every, losses, ["same"] * len(every), **BOXES)
    assert found == Coefficients(*(pytest.approx(value) for value in (1.0, 0.4, 0.5, 0.5)))


def test_coefficients_are_linear_in_depth_and_leave_buffers_alone():
    theta_0, theta_1 = (state_of(build("cnn-bn", 1, 3, seed)) for seed in (0, 1))
    depth, made = depths(theta_0), Coefficients(0.5, 1.0, 0.2, -0.2).start(theta_0, theta_1)
    assert depth["features.0.0.0.weight"] == 0 and depth["features.1.weight"] == depth["head.weight"] == 1
    assert sorted(depth[name] for name in theta_0 if not name.startswith("head")) == [
        depth[name] for name in theta_0 if not name.startswith("head")
    ]
    for name in ("features.0.0.0.weight", "features.0.2.0.weight", "features.1.weight"):
        share = depth[name]
        wanted = (0.5 + 0.5 * share) * theta_0[name] + (0.2 - 0.4 * share) * (theta_0[name] - theta_1[name])
        torch.testing.assert_close(made[name], wanted)
    assert torch.equal(made["features.0.0.1.running_var"], theta_0["features.0.0.1.running_var"])
    still = Coefficients(1.0, 1.0, 0.2, -0.2).still.start(theta_0, theta_1)
    assert all(torch.equal(still[name], theta_0[name]) for name in theta_0)


# --- function space -------------------------------------------------------------------------------------------------


def test_outputs_are_carried_on_by_their_share():
    base, halves = torch.tensor([[2.0, 0.0]]), [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    torch.testing.assert_close(beyond.extrapolated(base, halves, 0.5), torch.tensor([[2.75, -0.25]]))


@pytest.mark.parametrize("architecture", ["cnn", "cnn-bn"])
def test_distillation_comes_nearer_to_the_target_function(toy, architecture):
    net, teacher = (build(architecture, 1, 3, seed) for seed in (0, 1))
    target = 2 * logits_of(teacher, toy)

    def distance() -> float:
        return (logits_of(net, toy) - target).square().mean().item()

    before = distance()
    match_outputs(net, toy, target, Recipe(20, 30, 1e-3), 0)
    assert distance() < before / 2


# --- the verdicts ---------------------------------------------------------------------------------------------------

GAINS = {"naive": 0.0, "more_data": 0.05, "shrink": 0.02, "naive_tuned": 0.01, "average": -0.01}
GAINS |= {"jackknife": 0.02, "layerwise": 0.06, "layerwise_still": 0.03, "distilled": -0.04}


def scores(changes: dict[str, float] | None = None) -> pd.DataFrame:
    """Starts that gain so much on six trajectories, give or take a little; on validation images naive_tuned is best."""
    rng, rows = np.random.default_rng(0), []
    for i in range(6):
        for method, gain in (GAINS | (changes or {})).items():
            accuracy = 0.6 + gain + rng.normal(0, 0.002)
            rows.append(("t", "net", i, method, "o", 0.1, 1.0, accuracy, 0.5 + 0.1 * (method == "naive_tuned")))
    columns = [*TRAJECTORY, "method", "options", "cosine", "norm_ratio", "accuracy", "validation_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def test_methods_are_held_to_the_reference_that_validation_images_choose():
    found = judging.contrasts(scores(), load_plan(), load().report)
    assert {pair: one.verdict for pair, one in found.items()} == {
        ("more_data", "naive"): "better",
        ("jackknife", "naive_tuned"): "better",
        ("layerwise", "naive_tuned"): "better",
        ("distilled", "naive_tuned"): "worse",
        ("layerwise", "layerwise_still"): "better",
    }
    assert [one.size for one in found.values()] == [1, 4, 4, 4, 4]


def test_without_headroom_nothing_is_judged():
    found = judging.contrasts(scores({"more_data": -0.05}), load_plan(), load().report)
    assert {one.verdict for one in found.values()} == {"worse", "no headroom"}


def test_the_page_says_what_held_and_what_did_not():
    rows = [("t", "net", i, halves, 0.01 * i + halves / 100, 1.0, 0.1) for i in range(6) for halves in (2, 16)]
    directions = pd.DataFrame(rows, columns=[*TRAJECTORY, "halves", "cosine", "norm_ratio", "agreement"])
    assert "rises from B = 2 to 16: by +0.140" in judging.directions_page(directions, load().report)
    text = judging.page(scores(), load_plan(), load().report)
    assert "Layer-wise λ, β better than naïve transfer (Θ₀), rate tuned (o) holds: +5" in text
    assert (
        "Outputs extrapolated, distilled (o) better than naïve transfer (Θ₀), rate tuned (o) does not hold: -5" in text
    )


# --- the plan -------------------------------------------------------------------------------------------------------


def plan_of(tmp_path, **changes):
    values = YAML(typ="safe").load(PLAN.read_text())
    for section, value in changes.items():
        values[section] = values[section] | value if isinstance(value, dict) else value
    with (tmp_path / "beyond.yaml").open("w") as file:
        YAML().dump(values, file)
    return load_plan(tmp_path / "beyond.yaml")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"jackknife": {"halves": [2, 3]}}, "jackknife.halves.1: "),
        ({"layerwise": {"shrink": [1.0, 0.4]}}, "layerwise.shrink: the first must not exceed the second"),
        ({"contrasts": [["jackknife", "magic"]]}, "contrasts: got ['jackknife', 'magic']; allowed: "),
        ({"references": {"rates": [0.1]}}, "references.rates: "),
    ],
)
def test_a_bad_plan_gives_one_line(changes, reason, tmp_path):
    with pytest.raises(ParamError) as error:
        plan_of(tmp_path, **changes)
    assert reason in str(error.value) and "\n" not in str(error.value)


# --- from end to end ------------------------------------------------------------------------------------------------


def test_a_micro_run(tmp_path, monkeypatch):
    """Two tasks of two trajectories; run anew, all is found in the store."""
    for name in ("BENCH", "REPORTS", "RUNS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    tasks = {
        name: {"source_images": 80, "source_seeds": [0, 1], "validation_images": 50} for name in ("mnist", "fashion")
    }
    write_params(
        tmp_path / "params.yaml",
        {
            "compute": {"jobs": 1},
            "bench": {
                "tasks": tasks,
                "architectures": ["cnn"],
                "rate": 0.5,
                "source": {"max_epochs": 2},
                "forgetting": {"epochs": 1},
                "draws": 1,
                "fine_tuning": {"head_epochs": 1, "epochs": 1},
                "predict": {
                    "methods": ["linear"],
                    "candidate": "linear",
                    "controls": [{"control": "shrink", "shrink": [0.6, 0.8]}],
                },
            },
        },
    )
    params = load(tmp_path / "params.yaml")
    bench.run(params)
    plan = plan_of(
        tmp_path,
        jackknife={"halves": [2, 4], "epochs": 1, "scales": [0.5]},
        distilled={"epochs": 1, "scales": [0.5]},
        references={"shrink": [0.6, 0.8], "learning_rates": [0.002, 0.004]},
    )
    beyond.run(params, plan)
    folder = paths.REPORTS / "bench"
    found = pd.read_csv(folder / "beyond.csv")
    assert [*found.groupby("method").size()] == [4] * len(judging.ORDER)
    assert {*found.method} == {*judging.ORDER} and found.accuracy.between(0, 1).all()
    assert found[found.method == "layerwise"].groupby("task").options.nunique().eq(1).all()
    assert [*pd.read_csv(folder / "beyond_directions.csv").halves] == [2, 4] * 4
    assert (folder / "beyond_cosine.png").exists() and (folder / "beyond_summary.csv").exists()
    before = (folder / "beyond.md").read_bytes()
    monkeypatch.setattr("know.run.store.save_file", lambda *_: pytest.fail("a run was computed again"))
    beyond.run(params, plan)
    assert (folder / "beyond.md").read_bytes() == before
