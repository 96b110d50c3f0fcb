"""know: knowledge-overflowed weights via retrodiction of forgetting (arXiv 2508.05059).

What ``know`` offers is loaded on first use, so that checking parameters or asking for help does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from know.prediction.known import KNOWN, load_hypermodel
    from know.prediction.retrodict import retrodict
    from know.training.loop import reestimate_batchnorm

__all__ = ["KNOWN", "load_hypermodel", "reestimate_batchnorm", "retrodict"]


def __getattr__(name: str) -> Any:
    if name in ("KNOWN", "load_hypermodel"):
        from know.prediction import known as hypermodel

        return getattr(hypermodel, name)
    if name == "retrodict":
        from know.prediction.retrodict import retrodict

        return retrodict
    if name == "reestimate_batchnorm":
        from know.training.loop import reestimate_batchnorm

        return reestimate_batchnorm
    raise AttributeError(f"module 'know' has no attribute {name!r}")
