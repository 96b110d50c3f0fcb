"""The figures, in one style: each is one decorated function of the run's ``Results``, found by its name.

A module a stage, so that a stage depends on the figures that its notebook draws, and on no others.
"""

from know.figures import ablations, hypermodel, landscape, path, subsets, transfer, weights
from know.figures.style import save, use_style
from know.figures.subsets import samples

__all__ = [
    "ablations",
    "hypermodel",
    "landscape",
    "path",
    "samples",
    "save",
    "subsets",
    "transfer",
    "use_style",
    "weights",
]
