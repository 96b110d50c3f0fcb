"""Which run of how many, and the time left: through another process's notes."""

import os
import subprocess
import sys
import time

import pytest

from know import paths
from know.run.progress import NOTES, Watch, line_of, track


@pytest.mark.parametrize(
    ("done", "total", "seconds", "line"),
    [
        (0, 24, 5.0, "forget: training 0 of 24"),
        (6, 24, 60.0, "forget: training 6 of 24, 3 min left"),
        (20, 24, 60.0, "forget: training 20 of 24, 12 s left"),
        (24, 24, 60.0, "forget: training 24 of 24"),
        (3, None, 60.0, "forget: training 3"),
    ],
)
def test_a_line(done, total, seconds, line):
    assert line_of("forget", "training", done, total, seconds) == line


def test_without_a_terminal_there_is_a_line_now_and_then(capsys):
    with Watch("forget", every=0.05) as watch:
        for _ in track(range(4), total=4, desc="training"):
            time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("forget: training ") for line in lines) and "of 4" in lines[0]
    assert not watch.notes.parent.exists() and NOTES not in os.environ


def test_on_a_terminal_a_stage_shows_a_bar():
    """In a pseudo-terminal, as `make repro` is seen: one line, rewritten."""
    code = (
        "import os, pty, sys, time\n"
        "def child():\n"
        "    from know.run.progress import Watch, track\n"
        "    with Watch('forget', every=0.05):\n"
        "        for _ in track(range(3), total=3, desc='training'): time.sleep(0.2)\n"
        "pid, fd = pty.fork()\n"
        "if pid == 0:\n    child(); os._exit(0)\n"
        "out = b''\n"
        "try:\n    while chunk := os.read(fd, 1024): out += chunk\n"
        "except OSError: pass\n"
        "print(repr(out.decode()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert r"\r\x1b[Kforget: training 1 of 3" in done.stdout and done.stdout.rstrip().endswith(r"\x1b[K'")
