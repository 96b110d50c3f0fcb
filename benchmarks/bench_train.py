"""The training loop's speed, as ratios measured in one run.

Beside it stand a plain torchvision Dataset + DataLoader loop of the same network, optimiser and augmentation, and the
ceiling: forward, backward and update on one fixed batch. The three take turns, and the best of their repeats counts, so
that whatever else the machine does hits all alike.

    python benchmarks/bench_train.py [--architecture cnn] [--augment] [--device cpu]
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from know.data.images import ImageSet, load
from know.models.build import build
from know.models.names import ARCHITECTURES
from know.run.executor import device_of
from know.run.options import Compute
from know.tasks.augmentation import augmented
from know.training.loop import Recipe, fit


class Images(Dataset[tuple[torch.Tensor, int]]):
    """The same images as PIL pictures with torchvision's transforms, the usual way."""

    def __init__(self, data: ImageSet, augment: bool) -> None:
        self.pictures = [v2.functional.to_pil_image(image) for image in data.images]
        self.labels = data.labels.tolist()
        channels = data.images.shape[1]
        self.transform = v2.Compose(
            [
                *([v2.RandomAffine(degrees=10, translate=(0.15, 0.15), scale=(0.7, 1.3))] if augment else []),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * channels, [0.5] * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def seconds(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="cnn")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in the pipeline: a process a core
    device = device_of(Compute(device=options.device, jobs=1, backend="loky"))
    data = load("fashion-mnist-embedded", "train").select(torch.arange(0, 20_000)[:: 20_000 // options.images])
    data = data.select(torch.arange(options.images))
    on_device = data.to(device)
    recipe = Recipe(1, options.batch_size, 1e-3, augment="affine" if options.augment else "none")

    def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        net = build(options.architecture, data.images.shape[1], len(data.classes), 0).to(device)
        net.to(memory_format=torch.channels_last)
        return net, torch.optim.Adam(net.parameters(), recipe.lr, fused=True)

    def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    known_net, _ = network()
    fixed_net, fixed_optimizer = network()
    generator = torch.Generator().manual_seed(0)
    x, y = next(on_device.batches(options.batch_size, generator))
    x = augmented(x, "affine", generator) if options.augment else x
    plain_net, plain_optimizer = network()
    plain = DataLoader(Images(data, options.augment), options.batch_size, shuffle=True)

    def ours() -> None:
        fit(known_net, on_device, recipe, 0)

    def fixed() -> None:
        for _ in range(options.images // len(x)):
            step(fixed_net, fixed_optimizer, x, y)

    def torchvision() -> None:
        for images, labels in plain:
            step(plain_net, plain_optimizer, images.to(device), labels.to(device))

    best: dict[str, float] = {}
    for _ in range(options.repeats + 1):  # the first is a warm-up as good as any: the best counts
        for work in (ours, fixed, torchvision):
            best[work.__name__] = min(best.get(work.__name__, float("inf")), seconds(work, device))
    rate = {name: options.images / taken for name, taken in best.items()}
    print(f"{options.architecture} on {device}, batches of {options.batch_size}, augment={options.augment}, one thread")
    for name, text in (
        ("ours", "know.training.loop.fit"),
        ("torchvision", "torchvision Dataset + DataLoader"),
        ("fixed", "forward + backward + update, one fixed batch"),
    ):
        print(f"{text:46s} {rate[name]:9.0f} images/s   ours is {rate['ours'] / rate[name]:5.2f} of it")


if __name__ == "__main__":
    main()
