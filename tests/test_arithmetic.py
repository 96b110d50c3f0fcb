"""The same bits from every x86-64 processor: computed here, and by programs that emulate another one (Debian: qemu-user)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from know.run import arithmetic, executor
from know.run.options import Compute

SCRIPT = Path(__file__).with_name("arithmetic_digests.py")
QEMU = shutil.which("qemu-x86_64")
avx2 = pytest.mark.skipif(not arithmetic.ASKED, reason="for x86-64 with AVX2, on Linux")


def digests(*nets: str, processor: str | None = None) -> list[str]:
    emulator = [QEMU, "-cpu", processor] if processor else []
    command = [*emulator, sys.executable, str(SCRIPT), *nets]
    environment = {
        name: value for name, value in os.environ.items() if name not in arithmetic.AVX2
    }  # the package's own, if in time
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("\n")


@avx2
@pytest.mark.skipif(QEMU is None, reason="needs qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.parametrize(
    ("processor", "nets"),
    [
        ("Haswell", ["cnn"]),
        pytest.param("Haswell", ["resnet", "mobilenet", "densenet"], marks=pytest.mark.long),
        pytest.param("EPYC-Rome", ["cnn", "resnet", "mobilenet", "densenet"], marks=pytest.mark.long),
    ],
)
def test_another_processor_gives_the_same_bits(processor, nets):
    here = digests(*nets)
    assert len(here) == 2 * len(nets) + 4 and here == digests(*nets, processor=processor)


@avx2
def test_a_run_s_record_says_which_arithmetic():
    compute = Compute(device="cpu", jobs=1, backend="loky", deterministic=False)
    command = [
        sys.executable,
        "-c",
        f"from know.run import executor, options; print(executor.numerics(options.{compute!r}))",
    ]
    told = {
        capability: subprocess.run(
            command, env=os.environ | {"ATEN_CPU_CAPABILITY": capability}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for capability in ("avx2", "default")
    }
    assert told == {"avx2": "cpu AVX2", "default": "cpu DEFAULT ATEN_CPU_CAPABILITY=default"}
    assert executor.numerics(compute) == "cpu AVX2"


def test_a_processor_that_is_asked_for_nothing_has_nothing_to_say(monkeypatch):
    monkeypatch.setattr(arithmetic, "ASKED", {})
    assert arithmetic.changed() == []
