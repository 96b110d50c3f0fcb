import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from know.prediction.known import HyperModel
from know.prediction.predictors import linear, no_change, task_vector
from know.prediction.retrodict import retrodict
from know.weights.batchnorm import with_batchnorm
from know.weights.kinds import kind_of

finite = st.floats(-10, 10, width=32)


def straight_trajectory(length: int = 5, dtype: torch.dtype = torch.float64) -> list[dict[str, torch.Tensor]]:
    """Every weight moves along a straight line: θ(t) = start + slope·t, t = 0 … length-1."""
    torch.manual_seed(0)
    start = {"c.weight": torch.randn(4, 3, 3, 3), "f.weight": torch.randn(5, 4), "f.bias": torch.randn(5)}
    slope = {name: torch.randn_like(tensor) for name, tensor in start.items()}
    steps = [{name: (start[name] + t * slope[name]).to(dtype) for name in start} for t in range(length)]
    for t, state in enumerate(steps):
        state["bn.running_mean"] = torch.full((4,), float(t))
        state["bn.num_batches_tracked"] = torch.tensor(t)
    return steps


@pytest.mark.parametrize("predictor", [linear, task_vector(1.0)], ids=["linear", "task vector"])
def test_straight_lines_are_continued(predictor):
    line = straight_trajectory(8)
    for step, predicted in enumerate(retrodict(line[:5], predictor, steps=3)):
        for name in ("c.weight", "f.weight", "f.bias"):
            torch.testing.assert_close(predicted[name], line[5 + step][name], rtol=1e-4, atol=1e-4)


@given(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=10))
def test_linear_is_the_least_squares_line(rows):
    window = torch.tensor(rows, dtype=torch.float64)
    expected = [np.polyval(np.polyfit(range(4), row, 1), 4) for row in rows]
    np.testing.assert_allclose(linear(window, "conv").numpy(), expected, atol=1e-8)


@given(st.lists(finite, min_size=3, max_size=3), st.floats(0.1, 2))
def test_task_vector_negates_forgetting(row, scale):
    older, newer = row[-2:]
    predicted = task_vector(scale)(torch.tensor([row], dtype=torch.float64), "fc").item()
    assert predicted == pytest.approx(newer - scale * (older - newer), abs=1e-9)


def test_steps_feed_back():
    line = straight_trajectory(5)
    one, two = retrodict(line, linear, steps=2)
    again = retrodict([*line[1:], one], linear, steps=1)[0]
    for name in two:
        torch.testing.assert_close(two[name], again[name])


@settings(deadline=None)
@given(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
def test_result_looks_like_theta_0(dtype):
    line = straight_trajectory(5, dtype)
    for predicted in retrodict(line, HyperModel(5), steps=2):
        assert predicted.keys() == line[-1].keys()
        for name, tensor in line[-1].items():
            assert predicted[name].shape == tensor.shape and predicted[name].dtype == tensor.dtype
        assert torch.equal(predicted["bn.running_mean"], line[-1]["bn.running_mean"])


def test_no_change_is_theta_0():
    line = straight_trajectory(5, torch.float32)
    for name, tensor in retrodict(line, no_change)[0].items():
        assert torch.equal(tensor, line[-1][name])


def test_each_kind_goes_to_its_own_predictor():
    line = straight_trajectory(3, torch.float32)
    sign = {"conv": 1.0, "fc": 2.0, "bias": 3.0}
    predicted = retrodict(line, lambda window, kind: torch.full_like(window[:, 0], sign[kind]))[0]
    assert (
        (predicted["c.weight"] == 1).all() and (predicted["f.weight"] == 2).all() and (predicted["f.bias"] == 3).all()
    )


def test_kinds():
    assert kind_of("a.weight", torch.zeros(2, 3, 3, 3)) == "conv"
    assert kind_of("a.weight", torch.zeros(2, 3)) == "fc"
    assert kind_of("bn.weight", torch.zeros(2)) == "bias"
    assert kind_of("bn.running_var", torch.zeros(2)) == "buffer"
    assert kind_of("bn.num_batches_tracked", torch.tensor(3)) == "buffer"


def test_states_that_do_not_fit_are_named():
    line = straight_trajectory(3)
    with pytest.raises(ValueError, match=r"trajectory\[0\]: .*'f\.bias' is not in all"):
        retrodict([{k: v for k, v in line[0].items() if k != "f.bias"}, *line[1:]], linear)
    line[0]["f.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"trajectory\[0\]: f\.weight: shapes differ"):
        retrodict(line, linear)


def test_batchnorm_rules():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    theta_0 = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}
    predicted = {name: tensor * 2 if "running" not in name else tensor for name, tensor in theta_0.items()}
    copied, reset = (with_batchnorm(predicted, theta_0, rule) for rule in ("copy", "reset"))
    for part in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(copied[f"1.{part}"], theta_0[f"1.{part}"])
    assert [reset[f"1.{part}"].tolist() for part in ("weight", "bias", "running_mean", "running_var")] == [
        [1, 1], [0, 0], [0, 0], [1, 1]
    ]  # fmt: skip
    for rule in ("copy", "reset", "predict", "re-estimate"):
        assert torch.equal(with_batchnorm(predicted, theta_0, rule)["0.weight"], predicted["0.weight"])
    assert torch.equal(with_batchnorm(predicted, theta_0, "predict")["1.weight"], predicted["1.weight"])
