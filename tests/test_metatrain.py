import pytest
import torch

from know.data import load as load_images
from know.hypermodel import KINDS
from know.metatrain import (
    draw_runs,
    errors,
    load_paths,
    run_paths,
    save_paths,
    split_runs,
    train_known,
    windows,
)  # fmt: skip
from know.params import KnownTraining, load
from know.prediction import linear, no_change


def test_windows_are_all_runs_of_five_and_the_next():
    paths = torch.arange(14.0).reshape(2, 7)
    window, target = windows(paths, 5)
    assert window.tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [7, 8, 9, 10, 11], [8, 9, 10, 11, 12]]
    assert target.tolist() == [5, 6, 12, 13]


def test_runs_stay_in_their_ranges_and_take_turns():
    options = load().meta_train
    runs = draw_runs(options)
    assert runs == draw_runs(options) and len(runs) == options.runs.count
    for run in runs:
        smallest = run.images * run.rate ** (run.subsets - 1)
        assert smallest >= 31.99 and run.batch_size <= max(32, smallest) and run.batch_size <= 128
        assert options.runs.rate[0] <= run.rate <= options.runs.rate[1]
        assert options.runs.lr[0] <= run.lr <= options.runs.lr[1]
        assert options.runs.images[0] <= run.images <= options.runs.images[1]
    training, held_out = split_runs(runs, options.runs.held_out)
    assert not {r.number for r in training} & {r.number for r in held_out}
    assert {r.architecture for r in held_out} == set(options.architectures)
    assert {r.dataset for r in held_out} == set(options.datasets)


def test_a_run_is_reproducible_and_survives_the_disk(micro, tmp_path):
    run = draw_runs(micro.meta_train)[0]
    images = load_images(run.dataset, "train")
    first, second = run_paths(run, images), run_paths(run, images)
    assert set(first) == set(KINDS)
    assert sum(len(p) for p in first.values()) == 17898 and all(p.shape[1] == 7 for p in first.values())
    save_paths(first, tmp_path / "run.safetensors")
    for kind, paths in load_paths(tmp_path / "run.safetensors").items():
        assert torch.equal(paths, first[kind]) and torch.equal(paths, second[kind])
        assert (paths.diff(dim=1) != 0).any()


def exponential_paths(runs: int, seed: int) -> list[torch.Tensor]:
    """Weights that approach a limit: w_t = a + b·exp(-t/2), whose next step is exp(-1/2) of the last."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.exp(-torch.arange(7) / 2)
    return [torch.randn(400, 2, generator=generator) @ torch.stack([torch.ones(7), decay]) * 0.1 for _ in range(runs)]


def test_known_learns_a_law_that_a_line_cannot_follow():
    options = KnownTraining(steps=1500, batch_size=512, lr=0.001)
    known, curve = train_known(exponential_paths(4, 0), exponential_paths(2, 1), 5, options, seed=0)
    found = errors(
        exponential_paths(1, 2)[0], "fc", 5, {"known": lambda w, k: known(w), "linear": linear, "same": no_change}
    )
    assert found["known"] < 0.5 * found["same"] and found["known"] < 0.5 * found["linear"]
    assert curve.steps[-1] == 1500 and curve.errors[-1] < curve.errors[0]


def test_training_known_is_reproducible():
    options = KnownTraining(steps=10, batch_size=64, lr=0.001)
    args = (exponential_paths(2, 0), exponential_paths(1, 1), 5, options)
    first, again, other = (train_known(*args, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_errors_are_mean_absolute():
    paths = torch.tensor([[0.0, 1, 2, 4], [1, 1, 1, 1]])
    found = errors(paths, "conv", 3, {"same": no_change, "linear": linear})
    assert found["same"] == pytest.approx(1.0) and found["linear"] == pytest.approx(0.5)
