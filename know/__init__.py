"""know: knowledge-overflowed weights via retrodiction of forgetting (arXiv 2508.05059).

``know.KNOWN``, ``know.load_hypermodel`` and ``know.retrodict`` are loaded on first use, so that checking parameters
or asking for help does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from know.hypermodel import KNOWN, load_hypermodel
    from know.prediction import retrodict

__all__ = ["KNOWN", "load_hypermodel", "retrodict"]


def __getattr__(name: str) -> Any:
    if name in ("KNOWN", "load_hypermodel"):
        from know import hypermodel

        return getattr(hypermodel, name)
    if name == "retrodict":
        from know.prediction import retrodict

        return retrodict
    raise AttributeError(f"module 'know' has no attribute {name!r}")
