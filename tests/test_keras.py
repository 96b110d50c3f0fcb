import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from know.prediction.keras import FILES, KerasError, import_keras
from know.prediction.known import load_hypermodel
from know.weights.kinds import KINDS

LENGTH = 5
WIDTHS = [(64, 8), (8, 64), (8, 64), (8, 64), (64, 32)]  # squeeze, additive, gain, rate, outer


def keras_weights(length: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random kernels (in, out) and biases under Keras' names, every one of which matters."""
    generator = np.random.default_rng(seed)
    shapes = [(length, 64), *WIDTHS, (length - 1, 64), *WIDTHS, (64, 1)]
    return {
        f"dense_{i}" if i else "dense": (
            generator.normal(0, 0.3, shape).astype(np.float32),
            generator.normal(0, 0.3, shape[1]).astype(np.float32),
        )
        for i, shape in enumerate(shapes)
    }


def write(path, weights) -> None:
    """HDF5 as Keras 2 saves weights: groups for every layer, those without weights too, and its attributes."""
    with h5py.File(path, "w") as file:
        names = ["input_1", "input_2", *weights, "lambda", "concatenate"]
        file.attrs["layer_names"] = np.array(names, "S")
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.11.0"
        for name in names:
            group = file.create_group(name)
            if name in weights:
                group.attrs["weight_names"] = np.array([f"{name}/kernel:0", f"{name}/bias:0"], "S")
                for part, array in zip(("kernel:0", "bias:0"), weights[name], strict=True):
                    group[f"{name}/{part}"] = array


def predict(weights, window: np.ndarray) -> np.ndarray:
    """The hyper-model in NumPy, straight from the names in the file."""

    def dense(i: int, x: np.ndarray) -> np.ndarray:
        kernel, bias = weights[f"dense_{i}" if i else "dense"]
        return x @ kernel.astype(np.float64) + bias

    def stream(first: int, x: np.ndarray) -> np.ndarray:
        h = dense(first, x)
        z = np.maximum(dense(first + 1, h), 0)
        y = dense(first + 5, dense(first + 2, z) + dense(first + 3, z) * np.exp(dense(first + 4, z) * h))
        return np.maximum(y, 0.3 * y)

    both = np.concatenate([stream(0, window), stream(6, np.diff(window, axis=1))], 1)
    return window[:, -1] + np.tanh(dense(12, both))[:, 0]


@pytest.fixture
def released(tmp_path):
    """A folder in the released layout, and what is in it."""
    weights = {kind: keras_weights(LENGTH, seed) for seed, kind in enumerate(KINDS)}
    for kind in KINDS:
        write(tmp_path / FILES[kind], weights[kind])
    return tmp_path, weights


def know(*args) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "know", *map(str, args)], capture_output=True, text=True)


def test_the_command_imports_and_predictions_agree_with_numpy(released):
    folder, weights = released
    done = know("hypermodel", "import-keras", folder, "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (folder / "out").iterdir()} == {*(f"{k}.safetensors" for k in KINDS), "config.json"}
    model = load_hypermodel(folder / "out").double()
    window = np.random.default_rng(9).normal(0, 0.5, (500, LENGTH))
    for kind in KINDS:
        found = model(torch.from_numpy(window), kind).numpy()
        np.testing.assert_allclose(found, predict(weights[kind], window), rtol=0, atol=1e-6)


def test_the_history_length_is_read_off_the_kernel(tmp_path):
    for kind in KINDS:
        write(tmp_path / FILES[kind], keras_weights(3, 0))
    assert import_keras(tmp_path).history_length == 3
    write(tmp_path / FILES["bias"], keras_weights(4, 0))
    with pytest.raises(KerasError, match=r"history lengths differ: .*KNOWN_Bias\.h5 4"):
        import_keras(tmp_path)


def remove(file) -> None:
    del file["dense_7/dense_7/bias:0"]


def reshape(file) -> None:
    del file["dense_11/dense_11/kernel:0"]
    file["dense_11/dense_11/kernel:0"] = np.zeros((32, 64), np.float32)


def poison(file) -> None:
    file["dense_3/dense_3/bias:0"][5] = np.nan


def retype(file) -> None:
    del file["dense_12/dense_12/bias:0"]
    file["dense_12/dense_12/bias:0"] = np.array(["x"], "S")


def flatten(file) -> None:
    del file["dense/dense/kernel:0"]
    file["dense/dense/kernel:0"] = np.zeros(320, np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "dense_7/dense_7/bias:0: no such layer"),
        (reshape, r"dense_11/dense_11/kernel:0: expected shape \(64, 32\), got \(32, 64\)"),
        (poison, "dense_3/dense_3/bias:0: holds NaN or Inf"),
        (retype, "dense_12/dense_12/bias:0: expected an array of floats"),
        (flatten, r"dense/dense/kernel:0: expected shape \(S, 64\), got \(320,\)"),
    ],
)
def test_a_wrong_layer_is_named_with_its_file(released, damage, message):
    folder, _ = released
    with h5py.File(folder / FILES["fc"], "r+") as file:
        damage(file)
    with pytest.raises(KerasError, match=rf"KNOWN_FC\.h5: {message}"):
        import_keras(folder)


def test_missing_and_foreign_files_are_one_line_and_leave_nothing(released, run_know):
    folder, _ = released
    good = (folder / FILES["conv"]).read_bytes()
    for content, message in ((None, "no such file"), (b"not HDF5", "not a readable HDF5 file"), (good[:4000], "HDF5")):
        (folder / FILES["conv"]).unlink(missing_ok=True)
        if content is not None:
            (folder / FILES["conv"]).write_bytes(content)
        code, _, said = run_know("hypermodel", "import-keras", folder, "--out", folder / "out")
        assert code == 1 and said.count("\n") == 1 and "KNOWN_Conv.h5" in said and message in said
        assert not (folder / "out").exists() and not list(folder.glob(".*"))
