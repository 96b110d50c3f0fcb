"""Sizes are checked before memory is taken: a small file can declare an array or a document of any size.

What is declared may be ``RATIO`` times what is stored, as compression may well make of it; beyond that, no more than the
environment's ``KNOW_MAX_MB``, by default 64.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

RATIO = 100
DEFAULT = 64


class SizeError(ValueError):
    """Something declares more than it may. The message is one line."""


def allowed(stored: int) -> int:
    """Bytes that may be declared by what is stored in so many.

    Raises:
        SizeError: KNOW_MAX_MB is no number.
    """
    given = os.environ.get("KNOW_MAX_MB", str(DEFAULT))
    if not given.isdecimal():
        raise SizeError(f"KNOW_MAX_MB: got {given!r}; allowed: a whole number of megabytes")
    return max(int(given) << 20, RATIO * stored)


def check(what: str, declared: int, stored: int) -> None:
    """Nothing, if ``what``, stored in so many bytes, may declare so many.

    Raises:
        SizeError: it may not.
    """
    if declared > allowed(stored):
        raise SizeError(
            f"{what}: declares {_megabytes(declared)} and holds {_megabytes(stored)}; if that is right, set KNOW_MAX_MB"
        )


def check_document(what: str, document: object, stored: int) -> None:
    """The same of a document's values, which aliases may repeat.

    Raises:
        SizeError: they do so too often, or one contains itself.
    """
    check(what, _extent(document, {}, what), stored)


def _extent(value: object, known: dict[int, int | None], what: str) -> int:
    """The characters that a document's values take when they are written out."""
    if not isinstance(value, Mapping | list):
        return len(str(value)) + 1
    if id(value) not in known:
        known[id(value)] = None
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_extent(part, known, what) for part in parts)
    if (extent := known[id(value)]) is None:
        raise SizeError(f"{what}: a value contains itself")
    return extent


def shown(value: object, most: int = 200) -> str:
    """A value in an error's line, cut where it becomes long."""
    return cut(repr(value), most)


def cut(text: str, most: int) -> str:
    """A text of no more letters than that, and a mark where it goes on."""
    return text if len(text) <= most else f"{text[:most]}…"


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MB"
