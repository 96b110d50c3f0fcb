"""Networks by name: shapes, heads, the libraries' own names and normalisation, and what is pretrained."""

import copy

import pytest
import torch
from conftest import write_params
from torch import nn

from know.data.images import ImageSet, normalise
from know.data.splits import Task
from know.models.build import build, head_names, head_of, input_size, new_head
from know.models.names import OWN, adapted, kind_of
from know.options import ParamError
from know.params import load
from know.stages import checks
from know.stages.checks import check_pretrained
from know.stages.forget import pretrained_input, trained_sizes
from know.training.fine_tuning import fine_tune, transferred
from know.training.forgetting import state_of
from know.training.loop import batchnorm_parameters
from know.training.runs import SourceJob, train_source
from know.weights.files import save_state
from know.weights.kinds import kinds_of

LIBRARY_NETS = [
    "timm:resnet10t",
    "torchvision:squeezenet1_1",
    "smp:deeplabv3plus-mobilenet_v2",
    "smp:deeplabv3plus-tu-resnet10t",
    "captioner:pvt_v2_b0",
]
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
TOKENS = torch.tensor([[1, 4, 5, 2, 0], [1, 6, 2, 0, 0]])
SHAPES = {"classification": (2, 7), "segmentation": (2, 7, 32, 32), "captioning": (2, 7, 5)}


def built(name, *arguments, **options):
    """As ``build``; the test is skipped where the library is not installed."""
    for prefix, package in (("smp:", "segmentation_models_pytorch"), ("torchvision:", "torchvision")):
        if name.startswith(prefix):
            pytest.importorskip(package)
    if name.startswith(("timm:", "captioner:")):
        pytest.importorskip("timm")
    return build(name, *arguments, **options)


def outputs_of(name, net, images=IMAGES):
    return net(images, TOKENS) if kind_of(name) == "captioning" else net(images)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", [*OWN, *LIBRARY_NETS])
def test_shapes_heads_and_kinds(name):
    net = built(name, 3, 7, 0).eval()
    assert outputs_of(name, net).shape == SHAPES[kind_of(name)]
    assert outputs_of(name, built(name, 1, 7, 0).eval(), IMAGES[:, :1]).shape == SHAPES[kind_of(name)]
    state, heads = state_of(net), head_names(net)
    assert heads and all(state[one].shape[0] == 7 for one in heads)
    buffers = {one for one, _ in net.named_buffers()}
    assert {one for one, kind in kinds_of(state).items() if kind == "buffer"} == buffers

    new_head(net, 9, 1)
    after = state_of(net)
    assert all(torch.equal(state[one], after[one]) for one in state if one not in heads)
    assert outputs_of(name, net).shape[1] == 9 and head_names(net) == heads
    other = built(name, 3, 7, 5)
    new_head(other, 9, 1)
    assert same(head_of(other).state_dict(), head_of(net).state_dict())  # whatever the body


@pytest.mark.parametrize("name", ["unet", "captioner", *LIBRARY_NETS])
def test_seeds_give_the_weights_and_no_more(name):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (state_of(built(name, 3, 7, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize("name", ["cnn-bn", "unet", "captioner", "smp:deeplabv3plus-mobilenet_v2", "timm:resnet10t"])
def test_batchnorm_is_found(name):
    assert len(batchnorm_parameters(built(name, 3, 7, 0))) >= 6


def test_the_own_nets_for_masks_and_captions_are_small():
    for name in ("unet", "captioner"):
        net = build(name, 3, 30, 0)
        assert sum(p.numel() for p in net.parameters()) < 200_000
        outputs_of(name, net).square().sum().backward()
        assert all(p.grad is not None for p in net.parameters())
    assert build("unet", 1, 2, 0)(torch.zeros(2, 1, 37, 45)).shape == (2, 2, 37, 45)  # sides that do not halve


def test_a_word_sees_only_the_words_before_it_and_the_image():
    net = build("captioner", 3, 7, 0).eval()
    before, later = net(IMAGES, TOKENS), net(IMAGES, torch.cat([TOKENS[:, :3], TOKENS[:, 3:] + 1], 1))
    torch.testing.assert_close(before[..., :3], later[..., :3])
    assert not torch.allclose(before[..., 3:], later[..., 3:])
    assert not torch.allclose(before[..., 0], net(-IMAGES, TOKENS)[..., 0])
    torch.testing.assert_close(net(IMAGES), before[..., :1])  # both captions start with START
    layers = [layer.linear1.weight for layer in net.decoder.layers]
    assert not torch.equal(*layers)  # torch makes the second as a copy of the first
    with pytest.raises(ValueError, match="a caption has 65 tokens; allowed: at most 64"):
        net(IMAGES, torch.ones(2, 65, dtype=torch.int64))


# --- libraries ----------------------------------------------------------------------------------------------------


def test_a_librarys_checkpoints_load_here_and_ours_there():
    timm = pytest.importorskip("timm")
    for name, library in (
        ("timm:resnet18", lambda: timm.create_model("resnet18", num_classes=7)),
        ("torchvision:resnet18", lambda: pytest.importorskip("torchvision").models.resnet18(num_classes=7)),
    ):
        own, theirs = built(name, 3, 7, 0), library()
        theirs.load_state_dict(own.state_dict())
        own.load_state_dict(theirs.state_dict())
    smp = pytest.importorskip("segmentation_models_pytorch")
    net = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=7)
    net.load_state_dict(build("smp:deeplabv3plus-resnet18", 3, 7, 0).state_dict())
    encoder = timm.create_model("pvt_v2_b0", num_classes=0).state_dict()
    assert {f"features.{name}" for name in encoder} <= set(build("captioner:pvt_v2_b0", 3, 7, 0).state_dict())


def test_images_are_normalised_as_the_library_does():
    pytest.importorskip("timm")
    transforms = pytest.importorskip("torchvision").transforms
    from timm.data import create_transform, resolve_model_data_config

    seen = []
    raw = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, expected in (
        ("timm:resnet10t", lambda net: create_transform(**resolve_model_data_config(net))),
        ("torchvision:squeezenet1_1", lambda _: transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
        (
            "smp:deeplabv3plus-dpn68",
            lambda _: transforms.Normalize([124 / 255, 117 / 255, 104 / 255], [1 / (0.0167 * 255)] * 3),
        ),
    ):
        net = built(name, 3, 7, 0).eval()
        first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        copy.deepcopy(net)(normalise(raw))  # what patience does to a net keeps it
        how = expected(net)
        how = next(one for one in getattr(how, "transforms", [how]) if isinstance(one, transforms.Normalize))
        torch.testing.assert_close(seen.pop(), how(raw / 255))
        net(normalise(raw[:, :1]))
        torch.testing.assert_close(seen.pop(), how(raw[:, :1].expand(-1, 3, -1, -1) / 255))
        assert not [one for one in net.state_dict() if "mean" in one and "running" not in one]


def test_a_new_head_is_made_by_the_library_where_it_has_a_way(monkeypatch):
    pytest.importorskip("timm")
    net, made = build("timm:pvt_v2_b0", 3, 7, 0), []
    reset = type(net).reset_classifier
    monkeypatch.setattr(
        type(net), "reset_classifier", lambda self, outputs: made.append(outputs) or reset(self, outputs)
    )
    new_head(net, 9, 1)
    assert made == [9] and net.num_classes == 9 and head_of(net) is net.get_classifier()


@pytest.mark.parametrize("name", ["timm:caformer_s18", "timm:shvit_s1"])
def test_no_more_than_the_head_is_made_anew(name):
    """Though the library makes layers or a norm beside it anew too."""
    pytest.importorskip("timm")
    net = build(name, 3, 7, 0)
    before = state_of(net)
    new_head(net, 9, 1)
    after = state_of(net)
    assert all(torch.equal(before[one], after[one]) for one in before if one not in head_names(net))
    assert len(head_of(net).weight) == 9


def test_input_sizes():
    pytest.importorskip("timm")
    sizes = [
        input_size(name) for name in ("cnn", "unet", "timm:resnet10t", "torchvision:vit_b_16", "captioner:pvt_v2_b0")
    ]
    assert sizes == [None, None, 176, 224, 224]
    assert input_size("smp:deeplabv3plus-resnet18") is None


@pytest.mark.parametrize(
    ("name", "channels", "reason"),
    [
        ("timm:resnet", 3, "got timm:resnet; allowed: a network in timm.list_models"),
        ("torchvision:resnet19", 3, "got torchvision:resnet19; allowed: a network in torchvision.models.list_models"),
        ("smp:deeplabv3plus-resnet19", 3, "got smp:deeplabv3plus-resnet19; allowed: an encoder in smp.encoders"),
        ("smp:deeplabv3plus-tu-resnet", 3, "got smp:deeplabv3plus-tu-resnet; allowed: a network in timm.list_models"),
        (
            "smp:deeplabv3plus-xception",
            3,
            r"got smp:deeplabv3plus-xception, which cannot be made \(ValueError: Xception encoder",
        ),
        ("captioner:resnet", 3, "got captioner:resnet; allowed: a network in timm.list_models"),
        ("timm:resnet18", 4, "got timm:resnet18 for 4 channels; allowed: images of 1 or 3"),
        ("torchvision:googlenet", 3, "got torchvision:googlenet, which has a second head in training"),
        ("timm:levit_128s", 3, "LevitDistilled has no single layer as its head"),
    ],
)
def test_what_no_library_has_is_refused_in_a_line(name, channels, reason):
    with pytest.raises(ParamError, match=rf"^architecture: {reason}"):
        built(name, channels, 7, 0)


# --- pretrained ---------------------------------------------------------------------------------------------------


def test_pretrained_from_a_file(tmp_path):
    net, fresh = build("cnn-bn", 1, 3, 4), build("cnn-bn", 1, 3, 0)
    state, path = state_of(net), tmp_path / "net.safetensors"
    save_state(state, path)
    assert same(state_of(build("cnn-bn", 1, 3, 0, path)), state)
    for head in ({}, {"head.bias": torch.zeros(5), "head.weight": torch.zeros(5, 64)}):  # none, or another task's
        save_state({name: tensor for name, tensor in state.items() if not name.startswith("head.")} | head, path)
        loaded = state_of(build("cnn-bn", 1, 3, 0, path))
        assert all(torch.equal(t, state[n]) for n, t in loaded.items() if not n.startswith("head."))
        assert same(head_of(fresh).state_dict(), {n.removeprefix("head."): loaded[n] for n in head_names(net)})
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "net.pt")
    assert same(state_of(build("cnn-bn", 1, 3, 0, str(tmp_path / "net.pt"))), state)


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_line(tmp_path):
    path = tmp_path / "net.safetensors"
    state = state_of(build("cnn", 1, 3, 0))
    save_state({name: tensor for name, tensor in state.items() if name != "features.0.0.bias"}, path)
    with pytest.raises(
        ParamError, match=r"^forget\.pretrained: .*does not fit the model: 'features\.0\.0\.bias' \(8,\) is missing$"
    ):
        build("cnn", 1, 3, 0, path)
    save_state(state_of(build("cnn", 3, 3, 0)), path)
    with pytest.raises(ParamError, match=r"'features\.0\.0\.weight' is \(8, 3, 3, 3\), the model's \(8, 1, 3, 3\)$"):
        build("cnn", 1, 3, 0, path)
    with pytest.raises(ParamError, match=r"^forget\.pretrained: .*nothing\.pt: no such file$"):
        build("cnn", 1, 3, 0, tmp_path / "nothing.pt")
    with pytest.raises(ParamError, match=r"nothing\.pt: No such file or directory; allowed: null, library, or a"):
        pretrained_input(str(tmp_path / "nothing.pt"))


def test_pretrained_from_the_library(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            torch.manual_seed(7)  # stands for the library's weights
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    net, other = build("timm:resnet10t", 3, 1000, 0, "library"), build("timm:resnet10t", 3, 7, 0, "library")
    theirs = offline("resnet10t", True).state_dict()
    assert same(state_of(net), theirs)  # with its own head, which tells apart as many
    assert all(
        torch.equal(tensor, theirs[name]) for name, tensor in state_of(other).items() if not name.startswith("fc.")
    )
    assert head_of(other).out_features == 7


def test_no_network_no_library(monkeypatch):
    timm = pytest.importorskip("timm")

    def unreachable(*_, **__):
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        ParamError,
        match=r"^forget\.pretrained: got library, but the weights of timm:resnet18 cannot be had \(OSError: Name or service not known\); allowed: with a network connection, or the path of a checkpoint$",
    ):
        build("timm:resnet18", 3, 7, 0, "library")


def test_a_run_from_pretrained_weights(micro, tmp_path):
    from know.data.splits import source_task
    from know.run.store import FileInput, canonical
    from know.stages import downsize
    from know.stages.results import split_path

    downsize.run(micro)
    path = tmp_path / "net.safetensors"
    save_state(state_of(build("cnn-bn", 1, len(micro.downsize.source_classes), 9)), path)
    training = micro.forget.source.model_copy(update={"max_epochs": 0})
    job = SourceJob(
        source_task(micro.downsize), "cnn-bn", FileInput.of(split_path(0)), 96, training, 0, pretrained_input(str(path))
    )
    trained, before = train_source(job), canonical(job)
    assert same(trained.state, build("cnn-bn", 1, 5, 9).state_dict()) and trained.converged and not trained.train_loss
    save_state(state_of(build("cnn-bn", 1, 5, 8)), path)
    assert canonical(SourceJob(**(vars(job) | {"pretrained": pretrained_input(str(path))}))) != before
    assert same(state_of(job.net(trained.state)), trained.state)


def test_parameters_of_pretrained_nets(tmp_path):
    file = tmp_path / "params.yaml"

    def loaded(**forget):
        write_params(file, {"forget": forget, "downsize": {"headroom_images": []}})
        return load(file)

    with pytest.raises(
        ParamError, match=r"forget\.pretrained: got library, but cnn-bn is of none; allowed: null, the path"
    ):
        loaded(pretrained="library")
    with pytest.raises(
        ParamError, match=r"forget\.source\.max_epochs: got 0; allowed: 1 or more, or 0 with what forget\.pretrained"
    ):
        loaded(source={"max_epochs": 0})
    params = loaded(pretrained="nowhere.pt", source={"max_epochs": 0})
    assert trained_sizes(params, 10_000) == [125]
    with pytest.raises(ParamError, match=r"^forget\.pretrained: nowhere\.pt: no such file$"):
        check_pretrained(params)
    write_params(file, {"forget": {"pretrained": "a.pt", "source": {"max_epochs": 0}}})
    with pytest.raises(
        ParamError,
        match=r"downsize\.headroom_images: got \[500, 1000\]; allowed: \[\] with forget\.source\.max_epochs = 0",
    ):
        load(file)
    write_params(file, {"bench": {"source": {"max_epochs": 0}}})
    with pytest.raises(ParamError, match=r"bench\.source\.max_epochs: got 0; allowed: 1 or more"):
        load(file)
    with pytest.raises(
        ParamError, match=r"forget\.architecture: got unet, for segmentation; allowed: one for classification, as"
    ):
        loaded(architecture="unet")
    write_params(file, {"meta_train": {"architectures": ["cnn", "captioner"]}})
    with pytest.raises(
        ParamError, match=r"meta_train\.architectures: got captioner, for captioning; allowed: one for classification"
    ):
        load(file)
    assert loaded(architecture="timm:resnet18", pretrained="library").forget.weight_decay == 0


# --- transfer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def images(toy):
    return ImageSet(toy.images[:24], toy.labels[:24], toy.classes)


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:squeezenet1_1"])
def test_transfer_of_a_librarys_network(name, images):
    source = state_of(built(name, 1, 6, 9))
    net, _ = transferred(name, source, images, 1)
    heads = head_names(net)
    assert all(torch.equal(tensor, source[key]) for key, tensor in state_of(net).items() if key not in heads)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 3)
    zero, _ = transferred(name, {key: t for key, t in source.items() if key not in heads}, images, 1, head_scale=0.0)
    assert not any(tensor.any() for tensor in head_of(zero).state_dict().values())
    with pytest.raises(ValueError, match=r"does not fit the model: .* is missing$"):
        transferred(name, dict(list(source.items())[1:]), images, 1)


@pytest.fixture
def captioned(images):
    words = torch.tensor([[1, 4, 5, 2]]).repeat(24, 1)
    vocabulary = tuple(f"word {i}" for i in range(9))
    return ImageSet(images.images, images.labels, images.classes, words, vocabulary).reduced(32)  # what a PVT halves


@pytest.mark.parametrize("encoder", ["pvt_v2_b0", "resnet10t"])
def test_a_classifier_is_transferred_as_the_encoder_of_a_captioner(encoder, captioned):
    name = f"timm:{encoder}"
    classifier = built(name, 1, 6, 9)
    source, heads = state_of(classifier), head_names(classifier)
    net, new = transferred(name, source, captioned, 1, kind="captioning")
    fresh, none = transferred(name, None, captioned, 1, kind="captioning")
    state, scratch = state_of(net), state_of(fresh)
    taken = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    assert same(taken, {f"features.{key}": tensor for key, tensor in source.items() if key not in heads})
    assert not same(taken, {key: scratch[key] for key in taken})
    assert all(torch.equal(state[key], scratch[key]) for key in state.keys() - taken)  # the same for every start
    assert {id(p) for p in new} == {id(p) for key, p in net.named_parameters() if key not in taken} and none == []
    assert "positions.weight" in state.keys() - taken and net(IMAGES[:, :1], TOKENS).shape == (2, 9, 5)

    body = {key: tensor for key, tensor in source.items() if key not in heads}
    assert same(state_of(transferred(name, body, captioned, 1, kind="captioning")[0]), state)
    first = next(iter(body))
    for wrong, reason in (
        ({key: tensor for key, tensor in source.items() if key != first}, rf"'features\.{first}' .* is missing$"),
        (source | {"decoder.norm.weight": torch.ones(256)}, r", which has no 'features\.decoder\.norm\.weight'$"),
        (source | {first: torch.ones(2)}, rf"'features\.{first}' is \(2,\), the model's"),
        (state, r"is missing$"),  # a captioner's own
    ):
        with pytest.raises(ValueError, match=rf"^{name}: does not fit the model.*{reason}"):
            transferred(name, wrong, captioned, 1, kind="captioning")


def test_what_is_new_is_trained_first_and_the_encoder_is_kept(captioned):
    options = load().evaluate.fine_tuning.model_copy(update={"head_epochs": 1, "epochs": 1, "lr": 1e-12})
    net, new = transferred(
        "timm:pvt_v2_b0", state_of(built("timm:pvt_v2_b0", 1, 6, 9)), captioned, 1, kind="captioning"
    )
    before = state_of(net)
    fine_tune(net, captioned, options, 0, new)
    moved = {name for name, tensor in state_of(net).items() if (tensor - before[name]).abs().max() > 1e-6}
    assert "head.weight" in moved and "memory.weight" in moved and "decoder.layers.2.linear1.weight" in moved
    assert not [name for name in moved if name.startswith("features.")]


def test_which_network_takes_which_body(tmp_path):
    assert adapted("timm:pvt_v2_b0", "captioning") == "captioner:pvt_v2_b0"
    for name in ("cnn", "unet", "captioner", "torchvision:vit_b_16", "captioner:pvt_v2_b0"):
        assert adapted(name, kind_of(name)) == name
    for name, kind, reason in (
        ("cnn", "captioning", "^allowed: one for classification, with forget.architecture = cnn$"),
        ("timm:resnet18", "segmentation", "^allowed: one for classification or captioning, with"),
        ("captioner:pvt_v2_b0", "classification", "^allowed: one for captioning, with"),
    ):
        with pytest.raises(ValueError, match=reason):
            adapted(name, kind)
    tasks = {"dataset": "emoji-domains", "downstream_dataset": "flickr8k", "downstream_classes": [0]}
    file = tmp_path / "params.yaml"
    write_params(file, {"downsize": tasks, "forget": {"architecture": "timm:resnet18"}})
    assert load(file).downsize.downstream_dataset == "flickr8k"
    write_params(file, {"downsize": tasks})
    with pytest.raises(
        ParamError, match=r"downsize\.downstream_dataset: got flickr8k, for captioning; allowed: one for"
    ):
        load(file)


def test_a_body_that_is_not_all_of_an_encoder_is_known_before_anything_runs(micro, monkeypatch, captioned):
    """As of a classifier that has a norm between its pooling and its head."""
    monkeypatch.setattr(checks, "downstream_task", lambda _: Task("flickr8k", (0,)))
    monkeypatch.setattr(Task, "pool", lambda *_: captioned)
    built("timm:resnet10t", 1, 3, 0)

    def checked(name):
        forget = micro.forget.model_copy(update={"architecture": name})
        checks.check_transfer(micro.model_copy(update={"forget": forget}))

    checked("timm:resnet10t")
    with pytest.raises(
        ParamError,
        match=r"^forget\.architecture: got timm:eva02_tiny_patch14_224, which is not all of the encoder of captioner:eva02_tiny_patch14_224 \(",
    ):
        checked("timm:eva02_tiny_patch14_224")


def test_the_head_alone_is_trained_first(images):
    """And BatchNorm; all else is frozen."""
    options = load().evaluate.fine_tuning.model_copy(update={"head_epochs": 1, "epochs": 1, "lr": 1e-12})
    net, new = transferred("timm:resnet10t", state_of(built("timm:resnet10t", 1, 6, 9)), images, 1)
    before = state_of(net)
    fine_tune(net, images, options, 0, new)
    moved = {name for name, tensor in state_of(net).items() if (tensor - before[name]).abs().max() > 1e-6}
    layers = [name.removesuffix("running_mean") for name in before if name.endswith("running_mean")]
    norms = {
        layer + part
        for layer in layers
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert head_names(net) <= moved <= head_names(net) | norms and moved & norms
