"""What stands in the way of a run on this machine, and how each thing is mended: ``know doctor``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

from know import paths

GIGABYTE = 1 << 30
NEEDED = 5 * GIGABYTE  # of disk: the default experiment's outputs, DVC's copies of them, and the records of its runs
WORKER = 0.7 * GIGABYTE  # of memory, for a process that trains


@dataclass(frozen=True)
class Finding:
    """Something looked at, and, if it stands in the way, its mend."""

    text: str
    mend: str = ""


def doctor() -> None:
    """Look at versions, device, memory, disk, data and the environment's lock; say how to mend what is wrong."""
    found = list(findings())
    for finding in found:
        typer.echo(f"ok     {finding.text}" if not finding.mend else f"WRONG  {finding.text}; mend: {finding.mend}")
    raise typer.Exit(int(any(finding.mend for finding in found)))


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it would be met: all that the experiment needs, in a clone of its
    repository; of an installed package, what prediction needs."""
    yield Finding(f"Python {sys.version.split()[0]} at {sys.prefix}")
    lock = paths.ROOT / "requirements.lock"
    if not lock.exists():
        yield Finding("no requirements.lock: not the repository, but the installed package")
        yield from _machine(os.cpu_count() or 1)
        return
    import joblib

    yield from _environment(lock)
    yield from _commands()
    yield from _machine(joblib.cpu_count())
    yield from _disk()
    yield from _parameters_and_data()


def _environment(lock: Path) -> Iterator[Finding]:
    lines = lock.read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    installed = {name: _version(name) for name in locked}
    different = [f"{name} {installed[name]} for {locked[name]}" for name in locked if installed[name] != locked[name]]
    if different:
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        yield Finding(
            f"not what requirements.lock says: {', '.join(different[:5])}{more}", "touch pyproject.toml; make install"
        )
    else:
        yield Finding(f"{len(locked)} packages, as requirements.lock says")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "nothing"


def _commands() -> Iterator[Finding]:
    """The stages call the `python` on the path, DVC calls git."""
    for command, mend in (("dvc", "make repro, or put the environment's bin on PATH"), ("git", "install git")):
        where = shutil.which(command)
        yield Finding(f"{command} at {where}") if where else Finding(f"no {command} on the path", mend)
    python = shutil.which("python")
    if python is None or Path(python).parent.resolve() != Path(sys.executable).parent.resolve():
        yield Finding(
            f"`python`, which the stages call, is {python}, not this environment's",
            f"make repro, or export PATH={Path(sys.executable).parent}:$PATH",
        )


def _machine(cores: int) -> Iterator[Finding]:
    import psutil
    import torch

    from know.prediction import kernel
    from know.run.device import device_named

    threads = torch.get_num_threads()
    yield Finding(f"PyTorch {torch.__version__}, device {device_named('auto')}, {threads} threads on {cores} cores")
    if threads > cores:
        yield Finding(f"{threads} threads share {cores} cores", f"export OMP_NUM_THREADS={cores}")
    try:
        yield Finding(f"know predict on the CPU by the compiled kernel, {kernel.library()._name}")
    except kernel.Unavailable as error:
        yield Finding(f"know predict on the CPU by PyTorch's operations: no compiled kernel: {error}")
    free = psutil.virtual_memory().available
    text = f"{free / GIGABYTE:.1f} GB of memory free, for {cores} processes"
    yield Finding(text, "close other programs, or set compute.jobs lower") if free < cores * WORKER else Finding(text)


def _disk() -> Iterator[Finding]:
    places = {"data": paths.DATA, "records of runs": paths.RUNS, "DVC's cache": paths.ROOT / ".dvc" / "cache"}
    for name, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        text = f"{name} in {place}: {_size(place)}, {free / GIGABYTE:.1f} GB free"
        if not os.access(there, os.W_OK):
            yield Finding(f"{text}, cannot be written", f"chown or chmod {there}")
        elif free < NEEDED:
            yield Finding(text, "free some; `make clean` and `dvc gc --workspace` remove what can be made again")
        else:
            yield Finding(text)


def _size(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{total / GIGABYTE:.2f} GB" if folder.exists() else "empty"


def _parameters_and_data() -> Iterator[Finding]:
    from know.data.catalogue import dataset
    from know.data.emoji import Drawn
    from know.data.layouts import Published
    from know.data.sources import DataError, Full
    from know.options import ParamError
    from know.params import load

    try:
        params = load(paths.PARAMS)
    except ParamError as error:
        yield Finding(str(error), "correct it, or git restore params.yaml")
        return
    yield Finding(f"{paths.PARAMS.name} is valid")
    for name in sorted({params.downsize.dataset, params.downsize.downstream_dataset, *params.meta_train.datasets}):
        fetch = dataset(name).fetch
        if isinstance(fetch, Full | Drawn) and not (paths.RAW / f"{fetch.name}-train.npz").exists():
            yield Finding(f"{name}: not here yet, and fetched when it is needed (or put its files in {fetch.own})")
            continue
        if isinstance(fetch, Published) and not (paths.RAW / fetch.name).exists():
            yield Finding(
                f"{name}: not here yet", f"place {fetch.files} in {paths.RAW / fetch.name}; from {fetch.source}"
            )
            continue
        try:
            yield Finding(f"{name}: {len(fetch('train', None)[1])} training images")
        except DataError as error:
            yield Finding(str(error), "git checkout data/embedded, or remove the file that is named")
