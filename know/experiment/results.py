"""What the stages write and read: tables, and where the weights are."""

from pathlib import Path

import pandas as pd

from know import paths


def write_csv(table: pd.DataFrame, name: str, folder: Path | None = None) -> pd.DataFrame:
    """Write a table, by default to ``data/results/``, with six significant digits, and return it."""
    with paths.atomic((folder or paths.RESULTS) / name) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def read_csv(name: str) -> pd.DataFrame:
    """Read a table that an earlier stage wrote."""
    return pd.read_csv(paths.RESULTS / name)


def split_path(seed: int) -> Path:
    return paths.SPLITS / f"seed_{seed}.safetensors"


def trajectory_path(seed: int) -> Path:
    return paths.TRAJECTORIES / f"seed_{seed}"


def more_path(seed: int) -> Path:
    return paths.TRAJECTORIES / f"more_{seed}.safetensors"


def start_path(seed: int, method: str, step: int) -> Path:
    """Where the weights of a method after ``step`` retrodictions are; naïve is step 0, the real Θ_{-1} step 1."""
    return paths.PREDICTIONS / f"seed_{seed}" / f"{method}_{step}.safetensors"
