"""Starts: the weights that fine-tuning begins from, their names and their order in every legend and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

import pandas as pd

Role = Literal["reference", "oracle", "method", "control"]


class Name(NamedTuple):
    """How a start is called. ``once``: its steps, if any, do not stand for amounts of virtual data."""

    label: str
    once: bool = False


NAMES: dict[str, Name] = {
    "scratch": Name("from scratch", once=True),
    "naive": Name("naïve transfer (Θ₀)", once=True),
    "more_data": Name("really more data"),
    "known": Name("KNOWN"),
    "scale_free": Name("scale-free KNOWN"),
    "wnn": Name("WNN"),
    "linear": Name("linear"),
    "log": Name("logarithmic"),
    "exponential": Name("exponential"),
    "average": Name("average"),
    "task_vector": Name("task vector"),
    "expo": Name("ExPO"),
    "tsv": Name("task singular vectors"),
    "shrunk": Name("Θ₀ shrunk to KNOWN's norms"),
    "shrink": Name("Θ₀ × λ", once=True),
    "shrink_perturb": Name("shrink and perturb", once=True),
    "repeated": Name("KNOWN on Θ₀ repeated"),
    "random_direction": Name("Θ₀ + noise of KNOWN's norm"),
    "flipped": Name("KNOWN's step flipped"),
    "trained_on": Name("Θ₀ trained on, same compute", once=True),
}
"""In order. A start of another name is called by it, and comes after these."""


@dataclass(frozen=True)
class Start:
    """Weights to fine-tune from: what made them, after how many retrodictions (0: none), and what they are there for.

    Two of one name and step are the same start. Starts sort as in legends and tables: by ``NAMES``, then by name and step.
    """

    name: str
    step: int = 0
    role: Role = field(default="method", compare=False)

    @classmethod
    def of(cls, row: Mapping[str, object]) -> Self:
        """The start of a table's row: method, steps, and, if the table has it, role."""
        return cls(str(row["method"]), int(str(row["steps"])), row.get("role", "method"))  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """ "KNOWN"."""
        return NAMES[self.name].label if self.name in NAMES else self.name.replace("_", " ")

    @property
    def once(self) -> bool:
        """Whether it stands for no amount of virtual data."""
        return self.step == 0 or (self.name in NAMES and NAMES[self.name].once)

    def data(self, rate: float) -> str:
        """ "×4" for two steps at r = 0.5: how much data it stands for; "" if for none."""
        return "" if self.once else virtual(self.step, rate)

    def written(self, rate: float) -> str:
        """ "KNOWN ×2"."""
        return f"{self.label} {self.data(rate)}".strip()

    def __lt__(self, other: Start) -> bool:
        return self._place() < other._place()

    def _place(self) -> tuple[int, str, int]:
        order = list(NAMES)
        return order.index(self.name) if self.name in order else len(order), self.name, self.step


SCRATCH, NAIVE = Start("scratch", 0, "reference"), Start("naive", 0, "reference")
MORE_DATA = Start("more_data", 1, "oracle")


def starts(table: pd.DataFrame) -> list[Start]:
    """The distinct starts of a table with method and steps, in order."""
    columns = [name for name in ("method", "steps", "role") if name in table]
    return sorted({Start.of(row) for row in table[columns].drop_duplicates().to_dict("records")})


def label(name: str) -> str:
    """A start's name in figures and tables, whatever its step."""
    return Start(name).label


def virtual(step: int, rate: float) -> str:
    """ "×4" for two steps at r = 0.5."""
    return f"×{rate**-step:.3g}"
