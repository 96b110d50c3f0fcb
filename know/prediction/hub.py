"""Checkpoints by their name on the Hugging Face hub, ``org/name`` or ``org/name@revision``."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from know.weights.reading import CheckpointError

NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*?)(?:@([\w./-]+))?")
FILES = re.compile(r"\.(safetensors|pt|pth|bin|ckpt|tar)$")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def located(path: Path) -> Path:
    """``path`` itself; or, if nothing is there and it reads like a name on the hub, the folder that it is fetched to.

    Raises:
        CheckpointError: it cannot be fetched, or what fetches it is not installed.
    """
    found = NAME.fullmatch(path.as_posix())
    if found is None or FILES.search(path.name) or path.exists():
        return path
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CheckpointError(f"{path}: no such file; as a name on the hub, it needs pip install 'know[hub]'")
    from huggingface_hub import snapshot_download

    name, revision = found.groups()
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*WANTED, "*.bin"]))
    except Exception as error:  # of the network, the hub and the disk: many classes, none shared
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: no such file, and not to be had from the hub: {reason}") from None
    return folder
