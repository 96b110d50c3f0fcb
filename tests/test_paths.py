"""Files appear whole or not at all, whatever ends the process that writes them."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import until
from safetensors.numpy import save_file

from know import paths
from know.run.process import TERMINATED


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def folder_of(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_text(text)

    return write


def test_a_folder_takes_the_place_of_a_folder_and_a_file_of_either(tmp_path):
    for text in ("one", "two"):
        with paths.atomic(tmp_path / "a" / "b") as temporary:
            folder_of(text)(temporary)
    assert (tmp_path / "a" / "b" / "inner" / "file").read_text() == "two"
    with paths.atomic(tmp_path / "a" / "b") as temporary:
        temporary.write_text("three")
    assert (tmp_path / "a" / "b").read_text() == "three" and names(tmp_path / "a") == {"b"}


@pytest.mark.parametrize("write", [folder_of("new"), lambda path: path.write_text("new")])
def test_a_failure_leaves_what_was_there(tmp_path, write):
    folder_of("old")(tmp_path / "a")
    with pytest.raises(KeyError), paths.atomic(tmp_path / "a") as temporary:
        write(temporary)
        raise KeyError
    assert (tmp_path / "a" / "inner" / "file").read_text() == "old" and names(tmp_path) == {"a"}


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def watched(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, (tmp_path / "a").exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    with paths.atomic(tmp_path / "a") as temporary:
        folder_of("x")(temporary)
    assert {("file", False), ("inner", False), (temporary.name, False)} <= set(synced)
    assert synced[-1] == (tmp_path.name, True), "the folder that holds the name, after it has it"


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()

    def left(host: str, process: int, suffix: str = ".tmp", days: float = 0) -> Path:
        path = tmp_path / f".a.{host}-{process}-0a1b2c3d{suffix}"
        folder_of("half")(path)
        os.utime(path, (time.time() - days * paths.DAY,) * 2)
        return path

    abandoned = [left(paths._HOST, ended.pid), left(paths._HOST, ended.pid, ".tmp.ipynb"), left("0" * 8, 1, days=2)]
    kept = [left(paths._HOST, os.getpid()), left("1" * 8, ended.pid), tmp_path / ".of_the_user.tmp"]
    kept[-1].write_text("x")
    with paths.atomic(tmp_path / "b") as temporary:
        temporary.write_text("new")
    assert not any(path.exists() for path in abandoned) and all(path.exists() for path in kept)
    assert names(tmp_path) == {"b", *(path.name for path in kept)}


@contextmanager
def small_files():
    """No file may grow beyond 4 kB: as when a disk is full, in this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(10_000)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(10_000)),
        lambda path: save_file({"a": np.ones(10_000)}, path),
        write_hdf5,
        lambda path: (path.mkdir(), save_file({"a": np.ones(10_000)}, path / "a")),
    ],
    ids=["bytes", "safetensors", "hdf5", "folder"],
)
def test_a_full_disk_is_one_line_whoever_writes(tmp_path, write):
    (tmp_path / "a").write_text("old")
    with small_files(), pytest.raises(paths.WriteError) as caught, paths.atomic(tmp_path / "a") as temporary:
        write(temporary)
    assert str(caught.value) == f"{tmp_path / 'a'}: cannot be written: File too large"
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == {"a"}


def test_a_folder_is_claimed_by_one_and_free_when_it_ends(tmp_path):
    claim = f"from know import paths; from pathlib import Path\nwith paths.claimed(Path({str(tmp_path)!r})): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", claim], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=paths.ROOT
    )
    assert other.stdout and other.stdout.readline() == b"1\n"
    with pytest.raises(BlockingIOError, match=f"{tmp_path}: another process works in it"), paths.claimed(tmp_path):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with paths.claimed(tmp_path):
        assert names(tmp_path) == set(), "nothing to clear by hand"


WRITER = """
import os, sys, time
from pathlib import Path
from know import paths
from know.run import process
{begin}
with paths.atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(os.getpid(), flush=True)
    time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}, sys.argv[1]])
time.sleep(60)
"""


def writer(text: str, out: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(out)], stdout=subprocess.PIPE, text=True, cwd=paths.ROOT
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def test_a_command_that_is_told_to_end_leaves_nothing(tmp_path):
    process, _ = writer(WRITER.format(begin="process.behave()"), tmp_path / "a")
    assert len(names(tmp_path)) == 1
    process.terminate()
    process.communicate()
    assert process.returncode == TERMINATED and names(tmp_path) == set()


@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["parent killed", "told to end"])
def test_a_worker_ends_with_its_parent_and_leaves_nothing(tmp_path, end):
    child = WRITER.format(begin="process.serve(os.getppid())")
    parent, worker = writer(PARENT.format(child=child), tmp_path / "a")
    assert len(names(tmp_path)) == 1
    os.kill(*((parent.pid, end) if end else (worker, signal.SIGTERM)))
    until(lambda: not names(tmp_path))
    parent.kill()
    parent.communicate()
