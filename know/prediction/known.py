"""KNOWN, the hyper-model that predicts the next weight of a path from its last S (paper, Sec. 4; released code)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from know.paths import atomic
from know.weights.kinds import KINDS, Kind, Pointwise

Scale = Literal["none", "path", "wnn"]
"""How a hyper-model sees a path: "none", its weights as they are (the paper's); "path", in the path's own frame."""


class Activation(nn.Module):
    """x ↦ a(z) + g(z) · exp(k(z) · x) with z = ReLU(squeeze(x)): an additive term, a gain and a rate (64 → 8 → 64)."""

    def __init__(self, width: int = 64, hidden: int = 8) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, hidden)
        self.additive = nn.Linear(hidden, width)
        self.gain = nn.Linear(hidden, width)
        self.rate = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.squeeze(x).relu()
        return self.additive(z) + self.gain(z) * torch.exp(self.rate(z) * x)


class Stream(nn.Module):
    """Linear(inputs → 64), activation, Linear(64 → 32), LeakyReLU of slope 0.3."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, 64)
        self.activation = Activation()
        self.outer = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.outer(self.activation(self.inner(x))), 0.3)


class KNOWN(nn.Module):
    """Predicts the next weight of each path: w_S ≈ w_{S-1} + tanh(Linear([stream(w), stream(Δw)])).

    9,425 parameters for ``history_length`` S = 5. Acts on scalars: ``forward`` maps (N, S), most forgotten first and
    Θ_0's value last, to (N,), the predicted weights.
    """

    def __init__(self, history_length: int = 5) -> None:
        super().__init__()
        if history_length < 2:
            raise ValueError(f"history_length must be at least 2, got {history_length}")
        self.history_length = history_length
        self.weights = Stream(history_length)
        self.differences = Stream(history_length - 1)
        self.out = nn.Linear(64, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in self._regularised():
            limit = (3 * 0.1 / linear.in_features) ** 0.5  # Keras' VarianceScaling(0.1, fan_in, uniform)
            nn.init.uniform_(linear.weight, -limit, limit)

    def _regularised(self) -> list[nn.Linear]:
        return [layer for stream in (self.weights, self.differences) for layer in (stream.inner, stream.outer)]

    def forward(self, window: Tensor) -> Tensor:
        if window.ndim != 2 or window.shape[1] != self.history_length:
            raise ValueError(f"expected a window of shape (N, {self.history_length}), got {tuple(window.shape)}")
        return window[:, -1] + self.residual(window)

    def residual(self, window: Tensor) -> Tensor:
        """The step from w_{S-1} to w_S: (N, S) to (N,). ``know.prediction.engine.Folded`` is the same for prediction, faster."""
        dtype = self.out.weight.dtype  # a float64 window keeps its last weight; only the residual is in the net's own
        streams = torch.cat([self.weights(window.to(dtype)), self.differences(window.diff(dim=1).to(dtype))], 1)
        return torch.tanh(self.out(streams)).squeeze(1)

    def penalty(self) -> Tensor:
        """The released code's L1 penalty on the input and the 64 → 32 layers: 1e-6 on kernels, 0.1 on biases."""
        layers = self._regularised()
        kernels = torch.stack([layer.weight.abs().sum() for layer in layers]).sum()
        biases = torch.stack([layer.bias.abs().sum() for layer in layers]).sum()
        return 1e-6 * kernels + 0.1 * biases


def frame(window: Tensor, scale: Literal["path", "wnn"]) -> tuple[Tensor, Tensor]:
    """The frame of each path of a window (N, S): its origin and its unit, both (N, 1), from R = max - min.

    "path": from the newest weight w_{S-1}, in units of R, so that a path ends at 0 and spans 1 whatever the weight's
    size and the learning rate's, and one that stands still has unit 0. "wnn": from the oldest, w_0, in units of
    2(R + 1e-8 + 1e-5), the scaling of WNN (Jang et al., ICML 2023), whose network is KNOWN's.
    """
    spread = window.amax(1, keepdim=True) - window.amin(1, keepdim=True)
    return (window[:, -1:], spread) if scale == "path" else (window[:, :1], 2 * (spread + 1e-8 + 1e-5))


def framed(values: Tensor, origin: Tensor, unit: Tensor) -> Tensor:
    """(values - origin)/unit; 0 where a path stands still and so has no unit."""
    return (values - origin) / unit.clamp_min(torch.finfo(unit.dtype).tiny)


class HyperModel(nn.Module):
    """One KNOWN for each kind of weight. As a predictor, maps a window (N, S) of one kind to (N,).

    With ``scale`` "path" or "wnn" the networks work in each path's ``frame``: the prediction then follows a change of
    the weights' scale and origin (with "wnn" but for its 1e-5) and moves by less than one unit; with "path" it leaves a
    path alone that stands still. ``pointwise``: what 1×1 convolutions are to it, as it has learned them.
    """

    def __init__(
        self,
        history_length: int = 5,
        description: str = "",
        scale: Scale = "none",
        pointwise: Pointwise = "conv",
    ) -> None:
        super().__init__()
        self.history_length = history_length
        self.description = description
        self.scale = scale
        self.pointwise = pointwise
        self.conv, self.fc, self.bias = (KNOWN(history_length) for _ in KINDS)

    def of(self, kind: Kind) -> KNOWN:
        """The KNOWN of this kind."""
        return {"conv": self.conv, "fc": self.fc, "bias": self.bias}[kind]

    @torch.no_grad()
    def forward(self, window: Tensor, kind: Kind) -> Tensor:
        if self.scale == "none":
            return self.of(kind)(window)
        origin, unit = frame(window, self.scale)
        step = self.of(kind)(framed(window, origin, unit))
        return (origin + unit * step[:, None]).squeeze(1)


def save_hypermodel(model: HyperModel, folder: Path) -> None:
    """Write ``conv.safetensors``, ``fc.safetensors``, ``bias.safetensors`` and ``config.json``."""
    keys = ("history_length", "scale", "pointwise", "description")
    config = {key: getattr(model, key) for key in keys}
    with atomic(folder) as temporary:
        temporary.mkdir()
        for kind in KINDS:
            save_file(model.of(kind).state_dict(), temporary / f"{kind}.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def shipped() -> dict[str, Path]:
    """The hyper-models inside the package, by name."""
    root = Path(str(resources.files("know"))) / "prediction" / "hypermodels"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def load_hypermodel(name_or_dir: str | Path) -> HyperModel:
    """Load a shipped hyper-model by its name, or one from a folder.

    Raises:
        ValueError: there is none, or its files are not what ``save_hypermodel`` writes; names the file.
    """
    folder = shipped().get(str(name_or_dir), Path(name_or_dir))
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(
            f"{name_or_dir}: no hyper-model: neither a folder with config.json nor one of those shipped"
            f" ({', '.join(shipped()) or 'none'})"
        )
    try:
        options: Mapping[str, object] = json.loads(config.read_text())
        length, description = options["history_length"], options.get("description", "")
        scale, pointwise = options.get("scale", "none"), options.get("pointwise", "conv")
        if not isinstance(length, int) or length < 2 or not isinstance(description, str):
            raise ValueError("history_length must be an integer of at least 2")
        for key, value, allowed in (("scale", scale, get_args(Scale)), ("pointwise", pointwise, get_args(Pointwise))):
            if value not in allowed:
                raise ValueError(f"{key}: got {value!r}; allowed: {', '.join(allowed)}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config}: not a hyper-model's configuration: {error}") from None
    model = HyperModel(length, description, cast(Scale, scale), cast(Pointwise, pointwise))
    for kind in KINDS:
        path = folder / f"{kind}.safetensors"
        try:
            model.of(kind).load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{path}: not a KNOWN of history_length {length}: {' '.join(str(error).split())}"
            ) from None
    return model.eval()
