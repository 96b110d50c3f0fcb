"""Run the ablations of scripts/sweep.yaml: a grid of DVC experiments, each the whole pipeline with a few other parameters.

    python scripts/sweep.py                     # queue the cells that have not run, run the queue, write the table
    python scripts/sweep.py rate                # the same with just this ablation's cells
    python scripts/sweep.py --run               # without the queue: one after another, in this process
    python scripts/sweep.py --list              # the cells, what sets them apart, and which have run
    python scripts/sweep.py --export [COMMIT]   # only the table, data/measured/ablations.csv, of what ran on a commit

A cell is done when the commit has an experiment with exactly its parameters; cells with the same parameters, as the
default is in every ablation, are one experiment. DVC's run cache gives back every stage that has run before. Cells run
in temporary copies of the commit, so nothing touches the workspace; a stopped sweep goes on where it was. DVC's worker
outlives this script; if it was killed, DVC still calls its cell running, and --run runs the rest without it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from know import params as know_params
from know import paths
from know.analysis import ablations

DEFINITION = Path(__file__).with_suffix(".yaml")
POLL = 30.0  # seconds between looks at the queue, each of which costs DVC one or two


class SweepError(ValueError):
    """The sweep cannot run. The message is one line, with the mend."""


# --- the grid -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One experiment of an ablation: ``value`` is what the table calls it, ``name`` what DVC does."""

    ablation: str
    value: str
    name: str
    overrides: dict[str, Any]

    def parameters(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the cell, given the commit's.

        Raises:
            SweepError: an override is of no parameter.
        """
        changed = copy.deepcopy(dict(base))
        for key, value in self.overrides.items():
            *sections, last = key.split(".")
            section: Any = changed
            for name in sections:
                section = section.get(name) if isinstance(section, Mapping) else None
            if not isinstance(section, dict) or last not in section:
                raise SweepError(f"{self.name}: there is no parameter {key}; see params.yaml")
            section[last] = value
        return changed


def _choices(axis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The overrides of each choice; ``{parameter: [values]}`` stands for a choice a value."""
    if len(axis) == 1 and isinstance(values := next(iter(axis.values())), list):
        return {str(value): {key: value} for key in axis for value in values}
    return {choice: dict(overrides or {}) for choice, overrides in axis.items()}


def grid(definition: Mapping[str, Any]) -> list[Cell]:
    """Every cell: for each ablation the product of its axes, in the order in which they are written."""
    cells = []
    for ablation, given in definition["ablations"].items():
        axes = {name: _choices(axis) for name, axis in given.items() if name != "base"}
        for chosen in itertools.product(*(choices.items() for choices in axes.values())):
            overrides = dict(definition.get("base") or {}) | dict(given.get("base") or {})
            for _, more in chosen:
                overrides |= more
            name = "_".join(f"{axis}-{choice}" for axis, (choice, _) in zip(axes, chosen, strict=True))
            cells.append(Cell(ablation, ", ".join(choice for choice, _ in chosen), name, overrides))
    return cells


def override(key: str, value: object) -> str:
    """ "key=value" in the grammar of ``dvc exp run -S`` (Hydra's): strings quoted, the keys of mappings bare."""

    def text(value: object) -> str:
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{name}: {text(one)}" for name, one in value.items()) + "}"
        if isinstance(value, Sequence) and not isinstance(value, str):
            return "[" + ",".join(map(text, value)) + "]"
        return json.dumps(value, ensure_ascii=False)

    return f"{key}={text(value)}"


# --- DVC ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """One of a commit's experiments. ``state``: queued, running, failed or success."""

    name: str
    state: str
    parameters: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    log: str | None = None


@dataclass(frozen=True)
class Repository:
    """A DVC repository, whose stages call the ``python`` of this environment."""

    root: Path

    def call(self, *command: str, log: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command here; what it prints is captured, or goes to ``log``."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)  # a package on it would be imported before the experiment's own
        if log is None:
            return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            return subprocess.run(
                command, cwd=self.root, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True
            )

    def dvc(self, *arguments: str) -> str:
        """What a ``dvc`` command prints.

        Raises:
            SweepError: it failed.
        """
        done = self.call(sys.executable, "-m", "dvc", *arguments)
        if done.returncode:
            raise SweepError(f"dvc {' '.join(arguments)}: {' '.join((done.stderr or done.stdout).split())}")
        return done.stdout

    def commit(self, revision: str = "HEAD") -> str:
        """The full name of a commit."""
        done = self.call("git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if done.returncode:
            raise SweepError(f"{revision}: no such commit here")
        return done.stdout.strip()

    def changed(self) -> list[str]:
        """Tracked files that differ from the commit, which experiments would take along."""
        done = self.call("git", "status", "--porcelain", "--untracked-files=no")
        return [line[3:] for line in done.stdout.splitlines()]

    def experiments(self, commit: str) -> tuple[dict[str, Any], list[Experiment]]:
        """The commit's own parameters, and its experiments."""
        shown = json.loads(self.dvc("exp", "show", "--json", "--hide-workspace", "--rev", commit))
        row = next(row for row in shown if row["rev"] == commit)
        return _read(row["data"])[0], [_experiment(entry) for entry in row["experiments"] or []]

    def queue(self, cell: Cell) -> None:
        self.dvc("exp", "run", "--queue", "--name", cell.name, *_settings(cell))

    def run(self, cell: Cell, log: Path) -> bool:
        """Run a cell here and now; whether it succeeded."""
        command = ("exp", "run", "--temp", "--name", cell.name, *_settings(cell))
        return self.call(sys.executable, "-m", "dvc", *command, log=log).returncode == 0


def _settings(cell: Cell) -> Iterator[str]:
    for key, value in cell.overrides.items():
        yield from ("--set-param", override(key, value))


def _read(data: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and metrics in an entry of ``dvc exp show --json``; of all metrics files together."""
    data = data or {}
    parameters = ((data.get("params") or {}).get("params.yaml") or {}).get("data") or {}
    metrics: dict[str, Any] = {}
    for file in (data.get("metrics") or {}).values():
        metrics |= file.get("data") or {}
    return parameters, metrics


def _experiment(entry: Mapping[str, Any]) -> Experiment:
    last, executor = entry["revs"][0], entry.get("executor") or {}
    parameters, metrics = _read(last["data"])
    log = (executor.get("local") or {}).get("log")
    return Experiment(entry["name"], executor.get("state") or "success", parameters, metrics, log)


# --- the sweep ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Which cells have run on a commit."""

    base: dict[str, Any]
    experiments: list[Experiment]

    @classmethod
    def of(cls, repository: Repository, commit: str) -> State:
        return cls(*repository.experiments(commit))

    def find(self, cell: Cell, *states: str) -> Experiment | None:
        """The experiment with exactly this cell's parameters, in one of these states."""
        wanted = cell.parameters(self.base)
        found = (one for one in self.experiments if one.state in states and one.parameters == wanted)
        return next(found, None)

    def missing(self, cells: Sequence[Cell], *states: str) -> list[Cell]:
        """Cells without such an experiment, one of each set of parameters."""
        kept: list[Cell] = []
        for cell in cells:
            same = any(cell.parameters(self.base) == other.parameters(self.base) for other in kept)
            if not same and self.find(cell, *states) is None:
                kept.append(cell)
        return kept


def run(repository: Repository, cells: Sequence[Cell], queue: bool, poll: float = POLL) -> dict[str, str]:
    """Run the cells that have not run on HEAD; with ``queue`` by DVC's own worker, which outlives this process.

    Returns:
        The log of each cell that failed.

    Raises:
        SweepError: tracked files differ from the commit.
    """
    if changed := [name for name in repository.changed() if not name.startswith("data/measured/")]:
        raise SweepError(
            f"{', '.join(changed)}: differs from the commit that experiments belong to; commit or stash it"
        )
    commit = repository.commit()
    state = State.of(repository, commit)
    todo = state.missing(cells, "success", *(("queued", "running") if queue else ()))
    by_name = {one.name: one for one in state.experiments}
    for cell in todo:  # the name is free again, of a failure or of other parameters
        if (old := by_name.get(cell.name)) is not None and old.state != "running":
            repository.dvc(*(("exp", "remove") if old.state == "success" else ("queue", "remove")), cell.name)
    if not queue:
        failed = {}
        for number, cell in enumerate(todo, start=1):
            log = repository.root / "logs" / "sweep" / f"{cell.name}.log"
            print(f"{number}/{len(todo)} {cell.name}", flush=True)
            if not repository.run(cell, log):
                failed[cell.name] = str(log)
        return failed

    for cell in todo:
        repository.queue(cell)
    waited_for, idle = None, 2  # looks at a queue of which nothing runs
    while unfinished := (state := State.of(repository, commit)).missing(cells, "success", "failed"):
        running = [cell.name for cell in unfinished if state.find(cell, "running")]
        if waited_for != (waited_for := (running, len(unfinished))):
            print(f"running: {', '.join(running) or 'none yet'}; to do: {len(unfinished)}", flush=True)
        idle = 0 if running else idle + 1
        if idle > 2:
            if not any(state.find(cell, "queued") for cell in unfinished):
                break  # somebody took them out of the queue
            repository.dvc("queue", "start")  # not while one works: two workers would share the cores
            idle = 0
        time.sleep(poll)
    failures = ((cell, state.find(cell, "failed")) for cell in state.missing(cells, "success"))
    return {cell.name: (found and found.log) or "none" for cell, found in failures}


NAIVE = "naive_0"
"""Naïve transfer, as the metrics call it."""


def rows(cell: Cell, experiment: Experiment) -> Iterator[dict[str, object]]:
    """A row for each start, pooled over the numbers of labels, in the metrics' order. Gain and accuracy are shares."""
    p, metrics = experiment.parameters, experiment.metrics
    naive = metrics["accuracy"][NAIVE]
    gains: dict[str, dict[str, float]] = {NAIVE: {}} | metrics["gain"]
    setting = {
        "ablation": cell.ablation,
        "value": cell.value,
        "experiment": experiment.name,
        "history_length": p["history_length"],
        "rate": p["rate"],
        "source_images": p["downsize"]["source_images"],
        "dataset": p["downsize"]["dataset"],
        "architecture": p["forget"]["architecture"],
        "mode": p["forget"]["mode"],
        "batchnorm": p["predict"]["batchnorm"],
    }
    for start, gain in gains.items():
        method, _, steps = start.rpartition("_")
        yield setting | {
            "method": method,
            "steps": int(steps),
            "labels": "pooled",
            "gain": gain.get("mean"),
            "half_width": gain.get("half_width"),
            "accuracy": naive + gain.get("mean", 0.0),
            "accuracy_half_width": None,
            "units": len(p["downsize"]["source_seeds"]),
        }


def export(repository: Repository, cells: Sequence[Cell], commit: str, file: Path) -> list[str]:
    """Write the table of every cell that ran on a commit, in the grid's order.

    Returns:
        The names of the cells that have not.

    Raises:
        SweepError: none has; the file stays as it is.
    """
    state = State.of(repository, commit)
    found = [(cell, state.find(cell, "success")) for cell in cells]
    table = pd.DataFrame([row for cell, experiment in found if experiment for row in rows(cell, experiment)])
    if table.empty:
        raise SweepError(f"no cell has results on commit {commit[:7]}, so {file} stays as it is; run scripts/sweep.py")
    with paths.atomic(file) as temporary:
        table[list(ablations.COLUMNS)].to_csv(temporary, index=False, float_format="%.6g")
    return [cell.name for cell, experiment in found if experiment is None]


def check(cells: Sequence[Cell], base: Mapping[str, Any]) -> None:
    """Validate every cell's parameters, before any of them runs.

    Raises:
        SweepError: names the cell and the parameter.
    """
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            file = Path(folder) / f"{cell.name}.yaml"
            with file.open("w") as stream:
                YAML().dump(cell.parameters(base), stream)
            try:
                know_params.load(file)
            except know_params.ParamError as error:
                raise SweepError(f"{DEFINITION.name}: {error}") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablations", nargs="*", help="run just these")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--run", action="store_true", help="one after another in this process, without DVC's queue")
    how.add_argument("--list", action="store_true", help="show the cells, run nothing")
    how.add_argument("--export", nargs="?", const="HEAD", metavar="COMMIT", help="write the table, run nothing")
    options = parser.parse_args()
    yaml, repository = YAML(typ="safe"), Repository(paths.ROOT)
    try:
        definition = yaml.load(DEFINITION.read_text())
        cells = grid(definition)
        names = list(dict.fromkeys(cell.ablation for cell in cells))
        if unknown := [name for name in options.ablations if name not in names]:
            raise SweepError(f"{unknown[0]}: no such ablation; allowed: {', '.join(names)}")
        chosen = [cell for cell in cells if not options.ablations or cell.ablation in options.ablations]
        check(chosen, yaml.load(paths.PARAMS.read_text()))
        failed: dict[str, str] = {}
        if options.list:
            state = State.of(repository, repository.commit())
            for cell in chosen:
                done = next((s for s in ("success", "running", "queued", "failed") if state.find(cell, s)), "–")
                own = (override(*one) for one in cell.overrides.items() if one[0] not in definition["base"])
                print(f"{cell.ablation:16} {cell.name:31} {done:8} {' '.join(own)}")
            return 0
        commit = repository.commit(options.export or "HEAD")
        if not options.export:
            failed = run(repository, chosen, queue=not options.run)
            for name, log in failed.items():
                print(f"{name}: failed; its log is {log}", file=sys.stderr)
        missing = export(repository, cells, commit, ablations.FILE)
    except SweepError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on (what is queued goes on by itself: dvc queue status)", file=sys.stderr)
        return 130
    print(
        f"{ablations.FILE}: written" + (f"; not in it, for they have not run: {', '.join(missing)}" if missing else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
