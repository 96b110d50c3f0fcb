"""Any state dict through retrodiction and to disk: names, order, shapes, dtypes, ties and buffers survive."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import know
from know.prediction.known import HyperModel
from know.prediction.predictors import linear, no_change
from know.prediction.retrodict import retrodict
from know.weights.files import load_state, save_state
from know.weights.kinds import kinds_of, ties


class Own(nn.Module):
    """Parameters and buffers outside any layer: a transformer's tokens, a scalar, masks, counters, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("token", (1, 1, 4)), ("position", (1, 5, 4)), ("scale", ()), ("none", (0, 3))):
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("count", torch.tensor(2**60 + 1))  # a float would lose the 1
        self.register_buffer("phase", torch.randn(2, dtype=torch.complex64))


class Tied(nn.Module):
    """An embedding whose matrix is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.out.weight = self.embedding.weight


LAYERS = {
    "conv1": lambda: nn.Conv1d(2, 3, 3),
    "conv2": lambda: nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last),
    "conv3": lambda: nn.Conv3d(1, 2, 2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(3, 2, 2),
    "linear": lambda: nn.Linear(3, 2),
    "layer_norm": lambda: nn.LayerNorm((2, 3)),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "batch_norm": lambda: nn.BatchNorm2d(3),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "lstm": lambda: nn.LSTM(3, 2),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv1d(2, 2, 3)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(2, 3)),
    "own": Own,
    "tied": Tied,
}
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def cast(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``layer.to(dtype)`` would make complex buffers real."""
    return layer._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


@st.composite
def trajectories(draw: st.DrawFn) -> list[dict[str, Tensor]]:
    """2 to 5 checkpoints of a net of some layers, each layer in a dtype, each checkpoint in a wrapper or none."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    chosen = draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4))
    net = nn.ModuleDict(
        {f"{i}_{name}": cast(LAYERS[name](), draw(st.sampled_from(DTYPES))) for i, name in enumerate(chosen)}
    )
    states = []
    for _ in range(draw(st.integers(2, 5))):
        prefix, state, moved = draw(st.sampled_from(PREFIXES)), net.state_dict(), {}
        tied = ties(state)
        for name, tensor in state.items():
            if name in tied:
                moved[name] = moved[tied[name]]
            elif tensor.dtype.is_floating_point:
                moved[name] = (tensor.double() + 0.1 * torch.randn(tensor.shape).double()).to(tensor.dtype)
            else:
                moved[name] = tensor.clone() if tensor.dtype == torch.bool else tensor + len(states)
        states.append({prefix + name: tensor for name, tensor in moved.items()})
    return states


def check_form(predicted: dict[str, Tensor], theta_0: dict[str, Tensor]) -> None:
    assert list(predicted) == list(theta_0)
    assert ties(predicted) == ties(theta_0)
    for name, kind in kinds_of(theta_0).items():
        new, old = predicted[name], theta_0[name]
        assert new.shape == old.shape and new.dtype == old.dtype
        assert new.numel() == 0 or new.data_ptr() != old.data_ptr()
        if kind == "buffer":
            assert torch.equal(new, old)


@settings(deadline=None, max_examples=60)
@given(trajectories(), st.integers(1, 2))
def test_no_change_is_the_identity_bit_for_bit(trajectory, steps):
    theta_0 = trajectory[-1]
    for predicted in know.retrodict(trajectory, no_change, steps):
        check_form(predicted, theta_0)
        for name, tensor in theta_0.items():
            assert predicted[name].contiguous().flatten().view(torch.uint8).tolist() == (
                tensor.contiguous().flatten().view(torch.uint8).tolist()
            )


@settings(deadline=None, max_examples=60)
@given(trajectories())
def test_every_weight_of_every_layer_is_extrapolated(trajectory):
    theta_0 = trajectory[-1]
    predicted = know.retrodict(trajectory, linear)[0]
    check_form(predicted, theta_0)
    length = len(trajectory)
    for i, (name, kind) in enumerate(kinds_of(theta_0).items()):
        if kind == "buffer" or theta_0[name].numel() == 0:
            continue
        points = np.stack([list(theta.values())[i].double().numpy().ravel() for theta in trajectory])
        slope, intercept = np.polyfit(range(length), points, 1)
        expected = torch.from_numpy(slope * length + intercept).reshape(theta_0[name].shape)
        tolerance = max(10 * torch.finfo(theta_0[name].dtype).eps, 1e-12)
        torch.testing.assert_close(predicted[name].double(), expected, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=30)
@given(trajectories())
def test_states_survive_the_disk(tmp_path_factory, trajectory):
    path = tmp_path_factory.mktemp("states") / "state.safetensors"
    save_state(trajectory[-1], path)
    read = load_state(path)
    assert read.keys() == trajectory[-1].keys()
    for name, tensor in trajectory[-1].items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_tied_weights_are_tied_again_in_the_model(tmp_path):
    net = Tied()
    line = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for _ in range(2)]
    predicted = retrodict([*line, net.state_dict()], HyperModel(3))[0]
    assert predicted["out.weight"] is predicted["embedding.weight"]
    save_state(predicted, tmp_path / "x.safetensors")
    loaded = Tied()
    loaded.load_state_dict(load_state(tmp_path / "x.safetensors"))
    assert torch.equal(loaded.out.weight, predicted["embedding.weight"])
    assert loaded.out.weight is loaded.embedding.weight


def test_shared_memory_that_is_not_tied_can_be_saved(tmp_path):
    base = torch.arange(12.0)
    state = {"all": base, "part": base[2:5], "turned": base.view(3, 4).t(), "same": base}
    save_state(state, tmp_path / "x.safetensors")
    read = load_state(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_float64_is_more_than_float32():
    """A step of 1e-12 is below float32's resolution at 1; a hyper-model's residual is added in float64."""
    line = [{"weight": torch.full((2, 2), 1 + t * 1e-12, dtype=torch.float64)} for t in range(3)]
    predicted = retrodict(line, linear)[0]["weight"]
    torch.testing.assert_close(predicted, torch.full_like(predicted, 1 + 3e-12), rtol=0, atol=1e-15)
    model = HyperModel(3)
    for network in (model.conv, model.fc, model.bias):
        nn.init.zeros_(network.out.weight)
    assert torch.equal(retrodict(line, model)[0]["weight"], line[-1]["weight"])


def test_mixed_dtypes_along_a_trajectory_end_in_theta_0_s():
    line = [
        {"w": torch.tensor([1.0]).double()},
        {"w": torch.tensor([2.0]).half()},
        {"w": torch.tensor([3.0]).bfloat16()},
    ]
    predicted = retrodict(line, linear)[0]["w"]
    assert predicted.dtype == torch.bfloat16 and predicted.item() == 4


def test_kinds_can_be_overridden():
    line = [
        {"head.weight": torch.full((2, 2), float(t)), "body.weight": torch.full((2, 2), float(t))} for t in range(3)
    ]
    kinds = kinds_of(line[-1], [("head.*", "buffer"), ("body.*", "conv")])
    asked = []
    predicted = retrodict(line, lambda w, kind: asked.append(kind) or linear(w, kind), kinds=kinds)[0]
    assert asked == ["conv"] and (predicted["head.weight"] == 2).all() and (predicted["body.weight"] == 3).all()


@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_statistics_are_averaged_anew(training):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.9)).train(training)
    weights = [p.clone() for p in net.parameters()]
    batches = [torch.randn(8, 3) for _ in range(3)]
    know.reestimate_batchnorm(net, ([batch, torch.zeros(8)] for batch in batches))
    hidden = [net[0](batch) for batch in batches]
    torch.testing.assert_close(net[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert net.training == training and all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    before = net[1].running_mean.clone()
    with pytest.raises(ValueError, match="at least one batch"):
        know.reestimate_batchnorm(net, [])
    assert torch.equal(net[1].running_mean, before)
