"""Image files that others wrote: decoded, or refused in a line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class ImageError(ValueError):
    """A file is not the image that it should be. The message is one line."""


def decoded(path: Path) -> Image.Image:
    """The image in a file, in memory as it is stored.

    Raises:
        ImageError: it is missing or damaged, for which each of Pillow's decoders has its own errors; or it declares more
            than twice ``PIL.Image.MAX_IMAGE_PIXELS``, which may be set higher.
    """
    from PIL import Image  # prediction needs no images

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {error}; if that is right, set PIL.Image.MAX_IMAGE_PIXELS") from None
    except Exception as error:
        raise ImageError(
            f"{path}: not a readable image ({error or type(error).__name__}); repair or remove it"
        ) from None


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """The shorter side resized to ``side``, and of the longer one the middle."""
    from torchvision.transforms import functional

    return functional.center_crop(functional.resize(image, side), side)


def image_array(path: Path, channels: int, side: int, whole: bool) -> np.ndarray:
    """The image in a file, grey or RGB, uint8 (channels, side, side): all of it, or its ``middle_square``. Raises as ``decoded``."""
    from PIL import Image

    image = decoded(path).convert("RGB" if channels == 3 else "L")
    image = image.resize((side, side), Image.Resampling.BILINEAR) if whole else middle_square(image, side)
    return np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)


def mask_array(path: Path, values: np.ndarray | None = None, side: int | None = None) -> np.ndarray:
    """The mask in a file, uint8 (H, W), or (side, side) of its nearest pixels; ``values``: what each of its values stands
    for, uint8 (256,). Raises as ``decoded``, and of a file that is not one value a pixel.
    """
    from PIL import Image

    mask = decoded(path)
    if mask.mode not in ("P", "L"):
        raise ValueError(f"{path}: a mask has one value a pixel, a byte; this is an image of mode {mask.mode}")
    array = np.asarray(mask if side is None else mask.resize((side, side), Image.Resampling.NEAREST))
    return array if values is None else values[array]
