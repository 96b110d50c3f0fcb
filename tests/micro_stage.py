"""For benchmarks/kills.py, a stage to be killed: a notebook whose kernel lets two processes do forty small runs, each recorded."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_notebook

from know import paths

RUNS = 40
PATIENCE = 10.0  # seconds in which nothing may be left of a stage that was killed
KINDS = ("group", "kernel", "worker")

JOBS = """
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Job:
    number: int


def work(job: Job) -> torch.Tensor:
    time.sleep(0.25)
    return torch.rand(100_000, generator=torch.Generator().manual_seed(job.number))
"""
CELL = f"""
from pathlib import Path

from jobs import Job, work
from safetensors.torch import save_file

from know.paths import atomic
from know.run.executor import run_all
from know.run.options import Compute

compute = Compute(device="cpu", jobs=2, backend="loky", deterministic=False)
found = run_all(work, [Job(number) for number in range({RUNS})], compute, "work")
with atomic(Path(FOLDER) / "data" / "found.safetensors") as temporary:
    save_file({{str(number): tensor for number, tensor in enumerate(found)}}, temporary)
"""
STAGE = """
import sys
from pathlib import Path

from know import paths
from know.run.process import behave
from know.stages.__main__ import run_stage

root = Path(__file__).parent
paths.BUILD, paths.LOGS = root / "build", root / "logs"
behave()
run_stage("micro", root)
"""


@dataclass
class MicroStage:
    """The stage in a folder of its own. Its processes are known by a mark in their environment."""

    root: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        (self.root / "notebooks").mkdir(parents=True)
        (self.root / "jobs.py").write_text(JOBS)
        (self.root / "stage.py").write_text(STAGE)
        parameters = new_code_cell("params = {}", metadata={"tags": ["parameters"]})
        cell = new_code_cell(f"FOLDER = {str(self.root)!r}\n{CELL}")
        nbformat.write(new_notebook(cells=[parameters, cell]), self.root / "notebooks" / "micro.ipynb")
        (self.root / "dvc.yaml").write_text("stages: {micro: {cmd: c, deps: [notebooks/micro.ipynb], params: [rate]}}")

    def start(self) -> subprocess.Popen[bytes]:
        """In a process group of its own, as a shell starts it. What it says goes to a file, which no orphan keeps open."""
        environment = os.environ | {
            "KNOW_RUNS": str(self.root / "runs"),
            "KNOW_MICRO_STAGE": self.mark,
            "PYTHONPATH": f"{self.root}{os.pathsep}{paths.ROOT}",
        }
        with (self.root / "said").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "stage.py"], cwd=self.root, env=environment, stderr=said, start_new_session=True
            )

    def alive(self) -> list[psutil.Process]:
        """What runs of it, workers and kernel included."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("KNOW_MICRO_STAGE") == self.mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def records(self) -> set[Path]:
        return {
            path.parent for path in (self.root / "runs").glob("*/*/record.json") if not path.parent.name.startswith(".")
        }

    def temporaries(self) -> list[Path]:
        return [path for path in self.root.rglob(".*") if ".tmp" in path.name]

    def kill(self, kind: str, after: int, dice: random.Random) -> tuple[int, str]:
        """Kill it, or a part of it, once ``after`` runs are recorded and a random moment has passed.

        Returns:
            The stage's exit code and what it said, when nothing of it is left.

        Raises:
            AssertionError: something is left after ``PATIENCE`` seconds.
        """
        stage = self.start()
        while len(self.records()) < after and stage.poll() is None:
            time.sleep(0.01)
        assert stage.poll() is None, (self.root / "said").read_text()
        time.sleep(dice.uniform(0, 0.1))
        word = {"kernel": "ipykernel_launcher", "worker": "popen_loky"}.get(kind)
        if word is None:
            os.killpg(stage.pid, signal.SIGKILL)
        else:
            while not (targets := [one for one in self.alive() if any(word in part for part in one.cmdline())]):
                assert stage.poll() is None, (self.root / "said").read_text()
                time.sleep(0.01)
            dice.choice(targets).kill()
        if kind != "group":
            stage.wait()  # a stage that lost its kernel or a worker says so first
        ended = time.monotonic()
        while left := self.alive():
            assert time.monotonic() - ended < PATIENCE, [process.cmdline() for process in left]
            time.sleep(0.25)
        return stage.wait(), (self.root / "said").read_text()

    def finish(self) -> dict[str, bytes]:
        """Let it come to its end, and return what it made: its results, its notebook and its records."""
        stage = self.start()
        assert stage.wait() == 0, (self.root / "said").read_text()
        made = [self.root / "data" / "found.safetensors", self.root / "build" / "notebooks" / "micro.ipynb"]
        made += [path for record in self.records() for path in record.iterdir()]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in made}

    def forget(self) -> None:
        """As if it had never run."""
        for name in ("runs", "data", "build", "logs"):
            shutil.rmtree(self.root / name, ignore_errors=True)
