"""A run that several processes share: what they come to is one process's, and of any that fails or is killed one hears once."""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import until, write_params
from torch import Tensor, nn

from know import params, paths
from know.data.images import ImageSet
from know.data.names import IGNORED, PAD
from know.models.build import build
from know.run import executor, unfinished
from know.run.executor import check_processes, jobs_of, numerics, one, run_all
from know.run.options import Compute
from know.tasks.loss import loss_of
from know.training import shares
from know.training.forgetting import state_of
from know.training.loop import Recipe, batchnorm_parameters, fit

ALONE = Compute(device="cpu", jobs=1, backend="loky", deterministic=False)
TWO = ALONE.model_copy(update={"processes": 2})
RANK = "RANK"
TOLERANCE = 1e-5
"""As docs/reliability.md has it."""


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    (tmp_path / "marks").mkdir()


@dataclass(frozen=True)
class Job:
    """``marks``: a folder in which every process leaves a file when it begins, and one a pass."""

    marks: str
    killed: bool = False


@dataclass(frozen=True)
class Result:
    state: dict[str, Tensor]
    losses: list[float]


@dataclass(frozen=True)
class Noted:
    """Images that note each pass; at the third, the second process dies, but only once."""

    images: ImageSet
    job: Job

    def __len__(self):
        return len(self.images)

    @property
    def device(self):
        return self.images.device

    def batches(self, batch_size, generator=None):
        rank, marks = os.environ.get(RANK, "0"), Path(self.job.marks)
        (marks / f"pass-{rank}-{time.time_ns()}").touch()
        if self.job.killed and rank == "1" and len(passes(marks, rank)) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from self.images.batches(batch_size, generator)


def passes(marks: Path, rank: str = "0") -> list[Path]:
    return list(marks.glob(f"pass-{rank}-*"))


def begun(marks: Path) -> list[int]:
    """The processes that began."""
    return [int(path.name.rpartition("-")[2]) for path in marks.glob("begun-*")]


def begin(job: Job) -> str:
    rank = os.environ.get(RANK, "0")
    (Path(job.marks) / f"begun-{rank}-{os.getpid()}").touch()
    return rank


def images_of(count: int) -> ImageSet:
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 60, (count, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    return ImageSet((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, ("a", "b", "c"))


def two_fits(job: Job) -> Result:
    """All of a net in batches of 13 and 12 (shares of 7, 6 and 6), until validation images say stop; then its head, in batches
    of 3, which are too small to be shared; then of masks, whose metric would wait for the other process if it could."""
    begin(job)
    net, data = build("cnn", 1, 3, 0), images_of(50)
    first = fit(net, data, Recipe(6, 16, 2e-3, "cosine", "affine", 0.01), 0, validation=data, patience=4)
    more = fit(net, images_of(9), Recipe(2, 3, 2e-3, "constant", "crop-flip"), 1, parameters=net.head.parameters())
    masks = ImageSet(data.images, data.labels, data.classes, (data.images[:, 0] // 64).to(torch.uint8))
    torch.manual_seed(0)
    of_masks = nn.Conv2d(1, 3, 3, padding=1)
    last = fit(of_masks, masks, Recipe(2, 16, 2e-3), 2, validation=masks)
    losses = [*first.train_loss, *first.validation_loss, *more.train_loss, *last.train_loss, *last.validation_accuracy]
    return Result(state_of(net) | {f"masks.{name}": value for name, value in state_of(of_masks).items()}, losses)


def under_dropout(job: Job) -> Result:
    """What keeps more between two epochs than its weights: a net with dropout and BatchNorm."""
    begin(job)
    unfinished.EVERY = 0.0
    net = build("cnn-bn", 1, 3, 0)
    net.features = nn.Sequential(net.features, nn.Dropout(0.3))
    history = fit(net, Noted(images_of(50), job), Recipe(4, 16, 2e-3), 0, parameters=batchnorm_parameters(net))
    return Result(state_of(net), history.train_loss)


def second_fails(job: Job) -> int:
    if begin(job) == "1":
        raise ValueError("no luck")
    return int(shares.summed(torch.ones(1)))  # waits for the second, and loses it


def slow(job: Job) -> int:
    begin(job)
    time.sleep(60)
    return 0


def test_two_processes_come_to_what_one_does_and_record_it_once(tmp_path):
    marks = tmp_path / "marks"
    alone = one(two_fits, Job(str(marks)), ALONE)
    (shared,) = run_all(two_fits, [Job(str(marks))], TWO, "shared", spread=True)
    assert len(set(begun(marks))) == 3 and os.getpid() in begun(marks), "two of their own"
    assert len(list(paths.RUNS.glob("*/*/record.json"))) == 2, "one's and two's, apart"
    one(two_fits, Job(str(marks)), TWO)
    assert len(begun(marks)) == 3, "what is recorded is not computed again"

    different = max((shared.state[name] - tensor).abs().max().item() for name, tensor in alone.state.items())
    print(f"largest difference of a weight: {different:.1e}")
    moved = max((alone.state[n] - t).abs().max().item() for n, t in build("cnn", 1, 3, 0).state_dict().items())
    assert different <= TOLERANCE < 1e-3 * moved
    assert shared.losses == pytest.approx(alone.losses, abs=TOLERANCE)


def test_one_that_is_killed_is_named_and_the_run_goes_on_to_the_same_bits(tmp_path):
    undisturbed, killed = tmp_path / "marks", tmp_path / "killed"
    killed.mkdir()
    whole = one(under_dropout, Job(str(undisturbed)), TWO)
    assert len(passes(undisturbed)) == 4
    with pytest.raises(RuntimeError, match=r"^process 2 of 2 was killed by signal 9"):
        one(under_dropout, Job(str(killed), killed=True), TWO)
    assert not any(map(psutil.pid_exists, begun(killed)))
    before = len(passes(killed))
    resumed = one(under_dropout, Job(str(killed), killed=True), TWO)
    assert len(passes(killed)) - before < 4, "not from the beginning"
    assert all(torch.equal(resumed.state[name], tensor) for name, tensor in whole.state.items())
    assert resumed.losses == whole.losses and not list(paths.RUNS.rglob("*.unfinished"))


def test_what_fails_first_is_the_error_and_the_others_end(tmp_path):
    with pytest.raises(RuntimeError, match=r"^process 2 of 2 failed: ValueError: no luck\n(.*\n)*.*in second_fails"):
        one(second_fails, Job(str(tmp_path / "marks")), TWO)
    assert not any(map(psutil.pid_exists, begun(tmp_path / "marks")))
    assert not list(paths.RUNS.glob("*/*/record.json"))


def test_none_outlives_the_process_that_it_works_for(tmp_path):
    marks = tmp_path / "marks"
    process = multiprocessing.get_context("fork").Process(target=one, args=(slow, Job(str(marks)), TWO))
    process.start()
    while len(begun(marks)) < 2 and process.is_alive():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    until(lambda: not any(map(psutil.pid_exists, begun(marks))))


def test_runs_that_are_not_long_are_not_spread(tmp_path):
    marks = tmp_path / "marks"
    run_all(two_fits, [Job(str(marks))], TWO, "alone")
    assert begun(marks) == [os.getpid()]


class Captioner(nn.Module):
    """Logits (N, 7, T) by the image and the word."""

    def __init__(self):
        super().__init__()
        self.words, self.image = nn.Embedding(7, 7), nn.Linear(64, 7)

    def forward(self, images, words):
        return (self.words(words) + self.image(images.flatten(1))[:, None]).transpose(1, 2)


@pytest.mark.parametrize("size", [11, 3])  # of three, all compute all
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", ["labels", "masks", "captions"])
def test_the_shares_of_a_loss_and_its_gradients_sum_to_the_batchs(kind, count, size, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 1, 8, 8, generator=generator)
    if kind == "labels":
        net, targets = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.arange(size) % 3
    elif kind == "masks":
        net, targets = nn.Conv2d(1, 3, 1), torch.randint(3, (size, 8, 8), generator=generator)
        targets[: size // 2 + 1] = IGNORED  # a share of which nothing is asked
    else:
        net, targets = Captioner(), torch.randint(7, (size, 5), generator=generator)
        targets[size // 3 :, 2:] = PAD
    whole = loss_of(net, images, targets)
    parts = []
    for rank in range(count):
        monkeypatch.setattr(
            shares, "together", lambda rank=rank: SimpleNamespace(num_processes=count, process_index=rank)
        )
        parts.append(shares.loss_of_share(net, images, targets))
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    grads = [torch.autograd.grad(loss, [*net.parameters()]) for loss in (sum(parts), whole)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


def on_two_gpus() -> SimpleNamespace:
    return SimpleNamespace(device=torch.device("cuda"), num_processes=2)


def test_batchnorm_sees_whole_batches_on_gpus(monkeypatch):
    monkeypatch.setattr(shares, "together", on_two_gpus)
    net = build("cnn-bn", 1, 3, 0)
    before, parameters = list(net.state_dict()), list(map(id, net.parameters()))
    shares.synchronise_batchnorm(net)
    layers = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert layers and all(type(layer) is nn.SyncBatchNorm for layer in layers)
    assert list(net.state_dict()) == before and list(map(id, net.parameters())) == parameters
    shares.synchronise_batchnorm(net)  # the next fit's

    class Activated(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match=r"compute\.processes: got 2; allowed: 1 for a net with .*Activated"):
        shares.synchronise_batchnorm(nn.Sequential(Activated(3)))


def test_what_cannot_be_spread_is_refused_and_says_why(monkeypatch, tmp_path):
    with pytest.raises(
        ValueError, match=r"processes: got 2; allowed: 1 with device = cuda:1, or device: auto, cpu or cuda"
    ):
        Compute(device="cuda:1", jobs=1, backend="loky", deterministic=False, processes=2)
    write_params(tmp_path / "params.yaml", {"compute": {"processes": 2}, "shown_epochs": None})
    with pytest.raises(params.ParamError, match=r"compute\.processes: got 2; allowed: 1 with shown_epochs = null"):
        params.load(tmp_path / "params.yaml")
    with monkeypatch.context() as patched:
        patched.setattr(executor, "device_of", lambda compute: torch.device("cuda"))
        patched.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(
            params.ParamError,
            match="got 2; allowed: at most 1, one for each cuda device that is here, with 1 run at once",
        ):
            check_processes(TWO)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(params.ParamError, match=r"Accelerate is not installed: pip install 'know\[accelerate\]'"):
        one(two_fits, Job(str(tmp_path / "marks")), TWO)
    check_processes(ALONE)


def test_a_run_that_is_spread_takes_its_processes_cores_and_is_recorded_apart():
    automatic = TWO.model_copy(update={"jobs": "auto"})
    assert jobs_of(automatic) == max(1, jobs_of(automatic.alone) // 2)
    assert numerics(TWO) == f"{numerics(ALONE)} in 2 shares"
