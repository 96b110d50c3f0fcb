"""What the stages write and read: tables, and where the weights are."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from safetensors.torch import save_file

from know import paths
from know.analysis.starts import Role
from know.weights.kinds import State


def write_csv(table: pd.DataFrame, name: str, folder: Path | None = None) -> pd.DataFrame:
    """Write a table, by default to ``data/results/``, with six significant digits, and return it."""
    with paths.atomic((folder or paths.RESULTS) / name) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def read_csv(name: str) -> pd.DataFrame:
    """Read a table that an earlier stage wrote."""
    return pd.read_csv(paths.RESULTS / name)


def write_state(state: State, path: Path) -> Path:
    """Write a state as safetensors, and return where."""
    with paths.atomic(path) as temporary:
        save_file(state, temporary)
    return path


def split_path(seed: int) -> Path:
    return paths.SPLITS / f"seed_{seed}.safetensors"


def trajectory_path(seed: int) -> Path:
    """Θ_{S-1} … Θ_0 of a source seed."""
    return paths.TRAJECTORIES / f"seed_{seed}"


def oracle_path(seed: int) -> Path:
    """The path that starts at the real Θ_{-1}: its Θ_{S-1} … Θ_0."""
    return paths.TRAJECTORIES / f"oracle_{seed}"


def sham_path(seed: int) -> Path:
    """The path of as many steps of training as forgetting takes, always on all of D_0: its Θ_{S-1} … Θ_0."""
    return paths.TRAJECTORIES / f"sham_{seed}"


def trained_path(seed: int, images: int) -> Path:
    """The net trained on the first ``images`` images of a seed's order: Θ_0, Θ_{-1}, and those that show the headroom."""
    return paths.TRAJECTORIES / f"trained_{seed}" / f"{images}.safetensors"


def trained_on_path(seed: int) -> Path:
    """Θ_0 trained on for the forgetting runs' compute."""
    return paths.TRAJECTORIES / f"trained_{seed}" / "on.safetensors"


Track = Literal["main", "oracle"]
"""Which path a start is made from: the one that starts at Θ_0, or the one that starts at the real Θ_{-1}."""


@dataclass(frozen=True)
class SavedStart:
    """A start that the prediction stage wrote for every source seed.

    ``candidate``: which of its method's candidates, with the ``options`` in which they differ. A net of role "headroom" has
    the number of its images as ``steps``; Θ_k, of role "path", its k. ``batchnorm``: the rule that it was made under;
    ``crossed``: beside its own.
    """

    track: Track
    method: str
    candidate: int
    steps: int
    role: Role | Literal["headroom", "path"]
    options: str = ""
    batchnorm: str = ""
    crossed: bool = False

    def path(self, seed: int) -> Path:
        """Where its weights are."""
        rule = f"-{self.batchnorm}" if self.crossed else ""
        name = f"{self.method}-{self.candidate}-{self.steps}{rule}.safetensors"
        return paths.PREDICTIONS / f"{self.track}_{seed}" / name


STARTS = "starts.csv"


def write_starts(starts: list[SavedStart]) -> None:
    """Write the list of starts beside their weights."""
    write_csv(pd.DataFrame([asdict(start) for start in starts]), STARTS, paths.PREDICTIONS)


def read_starts() -> list[SavedStart]:
    """Every start that the prediction stage wrote."""
    table = pd.read_csv(paths.PREDICTIONS / STARTS, keep_default_na=False)
    return [SavedStart(**row) for row in table.to_dict("records")]
