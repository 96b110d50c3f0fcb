"""Figures, tables, sentences and pages."""

from know import figures as figures  # registers them
from know.report import tables as tables  # likewise
