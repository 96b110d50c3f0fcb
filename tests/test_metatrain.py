import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from know.data.images import load as load_images
from know.meta.hypermodels import errors, train_hypermodels
from know.meta.layout import LayoutError, RunFile, run_files, save_paths, weight_paths
from know.meta.learning import BUFFER, draw_windows, stream, train_known
from know.meta.linear_map import fit_linear_map, save_linear_map
from know.meta.options import KnownTraining
from know.meta.runs import FileJob, MetaJob, draw_runs, meta_run, run_paths, split_runs, windows, write_run
from know.models.build import build
from know.params import load
from know.prediction.files import predict_files
from know.prediction.known import load_hypermodel, save_hypermodel
from know.prediction.predictors import linear, no_change, predictor
from know.prediction.retrodict import retrodict
from know.run.executor import map_all
from know.seeds import derive
from know.weights.files import load_state, save_state
from know.weights.kinds import KINDS

DECAY = torch.exp(-torch.arange(7) / 2)


def exponential_run(file: Path, seed: int, weights: int = 400, scale: float = 0.1) -> RunFile:
    """Weights that approach a limit: w_t = a + b·exp(-t/2), whose next step is exp(-1/2) of the last."""
    generator = torch.Generator().manual_seed(seed)
    paths = torch.randn(weights, 2, generator=generator) @ torch.stack([torch.ones(7), DECAY]) * scale
    save_paths({array: paths[: len(paths) // 9 * 9] for array in ("ConvWeights", "FCWeights", "Bias")}, file)
    return RunFile.open(file)


@pytest.fixture
def exponential(tmp_path: Path) -> list[RunFile]:
    return [exponential_run(tmp_path / f"{seed}.mat", seed) for seed in range(7)]


def test_windows_are_all_stretches():
    paths = torch.arange(14.0).reshape(2, 7)
    expected = [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [8, 9, 10, 11, 12, 13]]
    assert windows(paths, 6).tolist() == expected


def test_runs_stay_in_their_ranges_and_take_turns():
    options = load().meta_train
    runs = draw_runs(options)
    assert runs == draw_runs(options) and len(runs) == options.runs.count
    for run in runs:
        smallest = run.images * run.rate ** (run.subsets - 1)
        fewest, most = options.runs.batch_size
        assert smallest >= fewest - 0.01 and fewest <= run.batch_size <= min(most, max(fewest, smallest))
        assert options.runs.rate[0] <= run.rate <= options.runs.rate[1]
        assert options.runs.lr[0] <= run.lr <= options.runs.lr[1]
        assert options.runs.images[0] <= run.images <= options.runs.images[1]
    training, held_out = split_runs(runs, options.runs.held_out)
    assert not {r.number for r in training} & {r.number for r in held_out}
    assert {r.architecture for r in held_out} == set(options.architectures)
    assert {r.dataset for r in held_out} == set(options.datasets)


def test_a_share_of_the_runs_is_augmented_and_the_rest_is_drawn_alike():
    options = load().meta_train
    half = options.model_copy(update={"runs": options.runs.model_copy(update={"augment": 0.5, "count": 200})})
    none = options.model_copy(update={"runs": options.runs.model_copy(update={"augment": 0.0, "count": 200})})
    drawn, plain = draw_runs(half), draw_runs(none)
    assert 70 < sum(run.augment for run in drawn) < 130 and not any(run.augment for run in plain)
    assert [asdict(a) | {"augment": None} for a in drawn] == [asdict(b) | {"augment": None} for b in plain]


def test_collecting_is_reproducible(micro, tmp_path):
    specs = draw_runs(micro.meta_train)[:2]
    for folder in ("one", "two"):
        map_all(write_run, [FileJob(spec, tmp_path / folder / spec.file_name) for spec in specs], micro.compute, "x")
    files = [tmp_path / "one" / spec.file_name for spec in specs]
    assert [run.path for run in run_files(tmp_path / "one")] == sorted(files)
    assert all(file.read_bytes() == (tmp_path / "two" / file.name).read_bytes() for file in files)
    again = meta_run(MetaJob(specs[0]))
    assert all(torch.equal(path.flatten(), RunFile.open(files[0]).read(name).flatten()) for name, path in again.items())
    run = RunFile.open(files[0])
    assert run.spec == asdict(specs[0]) and set(run.sizes) == set(KINDS) and run.length == 7
    again = run_paths(specs[0], load_images(specs[0].dataset, "train"))
    assert sum(run.sizes.values()) == 17898
    for array, paths in again.items():
        assert torch.equal(run.read(array), paths) and (paths.diff(dim=1) != 0).any()


def test_every_run_gives_the_stream_the_same_share(tmp_path):
    """Three runs of very different sizes, each with a constant of its own."""
    runs = []
    for number, size in enumerate((3, 300, 30_000)):
        save_paths({"FCWeights": torch.full((size, 7), float(number))}, tmp_path / f"{number}.mat")
        runs.append(RunFile.open(tmp_path / f"{number}.mat"))
    batches = stream(runs, "fc", 5, 6000, torch.Generator().manual_seed(0))
    for _ in range(3):
        batch = next(batches)
        assert batch.shape == (6000, 6)
        shares = batch[:, 0].long().bincount(minlength=3) / 6000
        assert (shares - 1 / 3).abs().max() < 0.03


def test_the_stream_comes_to_see_every_weight(tmp_path):
    """The buffer holds only a part of this run; batches draw on all of it before long."""
    size = BUFFER
    with h5py.File(tmp_path / "run.mat", "w") as file:
        file["FCWeights"] = np.repeat(np.arange(size, dtype=np.float32)[:, None], 7, 1)
    batches = stream([RunFile.open(tmp_path / "run.mat")], "fc", 5, 1 << 16, torch.Generator().manual_seed(0))
    seen = torch.cat([next(batches)[:, 0] for _ in range(20)]).long()
    blocks = (seen * 64 // size).unique()
    assert len(blocks) == 64 and len(seen.unique()) > 0.5 * size


def test_known_learns_a_law_that_a_line_cannot_follow(exponential):
    options = KnownTraining(steps=800, batch_size=256, lr=0.002)
    known, curve = train_known(exponential[:4], exponential[4:6], "fc", 5, options, seed=0)
    predictors = {"known": lambda w, k: known(w), "linear": linear, "same": no_change}
    found = errors(exponential[6], "fc", 5, predictors)
    assert found["known"] < 0.5 * found["same"] and found["known"] < 0.5 * found["linear"]
    assert curve.steps[-1] == 800 and curve.errors[-1] < curve.errors[0]


def test_the_linear_map_finds_a_linear_law(exponential, tmp_path):
    """w_t = a + b·exp(-t/2) goes on by w_S = w_{S-1} + exp(-1/2)·d_{S-1}: the map that is found predicts without error, and the
    median of noisy targets, not their mean."""
    coefficients = {kind: fit_linear_map(exponential[:4], kind, 5, 0) for kind in KINDS}
    learned = predictor("linear_map", coefficients=coefficients)
    found = errors(exponential[6], "fc", 5, {"map": learned, "same": no_change})
    assert found["map"] < 1e-4 * found["same"]
    assert sum(coefficients["fc"]) == pytest.approx(1, abs=1e-3)  # a weight that has come to rest stays
    save_linear_map(coefficients, tmp_path)
    assert json.loads((tmp_path / "linear_map.json").read_text())["fc"] == pytest.approx(coefficients["fc"])
    with pytest.raises(ValueError, match="fitted on histories of 5 weights, got 3"):
        learned(torch.zeros(2, 3), "fc")
    generator = torch.Generator().manual_seed(0)
    paths = torch.randn(4000, 1, generator=generator).expand(-1, 7).clone()
    paths[:1200, 5:] *= 3  # 30 % outliers: a mean would give 1.6
    save_paths({"FCWeights": paths[torch.randperm(4000, generator=generator)]}, tmp_path / "outliers.mat")
    robust = fit_linear_map([RunFile.open(tmp_path / "outliers.mat")], "fc", 5, 0)
    assert sum(robust) == pytest.approx(1, abs=0.02)


def test_in_the_paths_frame_the_law_holds_at_any_size(exponential, tmp_path):
    """Learned on weights of 0.1, used on weights of 10⁻⁴, where the plain network is lost."""
    options = KnownTraining(steps=300, batch_size=256, lr=0.003)
    compute = load().compute.model_copy(update={"jobs": 1})
    tiny = exponential_run(tmp_path / "tiny.mat", 9, scale=1e-4)
    found = {}
    for scale in ("none", "path"):
        models, curves = train_hypermodels(exponential[:4], exponential[4:6], 5, options, 0, compute, [scale])
        model = models[scale]
        assert set(curves[scale]) == set(KINDS) and model.scale == scale
        found |= {scale: errors(tiny, "fc", 5, {"model": model, "same": no_change})}
    assert found["path"]["model"] < 0.1 * found["path"]["same"] < found["none"]["model"]


@pytest.mark.parametrize("pointwise", ["fc", "conv"])
def test_a_pointwise_kernel_is_learned_by_and_predicted_with_the_same_known(tmp_path, pointwise):
    """1×1 kernels all double, 3×3 ones and matrices stand still: which KNOWN sees doubling is the one that predicts it."""
    generator = torch.Generator().manual_seed(0)
    begun = {"c.weight": (9, 2, 3, 3), "p.weight": (30, 10, 1, 1), "f.weight": (9, 20), "f.bias": (9,)}
    begun = {name: torch.randn(shape, generator=generator) * 0.01 for name, shape in begun.items()}
    states = [{n: t * (1.5**k if n == "p.weight" else 1) for n, t in begun.items()} for k in range(7)]
    save_paths(weight_paths(states, pointwise), tmp_path / "run.mat", {"pointwise": pointwise})
    run = RunFile.open(tmp_path / "run.mat")
    assert run.sizes["fc"] == (480 if pointwise == "fc" else 180)
    options, compute = KnownTraining(steps=2, batch_size=64, lr=0.001), load().compute.model_copy(update={"jobs": 1})
    model = train_hypermodels([run], [run], 5, options, 0, compute)[0]["none"]
    save_hypermodel(model, tmp_path / "model")
    for parameter in [*model.conv.parameters(), *model.fc.parameters(), *model.bias.parameters()]:
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(model.of(pointwise).out.bias, 0.5)  # that KNOWN adds tanh(0.5), the others nothing
    states = states[:5]
    predictors = {"module": model}
    assert load_hypermodel(tmp_path / "model").pointwise == pointwise
    save_hypermodel(model, tmp_path / "marked")
    predictors["by name"] = predictor("known", hypermodel=str(tmp_path / "marked"))
    for found in predictors.values():
        moved = {name for name, t in retrodict(states, found)[0].items() if not torch.equal(t, states[-1][name])}
        assert moved == {"p.weight", "f.weight" if pointwise == "fc" else "c.weight"}
    files = [tmp_path / f"{k}.safetensors" for k in range(5)]
    for file, state in zip(files, states, strict=True):
        save_state(state, file)
    predict_files(files, tmp_path / "out.safetensors", model)
    predicted = load_state(tmp_path / "out.safetensors")
    assert {n for n, t in predicted.items() if not torch.equal(t, states[-1][n])} == moved


def test_runs_that_file_pointwise_kernels_differently_are_not_mixed(tmp_path):
    paths = {array: torch.zeros(9, 7) for array in ("ConvWeights", "FCWeights", "Bias")}
    for pointwise in ("fc", "conv"):
        save_paths(paths, tmp_path / f"{pointwise}.mat", {"pointwise": pointwise})
    runs = run_files(tmp_path)
    with pytest.raises(LayoutError, match=r"fc\.mat: 1×1 kernels are fc, but conv in conv\.mat"):
        train_hypermodels(runs, runs, 5, load().meta_train.known, 0, load().compute)


def test_the_meta_dataset_forgets_in_the_mode_asked_for(micro):
    """Sequential, every further subset takes the weights further from Θ_0; restarted, each run begins where Θ_0's did."""
    images = load_images("mnist-embedded", "train")
    paths = {}
    for mode in ("sequential", "restart"):
        spec = draw_runs(micro.meta_train, mode)[0]
        assert spec.mode == mode
        paths[mode] = run_paths(replace(spec, lr=1e-5, source_epochs=30), images)["FCWeights"]
    assert torch.equal(paths["sequential"][:, -1], paths["restart"][:, -1])  # Θ_0 does not depend on it
    begun = build(spec.architecture, 1, 10, derive("weights", spec.seed)).state_dict()
    begun = weight_paths([{name: tensor for name, tensor in begun.items()}])["FCWeights"][:, 0]
    for mode, path in paths.items():
        from_beginning, from_theta_0 = (path[:, 0] - begun).norm(), (path[:, 0] - path[:, -1]).norm()
        assert (from_beginning < from_theta_0) == (mode == "restart")


def test_training_known_is_reproducible(exponential):
    options = KnownTraining(steps=10, batch_size=64, lr=0.001)
    args = (exponential[:2], exponential[2:3], "conv", 5, options)
    first, again, other = (train_known(*args, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_errors_are_mean_absolute_and_recursive(tmp_path):
    save_paths({"FCWeights": torch.tensor([[0.0, 1, 2, 4, 6], [1, 1, 1, 1, 1]])}, tmp_path / "run.mat")
    run = RunFile.open(tmp_path / "run.mat")
    predictors = {"same": no_change, "linear": linear}
    # windows (0, 1, 2) → 4, (1, 2, 4) → 6 and two that stand still; a line says 3 and 4 + 7/3 - 1/2·… = 16/3
    found = errors(run, "fc", 3, predictors)
    assert found["same"] == pytest.approx((2 + 2) / 4) and found["linear"] == pytest.approx((1 + 2 / 3) / 4)
    # two ahead: (0, 1, 2) → 3 → 4, wanted 6
    assert errors(run, "fc", 3, predictors, steps=2) == pytest.approx({"same": 4 / 2, "linear": 2 / 2})


def test_runs_that_cannot_be_learned_from_are_named(tmp_path):
    generator = torch.Generator().manual_seed(0)
    with h5py.File(tmp_path / "short.mat", "w") as file:
        file["FCWeights"] = np.zeros((20, 5))
    with pytest.raises(LayoutError, match=r"short\.mat: paths of 5 weights; history_length 5 needs 6"):
        draw_windows(RunFile.open(tmp_path / "short.mat"), "fc", 5, 10, generator)
    with h5py.File(tmp_path / "nan.mat", "w") as file:
        file["FCWeights"] = np.full((20, 7), np.nan)
    run = RunFile.open(tmp_path / "nan.mat")
    with pytest.raises(LayoutError, match=r"nan\.mat: fc weights: NaN or Inf among them"):
        draw_windows(run, "fc", 5, 10, generator)
    with pytest.raises(LayoutError, match="no run to learn from has conv weights"):
        train_hypermodels([run], [run], 5, load().meta_train.known, 0, load().compute)


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from know.meta.layout import run_files
from know.meta.hypermodels import errors
from know.meta.learning import train_known
from know.meta.options import KnownTraining
from know.models.build import build
from know.prediction.predictors import linear
runs = run_files(Path(sys.argv[1]))
train_known(runs, runs, "conv", 5, KnownTraining(steps=5, batch_size=2048, lr=1e-3), 0)
errors(runs[0], "fc", 5, {"linear": linear})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_grow_with_the_files(tmp_path):
    """Peak resident memory in a process of its own, on files of 4 MB and of 260 MB."""
    unit = 1024 if sys.platform == "linux" else 1
    peaks = {}
    for name, kernels in (("small", 8_000), ("large", 520_000)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "run.mat"
        with h5py.File(file, "w") as out:
            conv = out.create_dataset("ConvWeights", (3, 3, kernels, 7), np.float32)
            fc = out.create_dataset("FCWeights", (kernels * 9, 7), np.float32)
            for start in range(0, kernels, 8_000):
                conv[:, :, start : start + 8_000] = np.full((3, 3, 8_000, 7), 0.1)
                fc[start * 9 : (start + 8_000) * 9] = np.full((72_000, 7), 0.1)
        done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks[name] = int(done.stdout) * unit, file.stat().st_size
        file.unlink()
    assert peaks["large"][1] > 250e6 and peaks["small"][1] < 5e6
    assert peaks["large"][0] - peaks["small"][0] < 40e6


def test_the_command_trains_on_a_folder(exponential, tmp_path, run_know, monkeypatch):
    monkeypatch.setattr("know.paths.RUNS", tmp_path / "runs")
    values = YAML().load(Path("params.yaml").read_text())
    values["meta_train"]["known"] |= {"steps": 30, "batch_size": 256}
    values["meta_train"]["runs"]["held_out"] = 2
    values["compute"]["jobs"] = 1
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    folder = exponential[0].path.parent
    options = ("--params", tmp_path / "params.yaml", "--scale", "path")
    code, said, wrong = run_know("meta-train", "--data", folder, "--out", tmp_path / "out", *options)
    assert code == 0, wrong
    assert "linear" in said and "no change" in said
    model = load_hypermodel(tmp_path / "out")
    assert model.scale == "path" and model.description == "meta-trained on 5 runs"

    (folder / "broken.mat").write_text("text")
    code, _, wrong = run_know("meta-train", "--data", folder, "--out", tmp_path / "other", *options)
    assert code == 1 and wrong.count("\n") == 1 and "broken.mat" in wrong
    assert not (tmp_path / "other").exists()
