"""Micro data sets in the layouts in which the real ones are published: a few images of differing sizes, files and folders alike.

``write("voc", folder)`` writes both parts into ``folder``, as ``data/raw/voc`` or ``KNOW_DATA/voc`` would hold them. Images of a
class have its colour, with noise, so that they can be told apart.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from know.data.catalogue import CITYSCAPES_CLASSES
from know.data.layouts import DAMAGED, PACS_CLASSES, PACS_DOMAINS

NAMES = ("imagenet", "tiny-imagenet", "flowers102", "stanford-cars", "cub", "pacs", "voc", "cityscapes", "flickr8k")
COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "grey")
THINGS = ("dog", "ball", "house", "boat", "horse")


def write(name: str, folder: Path, classes: int = 3, per_class: int = 4, side: int = 16, seed: int = 0) -> None:
    """Write a data set of so many classes, with so many training images of each (in PACS, of each domain) and half as many
    test images; images are ``side`` to 1.5 ``side`` pixels high and wide."""
    globals()[f"_{name.replace('-', '_')}"](folder, _Draws(classes, per_class, side, np.random.default_rng(seed)))


class _Draws:
    """The images that a layout is filled with."""

    def __init__(self, classes: int, per_class: int, side: int, rng: np.random.Generator) -> None:
        self.classes, self.per_class, self.side, self.rng = classes, per_class, side, rng
        self.colours = np.random.default_rng(99).permutation(np.indices((3, 3, 3)).reshape(3, -1).T * 100)

    def parts(self, train: str, test: str) -> Iterator[tuple[str, int, int]]:
        """Of each image the part's name, its class, and its number, which no two have the same."""
        number = 0
        for part, count in ((train, self.per_class), (test, max(1, self.per_class // 2))):
            for _ in range(count):
                for label in range(self.classes):
                    number += 1
                    yield part, label, number

    def shape(self) -> tuple[int, int]:
        height, width = self.rng.integers(self.side, self.side * 3 // 2 + 1, 2)
        return int(height), int(width)

    def image(self, path: Path, label: int, grey: bool = False) -> None:
        self._save(path, self.colours[label % len(self.colours)], self.shape(), grey)

    def _save(self, path: Path, colours: np.ndarray, shape: tuple[int, int], grey: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.broadcast_to(colours, (*shape, 3)) + self.rng.integers(0, 50, (*shape, 3))
        image = Image.fromarray(pixels.astype(np.uint8))
        (image.convert("L") if grey else image).save(path)

    def scene(self, path: Path, mask: Path, label: int, values: tuple[int, ...], around: int, palette: bool) -> None:
        """An image of a rectangle of the class before a background, and its mask, with a border of 255 (VOC's) or 0."""
        height, width = self.shape()
        top, left = int(height * 0.2), int(width * 0.2)
        array = np.full((height, width), around, np.uint8)
        array[top - 1 : height - top + 1, left - 1 : width - left + 1] = 255 if palette else 0
        array[top : height - top, left : width - left] = values[label]
        inside = (array == values[label])[:, :, None]
        self._save(path, np.where(inside, self.colours[label % len(self.colours)], 120), (height, width))
        mask.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if palette:
            image = image.convert("P")  # as grey, whose indices are its values
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(mask)


def _lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _imagenet(folder: Path, draws: _Draws) -> None:
    for part, label, number in draws.parts("train", "val"):
        draws.image(folder / part / f"n{label:08}" / f"image_{number}.JPEG", label)


def _tiny_imagenet(folder: Path, draws: _Draws) -> None:
    root = folder / "tiny-imagenet-200"
    names = [f"n{1443537 + 7 * i:08d}" for i in range(draws.classes)]
    _lines(root / "wnids.txt", names)
    _lines(root / "words.txt", [f"{name}\tthing {i}, other word" for i, name in enumerate([*names, "n99999999"])])
    annotations = []
    for part, label, number in draws.parts("train", "val"):
        if part == "train":
            draws.image(root / "train" / names[label] / "images" / f"{names[label]}_{number}.JPEG", label, number == 1)
        else:
            draws.image(root / "val" / "images" / f"val_{number}.JPEG", label)
            annotations.append(f"val_{number}.JPEG\t{names[label]}\t0\t0\t63\t63")
    _lines(root / "val" / "val_annotations.txt", annotations)
    draws.image(root / "test" / "images" / "test_0.JPEG", 0)


def _flowers102(folder: Path, draws: _Draws) -> None:
    from scipy.io import savemat

    root, labels, parts = folder / "flowers-102", [], {"trnid": [], "valid": [], "tstid": []}
    for part, label, number in draws.parts("trnid", "tstid"):
        draws.image(root / "jpg" / f"image_{number:05d}.jpg", label)
        labels.append(label + 1)
        validation = part == "trnid" and number > draws.classes * draws.per_class // 2
        parts["valid" if validation else part].append(number)
    savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(root / "setid.mat", {name: np.array([numbers]) for name, numbers in parts.items()})


def _stanford_cars(folder: Path, draws: _Draws) -> None:
    from scipy.io import savemat

    root = folder / "stanford_cars"
    kinds = [(name, int) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class")]
    rows: dict[str, list[tuple]] = {"train": [], "test": []}
    for part, label, number in draws.parts("train", "test"):
        draws.image(root / f"cars_{part}" / f"{number:05d}.jpg", label)
        rows[part].append((1, 1, 8, 8, label + 1, f"{number:05d}.jpg"))
    (root / "devkit").mkdir()
    for part, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        savemat(
            root / path,
            {"annotations": np.array([rows[part]], dtype=[*((n, object) for n, _ in kinds), ("fname", object)])},
        )
    names = np.empty((1, draws.classes), object)
    names[0] = [f"Maker Model {i} 2012" for i in range(draws.classes)]
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})


def _cub(folder: Path, draws: _Draws) -> None:
    root = folder / "CUB_200_2011"
    names = [f"{i + 1:03d}.Grey_Bird_{i}" for i in range(draws.classes)]
    images, labels, trains = [], [], []
    for part, label, number in draws.parts("1", "0"):
        file = f"{names[label]}/Bird_{number:04d}.jpg"
        draws.image(root / "images" / file, label)
        images.append(f"{number} {file}")
        labels.append(f"{number} {label + 1}")
        trains.append(f"{number} {part}")
    _lines(root / "images.txt", images)
    _lines(root / "image_class_labels.txt", labels)
    _lines(root / "train_test_split.txt", trains)
    _lines(root / "classes.txt", [f"{i + 1} {name}" for i, name in enumerate(names)])


def _pacs(folder: Path, draws: _Draws) -> None:
    """With what is wrong in it: an image that is damaged, and, in copies of the lists, a class of 0."""
    for domain in PACS_DOMAINS:
        lists: dict[str, list[str]] = {"train": [], "crossval": []}
        for part, label, number in draws.parts("train", "crossval"):
            file = f"{domain}/{PACS_CLASSES[label]}/pic_{number:03d}.{'png' if domain == 'sketch' else 'jpg'}"
            draws.image(folder / file, label, grey=domain == "sketch")
            lists[part].append(f"{file} {label + 1}")
        if domain == "sketch":
            (folder / DAMAGED).write_bytes(b"damaged")
            lists["train"].append(f"{DAMAGED} 1")
        if domain == "art_painting":
            lists["crossval"][0] = f"{lists['crossval'][0].split()[0]} 0"
        for part, lines in {**lists, "test": [*lists["train"], *lists["crossval"]]}.items():
            _lines(folder / f"{domain}_{part}_kfold.txt", lines)


def _voc(folder: Path, draws: _Draws) -> None:
    root, lists = folder / "VOCdevkit" / "VOC2012", {"train": [], "val": []}
    for part, label, number in draws.parts("train", "val"):
        name = f"2007_{number:06d}"
        values = tuple(range(1, draws.classes + 1))
        draws.scene(
            root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png", label, values, 0, True
        )
        lists[part].append(name)
    for part, names in {**lists, "trainval": [*lists["train"], *lists["val"]]}.items():
        _lines(root / "ImageSets" / "Segmentation" / f"{part}.txt", names)


def _cityscapes(folder: Path, draws: _Draws) -> None:
    from torchvision.datasets import Cityscapes

    values = [one.id for name in CITYSCAPES_CLASSES for one in Cityscapes.classes if one.name == name]
    for part, label, number in draws.parts("train", "val"):
        city = ("aachen", "ulm")[number % 2]
        name = f"{city}_{number:06d}_000019"
        masks = folder / "gtFine" / part / city
        draws.scene(
            folder / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png",
            masks / f"{name}_gtFine_labelIds.png", label, tuple(values), 4, False,
        )  # fmt: skip


def _flickr8k(folder: Path, draws: _Draws) -> None:
    captions, lists = [], {"train": [], "test": []}
    for part, label, number in draws.parts("train", "test"):
        name = f"{1000000000 + number}_{number:010x}.jpg"
        draws.image(folder / "Images" / name, label)
        colour, thing = COLOURS[label % len(COLOURS)], THINGS[label % len(THINGS)]
        for i, end in enumerate(("is here .", "stands there .", "can be seen !", "is shown", f"number {number}")):
            captions.append(f"{name}#{i}\tA {colour} {thing} {end}")
        lists[part].append(name)
    _lines(folder / "Flickr8k.token.txt", captions)
    for part, names in {**lists, "dev": lists["test"][:1]}.items():
        _lines(folder / f"Flickr_8k.{part}Images.txt", names)
