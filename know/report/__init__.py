"""Figures, tables, sentences and pages."""

from know.report import figures as figures  # registers them
