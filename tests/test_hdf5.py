from collections import Counter
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.io.matlab import matfile_version

from know.meta.layout import LayoutError, RunFile, file_name, hyperparameters, run_files, save_paths, weight_paths
from know.models.build import build
from know.weights.kinds import kinds_of

PUBLISHED = "ViT_Small_CIFAR10_Weights_Trial_3_SamplingRate_0.344_Power_6_LR_0.000898_BS_33.mat"


def published(path, kernels: int = 5, fc: int = 11, bias: int = 8, dtype=np.float32, flip: bool = False, **options):
    """A file of the published layout, written with h5py alone; every number tells where it stands."""
    arrays = {
        "ConvWeights": np.arange(9 * kernels * 7, dtype=dtype).reshape(3, 3, kernels, 7),
        "FCWeights": 1e4 + np.arange(fc * 7, dtype=dtype).reshape(fc, 7),
        "Bias": 2e4 + np.arange(bias * 7, dtype=dtype).reshape(bias, 7),
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.T if flip else array, **options)
    return arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}], ids=["contiguous", "gzip"])
@pytest.mark.parametrize("flip", [False, True], ids=["h5py's axes", "MATLAB's axes"])
def test_published_files_are_read_whole_and_in_blocks(tmp_path, dtype, options, flip):
    arrays = published(tmp_path / "run.mat", dtype=dtype, flip=flip, **options)
    run = RunFile.open(tmp_path / "run.mat")
    assert run.sizes == {"conv": 45, "fc": 11, "bias": 8} and run.length == 7 and run.spec is None
    for name in ("ConvWeights", "FCWeights", "Bias"):
        whole = run.read(name)
        assert whole.dtype == torch.float32
        np.testing.assert_array_equal(whole.numpy(), arrays[name].reshape(-1, 7))
    np.testing.assert_array_equal(
        run.read("ConvWeights", 1, 3).numpy(), arrays["ConvWeights"][:, :, 1:3].reshape(-1, 7)
    )
    np.testing.assert_array_equal(run.read("FCWeights", 4, 9).numpy(), arrays["FCWeights"][4:9])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 200), st.integers(1, 300))
def test_blocks_are_a_partition(tmp_path_factory, kernels, fc, scalars):
    path = tmp_path_factory.mktemp("runs") / "run.mat"
    published(path, kernels, fc)
    run = RunFile.open(path)
    for kind, array in {"conv": "ConvWeights", "fc": "FCWeights", "bias": "Bias"}.items():
        blocks = list(run.blocks(kind, scalars))
        assert max(map(len, blocks)) <= max(scalars, 9)
        assert sorted(torch.cat(blocks)[:, 0].tolist()) == sorted(run.read(array)[:, 0].tolist())
        part = run.sample(kind, scalars, torch.Generator().manual_seed(0))
        assert set(part[:, 0].tolist()) <= set(run.read(array)[:, 0].tolist())
        assert len(part) == min(run.sizes[kind], max(1, scalars // 9) * 9 if kind == "conv" else scalars)


@pytest.mark.parametrize("block", [7, 18])
def test_every_scalar_has_the_same_chance(tmp_path, block):
    """A chi-square test over the places in a file, its ends among them: one path of each block, so that draws are independent."""
    visits = 2000
    with h5py.File(tmp_path / "run.mat", "w") as file:
        file["ConvWeights"] = np.repeat(np.arange(45.0), 6).reshape(3, 3, 5, 6)
        file["OtherKernels"] = np.repeat(45 + np.arange(12.0), 6).reshape(12, 6)
        file["FCWeights"] = np.repeat(np.arange(40.0), 6).reshape(40, 6)
    run, generator = RunFile.open(tmp_path / "run.mat"), torch.Generator().manual_seed(0)
    for kind, size in run.sizes.items():
        found = torch.zeros(size)
        for _ in range(visits):
            sample = run.sample(kind, block, generator)[:, 0].long()
            found[sample[torch.randint(len(sample), (), generator=generator)]] += 1
        expected = visits / size
        assert ((found - expected) ** 2 / expected).sum() < stats.chi2.ppf(1 - 1e-4, size - 1)


def test_blocks_wrap_around(tmp_path):
    """Over all beginnings each scalar is in as many blocks as any other: exactly, of fc and of 3×3 kernels."""
    arrays = published(tmp_path / "run.mat")
    run = RunFile.open(tmp_path / "run.mat")
    for kind, array, take in (("fc", "FCWeights", 4), ("conv", "ConvWeights", 18)):
        seen = Counter()
        for start in range(run.sizes[kind]):
            with mock.patch("torch.randint", return_value=torch.tensor(start)):
                seen.update(run.sample(kind, take, torch.Generator())[:, 0].tolist())
        assert set(seen) == set(arrays[array].reshape(-1, 7)[:, 0].tolist())
        assert set(seen.values()) == {take}


def trajectory(architecture: str, subsets: int = 7) -> list[dict[str, torch.Tensor]]:
    return [build(architecture, 3, 10, seed).state_dict() for seed in range(subsets)]


@pytest.mark.parametrize("architecture", ["cnn", "mobilenet"])
def test_our_files_are_of_the_published_layout(tmp_path, architecture):
    """Read with h5py alone, against kernels permuted to Keras' (3, 3, in, out) one by one."""
    states = trajectory(architecture)
    save_paths(weight_paths(states), tmp_path / "run.mat", {"rate": 0.5})
    with h5py.File(tmp_path / "run.mat") as file:
        conv, fc, bias = (file[name][()] for name in ("ConvWeights", "FCWeights", "Bias"))
    for t in (0, 6):
        kernels, others, biases = [], [], []
        for name, tensor in states[t].items():
            if tensor.ndim == 4 and tensor.shape[-1] == 3:
                kernels.append(tensor.permute(2, 3, 1, 0).reshape(3, 3, -1))
            elif tensor.ndim >= 2:
                others.append(tensor.flatten())
            elif tensor.is_floating_point() and "running" not in name:
                biases.append(tensor)
        np.testing.assert_array_equal(conv[..., t], torch.cat(kernels, 2).numpy())
        np.testing.assert_array_equal(fc[:, t], torch.cat(others).numpy())
        np.testing.assert_array_equal(bias[:, t], torch.cat(biases).numpy())
    assert RunFile.open(tmp_path / "run.mat").spec == {"rate": 0.5}


@pytest.mark.parametrize("pointwise", ["fc", "conv"])
def test_kernels_are_filed_as_they_are_predicted(tmp_path, pointwise):
    """Each array holds exactly the weights of the kind that ``kinds_of`` names, 5×5 and 1×1 kernels among them."""
    shapes = {
        "a.weight": (2, 1, 3, 3),
        "b.weight": (2, 2, 5, 5),
        "c.weight": (2, 2, 1, 1),
        "d.weight": (3, 2),
        "d.bias": (3,),
    }
    states = [{name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(6)]
    save_paths(weight_paths(states, pointwise), tmp_path / "run.mat", {"pointwise": pointwise})
    run = RunFile.open(tmp_path / "run.mat")
    assert run.pointwise == pointwise
    for kind, size in run.sizes.items():
        names = [name for name, own in kinds_of(states[0], pointwise=pointwise).items() if own == kind]
        expected = torch.cat([torch.stack([state[name].flatten() for state in states], 1) for name in names])
        found = torch.cat(list(run.blocks(kind, 10)))
        assert len(found) == size and sorted(found.tolist()) == sorted(expected.tolist())
    with h5py.File(tmp_path / "run.mat") as file:
        assert len(file["OtherKernels"]) == (100 if pointwise == "fc" else 104)


def test_the_same_run_is_the_same_bytes_and_a_mat_file(tmp_path):
    paths = weight_paths(trajectory("cnn"))
    for name in ("a.mat", "b.mat"):
        save_paths(paths, tmp_path / name, {"b": 1, "a": 2})
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()
    assert matfile_version(str(tmp_path / "a.mat")) == (2, 0)
    for kind, path in paths.items():
        assert torch.equal(RunFile.open(tmp_path / "a.mat").read(kind), path)


def test_names_carry_hyperparameters_both_ways(tmp_path):
    expected = {"Trial": 3, "SamplingRate": 0.344, "Power": 6, "LR": 0.000898, "BS": 33}
    assert hyperparameters(tmp_path / PUBLISHED) == expected
    assert hyperparameters(tmp_path / "ViT_SamplingRate_0.5_LR_1e-05_BS_64.mat") == {
        "SamplingRate": 0.5, "LR": 1e-5, "BS": 64
    }  # fmt: skip
    ours = file_name("cnn_mnist", 12, 0.1 + 0.2, 7, 1.5e-05, 40)
    found = hyperparameters(tmp_path / ours)
    assert found == {"Trial": 12, "SamplingRate": 0.1 + 0.2, "Power": 6, "LR": 1.5e-05, "BS": 40}


def damaged(path, change) -> None:
    published(path)
    with h5py.File(path, "r+") as file:
        change(file)


def wrong_kernel(file) -> None:
    del file["ConvWeights"]
    file["ConvWeights"] = np.zeros((5, 5, 4, 7))


def other_length(file) -> None:
    del file["Bias"]
    file["Bias"] = np.zeros((8, 6))


def integers(file) -> None:
    del file["Bias"]
    file["Bias"] = np.zeros((8, 7), int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_kernel, r"expected ConvWeights \(3, 3, N, P\).* found ConvWeights \(5, 5, 4, 7\)"),
        (other_length, r".*with one P, found .*Bias \(8, 6\)"),
        (integers, "Bias: expected an array of floats"),
        (lambda file: file.clear(), "holds none of ConvWeights, OtherKernels, FCWeights, Bias"),
    ],
)
def test_other_layouts_are_named(tmp_path, change, message):
    damaged(tmp_path / "run.mat", change)
    with pytest.raises(LayoutError, match=rf"run\.mat: {message}"):
        RunFile.open(tmp_path / "run.mat")


def test_folders_without_runs_and_files_that_are_none(tmp_path):
    with pytest.raises(LayoutError, match="no runs in it"):
        run_files(tmp_path)
    (tmp_path / "run.mat").write_text("text")
    with pytest.raises(LayoutError, match=r"run\.mat: not a readable HDF5 file"):
        run_files(tmp_path)
    with pytest.raises(LayoutError, match=r"gone\.mat: no such file"):
        RunFile.open(tmp_path / "gone.mat")


def test_parts_that_a_net_lacks_may_be_missing(tmp_path):
    with h5py.File(tmp_path / "mlp.mat", "w") as file:
        file["FCWeights"], file["Bias"] = np.zeros((20, 7)), np.zeros((4, 7))
    assert RunFile.open(tmp_path / "mlp.mat").sizes == {"fc": 20, "bias": 4}
