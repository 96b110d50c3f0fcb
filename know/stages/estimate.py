"""How much there is to do before it is begun: runs, images, hours and disk, by the params.yaml that there is.

    python -m know.stages --estimate

An image counts each time that a net is trained on it; one that is only looked at, as a third. How long it takes is measured with
the network itself, on random images, on the device, on a CPU in as many processes as will run. What the store of runs has already is not subtracted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from statistics import mean

import torch

from know.data.catalogue import dataset
from know.data.images import ImageSet
from know.data.options import subset_sizes
from know.data.sources import DataError
from know.data.splits import more_images, source_task
from know.meta.runs import draw_runs
from know.models.build import build
from know.models.names import adapted, kind_of
from know.params import Params
from know.prediction.controls import Case
from know.prediction.predictors import no_change
from know.run.device import here
from know.run.executor import device_of, jobs_of, map_all
from know.stages.evaluate import SCRATCH, fine_tunings, followed
from know.stages.forget import trained_sizes
from know.stages.predict import control_starts, kept, real_steps, ruled
from know.stages.results import SavedStart, Track
from know.tasks.options import Augmentation
from know.training.forgetting import extra_compute, state_of
from know.training.loop import Recipe, fit
from know.weights.kinds import State

LONG = 10_000_000  # images; what trains on fewer takes minutes
LOOKED_AT = 1 / 3  # of the time of training on it: a pass forward, none back
PROBE = 1.0  # seconds that are enough to measure
WORDS = 16  # of a caption
FEW = 16  # images, of which a large net takes that long on a CPU


@dataclass(frozen=True)
class Network:
    """What the time of an image depends on."""

    architecture: str
    channels: int
    side: int
    outputs: int
    batch_size: int
    augment: Augmentation

    def net(self) -> torch.nn.Module:
        return build(self.architecture, self.channels, self.outputs, seed=0)

    @property
    def bytes(self) -> int:
        """Of its state on disk."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.net().state_dict().values())


@dataclass(frozen=True)
class Work:
    """``runs`` independent runs that train ``network`` on ``images`` in all, each as often as it is seen, and leave ``kept``
    nets on disk, counted as often as they lie there."""

    what: str
    runs: int
    images: float
    network: Network
    kept: float = 0


def works(params: Params) -> dict[str, list[Work]]:
    """The work of each stage that trains nets or keeps them. Of the source training it is the most that there can be."""
    spare, side = _source(params)
    options, own, seeds = params.downsize, params.forget, params.downsize.source_seeds
    sizes, length = subset_sizes(options.source_images, params.rate, params.history_length), params.history_length
    trained = trained_sizes(params, spare)
    more = more_images(options, params.rate, spare) if own.source.max_epochs else None
    drawn = dataset(options.dataset)
    outputs = drawn.outputs_of(len(options.source_classes))
    source = Network(own.architecture, drawn.channels, side, outputs, own.source.batch_size, own.source.augment)
    further = replace(source, batch_size=own.batch_size, augment=own.augment)
    forgotten = own.epochs * sum(sizes[1:])
    back = len(seeds) * bool(more and own.oracle)
    epochs = max(1, round(extra_compute(params.rate, length) * own.epochs))
    # A net lies in the store of runs, in data/ and in DVC's cache.
    forget = [
        Work("training, at most", len(seeds) * len(trained), len(seeds) * own.source.max_epochs * sum(trained), source,
             3 * len(seeds) * len(trained)),
        Work("forgetting", len(seeds) + back, len(seeds) * forgotten + back * (forgotten + own.epochs * sizes[0]), further,
             3 * length * (len(seeds) + back)),
        Work("as long, on all of D_0", len(seeds), len(seeds) * forgotten, further, 3 * length * len(seeds)),
        Work("training on", len(seeds), len(seeds) * epochs * sizes[0], further, 3 * len(seeds)),
    ]  # fmt: skip

    starts = planned_starts(params, trained, state_of(source.net()))
    looked_at = LOOKED_AT * len(seeds) * len(starts) * options.source_images
    predict = [Work("retrodiction", len(seeds), looked_at, source, 2 * len(seeds) * len(starts))]

    tuning = params.evaluate.fine_tuning
    downstream = dataset(options.downstream_dataset)
    network = Network(
        *(adapted(own.architecture, downstream.kind), downstream.channels, side),
        downstream.outputs_of(len(options.downstream_classes)),
        *(tuning.batch_size, tuning.augment),
    )
    evaluate = []
    for what, planned in (("fine-tuning", fine_tunings), ("learning curves", followed)):
        runs = {
            (one.weights.method == "scratch", _content(one.weights, params, trained), one.lr, one.head_scale, draw)
            for one, draw in planned(params, [SCRATCH, *starts])
        }
        epochs_of = {True: tuning.epochs, False: tuning.head_epochs + tuning.epochs}  # from scratch or not
        images = sum(draw.labels * epochs_of[scratch] for scratch, *_, draw in runs)
        evaluate.append(Work(what, len(runs), images, network))
    return {"forget": forget, "meta_train": list(_meta(params)), "predict": predict, "evaluate": evaluate}


def _source(params: Params) -> tuple[int, int]:
    """How many images of the source task there are beside its validation images, and their side in pixels.

    Where the data set cannot be had, as many as D_0 and the headroom need, of 32 pixels.
    """
    options = params.downsize
    try:
        pool = source_task(options).pool(torch.device("cpu"))
    except DataError:
        return max(options.source_images, *options.headroom_images, 0), options.side or 32
    return len(pool) - options.validation_images, pool.shape[-1]


def planned_starts(params: Params, trained: Collection[int], state: State) -> list[SavedStart]:
    """The starts that the stage ``predict`` will write for a source seed, if nets are ``trained`` on so many images.

    How many a control makes, only the control knows: it is asked, with the same ``state`` everywhere.
    """
    options, real = params.predict, real_steps(params, trained)
    path = [state] * params.history_length

    def predicted(track: Track, steps: int) -> Iterator[tuple[SavedStart, State]]:
        for name, candidates in options.runnable.items():
            for i, one in enumerate(candidates):
                for step, same in kept(options, name, [state] * steps):
                    yield SavedStart(track, name, i, step, "method", one.stated(candidates)), same
        methods = dict.fromkeys(options.runnable, [state] * steps)
        case = Case(path, no_change, [state] * steps, fresh=state, methods=methods)
        whole = replace(case, trained_on=state, sham=path)
        yield from control_starts(options, track, whole if track == "main" else case)

    def made() -> Iterator[tuple[SavedStart, State]]:
        yield SavedStart("main", "naive", 0, 0, "reference"), state
        yield from ((SavedStart("main", "more_data", 0, step, "oracle"), state) for step in real)
        yield from predicted("main", options.steps)
        yield from ((SavedStart("main", "theta", 0, k, "path"), state) for k in range(params.history_length))
        yield from ((SavedStart("main", "trained", 0, images, "headroom"), state) for images in trained)
        if 1 in real and params.forget.oracle:
            yield SavedStart("oracle", "naive", 0, 0, "reference"), state
            yield SavedStart("oracle", "more_data", 0, 1, "oracle"), state
            yield from predicted("oracle", 1)

    return [start for start, _ in ruled(params, made())]


def _content(start: SavedStart, params: Params, trained: Collection[int]) -> SavedStart:
    """One name for weights that are written under several: what is fine-tuned is known by its content, and only once."""
    own, real = params.downsize.source_images, real_steps(params, trained)
    names = {("main", "naive", 0): own, ("main", "theta", 0): own, ("oracle", "more_data", 1): real.get(1)}
    names |= {("main", "more_data", step): images for step, images in real.items()}
    images = names.get((start.track, start.method, start.steps))
    return start if images is None else replace(start, track="main", method="trained", steps=images, role="headroom")


def _meta(params: Params) -> Iterator[Work]:
    """The meta-dataset, an architecture and data set after the other."""
    specs = draw_runs(params.meta_train, params.forget.mode)
    for key in dict.fromkeys((spec.architecture, spec.dataset) for spec in specs):
        own = [spec for spec in specs if (spec.architecture, spec.dataset) == key]
        smaller = [spec.epochs * sum(subset_sizes(spec.images, spec.rate, spec.subsets)[1:]) for spec in own]
        images = sum(spec.source_epochs * spec.images for spec in own) + sum(smaller)
        drawn = dataset(own[0].dataset)
        batch_size = sorted(spec.batch_size for spec in own)[len(own) // 2]
        network = Network(own[0].architecture, drawn.channels, 32, len(drawn.classes), batch_size, "affine")
        yield Work(f"meta-dataset, {' on '.join(key)}", len(own), images, network, 3 * len(own) * own[0].subsets)


def seconds_an_image(network: Network) -> float:
    """Of training it, where this runs: of as many images as take a second or so."""
    net = network.net().to(here())

    def timed(count: int) -> float:
        images = torch.randint(256, (count, network.channels, network.side, network.side), dtype=torch.uint8)
        labels, names = torch.arange(count) % network.outputs, tuple(map(str, range(network.outputs)))
        masks = (images[:, 0] % network.outputs).to(torch.uint8)
        tokens = torch.randint(network.outputs, (count, WORDS))
        targets = {"classification": None, "segmentation": masks, "captioning": tokens}[kind_of(network.architecture)]
        data = ImageSet(images, labels, names, targets)
        began = time.perf_counter()
        fit(net, data.to(here()), Recipe(1, network.batch_size, 0.001, augment=network.augment), seed=0)
        return time.perf_counter() - began

    timed(count := FEW)  # a process's first step takes seconds: it loads PyTorch's compiler, or starts a GPU
    while (seconds := timed(count)) < PROBE:
        count = max(4 * count, network.batch_size)
    return seconds / count


def lines(params: Params, stages: Collection[str]) -> Iterator[str]:
    """Of each of the stages that does such work, and of its parts: how much there is, and about how long it takes."""
    compute = params.compute.alone  # of a run that several processes share, it says what one would take
    jobs = jobs_of(compute)
    device = device_of(compute)
    at_once = (
        jobs if device.type == "cpu" else 1
    )  # processes that share a GPU share its speed as well, two cores not quite
    where = f"in {jobs} process{'es' if jobs > 1 else ''} on {device}"
    hours, size = 0.0, 0.0
    seconds: dict[Network, float] = {}
    for stage, every in works(params).items():
        parts = [part for part in every if part.runs and stage in stages]
        if not parts:
            continue
        for network in {part.network for part in parts} - seconds.keys():
            seconds[network] = mean(map_all(seconds_an_image, [network] * at_once, compute, "probe"))
        spent = [part.images * seconds[part.network] / at_once / 3600 for part in parts]
        disk = sum(part.kept * part.network.bytes for part in parts)
        hours, size = hours + sum(spent), size + disk
        yield f"{stage}: about {sum(spent):.1f} h {where}, {disk / 1e9:.1f} GB"
        for part, own in zip(parts, spent, strict=True):
            yield f"  {part.what}: {part.runs} runs, {part.images / 1e6:.1f} M images of {part.network.architecture}, {own:.1f} h"
    if len(stages) > 1:
        yield f"in all: about {hours:.1f} h, {size / 1e9:.1f} GB"


def announced(params: Params, stage: str) -> list[str]:
    """The lines of a stage that will train for long, and of no other."""
    parts = works(params).get(stage, [])
    return list(lines(params, [stage])) if sum(part.images for part in parts) > LONG else []
