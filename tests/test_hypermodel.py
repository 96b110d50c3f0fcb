import json

import numpy as np
import pytest
import torch

from know.hypermodel import KINDS, KNOWN, HyperModel, load_hypermodel, save_hypermodel


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


def test_hypermodel_survives_the_disk(tmp_path):
    torch.manual_seed(1)
    model = HyperModel(4, "for a test")
    save_hypermodel(model, tmp_path / "h")
    assert {p.name for p in (tmp_path / "h").iterdir()} == {*(f"{k}.safetensors" for k in KINDS), "config.json"}
    read = load_hypermodel(tmp_path / "h")
    window = torch.randn(50, 4)
    assert read.description == "for a test"
    for kind in KINDS:
        assert torch.equal(read(window, kind), model(window, kind))


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
