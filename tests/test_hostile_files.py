"""Checkpoints are read right or not at all: archives packed again, damaged bytes, hostile sizes and names."""

import io
import json
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from know.prediction.files import predict_files
from know.prediction.predictors import no_change
from know.weights.files import Checkpoint, CheckpointError, Choice, load_state

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(5).half(), "t": torch.arange(6.0).view(2, 3).T}


def assert_same(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    assert all(one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one)


def repack(path: Path, out: Path, order: list[int], padding: int = 0, compress: int = zipfile.ZIP_STORED) -> Path:
    """The same members in another order, with other gaps between them."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compress) as new:
        names = old.namelist()
        for place in order:
            entry = zipfile.ZipInfo(names[place % len(names)])
            entry.extra = b"\x46\x42" + padding.to_bytes(2, "little") + bytes(padding)
            entry.compress_type = compress
            if entry.filename not in new.namelist():
                new.writestr(entry, old.read(entry.filename))
        for name in set(names) - set(new.namelist()):
            new.writestr(name, old.read(name), compress)
    return out


@settings(deadline=None, max_examples=25)
@given(order=st.lists(st.integers(0, 9), max_size=10), padding=st.integers(0, 200))
def test_an_archive_that_was_packed_again_is_read_from_where_its_members_are(tmp_path_factory, order, padding):
    folder = tmp_path_factory.mktemp("zip")
    torch.save(STATE, folder / "a.pt")
    again = repack(folder / "a.pt", folder / "b.pt", order, padding)
    with Checkpoint(again) as checkpoint:
        for name, tensor in STATE.items():
            assert torch.equal(checkpoint.read(name, 1, tensor.numel()), tensor.reshape(-1)[1:])
    assert_same(load_state(again), STATE)


def changed_member(path: Path, out: Path, changes: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = changes.get(name.partition("/")[2], old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a, b: repack(a, b, [], compress=zipfile.ZIP_DEFLATED), "is compressed: unpack and save it anew"),
        (lambda a, b: changed_member(a, b, {"byteorder": b"big"}), "stored as b'big' endian"),
        (lambda a, b: changed_member(a, b, {"data/0": bytes(8)}), "storage 0 has 8 bytes, not 48"),
        (lambda a, b: changed_member(a, b, {"data/1": None}), "not a readable state dict: .*data/1"),
        (lambda a, b: changed_member(a, b, {"data.pkl": b"\x80\x02]."}), "not a state dict but a list"),
        (lambda a, b: changed_member(a, b, {"data.pkl": b"\x80\x02\x85."}), "not a readable state dict"),
        (lambda a, b: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), b), "a TorchScript program"),
        (lambda a, b: torch.save({"w": torch.zeros(2, dtype=torch.complex64).conj()}, b), "w: holds a sparse"),
        (lambda a, b: torch.save({"w": torch.zeros(2, device="meta")}, b), "more than tensors .*meta"),
        (lambda a, b: torch.save({"w": bytearray(3)}, b), r"more than tensors \(.*bytearray"),
        (lambda a, b: np.savez(b.with_suffix(".npz"), w=np.ones(3)) or b.with_suffix(".npz").rename(b), "not one of"),
    ],
)
def test_what_is_not_as_torch_saves_it_is_refused_in_a_line(tmp_path, damage, message):
    torch.save(STATE, tmp_path / "a.pt")
    damage(tmp_path / "a.pt", tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state(tmp_path / "b.pt")
    assert str(caught.value).startswith(str(tmp_path / "b.pt")) and "\n" not in str(caught.value)


def saved_bytes(suffix: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=suffix != "legacy")
    return buffer.getvalue()


ORIGINAL = {suffix: saved_bytes(suffix) for suffix in ("pt", "legacy")}


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "legacy"])
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_damaged_bytes_end_in_one_line_or_in_a_state_dict(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.mktemp("bytes")
    path = folder / "a"
    if suffix == "safetensors":
        save_file(STATE | {"t": STATE["t"].contiguous()}, path)
        raw = bytearray(path.read_bytes())
    else:
        raw = bytearray(ORIGINAL[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path.write_bytes(raw)
    try:
        state = load_state(path)
    except CheckpointError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert sum(tensor.numel() * tensor.itemsize for tensor in state.values()) <= 16 * len(raw) + (1 << 20)


def test_an_expanded_tensor_takes_no_memory_until_it_is_asked_for(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1).expand(3_000_000_000)}, path)
    with pytest.raises(CheckpointError, match=r"12,000,000,000 bytes and the file [\d,]+: more than 16 times"):
        load_state(path)
    with Checkpoint(path, unfold=1e12) as checkpoint:
        assert checkpoint.read("w", 2_999_999_990, 3_000_000_000).tolist() == [1.0] * 10


def safetensors_with(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_metadata_of_null_is_none(tmp_path):
    header = {"__metadata__": None, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    (tmp_path / "a.safetensors").write_bytes(safetensors_with(header, bytes(4)))
    predict_files([tmp_path / "a.safetensors"], tmp_path / "out.safetensors", no_change)
    assert load_file(tmp_path / "out.safetensors")["w"].item() == 0


@pytest.mark.parametrize("name", ["__metadata__", "w\ud800"])
def test_names_that_safetensors_cannot_hold_are_refused_before_anything_is_written(tmp_path, name):
    torch.save({name: torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="safetensors cannot hold a tensor of the name"):
        predict_files([tmp_path / "a.pt"], tmp_path / "out.safetensors", no_change)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_the_content_says_what_a_file_is_not_its_name(tmp_path):
    torch.save(STATE, tmp_path / "a.safetensors")
    assert_same(load_state(tmp_path / "a.safetensors"), STATE)
    save_file({"w": torch.ones(2)}, tmp_path / "b.pt")
    assert load_state(tmp_path / "b.pt")["w"].tolist() == [1, 1]


# --- training states ------------------------------------------------------------------------------------------------


def optimizer_state() -> dict:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


WRAPPED = {
    "model": {"model": STATE, "optimizer": optimizer_state(), "epoch": 3},
    "state_dict": {"state_dict": STATE, "args": Namespace(lr=0.1), "metric": np.float64(0.5), "arch": "resnet18"},
    "ema.model": {"ema": {"model": STATE, "decay": 0.99}, "best": torch.ones(())},
}


@pytest.mark.parametrize("key", WRAPPED)
def test_the_state_dict_of_a_training_state_is_found(tmp_path, key):
    torch.save(WRAPPED[key], tmp_path / "a.pth.tar")
    assert_same(load_state(tmp_path / "a.pth.tar"), STATE)
    assert_same(load_state(tmp_path / "a.pth.tar", Choice(key)), STATE)
    with pytest.raises(CheckpointError, match=rf"no state dict has the key 'nets'; there: {key} \(3 tensors\)"):
        load_state(tmp_path / "a.pth.tar", Choice("nets"))


def test_of_several_state_dicts_the_user_chooses(tmp_path):
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    torch.save({"model": STATE, "model_ema": other, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"model \(3 tensors\), model_ema \(3 tensors\): choose with --key"):
        load_state(tmp_path / "a.pt")
    assert_same(load_state(tmp_path / "a.pt", Choice("model_ema")), other)


def test_a_prefix_is_taken_off_the_names(tmp_path):
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()}}, tmp_path / "a.ckpt")
    assert_same(load_state(tmp_path / "a.ckpt", Choice(strip="model.")), STATE)
    with pytest.raises(CheckpointError, match=r"--strip-prefix: no tensor's name begins with 'net\.'"):
        load_state(tmp_path / "a.ckpt", Choice(strip="net."))
    torch.save({"model.w": torch.ones(1), "w": torch.ones(1)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="two tensors have the same name"):
        load_state(tmp_path / "b.pt", Choice(strip="model."))
