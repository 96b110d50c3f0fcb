"""Two clones in one environment: each imports itself, and writes into itself, whichever one is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from know import paths

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KNOW_RUNS")}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone has of the committed files that a notebook needs, as they are here; ``know`` of the environment is another one."""
    root = tmp_path / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "know", "notebooks", "params.yaml", "data/embedded"],
        cwd=paths.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.split("\0")[:-1]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (paths.ROOT / name).is_symlink():
            (root / name).symlink_to((paths.ROOT / name).readlink())
        elif (paths.ROOT / name).is_file():
            (root / name).write_bytes((paths.ROOT / name).read_bytes())
    return root


def imported(folder: Path) -> str:
    """Where the package is that Python imports in a folder, and whether it finds its own code there."""
    code = "import know.paths, know.run.store as store; print(know.paths.ROOT, len(store._BEGAN) > 100)"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def test_what_runs_in_a_clone_imports_that_clone(clone):
    assert imported(clone) == f"{clone} True\n"


def test_papermill_runs_a_committed_notebook_in_its_clone(clone):
    """Where Jupyter would run it, in its own folder; in the clone's, as ``papermill`` does by itself, is easier."""
    assert imported(clone / "notebooks") == f"{clone} True\n"  # else it would write into the other clone
    command = [sys.executable, "-m", "papermill", "notebooks/01_downsize.ipynb", "out.ipynb", "--cwd", "notebooks"]
    done = subprocess.run(command, cwd=clone, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((clone / "data" / "splits").iterdir())) == 8 and (clone / "data" / "results").exists()
