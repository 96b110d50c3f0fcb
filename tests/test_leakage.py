"""No image of the evaluation's test set is ever seen by meta-training, training or selection."""

import torch

from know import evaluation, forgetting, metatrain, paths, training
from know.data import ImageSet, load
from know.experiment import downsize, evaluate, forget, meta_train, predict
from know.splits import load_split


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
    transfer = evaluate.run(micro)

    test = set().union(*(keys(load(name, "test").images) for name in ("fashion-mnist-embedded", "mnist-embedded")))
    assert len(trained) > 300 and len(selected) >= 60
    assert not trained & test and not selected & test
    for seed in micro.downsize.source_seeds:
        split = load_split(paths.SPLITS / f"seed_{seed}.safetensors")
        assert not set(split.validation.tolist()) & set(split.more.tolist())

    assert list(transfer.columns) == ["source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy"]
    assert set(map(tuple, transfer[["method", "steps"]].drop_duplicates().to_numpy().tolist())) == {
        ("scratch", 0), ("naive", 0), ("more_data", 1),
        *((name, step) for name in ("known", "linear", "task_vector", "shrunk") for step in (1, 2)),
    }  # fmt: skip
    assert len(transfer) == 11 * 2 * 2 * 2 and transfer.accuracy.between(0, 1).all()
    assert {divmod(seed, 1000) for seed in transfer.seed} == {(s, d) for s in (0, 1) for d in (0, 1)}
