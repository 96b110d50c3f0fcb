import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from know import retrodict
from know.prediction import engine
from know.prediction import files as prediction_files
from know.prediction.files import predict_files
from know.prediction.known import HyperModel
from know.prediction.predictors import linear, no_change
from know.weights.files import Checkpoint, CheckpointError, load_state

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
states = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES)),
    min_size=1,
    max_size=5,
)


def save(state: dict, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def trajectory_of(shapes: dict[str, tuple[list[int], torch.dtype]], length: int = 3) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: (torch.randn(shape, generator=generator) * 3).to(dtype) for name, (shape, dtype) in shapes.items()}
        for _ in range(length)
    ]


def assert_same(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@settings(deadline=None, max_examples=40)
@given(shapes=states)
def test_from_files_is_the_same_as_in_memory(tmp_path_factory, suffix, shapes):
    folder = tmp_path_factory.mktemp("states")
    trajectory = trajectory_of(shapes)
    files = [save(state, folder / f"{k}.{suffix}") for k, state in enumerate(trajectory)]
    predict_files(files, folder / "out.safetensors", linear, steps=2)
    assert_same(load_file(folder / "out.safetensors"), retrodict(trajectory, linear, steps=2)[-1])
    assert load_state(files[0]).keys() == shapes.keys()


def test_pieces_of_known_meet(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = HyperModel(3)
    trajectory = trajectory_of(
        {"a": ([70, 100], torch.bfloat16), "b": ([9001], torch.float32), "c": ([], torch.float32)}
    )
    files = [save(state, tmp_path / f"{k}.safetensors") for k, state in enumerate(trajectory)]
    wanted = retrodict(trajectory, model, steps=3, compiled=True)[-1]
    monkeypatch.setattr(engine, "PIECE", engine.BLOCK)
    monkeypatch.setattr(prediction_files, "PIECE", engine.BLOCK)
    predict_files(files, tmp_path / "out.safetensors", model, steps=3)
    assert_same(load_file(tmp_path / "out.safetensors"), wanted)


def awkward_state(k: int) -> dict:
    shared = torch.randn(6, 4) + k
    return {
        "tied": shared,
        "also.tied": shared,
        "slice": torch.arange(20.0)[3:9] * k,
        "transposed": torch.arange(12.0).view(3, 4).T * k,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.tensor([float(k)]).expand(4),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "count": torch.tensor(k),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_whatever_torch_saves_is_read(tmp_path, zipped):
    trajectory = [awkward_state(k) for k in range(3)]
    for k, state in enumerate(trajectory):
        torch.save(state, tmp_path / f"{k}.pt", _use_new_zipfile_serialization=zipped)
    predict_files([tmp_path / f"{k}.pt" for k in range(3)], tmp_path / "out.safetensors", linear)
    predicted = load_file(tmp_path / "out.safetensors")
    assert_same(predicted, retrodict(trajectory, linear)[0])
    assert torch.equal(predicted["tied"], predicted["also.tied"])


def test_reading_any_piece(tmp_path):
    state = awkward_state(2)
    torch.save(state, tmp_path / "a.pt")
    with Checkpoint(tmp_path / "a.pt") as checkpoint:
        for name, tensor in state.items():
            flat, end = tensor.detach().reshape(-1), tensor.numel()
            for start, stop in ((0, end), (end // 2, end), (0, end // 2)):
                assert torch.equal(checkpoint.read(name, start, stop), flat[start:stop])


def test_dtype_is_of_all_floating_tensors_written(tmp_path):
    shapes = {"a": ([4, 4], torch.float16), "bn.running_var": ([3], torch.float32), "n": ([], torch.int64)}
    trajectory = trajectory_of(shapes)
    files = [save(state, tmp_path / f"{k}.safetensors") for k, state in enumerate(trajectory)]
    predict_files(files, tmp_path / "out.safetensors", linear, dtype=torch.float64)
    predicted = load_file(tmp_path / "out.safetensors")
    assert [predicted[name].dtype for name in shapes] == [torch.float64, torch.float64, torch.int64]
    # not rounded to Θ_0's float16 on the way
    exact = retrodict([{"a": state["a"].float()} for state in trajectory], linear)[0]["a"]
    assert torch.equal(predicted["a"], exact.double())


def test_a_buffer_beyond_the_dtype_is_an_error(tmp_path):
    state = {"bn.running_var": torch.tensor([1e6])}
    files = [save(state, tmp_path / f"{k}.safetensors") for k in range(2)]
    with pytest.raises(ValueError, match=r"bn\.running_var: exceeds the range of torch\.float16"):
        predict_files(files, tmp_path / "out.safetensors", linear, dtype=torch.float16)
    assert not (tmp_path / "out.safetensors").exists()


def test_header_is_as_others_write_it(tmp_path):
    state = {"flag": torch.tensor([True, False, True]), "w": torch.randn(3), "h": torch.randn(5).half()}
    for k in range(2):
        save_file(state, tmp_path / f"{k}.safetensors", metadata={"format": "pt", "author": "me"})
    predict_files([tmp_path / f"{k}.safetensors" for k in range(2)], tmp_path / "out.safetensors", no_change)
    assert_same(load_file(tmp_path / "out.safetensors"), state)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "me"}
    raw = (tmp_path / "out.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert size % 8 == 0
    for name, tensor in state.items():  # every tensor where a memory map can be cast to it
        assert header[name]["data_offsets"][0] % tensor.itemsize == 0


def test_the_newest_checkpoint_may_be_overwritten(tmp_path):
    trajectory = trajectory_of({"a": ([50], torch.float32)})
    files = [save(state, tmp_path / f"{k}.safetensors") for k, state in enumerate(trajectory)]
    predict_files(files, files[-1], linear)
    assert_same(load_file(files[-1]), retrodict(trajectory, linear)[0])


def test_dtypes_that_cannot_be_computed_with_are_named(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: w: dtype F8_E8M0"):
        Checkpoint(tmp_path / "a.safetensors")


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path):
    path = save({"w": torch.zeros(5000)}, tmp_path / "a.safetensors")
    with Checkpoint(path) as checkpoint, path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
        with pytest.raises(CheckpointError, match=r"a\.safetensors: w: the file ends before the tensor does"):
            checkpoint.read("w", 0, 5000)


MEASURE = """
import re, sys
from pathlib import Path
from know.prediction.files import predict_files
from know.prediction.predictors import linear
peak = lambda: int(re.findall(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[0])  # in KB
small, large = [Path(name) for name in sys.argv[1:6]], [Path(name) for name in sys.argv[6:11]]
predict_files(small, small[0].with_name("out.safetensors"), linear)
before = peak()
predict_files(large, large[0].with_name("out.safetensors"), linear)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read in /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_memory_does_not_grow_with_the_model(tmp_path, suffix):
    """Five checkpoints of 16 MB take no more memory than five of 2 MB: they are 80 MB, 160 in float32; 32 are allowed."""
    files = []
    for size in (1 << 20, 8 << 20):
        if suffix == "pt":
            files += [save({"w": torch.zeros(size, dtype=torch.float16)}, tmp_path / f"{size}.pt")] * 5
            continue
        path = tmp_path / f"{size}.safetensors"  # sparse: the zeros take no time to write
        header = json.dumps({"w": {"dtype": "F16", "shape": [size], "data_offsets": [0, 2 * size]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + 2 * size)
        files += [path] * 5
    run = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 32 * 1024
