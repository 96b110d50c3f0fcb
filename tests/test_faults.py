"""What goes wrong around a command: one line, the right exit code, and what existed stays."""

import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import know.__main__
from know import paths
from know.prediction import files
from know.prediction.known import HyperModel, save_hypermodel
from know.run.process import INTERRUPTED
from know.weights.files import load_state, save_state


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with five checkpoints, to be in."""
    monkeypatch.chdir(tmp_path)
    for k in range(5):
        save_state(
            {"bn.running_mean": torch.zeros(4), "w": torch.full((4, 4), float(k))}, tmp_path / f"{k}.safetensors"
        )


PREDICT = ("predict", *(f"{k}.safetensors" for k in range(5)), "--out", "out.safetensors", "--method", "linear")


def test_theta_0_may_go_while_it_is_predicted_from(here, run_know, monkeypatch):
    extrapolate = files.extrapolate

    def removed(*arguments, **options):
        Path("4.safetensors").unlink()
        return extrapolate(*arguments, **options)

    monkeypatch.setattr(files, "extrapolate", removed)
    code, out, err = run_know(*PREDICT)
    assert code == 0 and out == "out.safetensors\n" and "BatchNorm" in err
    assert torch.equal(load_state(Path("out.safetensors"))["w"], torch.full((4, 4), 5.0))


def test_a_full_disk_under_a_hyper_model(tmp_path):
    """The folder that was there stays."""
    save_hypermodel(HyperModel(3), tmp_path / "h")
    before = {path.name: path.read_bytes() for path in (tmp_path / "h").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=f"{tmp_path / 'h'}: cannot be written: File too large"):
            save_hypermodel(HyperModel(3), tmp_path / "h")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "h").iterdir()}
    assert not list(tmp_path.glob(".*"))


def test_an_output_that_has_no_theta(tmp_path):
    """The help of this command says Θ_0, which cp1252 cannot."""
    done = subprocess.run(
        [sys.executable, "-m", "know", "predict", "--help"],
        env=os.environ | {"PYTHONPATH": str(paths.ROOT), "PYTHONIOENCODING": "cp1252", "COLUMNS": "200"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\\u0398_0" in done.stdout and done.stderr == b""


def test_an_interrupt_before_the_command_is_loaded(monkeypatch):
    class Loading(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "know.cli", Loading("know.cli"))
    monkeypatch.setattr(know.__main__, "behave", lambda: None)
    with pytest.raises(SystemExit) as caught:
        know.__main__.main()
    assert caught.value.code == INTERRUPTED
