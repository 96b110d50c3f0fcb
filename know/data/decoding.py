"""Image files that others wrote: decoded, or refused in a line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def decoded(path: Path) -> Image.Image:
    """The image in a file, in memory as it is stored.

    Raises:
        ValueError: it is missing or damaged, for which each of Pillow's decoders has its own errors; or it declares more
            than twice ``PIL.Image.MAX_IMAGE_PIXELS``, which may be set higher.
    """
    from PIL import Image  # prediction needs no images

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}; if that is right, set PIL.Image.MAX_IMAGE_PIXELS") from None
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable image ({error or type(error).__name__}); repair or remove it"
        ) from None
