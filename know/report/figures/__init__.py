"""The figures, in one style: each is one decorated function of the run's ``Results``, found by its name."""

from know.report.figures import path, transfer, weights
from know.report.figures.path import samples
from know.report.figures.style import save, use_style

__all__ = ["path", "samples", "save", "transfer", "use_style", "weights"]
