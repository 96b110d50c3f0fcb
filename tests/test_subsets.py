import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from know.data.options import subset_sizes
from know.data.splits import Split, draw_split, more_images
from know.data.subsets import nested_subsets, stratified_order
from know.options import ParamError
from know.params import load

labels = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(torch.tensor)


def test_sizes_are_powers_of_the_rate():
    assert subset_sizes(2000, 0.5, 5) == [2000, 1000, 500, 250, 125]
    assert subset_sizes(900, 1 / 3, 3) == [900, 300, 100]


@given(labels, st.integers(0, 5))
def test_order_is_a_permutation_with_balanced_prefixes(labels, seed):
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    totals = labels.bincount(minlength=5)
    bound = 0.5 + 0.5 * len(labels.unique()) * totals / len(labels)
    assert labels.unique(return_counts=True)[1].unique().numel() > 1 or bound.max() <= 1 + 1e-6
    for size in range(1, len(labels) + 1):
        counts = labels[order[:size]].bincount(minlength=5)
        assert ((counts - totals * size / len(labels)).abs() <= bound + 1e-6).all()


@given(st.integers(10, 500), st.floats(0.1, 0.9), st.integers(2, 6))
def test_subsets_are_nested(total, rate, length):
    subsets = nested_subsets(torch.randperm(total), rate, length)
    assert [len(s) for s in subsets] == [round(rate**k * total) for k in range(length)]
    for larger, smaller in itertools.pairwise(subsets):
        assert set(smaller.tolist()) <= set(larger.tolist())


def test_order_depends_on_the_seed_alone():
    labels = torch.arange(300) % 7
    assert torch.equal(stratified_order(labels, 3), stratified_order(labels, 3))
    assert not torch.equal(stratified_order(labels, 3), stratified_order(labels, 4))


def test_split_is_disjoint_balanced_and_survives_the_disk(tmp_path):
    p = load()
    pool = torch.arange(6).repeat(2000)
    split = draw_split(pool, p.downsize, seed=1)
    more = more_images(p.downsize, p.rate, len(split.order))
    assert more == round(p.downsize.source_images / p.rate)
    own, held = set(split.order.tolist()), set(split.validation.tolist())
    assert not own & held and len(own | held) == len(pool) and len(held) == p.downsize.validation_images
    for size in (more, *subset_sizes(p.downsize.source_images, p.rate, p.history_length)):
        counts = pool[split.order[:size]].bincount(minlength=6)
        assert counts.max() - counts.min() <= 1
    split.write(tmp_path / "s.safetensors")
    read = Split.read(tmp_path / "s.safetensors")
    assert torch.equal(read.order, split.order) and torch.equal(read.validation, split.validation)
    assert not torch.equal(draw_split(pool, p.downsize, seed=2).order, split.order)


def test_split_without_room_for_the_real_d_minus_1():
    few = load().downsize.model_copy(update={"source_images": 800, "validation_images": 300, "headroom_images": ()})
    split = draw_split(torch.arange(6).repeat(200), few, seed=0)
    assert more_images(few, 0.5, len(split.order)) is None


def test_split_names_the_parameter_when_the_pool_is_too_small():
    downsize = load().downsize.model_copy(update={"validation_images": 1200, "headroom_images": (50, 400)})
    for key, images in (("source_images", 2000), ("headroom_images", 100)):
        given = downsize.model_copy(update={"source_images": images})
        with pytest.raises(ParamError, match=rf"downsize\.{key}: got {max(images, 400)}; allowed: at most 300"):
            draw_split(torch.arange(6).repeat(250), given, seed=0)
