"""A run that was killed goes on from its last epoch, to the same bits; and one that takes little time leaves no trace."""

import multiprocessing
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from know import paths
from know.data.images import ImageSet
from know.models.build import build
from know.run import unfinished
from know.run.store import key_of, once, record_path
from know.training.forgetting import state_of
from know.training.loop import Recipe, batchnorm_parameters, fit

EPOCHS: list[int] = []
KILL_AT = "KILL_AT_EPOCH"


@dataclass(frozen=True)
class Noted:
    """Images that note each pass for training, and kill the process in the midst of one."""

    images: ImageSet

    def __len__(self):
        return len(self.images)

    @property
    def device(self):
        return self.images.device

    def batches(self, batch_size, generator=None):
        EPOCHS.append(1)
        for i, batch in enumerate(self.images.batches(batch_size, generator)):
            if i == 2 and len(EPOCHS) == int(os.environ.get(KILL_AT, 0)):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


@dataclass(frozen=True)
class Job:
    channels: int


@dataclass(frozen=True)
class Result:
    first: dict[str, Tensor]
    last: dict[str, Tensor]
    losses: list[float]
    best_epoch: int


def two_fits(job: Job) -> Result:
    """All of a net under dropout, by a cosine, until validation images say stop; then its head and BatchNorm, to the end."""
    labels = torch.arange(60) % 3
    noise = torch.randint(0, 60, (60, job.channels, 16, 16), generator=torch.Generator().manual_seed(0))
    images = ImageSet((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, ("a", "b", "c"))
    net = build("cnn-bn", job.channels, 3, 0)
    net.features = nn.Sequential(net.features, nn.Dropout(0.3))
    all_weights = Recipe(4, 16, 0.003, "cosine", "affine")
    history = fit(net, Noted(images), all_weights, 0, validation=images, patience=3)
    first = state_of(net)
    part = [*net.head.parameters(), *batchnorm_parameters(net)]
    more = fit(net, Noted(images), Recipe(3, 16, 0.003), 1, parameters=part)
    losses = history.train_loss + history.validation_loss + more.train_loss
    return Result(first, state_of(net), losses, history.best_epoch)


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    EPOCHS.clear()


def left() -> list[str]:
    return sorted(path.name for path in paths.RUNS.rglob("fit_*"))


def killed_at(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin the run in a process of its own, which dies of SIGKILL in this epoch that it begins."""
    EPOCHS.clear()
    monkeypatch.setenv(KILL_AT, str(epoch))
    process = multiprocessing.get_context("fork").Process(target=once, args=(two_fits, Job(1), "cpu"))
    process.start()
    process.join()
    monkeypatch.delenv(KILL_AT)
    assert process.exitcode == -signal.SIGKILL
    assert not record_path(key_of(two_fits, Job(1), "cpu")).exists()


def same(one: Result, other: Result) -> bool:
    states = ((one.first, other.first), (one.last, other.last))
    equal = all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in states)
    return equal and (one.losses, one.best_epoch) == (other.losses, other.best_epoch)


def test_a_killed_run_goes_on_from_its_last_epoch_to_the_same_bits(monkeypatch):
    whole = two_fits(Job(1))
    assert len(EPOCHS) == 7 and not left(), "outside the store nothing is kept"
    killed_at(3, monkeypatch)  # the third of the first fit: two are kept
    assert left() == ["fit_1.safetensors"]
    killed_at(4, monkeypatch)  # two more end that fit, then one, and dead in the second of the second fit
    assert left() == ["fit_1.safetensors", "fit_2.safetensors"]
    resumed = once(two_fits, Job(1), "cpu")
    assert len(EPOCHS) == 2, "the last two of seven"
    assert same(resumed, whole)
    assert not left() and not list(paths.RUNS.rglob("*.unfinished"))


def test_what_is_damaged_is_done_again(monkeypatch):
    whole = two_fits(Job(1))
    killed_at(3, monkeypatch)
    (file,) = paths.RUNS.rglob("fit_*")
    file.write_bytes(file.read_bytes()[:1000])
    assert same(once(two_fits, Job(1), "cpu"), whole)


def test_a_short_run_writes_nothing(monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 60.0)
    monkeypatch.setattr(unfinished, "save_file", None)
    once(two_fits, Job(1), "cpu")
