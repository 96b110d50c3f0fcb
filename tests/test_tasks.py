"""What is learned, and by what it is judged, for every kind of task: against closed forms and independent implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from know.data.images import ImageSet, normalise
from know.data.names import END, IGNORED, PAD, START, UNKNOWN, VOID
from know.tasks.augmentation import augmented
from know.tasks.loss import kind_of, loss_of, scored
from know.tasks.measures import at_once, bleu, measure, outcome
from know.training.loop import Recipe, fit

SIDE = 8


def drawn(*shape: int, high: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def scenes(n: int = 12, classes: int = 3) -> ImageSet:
    """Masks are a threshold of the images' first channel, so they can be learned; some pixels are ignored."""
    images = drawn(n, 3, SIDE, SIDE).to(torch.uint8)
    masks = (images[:, 0].float() / 256 * (classes + 1)).to(torch.uint8)
    masks[:, 0, 0] = VOID
    names = tuple("abc"[:classes])
    return ImageSet(images, torch.arange(n) % classes, names, masks, ("background", *names))


class Pixelwise(nn.Module):
    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, outputs, 1)

    def forward(self, x):
        return self.head(x)


def captions(n: int = 10) -> ImageSet:
    """An image's brightness says its two words."""
    bright = torch.arange(n) % 2
    images = (bright * 255).to(torch.uint8)[:, None, None, None].expand(n, 3, SIDE, SIDE).contiguous()
    words = torch.stack(
        [torch.full((n,), START), 4 + bright, 6 + bright, torch.full((n,), END), torch.full((n,), PAD)], 1
    )
    words[0, 2:4] = torch.tensor([END, PAD])  # one is shorter
    return ImageSet(images, bright, ("dark", "bright"), words, tuple(f"word {i}" for i in range(8)))


class Captioner(nn.Module):
    """Logits from the brightness and the last word."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.seen, self.head = nn.Embedding(8, 16), nn.Linear(1, 16), nn.Linear(16, 8)

    def forward(self, images, tokens):
        hidden = self.word(tokens) + self.seen(images.mean((1, 2, 3))[:, None])[:, None]
        return self.head(hidden.tanh()).transpose(1, 2)


def test_a_kind_is_told_by_its_targets():
    assert [kind_of(torch.zeros(2, *more)) for more in ((), (3, 3), (3,))] == [
        "classification",
        "segmentation",
        "captioning",
    ]


def test_the_loss_is_the_mean_over_the_pixels_that_count():
    data, net = scenes(), Pixelwise()
    ((images, masks),) = data.batches(100)
    logits = net(images).log_softmax(1)
    kept = [(n, i, j) for n in range(12) for i in range(SIDE) for j in range(SIDE) if data.targets[n, i, j] != VOID]
    by_hand = -sum(logits[n, int(data.targets[n, i, j]), i, j] for n, i, j in kept) / len(kept)
    assert loss_of(net, images, masks).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert measure(net, data)[0] == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_loss_of_a_caption_is_of_each_word_given_those_before():
    data, net = captions(), Captioner()
    ((images, tokens),) = data.batches(100)
    losses = []
    for n in range(len(data)):
        for t in range(1, tokens.shape[1]):
            if tokens[n, t] != PAD:
                logits = net(images[n : n + 1], tokens[n : n + 1, :t])[0, :, -1]
                losses.append(F.cross_entropy(logits[None], tokens[n : n + 1, t]))
    assert loss_of(net, images, tokens).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    logits, right = scored(net, images, tokens)
    assert logits.shape == (10, 8, 4) and (right == IGNORED).sum() == (tokens[:, 1:] == PAD).sum()


def test_mean_iou_by_counting_pixels():
    data, net = scenes(), Pixelwise()
    found = net(normalise(data.images)).argmax(1)
    ious = []
    for c in range(4):
        kept = data.targets != VOID
        inside, outside = ((found == c) & (data.targets == c) & kept).sum(), ((found == c) | (data.targets == c)) & kept
        ious += [(inside / outside.sum()).item()] if outside.any() else []
    assert outcome(net, data).accuracy == pytest.approx(sum(ious) / len(ious), abs=1e-6)


def test_masked_accuracy_by_counting_words():
    data, net = captions(), Captioner()
    found = net(normalise(data.images), data.targets[:, :-1]).argmax(1)
    words = data.targets[:, 1:]
    right = sum(found[n, t] == words[n, t] for n in range(10) for t in range(4) if words[n, t] != PAD)
    assert outcome(net, data).accuracy == pytest.approx(right.item() / (words != PAD).sum().item())


@given(st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_how_many_images_are_measured_at_once_does_not_matter(batch):
    data, net = scenes(), Pixelwise()
    whole = outcome(net, data)

    class Cut(ImageSet):
        def batches(self, batch_size, generator=None):
            return super().batches(batch, generator)

    cut = outcome(net, Cut(data.images, data.labels, data.classes, data.targets, data.outputs))
    assert cut.accuracy == pytest.approx(whole.accuracy) and cut.loss == pytest.approx(whole.loss, rel=1e-5)
    assert cut.ece == pytest.approx(whole.ece, rel=1e-5)


def test_large_images_are_measured_a_few_at_a_time():
    large = ImageSet(torch.zeros(1, 3, 1024, 1024, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",))
    assert at_once(scenes()) == 500 and at_once(large) == 4


@pytest.mark.parametrize("how", ["affine", "crop-flip"])
def test_masks_follow_their_images(how):
    """An image that shows its own mask still does, wherever there is an image."""
    masks = drawn(6, 4, 4, high=3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images, moved = augmented(masks[:, None].float(), masks, how, torch.Generator().manual_seed(3))
    counted = moved != IGNORED
    assert 0.5 < counted.float().mean() < 1
    assert ((images[:, 0].round() == moved) | ~counted).float().mean() > 0.9 and set(moved.unique().tolist()) <= {
        0,
        1,
        2,
        IGNORED,
    }
    if how == "crop-flip":
        assert torch.equal(images[:, 0][counted].long(), moved[counted])


def test_words_stay_when_images_are_augmented():
    data = captions()
    ((images, tokens),) = data.batches(100)
    moved, same = augmented(images, tokens, "crop-flip", torch.Generator().manual_seed(0))
    assert same is tokens and not torch.equal(moved, images)


@pytest.mark.parametrize(
    ("data", "net"), [(scenes(), Pixelwise), (captions(), Captioner)], ids=["segmentation", "captioning"]
)
def test_every_kind_is_learned_by_the_one_loop(data, net):
    torch.manual_seed(0)
    net = net()
    before = outcome(net, data)
    history = fit(net, data, Recipe(150, 12, 0.05), seed=0, validation=data, patience=150)
    after = outcome(net, data)
    assert after.loss < 0.7 * before.loss and after.accuracy > before.accuracy + 0.2
    assert max(history.validation_accuracy) <= 1 and not math.isnan(after.ece)


def test_a_captioner_that_knows_every_word_says_them_all():
    data, net = captions(), Captioner()
    torch.manual_seed(0)
    data = data.select(torch.arange(1, 10))  # of one length
    assert bleu(net, data, "captioning") < 0.9
    fit(net, data, Recipe(200, 10, 0.05), seed=0)
    assert outcome(net, data).accuracy == 1 and bleu(net, data, "captioning") == pytest.approx(1)
    assert bleu(Pixelwise(), scenes(), "segmentation") is None


def test_to_say_that_a_word_is_unknown_is_not_to_know_it():
    class Says(nn.Module):
        """The same words of every image."""

        def __init__(self, *words: int) -> None:
            super().__init__()
            self.words = torch.tensor([*words, END])

        def forward(self, images, tokens):
            said = F.one_hot(self.words[: tokens.shape[1]], 8).float()
            return said.T.expand(len(images), -1, -1)

    data = captions()
    data.targets[:] = torch.tensor([START, UNKNOWN, 4, END, PAD])
    assert bleu(Says(UNKNOWN, 4), data, "captioning") == 0  # no pair of words is right
    data.targets[:] = torch.tensor([START, UNKNOWN, END, PAD, PAD])
    assert bleu(Says(UNKNOWN), data, "captioning") == 0
    data.targets[:] = torch.tensor([START, 5, END, PAD, PAD])
    assert bleu(Says(5), data, "captioning") == 1


def test_weight_decay_is_adamw():
    data, net = scenes(), Pixelwise()
    other = Pixelwise()
    other.load_state_dict(net.state_dict())
    fit(net, data, Recipe(1, 100, 0.01, weight_decay=0.5), seed=0)
    optimiser = torch.optim.AdamW(other.parameters(), 0.01, weight_decay=0.5)
    generator = torch.Generator().manual_seed(0)
    ((images, masks),) = data.batches(100, generator)
    loss_of(other, images, masks).backward()
    optimiser.step()
    for one, same in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same)
