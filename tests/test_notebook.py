"""The runner that executes notebooks as stages."""

import signal
import subprocess
import sys
from functools import partial

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from know import paths
from know.run import notebook
from know.run.process import INTERRUPTED
from know.stages import __main__ as stages
from know.stages.__main__ import run_stage
from know.stages.dependencies import changed, digests


def write(path, *cells):
    parameters = new_code_cell("params = {}", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T"), parameters, *map(new_code_cell, cells)]), path)
    return path


def text(path):
    return "".join(o.get("text", "") for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", []))


def test_parameters_are_injected_and_two_runs_write_the_same_bytes(tmp_path):
    source = write(
        tmp_path / "a.ipynb",
        "import os, sys; print(params['rate'], os.getcwd(), sys.prefix + '/bin/python')",
        "from know.run.progress import track; list(track(range(3), desc='bars stay out of notebooks'))",
        "import matplotlib.pyplot as plt; plt.plot([1, 2]);",
        "import warnings; warnings.warn('where?'); print(object()); object()",
        "import sys, time, random\nfor i in range(6): print(i, flush=True); time.sleep(random.choice([0, 0.3]))",
    )
    for out in ("one.ipynb", "two.ipynb"):
        notebook.run(source, tmp_path / out, {"rate": 0.5})
    assert text(tmp_path / "one.ipynb").splitlines()[0] == "0.5 . …/bin/python"
    assert "bars" not in text(tmp_path / "one.ipynb")
    assert any(
        "image/png" in o.get("data", {})
        for c in nbformat.read(tmp_path / "one.ipynb", 4).cells
        for o in c.get("outputs", [])
    )
    assert (tmp_path / "one.ipynb").read_bytes() == (tmp_path / "two.ipynb").read_bytes()


def test_a_failing_cell_keeps_the_old_result_and_the_partial_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    source = write(tmp_path / "a.ipynb", "print('so far')", "raise KeyError('oh')")
    (tmp_path / "out.ipynb").write_text("old")
    with pytest.raises(notebook.NotebookError, match=r"KeyError(.|\n)*the partial notebook is .*out\.ipynb"):
        notebook.run(source, tmp_path / "out.ipynb", {})
    assert (tmp_path / "out.ipynb").read_text() == "old"
    assert "so far" in text(tmp_path / "logs" / "out.ipynb")
    assert {p.name for p in tmp_path.iterdir()} == {"a.ipynb", "out.ipynb", "logs"}


def test_a_dead_kernel_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    source = write(tmp_path / "a.ipynb", "import os; os._exit(1)")
    with pytest.raises(notebook.NotebookError, match="the kernel died"):
        notebook.run(source, tmp_path / "out.ipynb", {})


def stage(root, *, edits=()):
    """A repository of one stage, whose notebook edits files while it runs."""
    (root / "notebooks").mkdir()
    (root / "room").mkdir()
    (root / "room" / "a.py").write_text("a = 1")
    cells = [f"import pathlib; pathlib.Path({str(root)!r}, {name!r}).write_text('edited')" for name in edits]
    write(root / "notebooks" / "01_x.ipynb", "print(params)", *cells)
    (root / "dvc.yaml").write_text("stages: {x: {cmd: c, deps: [notebooks/01_x.ipynb, room], params: [rate]}}")


def test_a_stage_gets_the_parameters_that_it_declares(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    stage(tmp_path)
    run_stage("x", tmp_path)
    assert text(tmp_path / "build" / "notebooks" / "01_x.ipynb") == "{'rate': 0.5}\n"


def test_a_dependency_that_changes_meanwhile_fails_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    stage(tmp_path, edits=["room/new.py"])
    with pytest.raises(notebook.NotebookError, match=r"room/new\.py changed while x ran, .* run it again"):
        run_stage("x", tmp_path)


@pytest.mark.parametrize("name", ["room/a.py", "room/new.py", "notebooks/01_x.ipynb"])
def test_every_change_of_a_dependency_is_seen(tmp_path, name):
    stage(tmp_path)
    before = digests(tmp_path, ["notebooks/01_x.ipynb", "room"])
    assert changed(before, digests(tmp_path, ["notebooks/01_x.ipynb", "room"])) == []
    (tmp_path / name).write_text("edited")
    assert changed(before, digests(tmp_path, ["notebooks/01_x.ipynb", "room"])) == [name]
    (tmp_path / name).unlink()
    assert name not in digests(tmp_path, ["notebooks/01_x.ipynb", "room"])


def test_an_interrupt_ends_in_one_line_that_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    """Ctrl-C while a cell runs, as the terminal sends it to the stage, also where the suite itself runs in the background, which ignores it."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    stage(tmp_path)
    cell = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    write(tmp_path / "notebooks" / "01_x.ipynb", cell)
    monkeypatch.setattr(stages, "run_stage", partial(run_stage, root=tmp_path))
    monkeypatch.setattr(stages, "behave", lambda: None)
    monkeypatch.setattr(sys, "argv", ["know.stages", "x"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert stages.main() == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted: the same command goes on with the runs that are missing\n"
    assert not (tmp_path / "build" / "notebooks" / "01_x.ipynb").exists()


def test_an_unknown_stage_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "know.stages", "forgett"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("stage: got 'forgett'; allowed: downsize, forget, ")
    assert done.stderr.count("\n") == 1
