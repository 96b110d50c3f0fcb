"""Starts: the weights that fine-tuning begins from, their names and their order in every legend and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

import pandas as pd

Role = Literal["reference", "oracle", "method", "control", "tuned"]


class Name(NamedTuple):
    """How a start is called. ``once``: its steps, if any, do not stand for amounts of virtual data."""

    label: str
    once: bool = False


NAMES: dict[str, Name] = {
    "scratch": Name("from scratch", once=True),
    "naive": Name("naïve transfer (Θ₀)", once=True),
    "more_data": Name("really more data"),
    "released": Name("released KNOWN"),
    "known": Name("KNOWN"),
    "scale_free": Name("scale-free KNOWN"),
    "wnn": Name("WNN"),
    "shipped": Name("shipped KNOWN"),
    "linear_map": Name("meta-trained linear map"),
    "linear": Name("linear"),
    "log": Name("logarithmic"),
    "exponential": Name("exponential"),
    "task_vector": Name("task vector"),
    "expo": Name("ExPO"),
    "tsv": Name("task singular vectors"),
    "shrunk": Name("Θ₀ shrunk to KNOWN's norms"),
    "direction_only": Name("KNOWN's direction, Θ₀'s norms"),
    "shrink": Name("Θ₀ × λ", once=True),
    "shrink_perturb": Name("shrink and perturb", once=True),
    "repeated": Name("KNOWN on Θ₀ repeated"),
    "random_direction": Name("Θ₀ + noise of KNOWN's norm"),
    "flipped": Name("KNOWN's step flipped"),
    "sham": Name("KNOWN on a path without forgetting"),
    "trained_on": Name("Θ₀ trained on, same compute", once=True),
    "average": Name("Θ₀ averaged, same compute", once=True),
    "head_zero": Name("Θ₀, head at zero", once=True),
}
"""In order. A start of another name is called by it, and comes after these; last come those with a learning rate of their own."""
TUNED = "_tuned"
"""The end of the name of a start that is fine-tuned at its own best learning rate."""


@dataclass(frozen=True)
class Start:
    """Weights to fine-tune from: what made them, after how many retrodictions (0: none), and what they are there for.

    ``rule``: the one for BatchNorm, of a start that is made under another rule beside its own. Two of one name, step and rule
    are the same start. Starts sort as in legends and tables: by ``NAMES``, then by name, rule and step.
    """

    name: str
    step: int = 0
    role: Role = field(default="method", compare=False)
    rule: str = ""

    @classmethod
    def of(cls, row: Mapping[str, object]) -> Self:
        """The start of a table's row: method, steps, and, if the table has them, role, batchnorm and crossed."""
        rule = str(row["batchnorm"]) if row.get("crossed") else ""
        return cls(str(row["method"]), int(str(row["steps"])), row.get("role", "method"), rule)  # type: ignore[arg-type]

    @property
    def _untuned(self) -> str:
        return self.name.removesuffix(TUNED)

    @property
    def _named(self) -> Name:
        return NAMES.get(self._untuned) or Name(self._untuned.replace("_", " "))

    @property
    def label(self) -> str:
        """ "KNOWN"; "KNOWN, rate tuned"."""
        called = self._named.label
        return f"{called}, rate tuned" if self.name.endswith(TUNED) else called

    @property
    def once(self) -> bool:
        """Whether it stands for no amount of virtual data."""
        return self.step == 0 or self._named.once

    def data(self, rate: float) -> str:
        """ "×4" for two steps at r = 0.5: how much data it stands for; "" if for none."""
        return "" if self.once else virtual(self.step, rate)

    def written(self, rate: float) -> str:
        """ "KNOWN ×2"."""
        rule = f"(BatchNorm {self.rule})" if self.rule else ""
        return " ".join(part for part in (self.label, self.data(rate), rule) if part)

    def __lt__(self, other: Start) -> bool:
        return self._place() < other._place()

    def _place(self) -> tuple[bool, int, str, str, int]:
        order = list(NAMES)
        place = order.index(self._untuned) if self._untuned in order else len(order)
        return self.name.endswith(TUNED), place, self.name, self.rule, self.step


SCRATCH, NAIVE = Start("scratch", 0, "reference"), Start("naive", 0, "reference")
MORE_DATA = Start("more_data", 1, "oracle")


def starts(table: pd.DataFrame) -> list[Start]:
    """The distinct starts of a table with method and steps, in order."""
    columns = [name for name in ("method", "steps", "role", "batchnorm", "crossed") if name in table]
    return sorted({Start.of(row) for row in table[columns].drop_duplicates().to_dict("records")})


def label(name: str) -> str:
    """A start's name in figures and tables, whatever its step."""
    return Start(name).label


def virtual(step: int, rate: float) -> str:
    """ "×4" for two steps at r = 0.5."""
    return f"×{rate**-step:.3g}"
