"""Classifiers: small members of the families from which the paper collects its weight paths.

Every network is ``features`` (a body) followed by ``head`` (the last linear layer), so that transfer can swap the
head and fine-tuning can freeze all but it. All but the two of ResNet18 have fewer than 3 M
parameters.
"""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A body and a linear head: images (N, C, H, W) to logits (N, classes)."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution, BatchNorm and, unless told otherwise, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if act else []))


def _pooled(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def cnn(channels: int, classes: int) -> Net:
    """The released code's sample net: 3×3 convolutions of 8, 16, 32, 32 channels, each with ReLU and 2×2 max-pooling,
    a dense layer of 64, no BatchNorm. (Global pooling after the fourth makes it independent of the image size; on
    28×28 images it is the identity.)"""
    layers: list[nn.Module] = []
    for width in (8, 16, 32, 32):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = width
    return Net(nn.Sequential(_pooled(*layers), nn.Linear(32, 64), nn.ReLU(inplace=True)), 64, classes)


def cnn_bn(channels: int, classes: int) -> Net:
    """The sample net with BatchNorm after each convolution."""
    layers: list[nn.Module] = []
    for width in (8, 16, 32, 32):
        layers += [conv_bn(channels, width), nn.MaxPool2d(2)]
        channels = width
    return Net(nn.Sequential(_pooled(*layers), nn.Linear(32, 64), nn.ReLU(inplace=True)), 64, classes)


class _Residual(nn.Module):
    """x + branch(x), or skip(x) + branch(x) where the shape changes; an optional ReLU follows (He et al., 2016)."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None, relu: bool) -> None:
        super().__init__()
        self.branch, self.skip = branch, skip or nn.Identity()
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.skip(x) + self.branch(x))


def resnet(channels: int, classes: int) -> Net:
    """A ResNet of basic blocks, widths 16-32-64, one block a stage."""
    layers: list[nn.Module] = [conv_bn(channels, 16, stride=2)]
    inputs = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        branch = nn.Sequential(conv_bn(inputs, width, stride=stride), conv_bn(width, width, act=False))
        skip = None if inputs == width else conv_bn(inputs, width, 1, stride, act=False)
        layers.append(_Residual(branch, skip, relu=True))
        inputs = width
    return Net(_pooled(*layers), inputs, classes)


def mobilenet(channels: int, classes: int) -> Net:
    """MobileNetV2's inverted residuals (expansion 4, linear bottlenecks), widths 16-24-32."""
    layers: list[nn.Module] = [conv_bn(channels, 16, stride=2)]
    inputs = 16
    for width, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        hidden = 4 * inputs
        branch = nn.Sequential(
            conv_bn(inputs, hidden, 1),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            conv_bn(hidden, width, 1, act=False),
        )
        layers.append(_Residual(branch, None, relu=False) if stride == 1 and inputs == width else branch)
        inputs = width
    return Net(_pooled(*layers, conv_bn(inputs, 96, 1)), 96, classes)


class _Shuffle(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, half go through a branch, then the halves are interleaved;
    with stride 2 both halves see all channels (Ma et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.split = stride == 1
        entry = half if self.split else inputs
        self.branch = nn.Sequential(
            conv_bn(entry, half, 1), conv_bn(half, half, 3, stride, groups=half, act=False), conv_bn(half, half, 1)
        )
        self.skip = (
            nn.Identity()
            if self.split
            else nn.Sequential(conv_bn(inputs, inputs, 3, stride, groups=inputs, act=False), conv_bn(inputs, half, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, 1) if self.split else (x, x)
        both = torch.stack([self.skip(kept), self.branch(worked)], 2)
        return both.flatten(1, 2)


def shufflenet(channels: int, classes: int) -> Net:
    """ShuffleNetV2 units, widths 32-64."""
    layers: list[nn.Module] = [conv_bn(channels, 16, stride=2)]
    inputs = 16
    for width in (32, 64):
        layers += [_Shuffle(inputs, width, 2), _Shuffle(width, width, 1)]
        inputs = width
    return Net(_pooled(*layers, conv_bn(inputs, 96, 1)), 96, classes)


class _Dense(nn.Module):
    """A densely connected layer: its output is appended to its input (Huang et al., 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layer = conv_bn(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layer(x)], 1)


def densenet(channels: int, classes: int) -> Net:
    """Three dense blocks of three layers, growth 12, with 1×1 transitions and average pooling between."""
    layers: list[nn.Module] = [conv_bn(channels, 16, stride=2)]
    inputs = 16
    for block in range(3):
        for _ in range(3):
            layers.append(_Dense(inputs, 12))
            inputs += 12
        if block < 2:
            layers += [conv_bn(inputs, inputs // 2, 1), nn.AvgPool2d(2)]
            inputs //= 2
    return Net(_pooled(*layers), inputs, classes)


def resnet18(channels: int, classes: int) -> Net:
    """torchvision's ResNet18 with the usual stem for small images: a 3×3 convolution of stride 1 and no pooling. The
    paper's network; 11 M parameters, so too large for the meta-dataset."""
    from torchvision.models import resnet18 as net_of  # here, for it loads torch's compiler: seconds for each process

    net = net_of()
    net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    return Net(net, 512, classes)


def resnet18_released(channels: int, classes: int) -> Net:
    """The released code's ResNet18: a 7×7 stem of stride 1 and no pooling, biases in all convolutions, and BatchNorm with
    Keras' constants. Its stem pads by one pixel more, and its second stage has stride 1 too: an image of 32 pixels stays at
    34 through two stages, so that a step takes some four times as long as with ``resnet18``. 11 M parameters.

    Not the same: at stride 2 Keras pads to one side of an even map, and He's initialisation is normal there."""

    def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2),
            nn.BatchNorm2d(outputs, eps=0.001, momentum=0.01),
        ]

    layers: list[nn.Module] = [*conv(channels, 64, 7), nn.ReLU(inplace=True), nn.ZeroPad2d(1)]
    inputs = 64
    for width, stride in ((64, 1), (64, 1), (128, 1), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        branch = nn.Sequential(*conv(inputs, width, 3, stride), nn.ReLU(inplace=True), *conv(width, width))
        skip = None if inputs == width else nn.Sequential(*conv(inputs, width, 1, stride))
        layers.append(_Residual(branch, skip, relu=True))
        inputs = width
    return Net(_pooled(*layers), inputs, classes)
