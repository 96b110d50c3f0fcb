import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from know.prediction.known import KNOWN, HyperModel, load_hypermodel, save_hypermodel
from know.weights.kinds import KINDS


def numpy_known(state: dict[str, np.ndarray], window: np.ndarray) -> np.ndarray:
    """KNOWN written again, from the description alone."""

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def stream(name: str, x: np.ndarray) -> np.ndarray:
        h = dense(f"{name}.inner", x)
        z = np.maximum(dense(f"{name}.activation.squeeze", h), 0)
        a, g, k = (dense(f"{name}.activation.{part}", z) for part in ("additive", "gain", "rate"))
        y = dense(f"{name}.outer", a + g * np.exp(k * h))
        return np.where(y > 0, y, 0.3 * y)

    both = np.concatenate([stream("weights", window), stream("differences", window[:, 1:] - window[:, :-1])], 1)
    return window[:, -1] + np.tanh(dense("out", both))[:, 0]


def randomised(length: int = 5) -> KNOWN:
    """A KNOWN all of whose parameters matter."""
    torch.manual_seed(length)
    known = KNOWN(length).double()
    for parameter in known.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return known


def test_parameter_count():
    assert sum(p.numel() for p in KNOWN().parameters()) == 9425


@pytest.mark.parametrize("length", [2, 3, 5, 7])
def test_agrees_with_numpy(length):
    known = randomised(length)
    window = torch.randn(200, length, dtype=torch.float64) * 0.5
    state = {name: tensor.numpy() for name, tensor in known.state_dict().items()}
    with torch.no_grad():
        np.testing.assert_allclose(known(window).numpy(), numpy_known(state, window.numpy()), rtol=1e-12, atol=1e-12)


def test_every_parameter_gets_a_gradient():
    known = randomised()
    known(torch.randn(500, 5, dtype=torch.float64)).square().sum().backward()
    for name, parameter in known.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_initialisation_and_penalty_are_the_released_ones():
    torch.manual_seed(0)
    known = KNOWN()
    for stream in (known.weights, known.differences):
        for layer in (stream.inner, stream.outer):
            limit = (0.3 / layer.in_features) ** 0.5
            assert limit * 0.9 < layer.weight.abs().max() <= limit and (layer.bias == 0).all()
    layers = [known.weights.inner, known.weights.outer, known.differences.inner, known.differences.outer]
    for layer in layers:
        torch.nn.init.constant_(layer.bias, 0.5)
    expected = sum(1e-6 * layer.weight.abs().sum() + 0.1 * 0.5 * len(layer.bias) for layer in layers)
    assert known.penalty().item() == pytest.approx(expected.item(), rel=1e-6)


def test_wrong_window_is_named():
    with pytest.raises(ValueError, match=r"expected a window of shape \(N, 5\), got \(3, 4\)"):
        KNOWN()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at least 2"):
        KNOWN(1)


@pytest.mark.parametrize("scale", ["none", "path"])
def test_hypermodel_survives_the_disk(tmp_path, scale):
    torch.manual_seed(1)
    model = HyperModel(4, "for a test", scale)
    save_hypermodel(model, tmp_path / "h")
    assert {p.name for p in (tmp_path / "h").iterdir()} == {*(f"{k}.safetensors" for k in KINDS), "config.json"}
    read = load_hypermodel(tmp_path / "h")
    window = torch.randn(50, 4)
    assert read.description == "for a test" and read.scale == scale
    for kind in KINDS:
        assert torch.equal(read(window, kind), model(window, kind))


def framed_model() -> HyperModel:
    model = HyperModel(5, scale="path").double()
    for kind in KINDS:
        model.of(kind).load_state_dict(randomised().state_dict())
    return model


paths = st.lists(st.lists(st.floats(-10, 10), min_size=5, max_size=5), min_size=1, max_size=10)


@settings(deadline=None)
@given(paths, st.floats(1e-6, 1e6), st.floats(-100, 100))
def test_in_the_paths_frame_prediction_follows_scale_and_origin(rows, scale, shift):
    model, window = framed_model(), torch.tensor(rows, dtype=torch.float64)
    span = window.amax(1) - window.amin(1)
    predicted = model(window, "fc")
    assert ((predicted - window[:, -1]).abs() <= span).all()
    window = window[span > 1e-3]  # a narrower one loses its digits in the sum
    moved = (model(scale * window + shift, "fc") - shift) / scale
    torch.testing.assert_close(moved, predicted[span > 1e-3], rtol=1e-5, atol=1e-5 * (1 + abs(shift) / scale))


def test_in_the_paths_frame_prediction_is_that_of_numpy():
    model, window = framed_model(), torch.randn(200, 5, dtype=torch.float64).numpy()
    unit, last = window.max(1) - window.min(1), window[:, -1]
    state = {name: tensor.numpy() for name, tensor in model.conv.state_dict().items()}
    expected = last + unit * numpy_known(state, (window - last[:, None]) / unit[:, None])
    np.testing.assert_allclose(model(torch.from_numpy(window), "conv").numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_in_the_paths_frame_what_stands_still_stays(dtype):
    model = framed_model().to(dtype)
    window = torch.tensor([0.0, 1e-30, -0.3, 7.0], dtype=dtype)[:, None].expand(4, 5)
    assert torch.equal(model(window, "conv"), window[:, -1])


def test_damaged_hypermodels_name_the_file(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no hyper-model"):
        load_hypermodel(tmp_path / "nowhere")
    save_hypermodel(HyperModel(5), tmp_path / "h")
    fc = tmp_path / "h" / "fc.safetensors"
    fc.write_bytes(fc.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"fc\.safetensors: not a KNOWN of history_length 5"):
        load_hypermodel(tmp_path / "h")
    (tmp_path / "h" / "config.json").write_text(json.dumps({"history_length": "five"}))
    with pytest.raises(ValueError, match=r"config\.json: not a hyper-model's configuration"):
        load_hypermodel(tmp_path / "h")
    (tmp_path / "h" / "config.json").write_text(json.dumps({"history_length": 5, "scale": "tensor"}))
    with pytest.raises(ValueError, match=r"config\.json: .*scale: got 'tensor'; allowed: none, path"):
        load_hypermodel(tmp_path / "h")


def test_configurations_without_a_scale_are_the_papers(tmp_path):
    save_hypermodel(HyperModel(5), tmp_path / "h")
    (tmp_path / "h" / "config.json").write_text(json.dumps({"history_length": 5}))
    assert load_hypermodel(tmp_path / "h").scale == "none"
