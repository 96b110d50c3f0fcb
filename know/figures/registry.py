"""Figures and tables by name: each is one decorated function of the run's ``Results``.

    @table("main", "Gain over naïve transfer …", needs=["transfer"])
    def main(results: Results) -> pd.DataFrame: ...

The name is the file's, the caption the page's; one whose ``needs`` are missing is left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from know.report.results import Results

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A figure or table: its ``caption``, the tables of ``data/results`` that it ``needs``, and the function that makes it.

    ``shown``: on the index page; others are files only.
    """

    name: str
    caption: str
    needs: tuple[str, ...]
    make: Callable[[Results], T]
    shown: bool


FIGURES: dict[str, Entry[Figure]] = {}
TABLES: dict[str, Entry[pd.DataFrame]] = {}


def _registered(
    registry: dict[str, Entry[T]], name: str, caption: str, needs: Sequence[str], shown: bool
) -> Callable[[Callable[[Results], T]], Callable[[Results], T]]:
    def register(make: Callable[[Results], T]) -> Callable[[Results], T]:
        if name in registry:
            raise ValueError(f"{name!r} is registered twice")
        registry[name] = Entry(name, caption, tuple(needs), make, shown)
        return make

    return register


def figure(
    name: str, caption: str, needs: Sequence[str] = (), shown: bool = True
) -> Callable[[Callable[[Results], Figure]], Callable[[Results], Figure]]:
    """Register a figure under its file's name."""
    return _registered(FIGURES, name, caption, needs, shown)


def table(
    name: str, caption: str, needs: Sequence[str] = (), shown: bool = True
) -> Callable[[Callable[[Results], pd.DataFrame]], Callable[[Results], pd.DataFrame]]:
    """Register a table under its file's name."""
    return _registered(TABLES, name, caption, needs, shown)
