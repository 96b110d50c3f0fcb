import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from know import paths
from know.models.build import build
from know.prediction.controls import CONTROLS, AnyControl, Case, Flipped, RandomDirection, Repeated, Shrunk, control
from know.prediction.predictors import PREDICTORS, predictor
from know.prediction.retrodict import retrodict
from know.training.forgetting import extra_compute
from know.weights.algebra import Weights
from know.weights.geometry import step_geometry
from know.weights.kinds import State, kind_of

OPTIONS = {"shrink": {"shrink": 0.6}, "shrink_perturb": {"shrink": 0.6, "perturb": 0.1}}
EVERY = [control(name, **OPTIONS.get(name, {})) for name in CONTROLS]

ONCE = {"shrink", "shrink_perturb", "trained_on", "average"}  # they know no steps


def case(seed: int = 0, dtype: torch.dtype = torch.float32, method: str = "linear") -> Case:
    """Three states of a small net with BatchNorm, and a prediction of two steps."""
    generator = torch.Generator().manual_seed(3)
    start = build("cnn-bn", 1, 4, 0).state_dict()
    trajectory: list[State] = [
        {
            name: (tensor + 0.1 * torch.randn(tensor.shape, generator=generator)).to(dtype)
            if kind_of(name, tensor) != "buffer"
            else tensor + k
            for name, tensor in start.items()
        }
        for k in range(3)
    ]
    chosen = predictor(method)
    fresh = {
        name: t.to(dtype) if t.is_floating_point() else t for name, t in build("cnn-bn", 1, 4, 9).state_dict().items()
    }
    predicted = retrodict(trajectory, chosen, 2)
    trained_on = {name: tensor.clone() for name, tensor in trajectory[-1].items()}
    sham = [{name: 2 * t if kind_of(name, t) != "buffer" else t for name, t in one.items()} for one in trajectory[:2]]
    return Case(trajectory, chosen, predicted, fresh, seed, trained_on, [*sham, trajectory[-1]], {"linear": predicted})


def by_kind(state: State) -> dict[str, torch.Tensor]:
    return {kind: part.flat().float() for kind, part in Weights(state).by_kind().items()}


def steps(case: Case, states: list[State]) -> list[dict[str, torch.Tensor]]:
    """Θ - Θ_0 by kind."""
    own = by_kind(case.trajectory[-1])
    return [{kind: new - own[kind] for kind, new in by_kind(state).items()} for state in states]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("one", EVERY, ids=lambda c: c.control)
def test_controls_look_like_theta_0_and_leave_it_alone(one, dtype):
    given_case = case(dtype=dtype)
    before = {name: tensor.clone() for name, tensor in given_case.trajectory[-1].items()}
    starts = one.states(given_case)
    assert len(starts) == (1 if one.control in ONCE else 2)
    for start in starts:
        assert start.keys() == before.keys()
        for name, tensor in before.items():
            assert start[name].dtype == tensor.dtype and start[name].shape == tensor.shape
            if kind_of(name, tensor) == "buffer":
                assert torch.equal(start[name], tensor) and start[name] is not given_case.trajectory[-1][name]
    assert all(torch.equal(given_case.trajectory[-1][name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("one", EVERY, ids=lambda c: c.control)
def test_controls_are_reproducible(one):
    for first, second in zip(one.states(case()), one.states(case()), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_shrunk_has_the_prediction_s_norms_and_theta_0_s_direction():
    c = case()
    for start, state in zip(Shrunk().states(c), c.predicted, strict=True):
        own, wanted = by_kind(c.trajectory[-1]), by_kind(state)
        for kind, weights in by_kind(start).items():
            assert weights.norm().item() == pytest.approx(wanted[kind].norm().item(), rel=1e-5)
            torch.testing.assert_close(weights, weights.norm() / own[kind].norm() * own[kind])


def test_shrunk_tensor_by_tensor_has_each_tensor_s_norm():
    c = case()
    for start, state in zip(Shrunk(per="tensor").states(c), c.predicted, strict=True):
        for name, tensor in c.trajectory[-1].items():
            if kind_of(name, tensor) != "buffer":
                torch.testing.assert_close(start[name], state[name].norm() / tensor.norm() * tensor)


def test_direction_only_has_the_prediction_s_direction_and_theta_0_s_norm_filter_by_filter():
    c = case()
    for start, state in zip(control("direction_only").states(c), c.predicted, strict=True):
        for name, tensor in c.trajectory[-1].items():
            if kind_of(name, tensor) == "buffer":
                continue
            rows = [t.flatten(1) if t.ndim > 1 else t[None] for t in (start[name], tensor, state[name])]
            own, wanted, predicted = ([row.norm().item() for row in t] for t in rows)
            assert own == pytest.approx(wanted, rel=1e-5)
            factors = torch.tensor(wanted)[:, None] / torch.tensor(predicted)[:, None]
            torch.testing.assert_close(rows[0], factors * rows[2])
    zero = {name: torch.zeros_like(t) if t.is_floating_point() else t for name, t in c.predicted[0].items()}
    (still,) = control("direction_only").states(Case(c.trajectory, c.predictor, [zero]))
    assert all(t.isfinite().all() for t in still.values() if t.is_floating_point())


def test_sham_predicts_on_the_path_without_forgetting_and_average_is_its_mean():
    c = case()
    for start, expected in zip(control("sham").states(c), retrodict(c.sham, c.predictor, 2), strict=True):
        assert all(torch.equal(start[name], tensor) for name, tensor in expected.items())
    (mean,) = control("average").states(c)
    torch.testing.assert_close(mean["head.weight"], torch.stack([t["head.weight"] for t in c.sham]).mean(0))
    for name in ("sham", "average"):
        with pytest.raises(ValueError, match=rf"^{name}: there is no path trained on all of D_0"):
            control(name).states(Case(c.trajectory, c.predictor, c.predicted))


def test_shrink_and_perturb_are_two_halves():
    c = case()
    theta_0 = c.trajectory[-1]
    (shrunk,) = control("shrink", shrink=0.6).states(c)
    (mixed,) = control("shrink_perturb", shrink=0.6, perturb=0.1).states(c)
    (same,) = control("shrink", shrink=1).states(c)
    (fresh,) = control("shrink_perturb", shrink=0, perturb=1).states(c)
    for name, tensor in theta_0.items():
        assert torch.equal(same[name], tensor)
        if kind_of(name, tensor) != "buffer":
            torch.testing.assert_close(shrunk[name], 0.6 * tensor)
            torch.testing.assert_close(mixed[name], 0.6 * tensor + 0.1 * c.fresh[name])
            assert torch.equal(fresh[name], c.fresh[name])
    with pytest.raises(ValueError, match=r"shrink_perturb: perturb: .*greater than 0"):
        control("shrink_perturb", shrink=0.6, perturb=0)
    with pytest.raises(ValueError, match="needs the state of a freshly initialised net"):
        control("shrink_perturb", shrink=0.6, perturb=0.1).states(Case(c.trajectory, c.predictor, c.predicted))


def test_shrinking_a_method_does_the_same_to_its_predictions():
    c = case()
    for name, noise in (("shrink", 0.0), ("shrink_perturb", 0.1)):
        starts = control(name, **OPTIONS[name], of="linear").states(c)
        assert len(starts) == len(c.predicted)
        for start, state in zip(starts, c.predicted, strict=True):
            expected = 0.6 * state["head.weight"] + noise * c.fresh["head.weight"]
            torch.testing.assert_close(start["head.weight"], expected)


@pytest.mark.parametrize("name", sorted(CONTROLS.keys() - {"trained_on", "sham", "average"}))
def test_a_control_needs_no_more_than_a_trajectory_and_a_predictor(name):
    c = case()
    chosen = control(name, **OPTIONS.get(name, {}))
    for start, same in zip(chosen(c.trajectory, c.predictor, 2, fresh=c.fresh), chosen.states(c), strict=True):
        assert all(torch.equal(start[key], tensor) for key, tensor in same.items())


@pytest.mark.parametrize("pointwise", ["fc", "conv"])
def test_controls_have_the_predictor_s_kinds(pointwise):
    """Norms are matched kind by kind, so it matters where a 1×1 kernel counts."""

    class Doubles:
        def __call__(self, window, kind):
            return window[:, -1] * (2 if kind == "conv" else 1)

    predictor = Doubles()
    predictor.pointwise = pointwise
    theta = {name: torch.ones(shape) for name, shape in {"a.weight": (2, 2, 1, 1), "b.weight": (2, 2)}.items()}
    (start,) = control("shrunk")([theta, theta], predictor)
    assert start["a.weight"].unique().tolist() == [2.0 if pointwise == "conv" else 1.0]
    assert start["b.weight"].unique().tolist() == [1.0]


def test_trained_on_needs_weights_that_were():
    c = case()
    (start,) = control("trained_on").states(c)
    assert all(torch.equal(start[name], tensor) for name, tensor in c.trained_on.items())
    with pytest.raises(ValueError, match="trained_on: Θ_0 was not trained on"):
        control("trained_on").states(Case(c.trajectory, c.predictor, c.predicted, c.fresh, 0))


def test_a_repeated_trajectory_has_no_path():
    """Every closed form then predicts Θ_0; a predictor that shrinks whatever it sees goes on doing so."""
    for method in ("linear", "log", "exponential", "task_vector", "expo", "tsv"):
        c = case(method=method)
        for start in Repeated().states(c):
            assert all(torch.equal(start[name], tensor) for name, tensor in c.trajectory[-1].items())
    base = case()
    shrinking = Case(base.trajectory, lambda window, kind: 0.8 * window[:, -1], base.predicted, base.fresh, 0)
    for k, start in enumerate(Repeated().states(shrinking), start=1):
        torch.testing.assert_close(start["head.weight"], 0.8**k * base.trajectory[-1]["head.weight"])


def test_random_directions_keep_the_norm_alone():
    c = case()
    starts, wanted = steps(c, RandomDirection().states(c)), steps(c, c.predicted)
    other = steps(c, RandomDirection().states(case(seed=1)))
    for random, predicted, elsewhere in zip(starts, wanted, other, strict=True):
        for kind, step in random.items():
            assert step.norm().item() == pytest.approx(predicted[kind].norm().item(), rel=1e-4)
            cosine = torch.nn.functional.cosine_similarity
            assert abs(cosine(step, predicted[kind], dim=0).item()) < 4 / len(step) ** 0.5
            assert abs(cosine(step, elsewhere[kind], dim=0).item()) < 4 / len(step) ** 0.5
            assert cosine(step, starts[0][kind], dim=0).item() == pytest.approx(1, abs=1e-4)


def test_flipping_twice_is_the_prediction():
    c = case()
    flipped = Flipped().states(c)
    for step, predicted in zip(steps(c, flipped), steps(c, c.predicted), strict=True):
        for kind in step:
            torch.testing.assert_close(step[kind], -predicted[kind], rtol=1e-4, atol=1e-6)
    again = Flipped().states(Case(c.trajectory, c.predictor, flipped, c.fresh, 0))
    torch.testing.assert_close(again[1]["head.weight"], c.predicted[1]["head.weight"], rtol=1e-4, atol=1e-6)


@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_extra_compute_is_the_geometric_sum(rate, length):
    assert extra_compute(rate, length) == pytest.approx(rate * (1 - rate ** (length - 1)) / (1 - rate), abs=1e-9)


def test_extra_compute_counts_images():
    assert extra_compute(0.5, 5) == 0.9375
    assert extra_compute(0.5, 5) * 1600 == 800 + 400 + 200 + 100


class Section(BaseModel):
    controls: tuple[AnyControl, ...]


def test_controls_are_chosen_by_name():
    chosen = {"control": "shrink_perturb", "shrink": 0.5, "perturb": 0.1}
    section = Section.model_validate({"controls": ["flipped", chosen]})
    assert section.controls == (Flipped(), control("shrink_perturb", shrink=0.5, perturb=0.1))
    assert all(cls.model_fields["control"].default == name for name, cls in CONTROLS.items())
    with pytest.raises(
        ValueError, match=r"^control: got 'shuffled'; allowed: shrunk, direction_only, shrink, shrink_perturb, repeated"
    ):
        control("shuffled")
    with pytest.raises(ValueError, match=r"^shrink_perturb: shrink: .*; its options: of, perturb, shrink$"):
        control("shrink_perturb", shrink=1.5, perturb=1)


# --- geometry ---------------------------------------------------------------------------------------------------


def test_step_geometry_by_kind_and_layer():
    theta_0 = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2), "b.weight": torch.zeros(1, 2)}
    real = {
        "a.weight": torch.tensor([[1.0, 0], [0, 0]]),
        "a.bias": torch.tensor([0.0, 2]),
        "b.weight": torch.tensor([[0.0, 3]]),
    }
    predicted = {
        "a.weight": torch.tensor([[1.0, 1], [0, 0]]),
        "a.bias": torch.tensor([0.0, -1]),
        "b.weight": torch.zeros(1, 2),
    }
    table = step_geometry(predicted, real, theta_0).set_index(["kind", "layer"])
    assert table.weights.to_dict() == {
        ("fc", "a.weight"): 4, ("bias", "a.bias"): 2, ("fc", "b.weight"): 2, ("fc", "all"): 6, ("bias", "all"): 2, ("all", "all"): 8,
    }  # fmt: skip
    cosine, ratio = table.cosine.to_dict(), table.norm_ratio.to_dict()
    assert cosine["fc", "a.weight"] == pytest.approx(0.5**0.5) and ratio["fc", "a.weight"] == pytest.approx(2**0.5)
    assert cosine["bias", "a.bias"] == pytest.approx(-1) and ratio["bias", "a.bias"] == pytest.approx(0.5)
    assert np.isnan(cosine["fc", "b.weight"]) and ratio["fc", "b.weight"] == 0
    assert cosine["fc", "all"] == pytest.approx(1 / 20**0.5) and ratio["fc", "all"] == pytest.approx((2 / 10) ** 0.5)
    assert cosine["all", "all"] == pytest.approx(-1 / 42**0.5) and ratio["all", "all"] == pytest.approx((3 / 14) ** 0.5)


def test_a_perfect_prediction_has_cosine_and_ratio_one_in_every_row():
    c = case()
    table = step_geometry(c.predicted[0], c.predicted[0], c.trajectory[-1])
    assert set(table.kind) == {"conv", "fc", "bias", "all"} and not table.layer.str.contains("running").any()
    np.testing.assert_allclose(table[["cosine", "norm_ratio"]], 1, rtol=1e-6)
    flipped = step_geometry(Flipped().states(c)[0], c.predicted[0], c.trajectory[-1])
    np.testing.assert_allclose(flipped.cosine, -1, rtol=1e-4)


def test_the_reference_names_every_choice_and_option():
    text = (paths.ROOT / "docs" / "methods.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for name, cls in (PREDICTORS | CONTROLS).items():
        options = set(cls.model_fields) - {"method", "control", "name"}
        if name != "log":  # its row says: the same
            assert all(f"`{option}`" in rows[name] for option in options), name
    assert PREDICTORS["log"].model_fields.keys() == PREDICTORS["linear"].model_fields.keys()
