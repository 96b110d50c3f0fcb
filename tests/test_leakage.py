"""No image of the evaluation's test set is ever seen by meta-training, training or selection."""

import pytest
import torch

from know import paths
from know.data.images import ImageSet, load
from know.data.splits import downstream_parts, load_split, source
from know.meta import learning as metatrain
from know.models.small import build
from know.stages import downsize, evaluate, forget, meta_train, predict
from know.training import fine_tuning as evaluation
from know.training import forgetting
from know.training import loop as training


def keys(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_training_and_selection_never_see_test_images(micro, monkeypatch):
    trained, selected = set(), set()
    real = training.fit

    def spy(net, data: ImageSet, recipe, seed, *, validation=None, **options):
        trained.update(keys(data.images))
        if validation is not None:
            selected.update(keys(validation.images))
        return real(net, data, recipe, seed, validation=validation, **options)

    for module in (forget, forgetting, metatrain, evaluation):
        monkeypatch.setattr(module, "fit", spy)
    downsize.run(micro)
    forget.run(micro)
    meta_train.run(micro)
    predict.run(micro)
    test = set().union(*(keys(load(name, "test").images) for name in ("fashion-mnist-embedded", "mnist-embedded")))

    parts = downstream_parts(micro.downsize, micro.evaluate.validation_images, torch.device("cpu"))
    labelled, held = (keys(part.images) for part in parts)
    measured: dict[str, set[bytes]] = {"validation": set(), "test": set()}
    real_outcome = evaluation.outcome

    def watch(net, data: ImageSet):
        found = keys(data.images)
        measured["test" if found & test else "validation"].update(found)
        return real_outcome(net, data)

    monkeypatch.setattr(evaluation, "outcome", watch)
    monkeypatch.setattr(evaluate, "outcome", watch)
    before = set(trained)
    trained.clear()
    result = evaluate.run(micro)
    assert trained <= labelled and not trained & held
    trained.update(before)

    assert len(trained) > 300 and len(selected) >= 60
    assert not trained & test and not selected & test
    assert measured["test"] <= test and measured["validation"] and not measured["validation"] & test
    for seed in micro.downsize.source_seeds:
        split = load_split(paths.SPLITS / f"seed_{seed}.safetensors")
        assert not set(split.validation.tolist()) & set(split.order.tolist())
        assert set(split.more.tolist()) <= set(split.order.tolist())
    assert measured["validation"] == held

    transfer = result.transfer
    assert list(transfer.columns) == [
        "source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy", "loss", "ece"
    ]  # fmt: skip
    predicted = ("known", "scale_free", "task_vector", "shrunk", "scale_free_shrunk")
    assert set(map(tuple, transfer[["method", "steps"]].drop_duplicates().to_numpy().tolist())) == {
        ("scratch", 0), ("naive", 0), ("more_data", 1), ("shrink_perturb", 1), ("trained_on", 1),
        *((name, step) for name in predicted for step in (1, 2)),
    }  # fmt: skip
    assert len(transfer) == 15 * 2 * 2 * 2 and transfer.accuracy.between(0, 1).all()
    assert {divmod(seed, 1000) for seed in transfer.seed} == {(s, d) for s in (0, 1) for d in (0, 1)}

    chosen = result.selection[result.selection.chosen].set_index("method")
    assert list(chosen.index) == ["task_vector", "shrink_perturb"] and len(result.selection) == 4
    assert (chosen.accuracy == result.selection.groupby("method", sort=False).accuracy.max()).all()
    assert set(result.selection.options) == {"scale=0.5", "scale=1.0", "shrink=0.6", "shrink=0.9"}
    assert set(result.headroom.images) == {0, 96, 192, 384}
    trained_directly = result.headroom[result.headroom.images == 384].sort_values(["fraction", "seed"]).accuracy
    more = transfer[transfer.method == "more_data"].sort_values(["fraction", "seed"]).accuracy
    assert trained_directly.tolist() == more.tolist()  # the same weights, fine-tuned the same way
    assert set(result.oracle.method) == {
        "naive", "more_data", "known", "scale_free", "task_vector", "shrunk", "shrink_perturb"
    }  # fmt: skip
    assert set(result.curves.epoch) == {0, 1}


def test_what_perturbs_is_not_what_theta_0_was_trained_from(micro):
    cpu = torch.device("cpu")
    pool, test = (source(micro.downsize, part, cpu) for part in ("train", "test"))
    for number in micro.downsize.source_seeds:
        fresh = predict.Seed(micro, number, None, pool, test).fresh
        initial = build(micro.forget.architecture, 1, len(pool.classes), number).state_dict()
        assert not torch.equal(fresh["head.weight"], initial["head.weight"])
        assert fresh["head.weight"].std() / initial["head.weight"].std() == pytest.approx(1, abs=0.2)
