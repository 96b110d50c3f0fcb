"""Who sees which images: no test image before the last measurement, and meta-training's and the experiment's pools apart."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import micro_in

from know import paths
from know.data.images import ImageSet, load
from know.data.splits import Split, Task, downstream_parts, downstream_task, meta_pool, source_task
from know.meta import runs as meta_runs
from know.params import Params, shared_images
from know.stages import downsize, evaluate, forget, meta_train, predict
from know.stages.results import read_csv, split_path
from know.training import fine_tuning, forgetting, loop
from know.training import runs as training_runs

CPU = torch.device("cpu")


def keys(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@cache
def images_for_tests() -> set[bytes]:
    return set().union(*(keys(load(name, "test").images) for name in ("fashion-mnist-embedded", "mnist-embedded")))


@dataclass(frozen=True)
class Seen:
    """The micro experiment, the images that each of its parts saw, and the tables that it wrote."""

    params: Params
    by_source: set[bytes]
    by_meta: set[bytes]
    downstream: set[bytes]
    selecting: set[bytes]
    measured: dict[str, set[bytes]]
    splits: list[Split]
    tables: dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The stages as they are run, watched."""
    trained, selecting, by_part = set(), set(), []
    measured: dict[str, set[bytes]] = {"validation": set(), "test": set()}
    fit, outcome = loop.fit, training_runs.outcome

    def watched_fit(net, data: ImageSet | forgetting.Redrawn, recipe, seed, *, validation=None, **options):
        trained.update(keys((data.data if isinstance(data, forgetting.Redrawn) else data).images))
        if validation is not None:
            selecting.update(keys(validation.images))
        return fit(net, data, recipe, seed, validation=validation, **options)

    def watched_outcome(net, data: ImageSet):
        found = keys(data.images)
        measured["test" if found & images_for_tests() else "validation"].update(found)
        return outcome(net, data)

    with pytest.MonkeyPatch.context() as monkeypatch:
        micro = micro_in(tmp_path_factory.mktemp("experiment"), monkeypatch)
        for module in (training_runs, forgetting, meta_runs, fine_tuning):
            monkeypatch.setattr(module, "fit", watched_fit)
        for stages in ((downsize, forget), (meta_train,), (predict, evaluate)):
            for stage in stages:
                if stage is evaluate:  # before it, test images measure how far forgetting went
                    monkeypatch.setattr(training_runs, "outcome", watched_outcome)
                stage.run(micro)
            by_part.append(set(trained))
            trained.clear()
        splits = [Split.read(split_path(seed)) for seed in micro.downsize.source_seeds]
        tables = {path.stem: read_csv(path.name) for path in paths.RESULTS.glob("*.csv")}
    return Seen(micro, *by_part, selecting, measured, splits, tables)


def test_training_and_selection_never_see_test_images(seen):
    labelled, held = (
        keys(part.images)
        for part in downstream_parts(downstream_task(seen.params.downsize), seen.params.evaluate.validation_images, CPU)
    )
    assert seen.downstream and seen.downstream <= labelled and not seen.downstream & held
    assert len(seen.by_source) > 300 and len(seen.by_meta) > 100 and len(seen.selecting) >= 60
    assert not (seen.by_source | seen.by_meta | seen.selecting) & images_for_tests()
    assert not seen.by_meta & (seen.by_source | labelled | held | seen.selecting)  # other data sets
    assert seen.measured["test"] <= images_for_tests() and seen.measured["validation"] == held
    for split in seen.splits:
        assert not set(split.validation.tolist()) & set(split.order.tolist())


def test_what_the_evaluation_writes(seen):
    transfer, selection = seen.tables["transfer"], seen.tables["selection"]
    assert list(transfer.columns)[:8] == [
        "source",
        "arch",
        "downstream",
        "method",
        "steps",
        "fraction",
        "seed",
        "accuracy",
    ]
    stepped = ("known", "scale_free", "linear", "task_vector", "shrunk", "scale_free_shrunk")
    plain = transfer[~transfer.crossed & (transfer.role != "tuned")]
    starts = set(map(tuple, plain[["method", "steps"]].drop_duplicates().to_numpy().tolist()))
    assert starts == {
        ("scratch", 0), ("naive", 0), ("head_zero", 0), ("more_data", 1), ("shrink", 1), ("trained_on", 1),
        *((name, step) for name in stepped for step in (1, 2)),
    }  # fmt: skip
    assert len(plain) == len(starts) * 2 * 2 * 2 and transfer.accuracy.between(0, 1).all()
    assert (transfer.seed == 1000 * transfer.source_seed + transfer.downstream_seed).all()
    roles = transfer.groupby("method").role.unique().map(list).to_dict()
    assert roles["naive"] == roles["scratch"] == ["reference"] and roles["more_data"] == ["oracle"]
    assert roles["known"] == ["method"] and roles["shrink"] == roles["shrunk"] == ["control"]

    # Chosen by validation images alone, among every option and step; what was chosen is what is judged.
    best = selection[selection.chosen].set_index("method")
    assert best.accuracy.to_dict() == selection.groupby("method").accuracy.max().to_dict()
    assert selection.groupby("method").candidates.unique().map(list).to_dict()["task_vector"] == [4]
    assert set(selection[selection.method == "task_vector"].options) == {"scale=0.5", "scale=1.0"}
    chosen = transfer[transfer.chosen].groupby("method").steps.unique().map(list)
    assert all(chosen[method] == [steps] for method, steps in best.steps.items())
    judged = transfer[~transfer.crossed & (transfer.fraction == 1)]
    means = judged.groupby(["method", "steps"]).validation_accuracy.mean()
    assert all(means[method, row.steps] == pytest.approx(row.accuracy, rel=1e-4) for method, row in best.iterrows())

    # The same weights fine-tuned the same way give the same numbers, however they are called.
    headroom, forgotten = seen.tables["headroom"], seen.tables["forgotten"]
    by = ["fraction", "source_seed", "downstream_seed"]
    for table, column, value, method in ((headroom, "images", 384, "more_data"), (forgotten, "k", 0, "naive"),
                                         (headroom, "images", 192, "naive"), (headroom, "images", 0, "scratch")):  # fmt: skip
        own = table[table[column] == value].sort_values(by).accuracy.tolist()
        assert own == plain[plain.method == method].sort_values(by).accuracy.tolist()
    assert set(headroom.images) == {0, 96, 192, 384} and set(forgotten.k) == {0, 1, 2, 3, 4}
    assert set(seen.tables["learning_curves"].epoch) == {0, 1}


def test_downstream_draws_are_nested_in_source_seeds(micro):
    """Each pair of seeds has its own labels, or the source seeds' means would share their noise."""
    task = downstream_task(micro.downsize)
    drawn = {}
    for source_seed in range(3):
        for downstream_seed in range(2):
            job = training_runs.TransferJob(
                None, task, "cnn", 24, 60, micro.evaluate.fine_tuning, source_seed, downstream_seed
            )
            drawn[source_seed, downstream_seed] = frozenset(keys(job.images()[0].images))
    assert len(set(drawn.values())) == 6


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_is_set_aside_for_meta_training_is_apart(share):
    classes = tuple(range(10))
    meta = keys(meta_pool("mnist-embedded", share).images)
    own = keys(Task("mnist-embedded", classes, share).pool(CPU).images)
    everything = keys(load("mnist-embedded", "train").images)
    assert not meta & own and meta | own == everything
    assert len(meta) == pytest.approx(share * len(everything), abs=10)
    assert keys(meta_pool("mnist-embedded", 0.0).images) == everything


def test_what_is_shared_is_said(micro):
    assert shared_images(micro) == "Meta-training sees no image of the experiment: its data sets are others."
    same = micro.meta_train.model_copy(update={"datasets": ("mnist-embedded",)})
    shared = shared_images(micro.model_copy(update={"meta_train": same}))
    assert shared.startswith("Meta-training draws from the training images of mnist, among which the experiment's are")
    apart = micro.downsize.model_copy(update={"meta_share": 0.5})
    apart = shared_images(micro.model_copy(update={"meta_train": same, "downsize": apart}))
    assert "50% of the training images are set aside" in apart and "sees none of them" in apart


def test_what_perturbs_is_not_what_theta_0_was_trained_from(micro):
    downsize.run(micro)
    for seed in micro.downsize.source_seeds:
        source = forget.source_jobs(micro, seed)[micro.downsize.source_images]
        fresh, initial = predict.other(source).net().state_dict(), source.net().state_dict()
        assert not torch.equal(fresh["head.weight"], initial["head.weight"])
        assert fresh["head.weight"].std() / initial["head.weight"].std() == pytest.approx(1, abs=0.2)
    assert source_task(micro.downsize).name == "mnist-embedded:0-2-4-6-8"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of runs, for tests that differ only in what comes after training."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("rule", ["copy", "predict", "reset", "re-estimate"])
def test_one_rule_for_batchnorm_for_every_start(micro, store, monkeypatch, rule):
    """Methods, controls, the real Θ_{-1}, Θ_k and the headroom's nets alike."""
    monkeypatch.setattr(paths, "RUNS", store)
    update = {
        "forget": micro.forget.model_copy(update={"architecture": "cnn-bn"}),
        "predict": micro.predict.model_copy(update={"batchnorm": rule}),
        "downsize": micro.downsize.model_copy(update={"source_seeds": (0,)}),
    }
    params = micro.model_copy(update=update)
    for stage in (downsize, forget, meta_train, predict):
        stage.run(params)
    from know.stages.results import read_starts, trained_path
    from know.weights.files import load_state

    naive = load_state(trained_path(0, params.downsize.source_images))
    layers = [name.removesuffix("running_mean") for name in naive if name.endswith("running_mean")]
    starts = {
        start: load_state(start.path(0)) for start in read_starts() if start.track == "main" and not start.crossed
    }
    assert {start.role for start in starts} == {"reference", "oracle", "method", "control", "headroom", "path"}
    real = load_state(trained_path(0, 2 * params.downsize.source_images))
    for start, state in starts.items():
        for layer in layers:
            mean, gamma = state[f"{layer}running_mean"], state[f"{layer}weight"]
            if rule == "reset":
                assert torch.equal(mean, torch.zeros_like(mean)) and torch.equal(gamma, torch.ones_like(gamma)), start
            if rule in ("copy", "predict"):
                assert torch.equal(mean, naive[f"{layer}running_mean"]), start
            if rule == "copy":
                assert torch.equal(gamma, naive[f"{layer}weight"]), start
            if rule in ("predict", "re-estimate") and start.role in ("oracle",):
                assert torch.equal(gamma, real[f"{layer}weight"]), start
            if rule == "re-estimate":
                assert not torch.equal(mean, naive[f"{layer}running_mean"]), start
