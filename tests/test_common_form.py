"""The common form of data sets: labels, masks, tokens and domains keep in step, whatever is chosen of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from know import paths
from know.data import sources
from know.data.catalogue import DATASETS, DatasetSpec
from know.data.images import ImageSet, load
from know.data.names import END, IGNORED, PAD, START, VOID
from know.data.sources import Arrays, Full, Source, digest

CLASSES = ("a", "b", "c", "d")


def numbered(n: int, side: int = 4) -> torch.Tensor:
    """Images by which one knows their number: all of a pixel's channels are it."""
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, side, side).clone()


def masked(seed: int = 0, n: int = 12, side: int = 4, background: bool = True) -> ImageSet:
    """Images with masks: background, classes and VOID at random."""
    generator = torch.Generator().manual_seed(seed)
    outputs = (*(["background"] if background else []), *CLASSES)
    masks = torch.randint(len(outputs) + 1, (n, side, side), generator=generator)
    masks[masks == len(outputs)] = VOID
    return ImageSet(
        numbered(n, side), torch.arange(n) % 4, CLASSES, masks.to(torch.uint8), outputs, torch.arange(n) % 3
    )


def captioned(n: int = 12) -> ImageSet:
    tokens = torch.tensor([[START, 4 + i % 3, END, PAD, PAD] for i in range(n)])
    return ImageSet(
        numbered(n), torch.arange(n) % 4, CLASSES, tokens, ("<pad>", "<start>", "<end>", "<unknown>", *"xyz")
    )


@given(st.integers(0, 9), st.permutations(range(4)), st.integers(1, 4), st.booleans())
def test_masks_are_relabelled_as_their_images_are(seed, order, count, background):
    data, chosen = masked(seed, background=background), order[:count]
    part = data.of_classes(chosen)
    numbers = part.images[:, 0, 0, 0].tolist()
    assert part.classes == tuple(CLASSES[c] for c in chosen)
    assert part.outputs == (("background",) if background else ()) + part.classes
    assert numbers == [i for i in range(len(data)) if i % 4 in chosen]
    for place, number in enumerate(numbers):
        assert part.classes[part.labels[place]] == CLASSES[number % 4] and part.domains[place] == number % 3
        for new, old in zip(
            part.targets[place].flatten().tolist(), data.targets[number].flatten().tolist(), strict=True
        ):
            name = data.outputs[old] if old != VOID else None
            assert new == (part.outputs.index(name) if name in part.outputs else VOID)


@given(st.lists(st.integers(0, 11), max_size=20), st.sampled_from([masked, captioned]))
def test_selecting_keeps_all_in_step(index, make):
    data = make()
    part = data.select(torch.tensor(index, dtype=torch.int64))
    assert part.images[:, 0, 0, 0].tolist() == index and part.labels.tolist() == [i % 4 for i in index]
    assert torch.equal(part.targets, data.targets[index])
    assert part.domains is None or part.domains.tolist() == [i % 3 for i in index]
    assert (part.classes, part.outputs) == (data.classes, data.outputs)


def test_tokens_are_untouched():
    data = captioned()
    part = data.of_classes([2, 0])
    assert torch.equal(part.targets, data.targets[part.images[:, 0, 0, 0].long()]) and part.outputs == data.outputs
    _, targets = next(part.batches(100))
    assert torch.equal(targets, part.targets)  # PAD too: what is left out is for the task to say


def test_batches_of_masks_ignore_what_is_void():
    data = masked()
    images, targets = (torch.cat(batches) for batches in zip(*data.batches(5), strict=True))
    assert images.dtype == torch.float32 and targets.dtype == torch.int64
    assert torch.equal(targets == IGNORED, data.targets == VOID) and data.targets.max() == VOID
    assert torch.equal(targets[targets != IGNORED], data.targets[data.targets != VOID].long())


def test_batches_of_labels_are_as_ever(toy):
    order = torch.Generator().manual_seed(1)
    _, labels = next(toy.batches(7, order))
    index = torch.randperm(len(toy), generator=torch.Generator().manual_seed(1)).tensor_split(18)[0]
    assert (
        torch.equal(labels, toy.labels[index]) and toy.outputs == toy.classes and toy.of_classes([1]).outputs == ("b",)
    )


@given(st.sets(st.integers(0, 2)))
def test_domains_are_chosen(chosen):
    data = masked()
    part = data.of_domains(sorted(chosen))
    assert part.images[:, 0, 0, 0].tolist() == [i for i in range(len(data)) if i % 3 in chosen]
    assert part.domains.tolist() == [i % 3 for i in range(len(data)) if i % 3 in chosen]


def test_domains_that_are_not_there(toy):
    with pytest.raises(ValueError, match=r"domains \[5\] have no images here; allowed: \[0, 1, 2\]"):
        masked().of_domains([1, 5])
    with pytest.raises(ValueError, match=r"domains \[0\]: these images have no domains"):
        toy.of_domains([0])


@given(st.integers(0, 9))
def test_a_reduced_mask_is_the_middle_of_its_blocks(seed):
    data = masked(seed, side=6)
    part = data.reduced(2)
    assert part.images.shape == (12, 3, 2, 2) and torch.equal(part.targets, data.targets[:, [1, 4]][:, :, [1, 4]])
    assert torch.equal(part.domains, data.domains) and torch.equal(captioned().reduced(2).targets, captioned().targets)


def test_wrong_targets_are_named():
    images, labels = numbered(3), torch.zeros(3, dtype=torch.int64)
    for targets in (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 5)):
        with pytest.raises(ValueError, match=r"targets must be masks uint8 \(N, H, W\) or tokens int64 \(N, T\)"):
            ImageSet(images, labels, ("a",), targets)
    with pytest.raises(ValueError, match=r"domains must be int64 \(N,\)"):
        ImageSet(images, labels, ("a",), domains=torch.zeros(2, dtype=torch.int64))


def arrays() -> Arrays:
    data = masked()
    return Arrays(data.images.numpy(), data.labels.numpy(), data.targets.numpy(), data.domains.numpy())


def test_the_digest_covers_all_that_there_is():
    whole = arrays()
    different = {
        digest(*whole), digest(*whole[:2]), digest(*whole[:3]), digest(*whole[:2], whole.domains),
        digest(*whole[:2], None, whole.domains), digest(*whole[:2], whole.targets.astype(np.int64)),
        digest(*whole[:2], whole.targets ^ 1, whole.domains), digest(*whole[:3], whole.domains[::-1]),
    }  # fmt: skip
    assert len(different) == 8
    zeros, labels = np.zeros((1, 1, 2, 2), np.uint8), np.array([1])
    assert digest(zeros, labels) == "31190090408f837aa1dc44bf75404af354a0e5d5c965f1d407a97dd627554da5"


def test_what_is_kept_holds_all_four(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RAW", tmp_path)
    whole = arrays()
    full = Full(
        "scenes", {"train": ("x",), "test": ("x",)}, lambda files: whole, "None", Source("https://example.org", "CC0")
    )
    spec = DatasetSpec("scenes", CLASSES, 3, full, kind="segmentation", outputs=("background", *CLASSES))
    monkeypatch.setitem(DATASETS, "scenes", spec)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "x").touch()
    monkeypatch.setattr(sources, "_torchvision", None)
    first = load("scenes", "train")
    (tmp_path / "scenes" / "x").unlink()
    again = load("scenes", "train")
    for name in ("images", "labels", "targets", "domains"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert again.outputs == ("background", *CLASSES)


def test_small_images_are_enlarged_as_their_batches_are_made():
    data = captioned().reduced(16)
    ((images, tokens),) = data.select(torch.arange(2)).batches(5)
    assert images.shape[2:] == data.shape[1:] == (16, 16) and torch.equal(tokens, captioned().targets[:2])
    assert data.images.shape[2:] == captioned().images.shape[2:], "memory holds them as they were"
    with pytest.raises(ValueError, match="image_size: got 16"):
        masked().reduced(16)
