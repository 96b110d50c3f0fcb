"""Emoji by three vendors: what is read from the packages, how concepts are split, and what is made of the drawings."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from know.data import emoji as module
from know.data.emoji import CATEGORIES, TOKENS, VENDORS, VOCABULARY, Emoji, captions, concept, domains, over, randoms
from know.data.emoji_scenes import PER_CATEGORY, SCENE, scenes, textures
from know.data.names import END, PAD, START, VOID
from know.data.sources import DataError


def drawn(count: int = 90, side: int = 64) -> Emoji:
    """Discs of a colour for each category, in three sizes for the vendors."""
    at = np.arange(side) - side / 2 + 0.5
    radius = np.hypot(at[:, None], at)
    categories = np.arange(count) % len(CATEGORIES)
    drawings = np.zeros((len(VENDORS), count, side, side, 4), np.uint8)
    for vendor, share in enumerate((0.4, 0.35, 0.3)):
        drawings[vendor, ..., 3] = 255 * (radius < share * side)
        drawings[vendor, ..., 0] = 20 * categories[:, None, None]
    captions = np.array(["face smiling grinning face", "animal mammal quokka", "science dna"] * (count // 3))
    return Emoji(drawings, categories, np.array([f"1F{i:03X}" for i in range(count)]), captions)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("1F43B-200D-2744-FE0F", "1F43B-200D-2744"),  # a polar bear is no bear
        ("1F469-200D-1F373", "1F9D1-200D-1F373"),  # a woman who cooks
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),  # a woman who runs to the right
        ("2640-FE0F", "2640"),  # the sign itself
    ],
)
def test_concepts_have_no_gender(code, shown):
    assert concept(code) == shown


def test_parts_share_no_concept_and_have_every_category():
    emoji = drawn()
    train, test = emoji.of("train"), emoji.of("test")
    assert not set(train.concepts) & set(test.concepts) and len(train.concepts) + len(test.concepts) == 90
    assert Counter(test.categories.tolist()) == dict.fromkeys(range(9), 3)


def test_one_concept_is_in_one_part():
    emoji = drawn(90)
    emoji = emoji._replace(concepts=np.repeat(emoji.concepts[:10], 9))
    assert not set(emoji.of("train").concepts) & set(emoji.of("test").concepts)


def test_domains_are_vendors():
    images, labels, targets, of = domains(drawn(18), "train")
    assert images.shape == (54, 3, 32, 32) and images.dtype == np.uint8 and targets is None
    assert labels.tolist() == list(range(9)) * 6 and of.tolist() == [0] * 18 + [1] * 18 + [2] * 18
    assert (images[:, :, 0, 0] >= 192).all()  # the ground is light
    assert (images[:9, 0, 16, 16] == 20 * np.arange(9)).all() and (images[:, 1, 16, 16] == 0).all()


def test_captions_are_known_words_without_flags():
    images, labels, tokens, of = captions(drawn(18), "train")
    assert len(images) == len(labels) == len(tokens) == len(of) == 48 and labels.max() == 7
    assert tokens.shape == (48, TOKENS) and tokens.dtype == np.int64
    read = [" ".join(VOCABULARY[t] for t in row if t) for row in tokens]
    assert read[0] == "<start> face smiling grinning face <end>"
    assert read[1] == "<start> animal mammal <end>"  # no caption knows quokkas
    assert read[2] == "<start> <unknown> <end>"
    assert (tokens[:, 0] == START).all() and ((tokens == END).sum(1) == 1).all() and (tokens[:, -1] == PAD).all()


def test_the_vocabulary_is_in_order():
    assert VOCABULARY[:4] == ("<pad>", "<start>", "<end>", "<unknown>") and len(set(VOCABULARY)) == len(VOCABULARY)


def test_scenes(monkeypatch):
    monkeypatch.setitem(PER_CATEGORY, "test", 20)
    emoji = drawn(18)
    images, labels, masks, of = scenes(emoji, "test")
    assert images.shape == (180, 3, SCENE, SCENE) and masks.shape == (180, SCENE, SCENE) and of is None
    assert images.dtype == masks.dtype == np.uint8 and Counter(labels.tolist()) == dict.fromkeys(range(9), 20)
    for image, label, mask in zip(images, labels, masks, strict=True):
        assert set(np.unique(mask)) <= {0, 1 + label, VOID} and (mask == 1 + label).sum() > 50
        assert (image[0][mask == 1 + label] <= 20 * label + 80).all() and (image[1][mask == 1 + label] <= 80).all()
    again = scenes(emoji, "test")
    assert np.array_equal(images, again.images) and np.array_equal(masks, again.targets)


def test_textures_differ():
    grounds = textures(0, 60)
    assert grounds.shape == (60, SCENE, SCENE, 3) and len(np.unique(grounds.reshape(60, -1), axis=0)) == 60
    assert (grounds.reshape(60, -1).std(1) > 1).mean() > 0.9


def test_random_numbers_are_the_same_everywhere():
    assert randoms(0, 1, 2).tolist() == [[0.6369616873214543, 0.2697867137638703]]


def test_alpha_mixes():
    mixed = over(
        np.array([[200, 100, 0, 255], [200, 100, 0, 0], [255, 0, 0, 128]], np.uint8), np.array([0, 50, 255], np.uint8)
    )
    assert mixed.tolist() == [[200, 100, 0], [0, 50, 255], [128, 25, 127]]


def packages(folder):
    """Two emoji and a part of one, as the three packages have them."""
    listed = [
        {"unified": "1F600", "image": "1f600.png", "category": "Smileys & Emotion", "sort_order": 1},
        {"unified": "2764-FE0F", "image": "2764-fe0f.png", "category": "Smileys & Emotion", "sort_order": 0},
        {"unified": "1F3FB", "image": "1f3fb.png", "category": "Component", "sort_order": 2},
    ]
    for vendor, colour in (("google", (255, 0, 0, 255)), ("twitter", (0, 255, 0, 255))):
        drawings = folder / f"emoji-datasource-{vendor}" / "img" / vendor / "64"
        drawings.mkdir(parents=True)
        (folder / f"emoji-datasource-{vendor}" / "emoji.json").write_text(json.dumps(listed))
        for emoji in listed:
            Image.new("RGBA", (64, 64), colour).save(drawings / emoji["image"])
    (folder / "openmoji" / "data").mkdir(parents=True)
    (folder / "openmoji" / "color" / "svg").mkdir(parents=True)
    names = [
        ("1F600", "face-smiling", "grinning face"),
        ("2764", "heart", "red heart"),
        ("1F3FB", "skin-tone", "light skin tone"),
    ]
    (folder / "openmoji" / "data" / "openmoji.json").write_text(
        json.dumps([{"hexcode": code, "subgroups": group, "annotation": name} for code, group, name in names])
    )
    for code, *_ in names:
        (folder / "openmoji" / "color" / "svg" / f"{code}.svg").write_text(
            '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><rect width="36" height="72" fill="#00f"/></svg>'
        )


def test_the_three_packages(tmp_path):
    pytest.importorskip("resvg_py")
    packages(tmp_path)
    emoji = module.drawings(tmp_path)
    assert emoji.captions.tolist() == ["heart red heart", "face smiling grinning face"]
    assert emoji.concepts.tolist() == ["2764", "1F600"] and emoji.categories.tolist() == [0, 0]
    assert emoji.drawings[:, 0, 32, 16].tolist() == [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]]
    assert emoji.drawings[:, 0, 32, 48, 3].tolist() == [255, 255, 0]


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(DataError, match="no img/google/64 in it"):
        module.drawings(tmp_path)
