import pytest
import torch

from know.data.images import ImageSet, normalise
from know.models.build import build, new_head
from know.models.names import ARCHITECTURES
from know.options import ParamError
from know.params import load
from know.seeds import derive
from know.tasks.augmentation import augmented
from know.tasks.measures import measure
from know.training.fine_tuning import fine_tune, labelled, transferred
from know.training.forgetting import Redrawn, forget, load_trajectory, save_trajectory, state_of
from know.training.loop import Recipe, fit


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(toy, seed=0, **options):
    net = build("cnn-bn", 1, 3, 0)
    fit(net, toy, Recipe(2, 16, 1e-3, **options), seed)
    return state_of(net)


@pytest.mark.parametrize("augment", ["none", "affine", "crop-flip"])
def test_seeds_reproduce_bit_for_bit(toy, augment):
    assert same(trained(toy, 3, augment=augment), trained(toy, 3, augment=augment))
    assert not same(trained(toy, 3, augment=augment), trained(toy, 4, augment=augment))


def test_global_generator_is_left_alone(toy):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(toy, augment="affine")
    assert torch.equal(torch.rand(3), expected)


def test_it_learns(toy):
    net = build("cnn", 1, 3, 0)
    fit(net, toy, Recipe(15, 16, 2e-3), 0)
    assert measure(net, toy)[1] > 0.9


def test_measure_against_a_plain_forward(toy):
    net = build("cnn", 1, 3, 0).eval()
    logits = net(toy.images.float() / 127.5 - 1)
    loss, accuracy = measure(net, toy)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, toy.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == toy.labels).float().mean().item())


def test_only_the_chosen_parameters_are_trained(toy):
    net = build("cnn", 1, 3, 0)
    before = state_of(net)
    fit(net, toy, Recipe(1, 16, 1e-2), 0, parameters=net.head.parameters())
    changed = {name for name, tensor in state_of(net).items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_patience_returns_the_best_weights(toy):
    net = build("cnn", 1, 3, 0)
    wrong = ImageSet(toy.images, (toy.labels + 1) % 3, toy.classes)  # the better it learns, the worse it does here
    history = fit(net, toy, Recipe(30, 16, 5e-3), 0, validation=wrong, patience=3)
    assert len(history.train_loss) < 30 and len(history.validation_loss) == history.best_epoch + 4
    assert measure(net, wrong)[0] == pytest.approx(min(history.validation_loss))


def test_an_epoch_is_every_image_once_in_equal_batches(toy):
    seen = list(toy.batches(50, torch.Generator().manual_seed(0)))
    assert sorted(len(labels) for _, labels in seen) == [40, 40, 40]
    pixels = torch.cat([images for images, _ in seen]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(pixels, normalise(toy.images).flatten(1).sum(1).sort().values)


LABEL = torch.zeros(1, dtype=torch.int64)


def test_augmentation_moves_at_most_what_the_paper_says():
    side = 101
    image = torch.zeros(1, 1, side, side)
    image[..., side // 2 - 2 : side // 2 + 3, side // 2 - 2 : side // 2 + 3] = 1
    generator = torch.Generator().manual_seed(0)
    centres, areas = [], []
    grid = torch.arange(side, dtype=torch.float)
    for _ in range(300):
        moved = augmented(image, LABEL, "affine", generator)[0][0, 0]
        areas.append((moved.sum() / 25).item())
        centres.append(((moved.sum(0) @ grid) / moved.sum()).item())
    shift = (torch.tensor(centres) - side // 2).abs() / side
    assert 0.1 < shift.max() <= 0.15 * 1.3 / 0.7
    assert 1 / 1.3**2 * 0.85 <= min(areas) < 0.8 and 1.5 < max(areas) <= 1 / 0.7**2 * 1.15


def test_a_crop_is_a_window_of_the_padded_image_mirrored_or_not():
    image = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))[0]
    windows = [padded[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
    allowed = torch.stack([*windows, *(window.flip(2) for window in windows)])
    crops = augmented(image.expand(2000, -1, -1, -1), LABEL, "crop-flip", torch.Generator().manual_seed(0))[0]
    which = [(allowed == crop).flatten(1).all(1).nonzero().flatten().tolist() for crop in crops]
    counts = torch.tensor([index for (index,) in which]).bincount(minlength=50)
    assert counts.min() > 15  # each of the 50 some 40 times
    assert augmented(image, LABEL, "none", torch.Generator())[0] is image


def test_redrawn_subsets_are_as_large_and_never_the_same(toy):
    redrawn = Redrawn(toy, 30)
    generator = torch.Generator().manual_seed(0)
    passes = [torch.cat([images for images, _ in redrawn.batches(8, generator)]).flatten(1).sum(1) for _ in range(60)]
    everything = normalise(toy.images).flatten(1).sum(1)
    assert len(redrawn) == 30 and all(len(own) == 30 for own in passes)
    assert all(torch.isin(own, everything).all() for own in passes) and not torch.equal(passes[0], passes[1])
    assert len(torch.cat(passes).unique()) == len(everything.unique())  # all of D_0 is seen, sooner or later


def test_images_are_reduced_by_the_mean_of_blocks(toy):
    reduced = toy.reduced(7)
    assert reduced.images.shape[2:] == (7, 7) and torch.equal(reduced.labels, toy.labels)
    block = toy.images[3, 0, 4:8, 8:12].float().mean().round()
    assert reduced.images[3, 0, 1, 2] == block
    with pytest.raises(ValueError, match=r"^image_size: got 9; allowed: one that divides the images' 28 × 28 pixels"):
        toy.reduced(9)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_architectures(name, channels, side):
    net = build(name, channels, 7, 0)
    assert same(state_of(net), state_of(build(name, channels, 7, 0)))
    images = torch.rand(4, channels, side, side)
    assert net(images).shape == (4, 7)
    count = sum(p.numel() for p in net.parameters())
    assert count < 3_000_000 or name.startswith("resnet18")
    net(images).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_released_resnet18():
    """Of its code: a 7×7 stem, 20 convolutions with biases, 34 pixels in its first two stages; 11 M parameters."""
    net = build("resnet18-released", 3, 100, 0)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions[0].kernel_size == (7, 7) and len(convolutions) == 20
    assert all(conv.bias is not None for conv in convolutions)
    stages = [m for m in net.features if hasattr(m, "branch")]
    sides = []
    for stage in stages:
        stage.register_forward_hook(lambda module, given, out: sides.append((out.shape[1], out.shape[-1])))
    net(torch.zeros(2, 3, 32, 32))
    assert sides == [(64, 34)] * 2 + [(128, 34)] * 2 + [(256, 17)] * 2 + [(512, 9)] * 2


def test_sample_net_is_the_released_one():
    shapes = [tuple(p.shape) for p in build("cnn", 1, 10, 0).parameters() if p.ndim > 1]
    assert shapes == [(8, 1, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32), (10, 64)]


def test_forgetting_is_sequential_or_restarts(toy, tmp_path):
    net = build("cnn", 1, 3, 0)
    initial = state_of(net)
    fit(net, toy, Recipe(1, 16, 1e-3), 0)
    theta_0 = state_of(net)
    subsets, recipe = [toy.select(torch.arange(n)) for n in (60, 30)], Recipe(1, 16, 1e-3)

    trajectory = forget(net, subsets, recipe, seed=4)
    assert len(trajectory) == 3 and same(trajectory[-1], theta_0) and same(trajectory[0], state_of(net))
    net.load_state_dict(trajectory[1])
    fit(net, subsets[1], recipe, derive("forget", 4, 2))
    assert same(state_of(net), trajectory[0])

    net.load_state_dict(theta_0)
    restarted = forget(net, subsets, recipe, 4, "restart", initial)
    net.load_state_dict(initial)
    fit(net, subsets[1], recipe, derive("forget", 4, 2))
    assert same(restarted[0], state_of(net)) and not same(restarted[0], trajectory[0])
    with pytest.raises(ValueError, match="needs the initial weights"):
        forget(net, subsets, recipe, 4, "restart")

    save_trajectory(trajectory, tmp_path / "t")
    assert all(same(a, b) for a, b in zip(load_trajectory(tmp_path / "t", 3), trajectory, strict=True))


def test_transfer_keeps_the_body_and_gets_a_fresh_head(toy):
    source = state_of(build("cnn", 1, 6, 9))
    (net, new), (other, none) = transferred("cnn", source, toy, 1), transferred("cnn", None, toy, 1)
    assert new == [net.head.weight, net.head.bias] and none == []
    body = {k: v for k, v in state_of(net).items() if not k.startswith("head.")}
    assert all(torch.equal(v, source[k]) for k, v in body.items())
    assert torch.equal(net.head.weight, other.head.weight) and net.head.out_features == 3
    assert not torch.equal(state_of(other)["features.0.0.weight"], source["features.0.0.weight"])
    zero, _ = transferred("cnn", source, toy, 1, head_scale=0.0)
    assert not zero.head.weight.any() and not zero.head.bias.any() and net.head.weight.any()


def test_fine_tuning_trains_the_head_first(toy):
    options = load().evaluate.fine_tuning.model_copy(update={"head_epochs": 3, "epochs": 1, "lr": 1e-12})
    net, new = transferred("cnn", state_of(build("cnn", 1, 6, 9)), toy, 1)
    before = state_of(net)
    fine_tune(net, toy, options, 0, new)
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in state_of(net).items()}
    assert moved["head.weight"] > 1e-3 and max(v for k, v in moved.items() if not k.startswith("head.")) < 1e-6


def test_labelled_subsets_are_nested_and_balanced(toy):
    few, more = labelled(toy, 9, 2), labelled(toy, 30, 2)
    assert few.labels.bincount().tolist() == [3, 3, 3] and more.labels.bincount().tolist() == [10, 10, 10]
    assert torch.equal(more.images[:9], few.images)


def test_new_head_does_not_depend_on_the_body(toy):
    a, b = build("cnn", 1, 3, 0), build("cnn", 1, 3, 1)
    new_head(a, 4, 7)
    new_head(b, 4, 7)
    assert torch.equal(a.head.weight, b.head.weight)


def test_only_the_head_may_be_missing(toy):
    source = state_of(build("cnn", 1, 6, 9))
    lacking = {name: tensor for name, tensor in source.items() if name != "features.0.0.weight"}
    with pytest.raises(
        ValueError, match=r"^cnn: does not fit the model: 'features\.0\.0\.weight' \(8, 1, 3, 3\) is missing$"
    ):
        transferred("cnn", lacking, toy, 1)
    with pytest.raises(ValueError, match=r"^cnn: does not fit the model, which has no 'features\.more'$"):
        transferred("cnn", source | {"features.more": torch.ones(1)}, toy, 1)
    transferred("cnn", {name: tensor for name, tensor in source.items() if not name.startswith("head.")}, toy, 1)


def test_fewer_labels_than_asked_for_are_refused(toy):
    with pytest.raises(ParamError, match=r"evaluate\.labels: got 121; allowed: at most 120, the downstream classes'"):
        labelled(toy, 121, 0)


def test_batchnorm_trains_with_the_head(toy):
    """As in the released code: γ, β and the statistics; all else is frozen."""
    options = load().evaluate.fine_tuning.model_copy(update={"head_epochs": 2, "epochs": 1, "lr": 1e-12})
    net, new = transferred("cnn-bn", state_of(build("cnn-bn", 1, 6, 9)), toy, 1)
    before = state_of(net)
    fine_tune(net, toy, options, 0, new)
    moved = {name for name, tensor in state_of(net).items() if (tensor - before[name]).abs().max() > 1e-6}
    layers = [name.removesuffix("running_mean") for name in before if name.endswith("running_mean")]
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert moved == {"head.weight", "head.bias", *(layer + part for layer in layers for part in parts)}
