"""The runner that executes notebooks as stages."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from know import paths
from know.run import notebook


def write(path, *cells):
    parameters = new_code_cell("params = {}", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T"), parameters, *map(new_code_cell, cells)]), path)
    return path


def text(path):
    return "".join(o.get("text", "") for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", []))


def test_parameters_are_injected_and_two_runs_write_the_same_bytes(tmp_path):
    source = write(
        tmp_path / "a.ipynb",
        "import os, sys; print(params['rate'], os.getcwd(), sys.executable)",
        "from know.run.progress import track; list(track(range(3), desc='bars stay out of notebooks'))",
        "import matplotlib.pyplot as plt; plt.plot([1, 2]);",
        "import warnings; warnings.warn('where?'); print(object()); object()",
    )
    for out in ("one.ipynb", "two.ipynb"):
        notebook.run(source, tmp_path / out, {"rate": 0.5})
    assert text(tmp_path / "one.ipynb").splitlines()[0] == f"0.5 {paths.ROOT} {sys.executable}"
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


def test_an_unknown_section_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "know.run.notebook", "notebooks/01_downsize.ipynb", "/nowhere/x.ipynb", "-p", "forgett"],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("forgett: unknown section; allowed: rate, ")
    assert done.stderr.count("\n") == 1
