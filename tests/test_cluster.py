"""The dask back end on real worker processes: the same results as on one machine, and a worker's death loses nothing."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
import torch
from dask.distributed import LocalCluster
from layouts import write
from torch import Tensor

from know import paths
from know.data.catalogue import dataset
from know.data.images import Files, FileSet
from know.models.build import build
from know.run import executor
from know.run.executor import map_all, run_all
from know.run.options import Compute
from know.training.loop import Recipe, fit


@dataclass(frozen=True)
class Job:
    number: int
    folder: str


def trained(job: Job) -> Tensor:
    """A few steps of a small net, slow enough for its worker to be killed; says who begins it."""
    (Path(job.folder) / f"{job.number}-{os.getpid()}").touch()
    net = build("cnn", 1, 10, job.number)
    generator = torch.Generator().manual_seed(job.number)
    for _ in range(3):
        net.zero_grad()
        net(torch.rand(8, 1, 28, 28, generator=generator)).logsumexp(1).sum().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.01 * parameter.grad
    time.sleep(0.1)
    return net.state_dict()["head.weight"]


@dataclass(frozen=True)
class FromFiles:
    """``held``: in memory, once they are read."""

    seed: int
    folder: str
    held: bool


def trained_from_files(job: FromFiles) -> Tensor:
    files = FileSet(Files(dataset("cub").fetch("train", Path(job.folder)), channels=3, side=16))
    net = build("cnn", 3, 2, job.seed)
    fit(net, files.loaded() if job.held else files, Recipe(2, 64, 1e-3, augment="affine"), job.seed, validation=files)
    return net.state_dict()["head.weight"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cluster")
    for name in ("dask", "loky"):
        (place / name).mkdir()
    return place


@pytest.fixture(scope="module")
def cluster(place) -> Iterator[LocalCluster]:
    """Two worker processes, with a store of runs on a disk that they share with this one."""
    environment = {"KNOW_RUNS": str(place / "runs"), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(paths.ROOT)])}  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as made:
            yield made


def on(cluster: LocalCluster) -> Compute:
    return Compute(device="cpu", jobs=2, backend="dask", address=cluster.scheduler_address, deterministic=False)


ALONE = Compute(device="cpu", jobs=1, backend="loky", deterministic=False)


def test_a_killed_worker_loses_nothing_and_results_are_those_of_one_machine(cluster, place, monkeypatch):
    jobs = [Job(number, str(place / "dask")) for number in range(8)]
    monkeypatch.setattr(paths, "RUNS", place / "runs")

    def kill_one() -> None:
        while not (begun := [path.name for path in (place / "dask").iterdir()]):
            time.sleep(0.01)
        os.kill(int(begun[0].partition("-")[2]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = run_all(trained, jobs, on(cluster), "on the cluster")
    killer.join()
    workers = {path.name.partition("-")[2] for path in (place / "dask").iterdir()}
    assert len(workers) >= 2 and str(os.getpid()) not in workers
    assert len(list((place / "runs").glob("*/*/record.json"))) == len(jobs)

    alone = map_all(trained, [Job(job.number, str(place / "loky")) for job in jobs], ALONE, "here")
    assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    begun = len(list((place / "dask").iterdir()))
    run_all(trained, jobs, on(cluster), "again")
    assert len(list((place / "dask").iterdir())) == begun, "what is recorded is not computed again"


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_the_processes_of_both_back_ends_read_images_from_files(backend, cluster, tmp_path):
    write("cub", tmp_path, 2, 220)
    compute = on(cluster) if backend == "dask" else ALONE.model_copy(update={"jobs": 2})
    found = map_all(trained_from_files, [FromFiles(seed, str(tmp_path), False) for seed in (0, 1)], compute, backend)
    held = map_all(trained_from_files, [FromFiles(seed, str(tmp_path), True) for seed in (0, 1)], ALONE, "held")
    assert all(torch.equal(a, b) for a, b in zip(found, held, strict=True))


def test_a_store_that_the_workers_do_not_share_is_an_error(cluster, place, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "another")
    with pytest.raises(RuntimeError, match=r"2 of 2 records are not in .*another: .* set KNOW_RUNS"):
        run_all(trained, [Job(number, str(place / "dask")) for number in (10, 11)], on(cluster), "x")


def test_what_cannot_be_connected_to_is_one_line(monkeypatch):
    nowhere = ALONE.model_copy(update={"backend": "dask", "address": "tcp://127.0.0.1:9"})
    said = r"compute\.address: no dask scheduler answers at tcp://127\.0\.0\.1:9"
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(RuntimeError, match=said):
        map_all(trained, [Job(0, "")], nowhere, "x")
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(RuntimeError, match="pip install"), executor.connected(nowhere, 1):
        pass


def test_workers_with_several_threads_are_refused():
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    refused = pytest.raises(RuntimeError, match="--nthreads 1")
    with LocalCluster(**options) as made, refused, executor.connected(on(made), 1):
        pass
