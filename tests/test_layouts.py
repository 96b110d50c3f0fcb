"""Each published layout is read as it is published, whether in memory or from the files, and what is missing is said in a line."""

import shutil
import socket
import threading
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from conftest import until
from hypothesis import given
from hypothesis import strategies as st
from layouts import NAMES, write
from PIL import Image
from safetensors.torch import save_file

from know import params, paths
from know.data import catalogue, images, layouts
from know.data.catalogue import DATASETS, FLICKR8K, dataset
from know.data.images import FileSet, ImageSet, images_digest, load
from know.data.layouts import Flickr8k, Published, words_of
from know.data.names import END, PAD, SPECIAL, START, UNKNOWN, VOID
from know.data.sources import DataError
from know.data.splits import Split, Task
from know.run.executor import map_all
from know.run.options import Compute
from know.run.store import FileInput
from know.stages.predict import Maker
from know.stages.results import SavedStart
from know.training.landscape import LandscapeJob, landscape
from know.training.runs import SourceJob, TransferJob

CLASSES, PER_CLASS, SIDE = 3, 4, 12


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """An empty ``data/raw``, and no network."""
    monkeypatch.setattr(paths, "RAW", tmp_path / "raw")
    images_digest.cache_clear()

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", offline)


@pytest.fixture(params=NAMES)
def name(request, tmp_path):
    """A data set of which a micro one is in its place."""
    write(request.param, tmp_path / "raw" / request.param, CLASSES, PER_CLASS)
    return request.param


def test_each_is_read_as_it_is_laid_out(name):
    spec, train, test = dataset(name), load(name, "train", side=SIDE), load(name, "test", side=SIDE)
    domains = max(1, len(spec.domains))
    for part, per_class in ((train, PER_CLASS), (test, PER_CLASS // 2)):
        assert part.images.shape == (CLASSES * per_class * domains, 3, SIDE, SIDE)
        assert len(part.classes) == len(spec.classes) and (len(part.outputs) == len(spec.outputs or spec.classes))
        if spec.kind != "captioning":
            assert part.labels.bincount().tolist() == [per_class * domains] * CLASSES
        if spec.domains:
            assert part.domains.bincount().tolist() == [per_class * CLASSES] * domains
    assert not {i.numpy().tobytes() for i in train.images} & {i.numpy().tobytes() for i in test.images}
    if spec.kind == "classification":  # an image's colour tells its class
        means = train.images.float().mean((2, 3))
        centres = torch.stack([means[train.labels == c].mean(0) for c in range(CLASSES)])
        if not spec.domains:
            nearest = torch.cdist(test.images.float().mean((2, 3)), centres).argmin(1)
            assert (nearest == test.labels).float().mean() > 0.9


def test_from_files_or_memory_all_is_the_same(name, monkeypatch):
    whole = load(name, "train", side=SIDE)
    monkeypatch.setattr(images, "IN_MEMORY", 0)
    files = load(name, "train", side=SIDE)
    assert isinstance(files, FileSet) and not isinstance(whole, FileSet)
    chosen = [0] if len(whole.classes) == 1 else [2, 0]
    index = torch.tensor([5, 0, 3])
    for one, other in (
        (whole, files),
        (whole.of_classes(chosen), files.of_classes(chosen)),
        (whole.select(index), files.select(index)),
    ):
        assert (one.classes, one.outputs, one.channels, one.shape) == (
            other.classes,
            other.outputs,
            other.channels,
            other.shape,
        )
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        for field in ("targets", "domains"):
            first, second = getattr(one, field), getattr(other, field)
            assert (first is None and second is None) or torch.equal(first, second)
        orders = [torch.Generator().manual_seed(3) for _ in range(2)]
        for _ in range(2):  # the second pass finds the generators where they were left
            for a, b in zip(one.batches(5, orders[0]), other.batches(5, orders[1]), strict=True):
                assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[0].stride() == b[0].stride()
    if whole.domains is not None:
        assert torch.equal(whole.of_domains([1, 3]).images, files.of_domains([1, 3]).images)


def test_only_what_a_task_has_is_decoded_and_held_if_it_is_small(tmp_path, monkeypatch):
    write("pacs", tmp_path / "raw" / "pacs", 3, 4)
    read, whole = [], images.Files.__getitem__
    monkeypatch.setattr(images.Files, "__getitem__", lambda files, i: read.append(i) or whole(files, i))
    monkeypatch.setattr(images, "IN_MEMORY", 8 * 3 * 8 * 8)
    cpu, one = torch.device("cpu"), Task("pacs", (0, 2), image_size=8, domains=(1,))
    assert type(one.pool(cpu)) is ImageSet and len(one.pool(cpu)) == len(read) == 8
    assert type(one.test(cpu)) is ImageSet and len(read) == 8 + 4
    assert type(replace(one, domains=()).pool(cpu)) is FileSet and len(read) == 8 + 4


def test_what_is_looked_at_many_times_is_read_once_where_memory_holds_it(tmp_path, monkeypatch):
    """The images of the loss landscape, and those that BatchNorm is re-estimated on; those of a net without it are not read."""
    write("cub", tmp_path / "raw" / "cub", 2, 8)
    monkeypatch.setattr(images, "IN_MEMORY", 8 * 3 * 16 * 16)  # of the 16
    split = tmp_path / "split.safetensors"
    Split(torch.arange(8), torch.arange(8, 16)).write(split)
    read, whole = [], images.Files.__getitem__
    monkeypatch.setattr(images.Files, "__getitem__", lambda files, i: read.append(i) or whole(files, i))
    for architecture, expected in (("cnn", 0), ("cnn-bn", 8)):
        task = Task("cub", (0, 1), image_size=16)
        source = SourceJob(task, architecture, FileInput.of(split), 8, params.load().forget.source, seed=0)
        state = source.net().state_dict()
        maker = Maker(SimpleNamespace(downsize=SimpleNamespace(source_images=8)), source, state)
        for _ in range(3):
            maker.net(SavedStart("main", "naive", 0, 0, "reference", batchnorm="re-estimate"), state)
        assert len(read) == expected
    states = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for k, file in enumerate(states):
        save_file({name: t + k**2 * torch.ones_like(t) * (0.1 + t.abs()) for name, t in state.items()}, file)
    found = landscape(LandscapeJob(source, tuple(map(FileInput.of, states)), (), ()))
    assert len(found.grid) == 21 * 21 and len(read) == 8 + 8


def test_how_many_threads_read_changes_nothing(tmp_path, monkeypatch):
    write("voc", tmp_path / "raw" / "voc", 2, 3)
    monkeypatch.setattr(images, "IN_MEMORY", 0)
    seen, state = [], torch.get_rng_state()
    for workers in (1, 3):
        monkeypatch.setattr(images, "WORKERS", workers)
        seen.append([t for b in load("voc", "train", side=8).batches(2, torch.Generator().manual_seed(0)) for t in b])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_read_little_ahead_and_end_with_who_asks(tmp_path, monkeypatch):
    write("voc", tmp_path / "raw" / "voc", 2, 30)
    monkeypatch.setattr(images, "IN_MEMORY", 0)
    data, threads, read = load("voc", "train", side=8), threading.active_count(), []
    whole = images.Files.__getitem__
    monkeypatch.setattr(images.Files, "__getitem__", lambda files, i: read.append(i) or whole(files, i))
    batches = data.batches(4)
    next(batches)
    until(lambda: len(read) == 8)  # the next batch too
    assert threading.active_count() > threads
    next(batches)
    batches.close()
    assert threading.active_count() == threads and sorted(read) == list(range(len(read))) and len(read) <= 12


def test_a_file_that_is_damaged_since_is_named_where_its_batch_is_asked_for(tmp_path, monkeypatch):
    write("cub", tmp_path / "raw" / "cub", 2, 3)
    monkeypatch.setattr(images, "IN_MEMORY", 0)
    data, threads = load("cub", "train", side=8), threading.active_count()
    data.files.listing.images[4].write_bytes(b"damaged")
    batches = data.batches(2)
    assert [len(labels) for _, labels in (next(batches), next(batches))] == [2, 2]
    with pytest.raises(ValueError, match=rf"{data.files.listing.images[4].name}: not a readable image"):
        next(batches)
    assert threading.active_count() == threads


@pytest.mark.parametrize(("jobs", "threads"), [(1, 8), (2, 4), (16, 1)])
def test_processes_that_share_the_machine_share_its_cores(jobs, threads, tmp_path, monkeypatch):
    write("cub", tmp_path / "raw" / "cub", 2, 3)
    monkeypatch.setattr(images, "IN_MEMORY", 0)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    asked, in_threads = [], images.in_threads
    monkeypatch.setattr(images, "in_threads", lambda *given: asked.append(given[2]) or in_threads(*given))
    data, compute = load("cub", "train", side=8), Compute(device="cpu", jobs=jobs, backend="loky", deterministic=False)
    map_all(lambda part: len(list(part.batches(2))), [data], compute, "x")
    assert asked == [threads]


def test_digests_are_of_the_contents(tmp_path):
    write("cub", tmp_path / "raw" / "cub", 2, 2)
    first = images_digest("cub")
    (tmp_path / "raw" / "cub").rename(tmp_path / "raw" / "moved")
    shutil.copytree(tmp_path / "raw" / "moved", tmp_path / "raw" / "cub")  # other times of change
    images_digest.cache_clear()
    assert images_digest("cub") == first
    file = next((tmp_path / "raw" / "cub").rglob("*.jpg"))
    Image.new("RGB", (9, 9)).save(file)
    images_digest.cache_clear()
    assert images_digest("cub") != first


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said_in_a_line(name, tmp_path):
    with pytest.raises(DataError) as error:
        load(name, "train")
    message, fetch = str(error.value), dataset(name).fetch
    assert "\n" not in message and message.startswith(f"{name} cannot be had")
    for part in (fetch.files, str(tmp_path / "raw" / name), fetch.source.url, fetch.source.terms):
        assert part in message
    assert ("torchvision's download: " in message) == (name in ("voc", "flowers102"))
    assert not (tmp_path / "raw" / name).exists()


def test_an_image_that_is_missing_or_damaged_is_named(tmp_path):
    write("flowers102", tmp_path / "raw" / "flowers102", 2, 2)
    file = tmp_path / "raw" / "flowers102" / "flowers-102" / "jpg" / "image_00001.jpg"
    file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"image_00001\.jpg: not a readable image"):
        load("flowers102", "train", side=8)
    file.unlink()
    with pytest.raises(DataError, match=r"image_00001\.jpg"):
        load("flowers102", "train", side=8)


def test_a_folder_that_the_user_names(tmp_path):
    write("tiny-imagenet", tmp_path / "mine", 2, 2)
    data = load("tiny-imagenet", "test", tmp_path / "mine" / "tiny-imagenet-200")
    assert data.images.shape == (2, 3, 64, 64) and data.classes[:3] == ("thing 0", "thing 1", "class 2")
    assert not paths.RAW.exists()


def test_masks_of_voc(tmp_path):
    write("voc", tmp_path, 2, 1)
    data = load("voc", "train", tmp_path, 16)
    assert data.outputs[:3] == ("background", "aeroplane", "bicycle") and len(data.outputs) == 21
    assert data.labels.tolist() == [0, 1]
    for mask, label in zip(data.targets, data.labels, strict=True):
        assert set(mask.unique().tolist()) <= {0, int(label) + 1, VOID} and mask[8, 8] == label + 1 and mask[0, 0] == 0


def test_cityscapes_are_learned_by_what_is_evaluated(tmp_path):
    from torchvision.datasets import Cityscapes

    evaluated = sorted((one.train_id, one.name) for one in Cityscapes.classes if not one.ignore_in_eval)
    assert tuple(name for _, name in evaluated) == catalogue.CITYSCAPES_CLASSES
    write("cityscapes", tmp_path, 19, 1)
    data = load("cityscapes", "train", tmp_path, 16)
    middle = {int(label): int(mask[8, 8]) for mask, label in zip(data.targets, data.labels, strict=True)}
    assert middle == {c: c for c in range(19)} and (data.targets[:, 0, 0] == VOID).all()


def test_cityscapes_archives_are_unpacked(tmp_path):
    write("cityscapes", tmp_path / "unpacked", 2, 2)
    for name in ("leftImg8bit", "gtFine"):
        shutil.make_archive(tmp_path / "packed" / f"{name}_trainvaltest", "zip", tmp_path / "unpacked", name)
    for part in ("train", "test"):
        one, other = (load("cityscapes", part, tmp_path / place, 8) for place in ("unpacked", "packed"))
        assert torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


def test_what_is_downloaded_takes_the_place_of_an_empty_folder_alone(tmp_path):
    calls = []

    def download(folder):
        calls.append(folder)
        write("flowers102", folder, 2, 2)

    published = replace(DATASETS["flowers102"].fetch, download=download)
    own = tmp_path / "raw" / "flowers102"
    own.mkdir(parents=True)
    assert len(published("train").images) == 4
    shutil.rmtree(own / "flowers-102" / "jpg")
    with pytest.raises(DataError, match="flowers102 cannot be had"):
        published("train")
    assert len(calls) == 1


def test_an_image_without_any_class_is_left_out(tmp_path):
    write("voc", tmp_path, 2, 1)
    mask = next((tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass").glob("*1.png"))
    Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
    assert load("voc", "train", tmp_path, 8).labels.tolist() == [1]
    Image.new("RGB", (4, 4)).save(mask)
    with pytest.raises(DataError, match="a mask has one value a pixel"):
        load("voc", "train", tmp_path, 8)


def test_labels_of_masks_are_read_once(tmp_path, monkeypatch):
    write("voc", tmp_path / "raw" / "voc", 2, 2)
    first = DATASETS["voc"].fetch("train", None)
    monkeypatch.setattr(layouts, "mask_array", None)
    assert DATASETS["voc"].fetch("train", None).labels.tolist() == first.labels.tolist()


def test_a_domain_of_pacs_is_tested_on_as_a_whole_where_it_is_held_out(tmp_path):
    write("pacs", tmp_path / "raw" / "pacs", 2, 6)
    (tmp_path / "raw" / "pacs" / "splits").mkdir()
    for file in (tmp_path / "raw" / "pacs").glob("*.txt"):
        file.rename(file.parent / "splits" / file.name)
    listed = (tmp_path / "raw" / "pacs" / "splits" / "sketch_test_kfold.txt").read_text().split()[::2]
    found = DATASETS["pacs"].fetch("all", None)
    sketches = [
        f"sketch/{file.parent.name}/{file.name}" for file in found.at(np.flatnonzero(found.domains == 3)).images
    ]
    assert sorted(sketches) == sorted({*listed} - {layouts.DAMAGED})
    task, cpu = Task("pacs", (0, 1), digest=str(tmp_path), image_size=8), torch.device("cpu")
    assert task.test(cpu).domains.bincount().tolist() == [2 * 3] * 4
    assert task.only(3).unseen(cpu).domains.tolist() == [3] * 2 * 9
    job = TransferJob(None, task, "cnn-bn", 12, 6, params.load().evaluate.fine_tuning, 0, 0, held_out=3)
    assert torch.equal(job.test().images, task.only(3).unseen(cpu).images)
    assert all(set(part.domains.tolist()) == {0, 1, 2} for part in job.images())


def test_pacs_without_lists_holds_out_every_tenth(tmp_path):
    write("pacs", tmp_path, 2, 20)
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    train, test = (load("pacs", part, tmp_path, 4) for part in ("train", "test"))
    assert len(train) + len(test) == 4 * 2 * 30 and test.domains.bincount().tolist() == [6] * 4
    assert test.labels.bincount().tolist() == [12] * 2


def test_captions(tmp_path):
    write("flickr8k", tmp_path, 2, 4)
    data = load("flickr8k", "train", tmp_path, 8)
    assert data.outputs[:4] == SPECIAL and len(data.outputs) == len(dataset("flickr8k").outputs)
    said = [[data.outputs[i] for i in row if i != PAD] for row in data.targets.tolist()]
    assert said[0] == ["<start>", "a", "red", "dog", "is", "here", "<end>"]
    assert "number" in data.outputs and "1" not in data.outputs  # seen eight times, and once
    assert load("flickr8k", "test", tmp_path, 8).outputs == data.outputs
    assert set(data.labels.tolist()) == {0} and data.targets.shape[1] == FLICKR8K.listing.length


@given(st.lists(st.text("abc", min_size=1), max_size=30), st.integers(3, 12), st.integers(4, 12))
def test_every_caption_has_its_start_and_end(words, length, size):
    layout = Flickr8k(size, length)
    vocabulary = layout.vocabulary([words] * layouts.RAREST)
    tokens = layout.tokens(words, {word: i for i, word in enumerate(vocabulary)})
    body = tokens[1 : tokens.index(END)]
    assert len(vocabulary) == len(set(vocabulary)) == size and len(tokens) == length and tokens[0] == START
    assert set(tokens[2 + len(body) :]) <= {PAD} and len(body) == min(len(words), length - 2)
    for token, word in zip(body, words, strict=False):
        assert vocabulary[token] == word if word in vocabulary else token == UNKNOWN


def test_words():
    assert words_of("A dog's ball , on the_grass .") == ["a", "dogs", "ball", "on", "thegrass"]


def test_the_documentation_names_every_source():
    text = (paths.ROOT / "docs" / "data.md").read_text()
    for spec in DATASETS.values():
        assert f"`{spec.name}`" in text
        if isinstance(spec.fetch, Published):
            assert spec.fetch.source.url.split(",")[0] in text


@pytest.mark.parametrize("variable", ["KNOW_IN_MEMORY", "KNOW_WORKERS"])
@pytest.mark.parametrize("text", ["", "two", "-1", "nan", "inf"])
def test_an_environment_variable_that_is_no_number_is_an_error(variable, text, monkeypatch):
    monkeypatch.setenv(variable, text)
    with pytest.raises(params.ParamError, match=f"{variable}: got '{text}'; allowed: a number, 0 or more"):
        images._number(variable, "0")
