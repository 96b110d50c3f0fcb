"""The rule for kinds against what the modules themselves say, and names with and without wrappers."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from know.weights.batchnorm import batchnorm_note
from know.weights.kinds import bare_name, kind_of, kinds_of, matched_names, parse_overrides, ties

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MATRICES = (nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)
OWN_PARAMETERS = {  # of torchvision's transformers: not a layer's, so decided by their shapes
    "class_token": "bias",
    "pos_embedding": "fc",
    "layer_scale": "bias",
    "relative_position_bias_table": "fc",
}


def kinds_by_module(net: nn.Module) -> dict[str, str]:
    """What each layer's type says, which a state dict does not have."""
    kinds = {name: "buffer" for name, _ in net.named_buffers()}
    for prefix, module in net.named_modules():
        for leaf, _ in module.named_parameters(recurse=False):
            if leaf in OWN_PARAMETERS:
                kind = OWN_PARAMETERS[leaf]
            elif "bias" in leaf or not isinstance(module, CONVOLUTIONS + MATRICES):
                kind = "bias"  # and the affine part of every normalisation
            else:
                kind = "conv" if isinstance(module, CONVOLUTIONS) else "fc"
            kinds[f"{prefix}.{leaf}".removeprefix(".")] = kind
    return {name: kinds[name] for name in net.state_dict()}


@pytest.mark.parametrize(
    "factory",
    [
        torchvision.models.mobilenet_v2,
        torchvision.models.densenet121,
        torchvision.models.vit_b_16,
        torchvision.models.swin_t,
        torchvision.models.convnext_tiny,
        torchvision.models.video.r3d_18,
    ],
)
def test_torchvision(factory):
    with torch.device("meta"):
        net = factory()
    assert kinds_of(net.state_dict()) == kinds_by_module(net)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(1, 1, 1), nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(3, 2, 2), nn.ConvTranspose3d(1, 2, 1),
        nn.Linear(3, 1), nn.Embedding(5, 2), nn.LSTM(1, 2, bidirectional=True), nn.PReLU(3),
        nn.MultiheadAttention(4, 2, add_bias_kv=True), nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        nn.LayerNorm((2, 3, 4)), nn.GroupNorm(2, 4), nn.BatchNorm3d(2), nn.InstanceNorm1d(2, affine=True),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_layers(layer):
    for net in (layer, nn.Sequential(layer)):
        assert kinds_of(net.state_dict()) == kinds_by_module(net)


def test_parametrised_layers():
    weight_norm = kinds_of(parametrizations.weight_norm(nn.Conv2d(2, 3, 3)).state_dict())
    assert weight_norm == {
        "bias": "bias", "parametrizations.weight.original0": "bias", "parametrizations.weight.original1": "conv"
    }  # fmt: skip
    assert (
        kind_of("weight_g", torch.zeros(3, 1, 1, 1)) == "bias" and kind_of("weight_v", torch.zeros(3, 2, 3)) == "conv"
    )
    spectral = kinds_of(parametrizations.spectral_norm(nn.Linear(2, 3)).state_dict())
    assert spectral == {
        "bias": "bias", "parametrizations.weight.original": "fc",
        "parametrizations.weight.0._u": "buffer", "parametrizations.weight.0._v": "buffer",
    }  # fmt: skip


def test_parameters_of_a_module_s_own_and_buffers():
    shapes = {"cls": (1, 1, 8), "pos": (1, 9, 8), "scale": (8, 1, 1), "temperature": (), "experts": (4, 8, 8), "k": (4, 2, 3, 3)}  # fmt: skip
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert list(kinds_of(state).values()) == ["bias", "fc", "bias", "bias", "fc", "conv"]
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        assert kind_of("weight", torch.zeros(3, 3, dtype=dtype)) == "buffer"
    assert kind_of("rope.inv_freq", torch.zeros(4)) == "buffer"


def test_overrides():
    state = {name: torch.zeros(3, 3) for name in ("module.head.a", "module.head.b", "body")}
    state["step"] = torch.tensor(1)
    assert kinds_of(state, [("head.*", "buffer"), ("*.b", "conv")]) == {
        "module.head.a": "buffer", "module.head.b": "conv", "body": "fc", "step": "buffer"
    }  # fmt: skip
    assert kinds_of(state, [("module.head.a", "bias"), ("*", "buffer")])["module.head.a"] == "buffer"  # the last
    with pytest.raises(ValueError, match=r"'haed\.\*': no tensor has a name that matches"):
        kinds_of(state, [("haed.*", "buffer")])
    with pytest.raises(ValueError, match=r"step: torch.int64 cannot be extrapolated as 'fc'"):
        kinds_of(state, [("s*", "fc")])
    with pytest.raises(ValueError, match="got 'linear'; allowed: conv, fc, bias, buffer"):
        kinds_of(state, [("body", "linear")])


def test_overrides_from_the_command_line():
    assert parse_overrides(["head.*=buffer", "a=b=fc"]) == [("head.*", "buffer"), ("a=b", "fc")]
    for wrong in ("head", "head=", "=fc", "head=FC"):
        with pytest.raises(ValueError, match=f"--kind: got '{wrong}'; allowed: PATTERN=KIND"):
            parse_overrides([wrong])


def test_names_of_wrapped_models():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    own = list(net.state_dict())
    partly = nn.Sequential(torch.compile(net[0]), nn.ReLU())
    for wrapped in (torch.compile(net), nn.DataParallel(net), nn.DataParallel(torch.compile(net)), partly):
        theirs = list(wrapped.state_dict())
        assert theirs != own and matched_names(own, theirs[::-1]) == dict(zip(own, theirs, strict=True))
    assert bare_name("module") == "module" and bare_name("a.module.b") == "a.module.b"


def test_names_that_differ_are_named():
    with pytest.raises(ValueError, match="'b' is not in all"):
        matched_names(["a", "b"], ["module.a"])
    with pytest.raises(ValueError, match=r"'module\.b' is not in all"):
        matched_names(["a"], ["module.a", "module.b"])
    # an average of a model beside the model: bare names collide, so full ones decide
    assert matched_names(["a", "module.a"], ["module.a", "a"]) == {"a": "a", "module.a": "module.a"}


def test_ties_are_the_same_view_of_the_same_memory():
    base = torch.arange(6.0)
    state = {
        "a": base,
        "b": base,
        "rows": base.view(2, 3),
        "part": base[:3],
        "copy": base.clone(),
        "none": torch.zeros(0),
    }
    assert ties(state) == {"b": "a"}
    assert ties({"x": torch.zeros(2, device="meta"), "y": torch.zeros(2, device="meta")}) == {}


def test_tied_tensors_have_the_kind_of_the_first():
    table = torch.zeros(4, 3, 2)
    assert kinds_of({"codes": table, "conv.weight": table}) == {"codes": "fc", "conv.weight": "fc"}


def test_batchnorm_note():
    assert batchnorm_note(nn.Linear(2, 2).state_dict()) is None
    assert "know.reestimate_batchnorm" in str(batchnorm_note(nn.BatchNorm1d(2).state_dict()))
