"""Data sets as their publishers lay them out: files in a folder, which are listed here and read when they are needed.

Each layout is a function of a folder and a part, that lists the files of the part and what is known of them. This module
imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from know import paths
from know.data.decoding import mask_array
from know.data.names import END, PAD, SPECIAL, START, UNKNOWN, VOID
from know.data.sources import DataError, Part, Source, impatiently


class Listing(NamedTuple):
    """The N samples of a part of a data set, in files.

    ``labels``: int64 (N,), the category of each image; of those with ``masks``, the class that most of the pixels are of.
    ``values``: what each value of a mask's file stands for, uint8 (256,); None: itself. ``tokens``, ``domains``: as in
    ``sources.Arrays``. ``classes``, ``outputs``: the names that the files give, of which there may be fewer than the
    specification has. ``digest``: by which the data set is recognised: of the files' bytes in order, and of the arrays.
    """

    images: Sequence[Path]
    labels: np.ndarray
    masks: Sequence[Path] = ()
    values: np.ndarray | None = None
    tokens: np.ndarray | None = None
    domains: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    digest: str = ""

    def at(self, index: np.ndarray) -> Listing:
        """The samples at these indices (n,), in their order."""
        images, masks = ([files[i] for i in index.tolist()] if files else files for files in (self.images, self.masks))
        tokens, domains = (None if one is None else one[index] for one in (self.tokens, self.domains))
        return self._replace(images=images, labels=self.labels[index], masks=masks, tokens=tokens, domains=domains)


@dataclass(frozen=True)
class Published:
    """A data set in files: in a folder of the user's, or ``data/raw/NAME``, or where torchvision downloads it to that.

    ``listing``: of a folder and a part. ``files``: what is expected there. ``background``: the masks' value 0 is no class.
    """

    name: str
    listing: Callable[[Path, Part], Listing]
    files: str
    source: Source
    download: Callable[[Path], Any] | None = None
    background: bool = False

    def __call__(self, part: Part, folder: Path | None = None) -> Listing:
        """The files of a part. What all of them must be read for, labels of masks and digest, is kept under ``data/raw``.

        Raises:
            DataError: it is not there; one line that says what was tried, what to get from where, and under which terms.
        """
        own, tried = folder or paths.RAW / self.name, list[str]()
        if folder is None and self.download and not (own.is_dir() and any(own.iterdir())):
            try:
                with impatiently(), paths.atomic(own) as temporary:
                    self.download(temporary)
            except (OSError, RuntimeError, ValueError) as error:
                tried.append(f"torchvision's download: {' '.join(str(error).split())[:160]}")
        try:
            found = self.listing(own, part)
            return self._known(found, None if folder else paths.RAW / f"{self.name}-{part}.json")
        except (DataError, OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
            tried.insert(0, f"folder {own}: {' '.join(str(error).split())[:300]}")
        raise DataError(
            f"{self.name} cannot be had ({'; '.join(tried)}): place {self.files} in {own}; from {self.source}"
        )

    def _known(self, found: Listing, kept: Path | None) -> Listing:
        """With its digest, and with its masks' labels; images without a pixel of any class are left out."""
        if not len(found.images):
            raise DataError("no images")
        stamp = _stamp([*found.images, *found.masks])
        index: dict[str, Any] = {}
        if kept and kept.exists():
            with contextlib.suppress(ValueError, OSError):
                index = json.loads(kept.read_text())
        if index.get("stamp") != stamp:
            labels = [self._label(mask, found.values) for mask in found.masks] or found.labels.tolist()
            index = {"stamp": stamp, "labels": labels, "digest": _digest(found, labels)}
            if kept:
                with paths.atomic(kept) as temporary:
                    temporary.write_text(json.dumps(index))
        labels = np.asarray(index["labels"], np.int64)
        return found._replace(labels=labels, digest=index["digest"]).at(np.flatnonzero(labels >= 0))

    def _label(self, mask: Path, values: np.ndarray | None) -> int:
        """The class that most pixels of a mask are of, the first of several; -1: none is of any."""
        counts = np.bincount(mask_array(mask, values).ravel(), minlength=256)
        counts = counts[int(self.background) : VOID]
        return int(counts.argmax()) if counts.any() else -1


def _stamp(files: Sequence[Path]) -> str:
    """Which files these are, without reading them."""
    sha = hashlib.sha256()
    for file in files:
        status = file.stat()
        sha.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def _digest(found: Listing, labels: Sequence[int]) -> str:
    sha = hashlib.sha256()
    for path in (*found.images, *found.masks):
        with path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    for name, array in (("labels", labels), ("tokens", found.tokens), ("domains", found.domains)):
        if array is not None:
            sha.update(name.encode() + np.ascontiguousarray(array, "<i8").tobytes())
    return sha.hexdigest()


def _root(folder: Path, *names: str) -> Path:
    """``folder`` or the folder in it that has one of ``names``, as archives unpack to the one or the other."""
    for place in (folder, *(sorted(folder.iterdir()) if folder.is_dir() else ())):
        if any((place / name).exists() for name in names):
            return place
    raise DataError(f"no {' or '.join(names)} in it")


def _rows(path: Path) -> list[list[str]]:
    """The words of each line of a text file."""
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# --- classification ---------------------------------------------------------------------------------------------


def imagenet(folder: Path, part: Part) -> Listing:
    """A folder a class, in the order of their WordNet identifiers; as test images those to validate on: the labels of its test
    images were not published."""
    root = _root(folder, "train")
    names = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    under = root / ("train" if part == "train" else "val")
    found = [(file, c) for c, name in enumerate(names) for file in sorted((under / name).iterdir())]
    return Listing([file for file, _ in found], np.array([c for _, c in found], np.int64), classes=tuple(names))


def tiny_imagenet(folder: Path, part: Part) -> Listing:
    """Its training images, and as test images those to validate on: the labels of its test images were not published."""
    root = _root(folder, "wnids.txt")
    names = [row[0] for row in _rows(root / "wnids.txt")]
    words = dict(
        line.split("\t", 1) for line in (root / "words.txt").read_text(encoding="utf-8").splitlines() if "\t" in line
    )
    classes = tuple(words.get(name, name).split(",")[0] for name in names)
    if part == "train":
        found = [
            (file, c) for c, name in enumerate(names) for file in sorted((root / "train" / name / "images").iterdir())
        ]
    else:
        rows = _rows(root / "val" / "val_annotations.txt")
        found = [(root / "val" / "images" / file, names.index(name)) for file, name, *_ in rows]
    return Listing([file for file, _ in found], np.array([c for _, c in found], np.int64), classes=classes)


def flowers102(folder: Path, part: Part) -> Listing:
    """Of its three parts, those to train and to validate on make the training images, as is usual for fine-tuning."""
    from torchvision.datasets import Flowers102

    class Unverified(Flowers102):
        """Whose files are recognised by their digest, not by torchvision's, which would refuse a part of them."""

        def _check_integrity(self) -> bool:
            return self._images_folder.is_dir()

    root = _root(folder, "flowers-102")
    parts = [Unverified(root, split=split) for split in (("train", "val") if part == "train" else ("test",))]
    return Listing(
        [file for one in parts for file in one._image_files],
        np.array([label for one in parts for label in one._labels], np.int64),
        classes=tuple(Flowers102.classes),
    )


def stanford_cars(folder: Path, part: Part) -> Listing:
    from torchvision.datasets import StanfordCars

    found = StanfordCars(_root(folder, "stanford_cars"), split=part)
    images, labels = zip(*found._samples, strict=True)
    return Listing([Path(file) for file in images], np.array(labels, np.int64), classes=tuple(map(str, found.classes)))


def cub(folder: Path, part: Part) -> Listing:
    root = _root(folder, "train_test_split.txt")
    files, label_of, trains, names = (
        dict(_rows(root / f"{name}.txt")) for name in ("images", "image_class_labels", "train_test_split", "classes")
    )
    chosen = [number for number in files if (trains[number] == "1") == (part == "train")]
    return Listing(
        [root / "images" / files[number] for number in chosen],
        np.array([int(label_of[number]) - 1 for number in chosen], np.int64),
        classes=tuple(name.partition(".")[2].replace("_", " ") for name in names.values()),
    )


# --- domains ----------------------------------------------------------------------------------------------------

PACS_DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
HELD_OUT = 10
"""Where the official lists are not there, every tenth image of a domain and class is a test image."""
DAMAGED = "sketch/dog/n02103406_4068-1.png"
"""As it is published; the official lists have it nonetheless."""


def pacs(folder: Path, part: Part) -> Listing:
    """DOMAIN/CLASS/image. By the official lists, training images are those of ``DOMAIN_train_kfold.txt``, and test images those
    of ``DOMAIN_crossval_kfold.txt``, which make ``DOMAIN_test_kfold.txt`` together; without them, every tenth image of a domain
    and class, by name, is a test image. The folders say the classes, for copies of the lists are wrong in some."""
    root = _root(folder, PACS_DOMAINS[0])
    parts: Sequence[Part] = ("train", "test") if part == "all" else (part,)
    rows = [
        (root / file, domain, PACS_CLASSES.index(Path(file).parent.name))
        for domain, name in enumerate(PACS_DOMAINS)
        for one in parts
        for file in _pacs(folder, root / name, one)
        if file != DAMAGED
    ]
    files, domains, labels = zip(*rows, strict=True)
    return Listing(files, np.array(labels, np.int64), domains=np.array(domains, np.int64))


def _pacs(folder: Path, domain: Path, part: Part) -> Iterator[str]:
    """The images of a domain, by their names within what holds the domains."""
    with contextlib.suppress(DataError):
        listed = f"{domain.name}_{'train' if part == 'train' else 'crossval'}_kfold.txt"
        yield from (file for file, *_ in _rows(_root(folder, listed) / listed))
        return
    for name in PACS_CLASSES:
        files = sorted(file for file in (domain / name).glob("*") if file.suffix in (".jpg", ".png"))
        for place, file in enumerate(files):
            if (place % HELD_OUT == HELD_OUT - 1) == (part == "test"):
                yield f"{domain.name}/{name}/{file.name}"


# --- segmentation -----------------------------------------------------------------------------------------------


def voc(folder: Path, part: Part) -> Listing:
    """Its training images, and as test images those to validate on: the masks of its test images were not published."""
    from torchvision.datasets import VOCSegmentation

    found = VOCSegmentation(_root(folder, "VOCdevkit"), "2012", "train" if part == "train" else "val")
    return _masked(found.images, found.masks)


def cityscapes(folder: Path, part: Part) -> Listing:
    """Its fine masks: training images, and as test images those to validate on, for the others' masks are not published. Of
    its 34 ``labelIds`` the 19 that are evaluated are the classes; all others are VOID. torchvision unpacks both archives."""
    from torchvision.datasets import Cityscapes

    root = _root(folder, "leftImg8bit", "leftImg8bit_trainvaltest.zip")
    found = Cityscapes(root, "train" if part == "train" else "val", target_type="semantic")
    values = np.full(256, VOID, np.uint8)
    for one in Cityscapes.classes:
        if not one.ignore_in_eval:
            values[one.id] = one.train_id
    pairs = sorted(zip(found.images, (masks[0] for masks in found.targets), strict=True))
    return _masked(*zip(*pairs, strict=True))._replace(values=values)


def _masked(images: Sequence[str], masks: Sequence[str]) -> Listing:
    return Listing([Path(file) for file in images], np.full(len(images), -1), [Path(file) for file in masks])


# --- captioning -------------------------------------------------------------------------------------------------

TOKENS = "Flickr8k.token.txt"
RAREST = 5
"""A word of the vocabulary is seen so many times in the captions of the training images."""


@dataclass(frozen=True)
class Flickr8k:
    """Images and, of the five captions that each has, the first: what is learned, and what is scored against.

    ``words``: the size of the vocabulary, the special tokens' included: the most frequent ones, the first in the alphabet
    of equally frequent ones; places that are left have names of their own. ``length``: tokens of a caption, START and
    END included; what is longer is cut. All images are of one category.
    """

    words: int
    length: int

    def __call__(self, folder: Path, part: Part) -> Listing:
        text = _root(folder, TOKENS)
        places = [
            place / name for place in (folder, *sorted(folder.glob("*/"))) for name in ("Images", "Flicker8k_Dataset")
        ]
        if not (images := [place for place in places if place.is_dir()]):
            raise DataError("no Images in it")
        captions: dict[str, list[list[str]]] = {}
        for line in (text / TOKENS).read_text(encoding="utf-8").splitlines():
            name, _, caption = line.partition("\t")
            captions.setdefault(name.partition("#")[0], []).append(words_of(caption))
        train, chosen = ([row[0] for row in _rows(text / f"Flickr_8k.{one}Images.txt")] for one in ("train", part))
        vocabulary = self.vocabulary(caption for name in train for caption in captions[name])
        number = {word: place for place, word in enumerate(vocabulary)}
        return Listing(
            [images[0] / name for name in chosen],
            np.zeros(len(chosen), np.int64),
            tokens=np.array([self.tokens(captions[name][0], number) for name in chosen], np.int64),
            outputs=vocabulary,
        )

    def vocabulary(self, captions: Iterable[Sequence[str]]) -> tuple[str, ...]:
        """The special tokens and the words of training captions, ``words`` in all."""
        counts = Counter(word for caption in captions for word in caption)
        common = sorted(
            (word for word, count in counts.items() if count >= RAREST), key=lambda word: (-counts[word], word)
        )
        return (*SPECIAL, *common, *(f"<unused {i}>" for i in range(len(SPECIAL) + len(common), self.words)))[
            : self.words
        ]

    def tokens(self, caption: Sequence[str], number: Mapping[str, int]) -> list[int]:
        """START, the words' numbers, END, and PAD up to ``length``."""
        known = [START, *(number.get(word, UNKNOWN) for word in caption[: self.length - 2]), END]
        return known + [PAD] * (self.length - len(known))


def padded(words: tuple[str, ...], size: int) -> tuple[str, ...]:
    """A vocabulary of just this size: the first of the words, or names for the places that they leave."""
    return (*words, *(f"<unused {i}>" for i in range(len(words), size)))[:size]


def words_of(caption: str) -> list[str]:
    """The words of a caption, lower-case, without punctuation: "A dog's ball ." is a, dogs, ball."""
    return re.sub(r"[^\w\s]|_", "", caption.lower()).split()
