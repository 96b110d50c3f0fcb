import os
from pathlib import Path

import pytest
import torch

from know import paths
from know.models.small import build
from know.run.executor import device_of, fingerprint, jobs_of, resumable, run_all
from know.run.options import Compute
from know.training.loop import Recipe, fit

ONE, TWO = (Compute(device="cpu", jobs=jobs, backend="loky") for jobs in (1, 2))


def weights_after_training(job):
    seed, data = job
    net = build("cnn", 1, 3, seed)
    fit(net, data, Recipe(1, 16, 1e-3), seed)
    return net.state_dict()["head.weight"], torch.get_num_threads()


def count_and_fail_at_2(job):
    number, folder = job
    (Path(folder) / f"{number}-{os.urandom(4).hex()}").touch()
    if number == 2 and not (Path(folder) / "mended").exists():
        raise RuntimeError("killed")
    return number * 10


def test_results_are_in_order_and_do_not_depend_on_the_number_of_processes(toy):
    jobs = [(seed, toy) for seed in range(4)]
    alone, together = run_all(weights_after_training, jobs, ONE, "x"), run_all(weights_after_training, jobs, TWO, "x")
    for (a, threads_a), (b, threads_b), (seed, _) in zip(alone, together, jobs, strict=True):
        assert torch.equal(a, b) and threads_a == threads_b == 1
        assert torch.equal(a, weights_after_training((seed, toy))[0]) or torch.get_num_threads() > 1


def test_a_killed_stage_continues_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    ran = tmp_path / "ran"
    ran.mkdir()
    jobs = [(n, str(ran)) for n in range(4)]
    with pytest.raises(RuntimeError, match="killed"), resumable("stage", "p") as resume:
        run_all(count_and_fail_at_2, jobs, ONE, "x", resume)
    (ran / "mended").touch()
    with resumable("stage", "p") as resume:
        assert run_all(count_and_fail_at_2, jobs, ONE, "x", resume) == [0, 10, 20, 30]
    times = [sum(p.name.startswith(f"{n}-") for p in ran.iterdir()) for n in range(4)]
    assert times == [1, 1, 2, 1]
    with resumable("stage", "p") as resume:  # it succeeded, so a forced re-run computes again
        run_all(count_and_fail_at_2, jobs, ONE, "x", resume)
    assert sum(p.name.startswith("0-") for p in ran.iterdir()) == 2


def test_other_parameters_or_inputs_start_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    (tmp_path / "input").write_text("a")
    folders = set()
    for parameters, text in (("p", "a"), ("q", "a"), ("q", "b")):
        (tmp_path / "input").write_text(text)
        with pytest.raises(RuntimeError), resumable("s", parameters, [tmp_path / "input"]) as folder:
            folders.add(folder)
            raise RuntimeError
    assert len(folders) == 3
    assert len(list((tmp_path / "build" / "partial").iterdir())) == 1  # what can no longer be used is removed


def test_fingerprint_sees_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = fingerprint([tmp_path])
    assert first == fingerprint([tmp_path])
    (tmp_path / "a").write_text("2")
    assert fingerprint([tmp_path]) != first


def test_device_and_processes():
    assert device_of(ONE) == torch.device("cpu")
    assert jobs_of(TWO) == 2
    automatic = Compute(device="auto", jobs="auto", backend="loky")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device_of(automatic).type == expected
    assert jobs_of(automatic.model_copy(update={"device": "cpu"})) == len(os.sched_getaffinity(0))


def test_nothing_to_run_is_no_error():
    assert run_all(str, [], Compute(device="cpu", jobs=2, backend="loky"), "nothing") == []
