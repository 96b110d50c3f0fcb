"""know: knowledge-overflowed weights via retrodiction of forgetting (arXiv 2508.05059).

What ``know`` offers is loaded on first use, so that checking parameters or asking for help does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from know.data.subsets import nested_subsets, stratified_order
    from know.prediction import controls, predictors
    from know.prediction.controls import control
    from know.prediction.known import KNOWN, load_hypermodel
    from know.prediction.predictors import predictor
    from know.prediction.retrodict import retrodict
    from know.training.forgetting import forget
    from know.training.loop import reestimate_batchnorm
    from know.weights.files import load_state, save_state

_HOME = {
    "KNOWN": "know.prediction.known",
    "control": "know.prediction.controls",
    "forget": "know.training.forgetting",
    "load_hypermodel": "know.prediction.known",
    "load_state": "know.weights.files",
    "nested_subsets": "know.data.subsets",
    "predictor": "know.prediction.predictors",
    "reestimate_batchnorm": "know.training.loop",
    "retrodict": "know.prediction.retrodict",
    "save_state": "know.weights.files",
    "stratified_order": "know.data.subsets",
}
_MODULES = {"controls": "know.prediction.controls", "predictors": "know.prediction.predictors"}

__all__ = [
    "KNOWN", "control", "controls", "forget", "load_hypermodel", "load_state", "nested_subsets", "predictor", "predictors",
    "reestimate_batchnorm", "retrodict", "save_state", "stratified_order",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":
        from know.run.version import version

        return version()
    raise AttributeError(f"module 'know' has no attribute {name!r}")
