"""``know doctor``: what is in order is said, and what is not comes with its mend."""

import sys

import pytest
from conftest import write_params

from know import doctor, paths


def mends(lines: list[str]) -> str:
    return "\n".join(line for line in lines if line.startswith("WRONG"))


@pytest.fixture
def sound(monkeypatch, tmp_path):
    """A machine on which nothing is wrong, whatever this one is like."""
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "WORKER", 0)
    monkeypatch.setattr(doctor, "NEEDED", 0)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    (tmp_path / "requirements.lock").write_text(f"# versions\npytest=={pytest.__version__}\n")
    monkeypatch.setattr(paths, "ROOT", tmp_path)


def test_a_sound_machine(sound, run_know):
    code, said, _ = run_know("doctor")
    lines = said.splitlines()
    assert code == 0, mends(lines)
    text = "\n".join(lines)
    for part in ("Python 3.", "1 packages, as requirements.lock says", "PyTorch ", " threads on ", "know predict on the CPU by ", "of memory free",
                 "records of runs in ", "params.yaml is valid", " training images"):  # fmt: skip
        assert part in text


def test_each_problem_has_its_mend(sound, run_know, monkeypatch, tmp_path):
    (tmp_path / "requirements.lock").write_text("pytest==0.1\nnothing-such==2\n")
    monkeypatch.setattr(doctor, "NEEDED", 1 << 60)
    monkeypatch.setattr(doctor, "WORKER", 1 << 60)
    monkeypatch.setenv("PATH", "/nowhere")
    write_params(tmp_path / "params.yaml", {"rate": 2})
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    code, said, _ = run_know("doctor")
    lines = said.splitlines()
    assert code == 1
    for said, mend in (
        (f"pytest {pytest.__version__} for 0.1, nothing-such nothing for 2", "make install"),
        ("no dvc on the path", "PATH"),
        ("`python`, which the stages call, is None", "export PATH="),
        ("of memory free", "compute.jobs"),
        ("records of runs in", "make clean"),
    ):
        assert any(
            said in line and mend in line.partition("; mend: ")[2] for line in lines if line.startswith("WRONG")
        ), said
    assert "params.yaml: rate: got 2" in mends(lines)


def test_data_that_is_damaged_or_not_here(sound, monkeypatch, tmp_path):
    write_params(tmp_path / "params.yaml", {"meta_train": {"datasets": ["cifar10"]}})
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    monkeypatch.setattr(paths, "RAW", tmp_path / "raw")
    lines = list(map(str, doctor.findings()))
    assert any("cifar10: not here yet" in line for line in lines)
