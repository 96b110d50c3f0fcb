"""Sizes are checked before memory is taken, and what lies is refused in a line that names it."""

import json
import resource
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from know import params
from know.data.decoding import decoded
from know.data.sources import DataError, read_batches, read_idx
from know.meta.layout import LayoutError, RunFile
from know.options import ParamError
from know.prediction.keras import FILES, KerasError, import_keras
from know.prediction.known import HyperModel, load_hypermodel, save_hypermodel
from know.weights.hdf5 import array_of, opened
from know.weights.limits import SizeError, allowed, check


@pytest.fixture(autouse=True)
def no_memory_is_taken() -> Iterator[None]:
    """300 MB more than the process has had so far would be too much for any of these."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_what_is_stored_may_be_declared_a_hundredfold_and_anything_small(monkeypatch):
    check("a", 64 << 20, 0)
    check("a", 100 << 30, 1 << 30)
    with pytest.raises(SizeError, match=r"^a: declares 65\.0 MB and holds 0\.0 MB; if that is right, set KNOW_MAX_MB$"):
        check("a", 65 << 20, 100)
    monkeypatch.setenv("KNOW_MAX_MB", "70")
    check("a", 65 << 20, 100)
    monkeypatch.setenv("KNOW_MAX_MB", "much")
    with pytest.raises(SizeError, match="KNOW_MAX_MB: got 'much'"):
        allowed(0)


class ReaderError(ValueError):
    """Some reader's own."""


ARRAYS: dict[str, Callable[[h5py.File, Path], object]] = {
    "unwritten": lambda file, _: file.create_dataset("a", (30_000_000, 64), "f4"),
    "one compressed chunk": lambda file, _: file.create_dataset(
        "a", data=np.zeros((1 << 12, 1 << 13), "f4"), chunks=(1 << 12, 1 << 13), compression="gzip"
    ),
    "in another file": lambda file, folder: file.create_dataset("a", (4,), "f4", external=[(folder / "secret", 0, 16)]),
    "linked": lambda file, folder: file.__setitem__("a", h5py.ExternalLink(folder / "other", "a")),
    "virtual": lambda file, folder: file.create_virtual_dataset("a", _virtual(folder)),
}


def _virtual(folder: Path) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(folder / "other", "a", (4,), "f4")
    return layout


@pytest.mark.parametrize("how", ARRAYS)
def test_an_array_that_is_not_in_its_file_is_refused(tmp_path, how):
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "other", "w") as file:
        file["a"] = np.ones(4, "f4")
    with h5py.File(tmp_path / "a", "w") as file:
        ARRAYS[how](file, tmp_path)
    said = rf"{tmp_path / 'a'}: a: (declares|its numbers are in another file)"
    with pytest.raises(ReaderError, match=said), opened(tmp_path / "a", ReaderError) as file:
        array_of(file, "a")


def test_damage_that_shows_only_on_reading_is_the_readers_error_too(tmp_path):
    with h5py.File(tmp_path / "a", "w") as file:
        file.create_dataset("a", data=np.random.default_rng(0).random(9000), chunks=(3000,), compression="gzip")
    data = bytearray((tmp_path / "a").read_bytes())
    data[-5000:] = bytes(5000)
    (tmp_path / "a").write_bytes(data)
    with (
        pytest.raises(ReaderError, match=f"{tmp_path / 'a'}: not a readable HDF5 file: "),
        opened(tmp_path / "a", ReaderError) as file,
    ):
        array_of(file, "a")[()]


def test_hyper_models_and_weight_paths_that_only_declare(tmp_path):
    for name in FILES.values():
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("dense/dense/kernel:0", (30_000_000, 64), "f4")
    with pytest.raises(KerasError, match=r"KNOWN_Conv\.h5: dense/dense/kernel:0: declares 7,324"):
        import_keras(tmp_path)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("FCWeights", (1 << 30, 7), "f4")
    with pytest.raises(LayoutError, match=r"a\.mat: FCWeights: declares 28,672"):
        RunFile.open(tmp_path / "a.mat")


def test_the_files_say_how_large_a_hyper_model_is(tmp_path):
    save_hypermodel(HyperModel(3), tmp_path / "h")
    config = json.loads((tmp_path / "h" / "config.json").read_text())
    (tmp_path / "h" / "config.json").write_text(json.dumps(config | {"history_length": 10_000_000}))
    with pytest.raises(
        ValueError, match=r"conv\.safetensors: not a KNOWN of history_length 10000000: .*shape \(64, 3\)"
    ):
        load_hypermodel(tmp_path / "h")
    (tmp_path / "h" / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json: not a hyper-model's configuration"):
        load_hypermodel(tmp_path / "h")


LAUGHS = "a: &a [" + "x" * 50 + "]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, r"params\.yaml: declares [\d,.]+ MB and holds 0\.0 MB"),
        ("a: &a [*a]", r"params\.yaml: a value contains itself"),
        ("[" * 3000, r"params\.yaml: not YAML"),
        (f"rate: {'x' * 100_000}", r"params\.yaml: "),
    ],
)
def test_a_parameter_file_that_grows_when_it_is_read(tmp_path, text, said):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamError, match=said) as caught:
        params.load(tmp_path / "params.yaml")
    assert len(str(caught.value)) < 1000


def test_images_that_grow_when_they_are_read(tmp_path, monkeypatch):
    Image.new("RGB", (20, 20)).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2  # width and height, in the first chunk, which has a checksum
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb\.png: Image size \(400000000 pixels\) .*; if that is right, set PIL"):
        decoded(tmp_path / "bomb.png")
    Image.effect_noise((40, 40), 90).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.png: not a readable image"):
        decoded(tmp_path / "cut.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    with pytest.warns(Image.DecompressionBombWarning):
        assert decoded(tmp_path / "small.png").size == (9, 9)


def test_raw_files_that_grow_when_they_are_read(tmp_path):
    (tmp_path / "idx").write_bytes(b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" * 3 + b"x")
    with pytest.raises(ValueError, match=r"idx: declares"):
        read_idx(tmp_path / "idx")
    (tmp_path / "batch").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")  # as the reader in C has it, a memo of 16 GB
    with pytest.raises(DataError, match=r"batch: not one of CIFAR's batches"):
        read_batches([tmp_path / "batch"])
