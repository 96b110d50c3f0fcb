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
    """Θ_{S-1} … Θ_0 of a source seed."""
    return paths.TRAJECTORIES / f"seed_{seed}"


def oracle_path(seed: int) -> Path:
    """The path that starts at the real Θ_{-1}: its Θ_{S-1} … Θ_0."""
    return paths.TRAJECTORIES / f"oracle_{seed}"


def trained_path(seed: int, images: int) -> Path:
    """The net trained on the first ``images`` images of a seed's order: Θ_0, Θ_{-1}, and those that show the headroom."""
    return paths.TRAJECTORIES / f"trained_{seed}" / f"{images}.safetensors"


def trained_on_path(seed: int) -> Path:
    """Θ_0 trained on for the forgetting runs' compute."""
    return paths.TRAJECTORIES / f"trained_{seed}" / "on.safetensors"


def start_path(seed: int, method: str, step: int) -> Path:
    """Where the weights of a start after ``step`` retrodictions are; naïve is step 0, the real Θ_{-1} step 1."""
    return paths.PREDICTIONS / f"seed_{seed}" / f"{method}_{step}.safetensors"


def oracle_start_path(seed: int, method: str, step: int) -> Path:
    """As ``start_path``, on the path that starts at the real Θ_{-1}."""
    return paths.PREDICTIONS / f"oracle_{seed}" / f"{method}_{step}.safetensors"


def saved_starts(folder: Path) -> list[tuple[str, int]]:
    """The starts in a folder of ``start_path``s: names and steps."""
    return sorted((path.stem.rpartition("_")[0], int(path.stem.rpartition("_")[2])) for path in folder.iterdir())
