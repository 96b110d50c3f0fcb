"""The hyper-model that the paper's authors released, from where the user has it or from their repository.

It states no licence, so it is no part of this package: a folder named by ``KNOW_RELEASED`` → ``data/raw/known-released`` → the
authors' repository → missing, and what needs it is left out. Whatever the source, the files are recognised by their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path

from know import paths
from know.prediction.keras import FILES, import_keras
from know.prediction.known import HyperModel
from know.weights.kinds import Kind

VARIABLE = "KNOW_RELEASED"
ADDRESS = "https://raw.githubusercontent.com/jjh6297/KNOW/be5fbfcefa798c1a7607e413418a5437a01fe42e/{file}"
SHA256: dict[Kind, str] = {
    "conv": "b66f1cadf41cba243d70ce38ef01a9da3466ca7a3723c9bafa2d3ca359bfada6",
    "fc": "e34bcc8f1cf7988856b19b1e15d29764fa6ccd8431c20858e8bc3812ed5bd26a",
    "bias": "1fcdc8b3167e724dc7fc4f6d439ffa9d626cbd73c6d46711cb7fc721514f1cb5",
}


class MissingError(ValueError):
    """The released hyper-model cannot be had. The message is one line: what was tried, and where to place it."""


@lru_cache(maxsize=2)
def released(fetch: bool = True) -> HyperModel:
    """The released hyper-model, S = 5.

    Args:
        fetch: where no folder is named, look further; else that alone is where it may be, so that nothing but what a user says
            decides whether it is there.

    Raises:
        MissingError: no source has it.
    """
    kept, tried, names = paths.RAW / "known-released", [], ", ".join(FILES.values())
    own = os.environ.get(VARIABLE)
    if not own and not fetch:
        raise MissingError(
            f"{VARIABLE} names no folder with {names} of github.com/jjh6297/KNOW (with fetch: true they are fetched)"
        )
    for folder in [Path(own)] if own else [kept]:
        if wrong := _wrong(folder):
            tried.append(f"folder {folder}: {wrong}")
        else:
            return import_keras(folder)
    if not own:
        try:
            _download(kept)
        except (OSError, ValueError) as error:
            tried.append(f"the authors' repository: {' '.join(str(error).split())[:160]}")
        else:
            return import_keras(kept)
    raise MissingError(
        f"the released hyper-model cannot be had ({'; '.join(tried)}): place {names} of github.com/jjh6297/KNOW in {kept}, or name"
        f" their folder in {VARIABLE}"
    )


@lru_cache(maxsize=2)
def missing(fetch: bool = True) -> str | None:
    """Why there is no released hyper-model, in a line; None if there is."""
    try:
        released(fetch)
    except MissingError as error:
        return str(error)
    return None


def _wrong(folder: Path) -> str | None:
    """What is wrong with a folder of the three files; None if nothing is."""
    for kind, name in FILES.items():
        if not (folder / name).is_file():
            return f"no {name} in it"
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != SHA256[kind]:
            return f"{name} is not the released one (SHA-256 differs)"
    return None


def _download(folder: Path) -> None:
    """Fetch the three files. Raises OSError: there is no network; ValueError: they are others."""
    with paths.atomic(folder) as temporary:
        temporary.mkdir()
        for name in FILES.values():
            try:
                with urllib.request.urlopen(ADDRESS.format(file=name), timeout=10) as answer:
                    (temporary / name).write_bytes(answer.read())
            except (TimeoutError, urllib.error.URLError) as error:
                raise OSError(f"{name}: {error}") from None
        if wrong := _wrong(temporary):
            raise ValueError(wrong)
