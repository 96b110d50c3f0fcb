"""The images that come with the repository: a PNG sprite a class, verified by the digest of what it decodes to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from know import paths
from know.data.decoding import decoded
from know.data.sources import Arrays, DataError, Part, digest

COLUMNS = 50  # images a row of a sprite


def save_embedded(folder: Path, parts: Mapping[Part, Arrays], classes: Sequence[str]) -> None:
    """Write single-channel images as one lossless sprite a part and class, with a manifest.

    Args:
        parts: images uint8 (N, 1, H, W) and labels (N,) sorted by label; a multiple of 50 images a class.
    """
    from PIL import Image  # late: the catalogue of data sets is read where no images are

    with paths.atomic(folder) as temporary:
        manifest: dict[str, object] = {"classes": list(classes)}
        for part, (images, labels, *_) in parts.items():
            (temporary / part).mkdir(parents=True)
            side = images.shape[-1]
            for label in range(len(classes)):
                own = images[labels == label, 0]
                sprite = own.reshape(-1, COLUMNS, side, side).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * side)
                Image.fromarray(sprite).save(temporary / part / f"{label}.png", optimize=True)
            manifest[part] = {"per_class": len(images) // len(classes), "side": side, "sha256": digest(images, labels)}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def read_embedded(folder: Path, part: Part) -> Arrays:
    """Read what ``save_embedded`` wrote.

    Raises:
        DataError: a file is missing or damaged; names it.
    """

    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        classes, side = manifest["classes"], manifest[part]["side"]
        sprites = []
        for label in range(len(classes)):
            path = folder / part / f"{label}.png"
            sprite = np.asarray(decoded(path))
            sprites.append(sprite.reshape(-1, side, COLUMNS, side).transpose(0, 2, 1, 3).reshape(-1, 1, side, side))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: embedded images cannot be read ({error}); restore them with git checkout") from None
    images = np.concatenate(sprites)
    labels = np.repeat(np.arange(len(classes)), [len(sprite) for sprite in sprites])
    if digest(images, labels) != manifest[part]["sha256"]:
        raise DataError(f"{folder / part}: the images do not match manifest.json; restore them with git checkout")
    return Arrays(images, labels)
