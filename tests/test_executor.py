import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from know import paths
from know.data.images import load
from know.models.build import build
from know.run.device import here
from know.run.executor import device_of, jobs_of, map_all, one, run_all
from know.run.options import Compute
from know.training.loop import Recipe, fit

ONE, TWO = (Compute(device="cpu", jobs=jobs, backend="loky", deterministic=False) for jobs in (1, 2))


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


@dataclass(frozen=True)
class Training:
    seed: int
    store: str


def weights_after_training(job: Training) -> tuple[Tensor, int]:
    paths.RUNS = Path(job.store)  # the processes of the executor do not know of the test's
    toy = load("mnist-embedded", "test").select(torch.arange(64))
    net = build("cnn", 1, 10, job.seed)
    fit(net, toy, Recipe(1, 16, 1e-3), job.seed)
    assert here() == torch.device("cpu")
    return net.state_dict()["head.weight"], torch.get_num_threads()


@dataclass(frozen=True)
class Counted:
    number: int
    folder: str


def count_and_fail_at_2(job: Counted) -> int:
    (Path(job.folder) / f"{job.number}-{os.urandom(4).hex()}").touch()
    if job.number == 2 and not (Path(job.folder) / "mended").exists():
        raise RuntimeError("killed")
    return job.number * 10


def test_results_are_in_order_and_do_not_depend_on_the_number_of_processes(tmp_path):
    jobs = [Training(seed, str(tmp_path / "runs")) for seed in (2, 0, 1, 0)]
    alone, together = (map_all(weights_after_training, jobs, compute, "x") for compute in (ONE, TWO))
    recorded = run_all(weights_after_training, jobs, ONE, "x")
    for (a, threads_a), (b, threads_b), (c, _) in zip(alone, together, recorded, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c) and threads_a == threads_b == 1
    assert torch.equal(alone[1][0], alone[3][0]) and not torch.equal(alone[0][0], alone[1][0])


def test_a_killed_stage_continues_where_it_was(tmp_path):
    ran = tmp_path / "ran"
    ran.mkdir()
    jobs = [Counted(n, str(ran)) for n in range(4)]
    with pytest.raises(RuntimeError, match="killed"):
        run_all(count_and_fail_at_2, jobs, ONE, "x")
    (ran / "mended").touch()
    assert run_all(count_and_fail_at_2, jobs, ONE, "x") == [0, 10, 20, 30]
    assert run_all(count_and_fail_at_2, [*jobs, jobs[0]], ONE, "x") == [0, 10, 20, 30, 0]
    assert [sum(p.name.startswith(f"{n}-") for p in ran.iterdir()) for n in range(4)] == [1, 1, 2, 1]


def test_device_and_processes():
    assert device_of(ONE) == torch.device("cpu")
    assert jobs_of(TWO) == 2
    automatic = Compute(device="auto", jobs="auto", backend="loky", deterministic=True)
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device_of(automatic).type == expected
    assert jobs_of(automatic.model_copy(update={"device": "cpu"})) == len(os.sched_getaffinity(0))


def test_nets_are_compiled_if_asked_and_keep_their_weights_names(tmp_path, monkeypatch):
    backends = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: backends.append(type(net).__name__))
    job, compiling = Training(0, str(tmp_path / "runs")), ONE.model_copy(update={"compile": True})
    plain = one(weights_after_training, job, ONE)
    assert backends == []
    compiled = one(weights_after_training, job, compiling)
    assert backends == ["Net"], "not found among the records of nets as they are"
    assert torch.equal(plain[0], compiled[0])


def test_nothing_to_run_is_no_error():
    assert run_all(count_and_fail_at_2, [], ONE, "nothing") == [] == map_all(count_and_fail_at_2, [], TWO, "nothing")
