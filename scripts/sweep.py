"""Run the ablations of scripts/ablations.yaml on DVC's queue, and collect what came out in data/measured/ablations.csv.

    python scripts/sweep.py                     # queue the cells that have not run on this commit, run them, write the table
    python scripts/sweep.py rate mode           # the same with just these ablations' cells
    python scripts/sweep.py --list              # every cell, and whether it has run
    python scripts/sweep.py [rate …] --export [COMMIT]   # only the table, of what ran on a commit, of all ablations or just these

A cell is an experiment, and has run when the commit has one with exactly its parameters: so a stopped sweep goes on where it
was, and the default, which is in every ablation, runs once. `dvc queue status`, `logs` and `kill` look after the queue.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from use_profile import merge

from know import params, paths
from know.analysis.ablations import COLUMNS, FILE

DEFINITION = Path(__file__).with_name("ablations.yaml")


@dataclass(frozen=True)
class Cell:
    """One experiment: ``value`` is what the table calls it, ``settings`` its grid's, ``swept`` its own place in the grid."""

    ablation: str
    value: str
    settings: dict[str, Any]
    swept: dict[str, Any]

    def parameters(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """All of the cell's parameters, given the commit's."""
        changed = dict(base)
        for key, value in (self.settings | self.swept).items():
            for name in reversed(key.split(".")):
                value = {name: value}
            changed = merge(changed, value)
        return changed


def cells_of(definition: Mapping[str, Any]) -> list[Cell]:
    """Every cell of every grid, in the order in which they are written."""
    found = []
    for ablation, grids in definition["ablations"].items():
        for grid in grids:
            settings = definition["base"] | grid.get("set", {})
            for swept in [{key: v} for key, values in grid.get("sweep", {}).items() for v in values] or [{}]:
                names = [*swept.values(), *([grid["name"]] if "name" in grid else [])]
                found.append(Cell(ablation, ", ".join(map(str, names)), settings, swept))
    return found


def check(cells: Sequence[Cell], base: Mapping[str, Any]) -> None:
    """Raises ``ParamError``, which names the cell and its wrong parameter, before any cell runs."""
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            file = Path(folder) / f"{cell.ablation} {cell.value}"
            with file.open("w") as stream:
                YAML().dump(cell.parameters(base), stream)
            params.load(file)


def call(root: Path, *command: str, shown: bool = False) -> str:
    """What a command prints, unless it is ``shown``, as one must be that starts DVC's worker, which would keep a pipe open. Stages call the ``python`` of this environment, which imports the copy of
    the package that the experiment has, and share this folder's data sets and records of runs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shared = {"PATH": path, "KNOW_DATA": str(paths.RAW), "KNOW_RUNS": str(paths.RUNS)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | shared
    output = None if shown else subprocess.PIPE
    return subprocess.run(command, cwd=root, env=environment, stdout=output, text=True, check=True).stdout or ""


def experiments(root: Path, commit: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The commit's parameters; and the ``name``, ``state``, ``params`` and ``metrics`` of each of its experiments."""

    def read(data: Mapping[str, Any] | None, kind: str) -> dict[str, Any]:
        files = ((data or {}).get(kind) or {}).values()
        return {key: value for file in files for key, value in (file.get("data") or {}).items()}

    row = json.loads(call(root, "dvc", "exp", "show", "--json", "--hide-workspace", "--rev", commit))[-1]
    found = []
    for entry in row["experiments"] or []:
        last = {kind: read(entry["revs"][0]["data"], kind) for kind in ("params", "metrics")}
        state = (entry.get("executor") or {}).get("state") or "success"  # else queued, running or failed
        found.append({"name": entry["name"], "state": state} | last)
    return read(row["data"], "params"), found


def text(value: object) -> str:
    """A value in the grammar of ``dvc exp run -S`` (Hydra's): strings quoted, the keys of mappings bare."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}: {text(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def queue(root: Path, cells: Sequence[Cell], commit: str) -> None:
    """Queue the cells that have not run and neither wait nor run; DVC expands what is left of each grid."""
    base, found = experiments(root, commit)
    there, todo = [one["params"] for one in found if one["state"] != "failed"], []
    for cell in cells:
        if (wanted := cell.parameters(base)) not in there:
            there.append(wanted)
            todo.append(cell)
    for (settings, keys), grid in itertools.groupby(todo, key=lambda cell: (cell.settings, list(cell.swept))):
        part = list(grid)
        choices = {key: ",".join(text(cell.swept[key]) for cell in part) for key in keys}
        changes = {key: text(value) for key, value in settings.items()} | choices
        call(root, "dvc", "exp", "run", "--queue", *(f"-S{key}={value}" for key, value in changes.items()))


def rows(cell: Cell, name: str, p: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """A row a start, with all labels; gain and accuracy are shares. Draws are paired, so an accuracy that
    the metrics do not have is naïve transfer's and the gain."""
    downsize, forget, predict = (p[section] for section in ("downsize", "forget", "predict"))
    setting = {"ablation": cell.ablation, "value": cell.value, "experiment": name, "labels": "all"}
    setting |= {name: p[name] for name in ("history_length", "rate")} | {"units": len(downsize["source_seeds"])}
    setting |= {name: downsize[name] for name in ("source_images", "dataset")}
    setting |= {name: forget[name] for name in ("architecture", "mode")} | {"batchnorm": predict["batchnorm"]}
    accuracies, gains = metrics["accuracy"], metrics["gain"]
    for start in dict.fromkeys([*accuracies, *gains]):
        method, _, steps = start.rpartition("_")
        gain = gains.get(start, {})
        known = accuracies["naive_0"] + gain.get("mean", 0.0)
        yield setting | {
            "method": method, "steps": int(steps), "gain": gain.get("mean"), "half_width": gain.get("half_width"),
            "accuracy": accuracies.get(start, known), "accuracy_half_width": None,
        }  # fmt: skip


def export(root: Path, cells: Sequence[Cell], commit: str, file: Path) -> list[Cell]:
    """Write the table of the cells that ran on a commit, and return the others; if none ran the file stays as it is."""
    base, found = experiments(root, commit)
    table, missing = [], []
    for cell in cells:
        ran = (one for one in found if one["state"] == "success" and one["params"] == cell.parameters(base))
        if (one := next(ran, None)) is None:
            missing.append(cell)
        else:
            table += rows(cell, one["name"], one["params"], one["metrics"])
    if table:
        with paths.atomic(file) as temporary:
            pd.DataFrame(table)[list(COLUMNS)].to_csv(temporary, index=False, float_format="%.6g")
    return missing


def main(root: Path = paths.ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablations", nargs="*", help="run just these")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--list", action="store_true", help="show the cells, run nothing")
    how.add_argument("--export", nargs="?", const="HEAD", metavar="COMMIT", help="write the table, run nothing")
    options = parser.parse_args()
    cells = cells_of(YAML(typ="safe").load(DEFINITION.read_text()))
    if unknown := set(options.ablations) - {cell.ablation for cell in cells}:
        parser.error(f"no such ablation: {', '.join(unknown)}; allowed: {', '.join({c.ablation: 0 for c in cells})}")
    chosen = [cell for cell in cells if cell.ablation in (options.ablations or cell.ablation)]
    commit = call(root, "git", "rev-parse", f"{options.export or 'HEAD'}^{{commit}}").strip()
    check(chosen, YAML(typ="safe").load(call(root, "git", "show", f"{commit}:params.yaml")))
    if options.list:
        base, found = experiments(root, commit)
        states = [next((one["state"] for one in found if one["params"] == c.parameters(base)), "–") for c in chosen]
        print(*(f"{c.ablation:16} {c.value:24} {state}" for c, state in zip(chosen, states, strict=True)), sep="\n")
        return 0
    if not options.export:
        if call(root, "git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!data/measured"):
            sys.exit("tracked files differ from the commit, and experiments would take that along: commit or stash it")
        call(root, "dvc", "queue", "remove", "--failed")
        queue(root, chosen, commit)
        call(root, "dvc", "exp", "run", "--run-all", shown=True)
    missing = export(root, chosen if options.export else cells, commit, FILE)
    for cell in missing:
        print(f"has not run: {cell.ablation} {cell.value}", file=sys.stderr)
    return int(any(cell in chosen for cell in missing))


if __name__ == "__main__":
    sys.exit(main())
