"""Runs are computed once: what makes two runs the same, what a record gives back, and what is never believed."""

import json
import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from know import paths
from know.run import store
from know.run.store import FileInput, canonical, code_digest, key_of, once, record_path


@dataclass(frozen=True)
class Inner:
    value: float
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Result:
    number: int
    inner: Inner
    rows: list[tuple[int, str, float]]
    names: tuple[str, ...]
    maybe: Tensor | None
    nothing: int | None = None


@dataclass(frozen=True)
class Job:
    number: int
    file: FileInput | None = None


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    CALLS.clear()


CALLS: list[int] = []


def compute(job: Job) -> Result:
    CALLS.append(job.number)
    weights = {"a/b": torch.arange(3.0) * job.number, "half": torch.tensor([0.1], dtype=torch.float16)}
    return Result(
        job.number, Inner(0.1, weights), [(1, "x", float("nan")), (2, "y", 1e-300)], ("p", "q"), torch.ones(2, 0)
    )


def test_a_run_is_computed_once_and_comes_back_as_it_was():
    first, second = once(compute, Job(3), "cpu"), once(compute, Job(3), "cpu")
    assert CALLS == [3] and isinstance(second.inner, Inner) and second.names == ("p", "q") and second.nothing is None
    assert torch.equal(second.inner.weights["a/b"], first.inner.weights["a/b"])
    assert second.inner.weights["half"].dtype == torch.float16 and second.maybe.shape == (2, 0)
    assert second.rows[1] == (2, "y", 1e-300) and second.rows[0][2] != second.rows[0][2]
    once(compute, Job(4), "cpu")
    once(compute, Job(3), "cuda")  # another device computes other numbers
    assert CALLS == [3, 4, 3]


@given(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1), st.text())
def test_plain_values_survive_exactly(number, integer, text):
    tensors: dict[str, Tensor] = {}
    plain = json.loads(json.dumps(store._packed([number, integer, text], tensors, "r")))
    assert plain == [number, integer, text] and not tensors


def test_a_job_is_what_it_holds_and_a_file_its_content(tmp_path):
    (tmp_path / "a").write_text("weights")
    (tmp_path / "b").write_text("weights")
    a, b = (Job(1, FileInput.of(tmp_path / name)) for name in "ab")
    assert key_of(compute, a, "cpu") == key_of(compute, b, "cpu") != key_of(compute, Job(1), "cpu")
    (tmp_path / "b").write_text("others")
    assert key_of(compute, replace(b, file=FileInput.of(tmp_path / "b")), "cpu") != key_of(compute, a, "cpu")
    with pytest.raises(TypeError, match="a set cannot be part of a job"):
        canonical({1, 2})


DAMAGE = {
    "empty": lambda record, tensors: record.write_bytes(b""),
    "truncated": lambda record, tensors: record.write_bytes(record.read_bytes()[:-30]),
    "other number": lambda record, tensors: record.write_text(record.read_text().replace('"number": 3', '"number": 7')),
    "bit of a tensor": lambda record, tensors: tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f"),
    "no tensors": lambda record, tensors: tensors.unlink(),
    "list": lambda record, tensors: record.write_text("[]"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_record_is_computed_again(how):
    once(compute, Job(3), "cpu")
    folder = record_path(key_of(compute, Job(3), "cpu"))
    DAMAGE[how](folder / "record.json", folder / "tensors.safetensors")
    assert once(compute, Job(3), "cpu").number == 3 and CALLS == [3, 3]
    assert once(compute, Job(3), "cpu").number == 3 and CALLS == [3, 3]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_planted_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once(compute, Job(3), "cpu")
    folder = record_path(key_of(compute, Job(3), "cpu"))
    for name in ("record.json", "tensors.safetensors", "record.pickle"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    once(compute, Job(3), "cpu")
    assert not (tmp_path / "executed").exists() and CALLS == [3, 3]


def test_the_code_that_counts_is_what_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "toy_package"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {
        "__init__.py": "",
        "work.py": "from toy_package import deep\n\ndef run(x):\n    return deep.value\n",
        "deep.py": "value = 1\n",
        "figure.py": "from toy_package import work\n",
    }

    def digest(**changes):
        for name, text in (files | {f"{key}.py": text for key, text in changes.items()}).items():
            (package / name).write_text(text)
        code_digest.cache_clear()
        return code_digest("toy_package.work")

    plain = digest()
    assert digest(figure="from toy_package import work\nprint('another colour')\n") == plain
    assert digest(deep='"""Documented."""\nvalue = 1  # explained\n') == plain
    assert digest(deep="value = 2\n") != plain
    assert digest(work=files["work.py"].replace("deep.value", "-deep.value")) != plain
    code_digest.cache_clear()
    sys.modules.pop("toy_package", None)


def test_a_figure_is_no_part_of_a_training_run():
    """So an edit of how results are drawn, judged or worded recomputes nothing."""
    from know.meta import learning, runs
    from know.training import runs as training_runs

    for module in (training_runs, runs, learning):
        seen, todo = set(), [module.__name__]
        while todo:
            name = todo.pop()
            if name in seen or name.startswith(store.NO_MATTER) or (source := store._source(name)) is None:
                continue
            seen.add(name)
            todo += [m for m in store._imports(store._bare(store.ast.parse(source)), name) if m.startswith("know")]
        assert not [
            m for m in seen if m.startswith(("know.report", "know.analysis", "know.stages", "know.params", "know.cli"))
        ]


def test_a_process_runs_the_code_that_it_began_with(tmp_path, monkeypatch):
    """So an edit while it runs neither splits its records nor plants old results under the new code's digest."""
    before = code_digest("know.training.runs")
    loop = Path(store.PACKAGE) / "training" / "loop.py"
    code_digest.cache_clear()
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: "edited = 1\n" if self == loop else real(self, *a, **k)
    )
    assert code_digest("know.training.runs") == before
    assert store._BEGAN[loop] != "edited = 1\n"
