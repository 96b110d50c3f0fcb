"""How much there is to do before it is begun: runs, images, hours and disk, by the params.yaml that there is.

    python -m know.stages --estimate

An image counts each time that a net is trained on it, or looks at it, as when its loss is measured. How long either takes is
measured with the network itself, on random images, or on the data set's own where they stay in files and so have to be read; on the
device, in as many processes as will run. What the store of runs has already is not subtracted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from operator import mul
from statistics import mean

import torch

from know.data.catalogue import DatasetSpec, dataset
from know.data.images import FileSet, ImageSet
from know.data.layouts import Published
from know.data.options import Downsize, subset_sizes
from know.data.sources import DataError
from know.data.splits import Task, downstream_task, more_images, source_task
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
from know.stages.predict import REESTIMATED, control_starts, kept, real_steps, ruled
from know.stages.results import SavedStart, Track
from know.tasks.measures import measure
from know.tasks.options import Augmentation
from know.training.forgetting import extra_compute, state_of
from know.training.landscape import IMAGES, SIZE
from know.training.loop import Recipe, fit
from know.weights.batchnorm import batchnorm_layers
from know.weights.kinds import State

LONG = 10_000_000  # images; what trains on fewer takes minutes
PROBE = 1.0  # seconds that are enough to measure
WORDS = 16  # of a caption
FEW = 16  # images, of which a large net takes that long on a CPU


@dataclass(frozen=True)
class Network:
    """What the time of an image depends on; ``files``: the task, if its images are read from files each time; ``missing``: its
    data set, if that is not here."""

    architecture: str
    channels: int
    side: int
    outputs: int
    batch_size: int
    augment: Augmentation
    files: Task | None = None
    missing: str = ""

    def net(self) -> torch.nn.Module:
        return build(self.architecture, self.channels, self.outputs, seed=0)

    @property
    def bytes(self) -> int:
        """Of its state on disk."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.net().state_dict().values())

    def images(self, count: int) -> ImageSet:
        """So many for it: random ones, or some of its files', to be read."""
        if self.files is not None:
            pool = self.files.pool(here())
            return pool.select(torch.randint(len(pool), (count,)))
        images = torch.randint(256, (count, self.channels, self.side, self.side), dtype=torch.uint8)
        labels, names = torch.arange(count) % self.outputs, tuple(map(str, range(self.outputs)))
        masks = (images[:, 0] % self.outputs).to(torch.uint8)
        tokens = torch.randint(self.outputs, (count, WORDS))
        targets = {"classification": None, "segmentation": masks, "captioning": tokens}[kind_of(self.architecture)]
        return ImageSet(images, labels, names, targets).to(here())


@dataclass(frozen=True)
class Work:
    """``runs`` independent runs that train ``network`` on ``images`` in all, each as often as it is seen, look at ``looked_at``
    more, and leave ``kept`` nets on disk, counted as often as they lie there."""

    what: str
    runs: int
    images: float
    network: Network
    kept: float = 0
    looked_at: float = 0

    @property
    def seen(self) -> float:
        """Images in all."""
        return self.images + self.looked_at


def works(params: Params) -> dict[str, list[Work]]:
    """The work of each stage that trains nets or keeps them. Of the source training it is the most that there can be."""
    options, own, seeds = params.downsize, params.forget, params.downsize.source_seeds
    drawn, downstream = dataset(options.dataset), dataset(options.downstream_dataset)
    first, second = _images(drawn, source_task, options), _images(downstream, downstream_task, options)
    spare, validation = first.train - options.validation_images, options.validation_images
    sizes, length = subset_sizes(options.source_images, params.rate, params.history_length), params.history_length
    trained = trained_sizes(params, spare)
    more = more_images(options, params.rate, spare) if own.source.max_epochs else None
    outputs = drawn.outputs_of(len(options.source_classes))
    source = Network(
        own.architecture, drawn.channels, first.side, outputs, own.source.batch_size, own.source.augment, first.files,
        first.missing,
    )  # fmt: skip
    further = replace(source, batch_size=own.batch_size, augment=own.augment)
    forgotten = own.epochs * sum(sizes[1:])
    back = len(seeds) * bool(more and own.oracle)
    epochs = max(1, round(extra_compute(params.rate, length) * own.epochs))
    # Of each weight of a path the loss on D_k and on the rest of D_0, on validation and on test images.
    at_each, at_back = first.test + validation + sizes[0], first.test + validation + (more or 0)
    # A net lies in the store of runs, in data/ and in DVC's cache.
    forget = [
        Work("training, at most", len(seeds) * len(trained), len(seeds) * own.source.max_epochs * sum(trained), source,
             3 * len(seeds) * len(trained), len(seeds) * own.source.max_epochs * len(trained) * validation),
        Work("forgetting", len(seeds) + back, len(seeds) * forgotten + back * (forgotten + own.epochs * sizes[0]), further,
             3 * length * (len(seeds) + back), length * (len(seeds) + back) * at_each + back * at_back),
        Work("as long, on all of D_0", len(seeds), len(seeds) * forgotten, further, 3 * length * len(seeds),
             length * len(seeds) * at_each),
        Work("training on", len(seeds), len(seeds) * epochs * sizes[0], further, 3 * len(seeds)),
    ]  # fmt: skip

    net = source.net()
    starts = planned_starts(params, trained, state_of(net))
    anew = bool(batchnorm_layers(net)) * sum(start.batchnorm == "re-estimate" for start in starts)
    tested = sum(start.role not in ("path", "headroom") and not start.crossed for start in starts) * first.test
    held = replace(source, files=None)  # what is looked at many times is read once
    predict = [
        Work("retrodiction", len(seeds), 0, source, 2 * len(seeds) * len(starts), len(seeds) * tested),
        Work("BatchNorm, re-estimated", len(seeds) * bool(anew), 0, held,
             looked_at=len(seeds) * anew * min(REESTIMATED, options.source_images)),
        Work("loss landscape", 1, 0, held, looked_at=(SIZE**2 + length) * min(IMAGES, validation)),
    ]  # fmt: skip

    tuning = params.evaluate.fine_tuning
    network = Network(
        adapted(own.architecture, downstream.kind), downstream.channels, second.side,
        downstream.outputs_of(len(options.downstream_classes)), tuning.batch_size, tuning.augment, second.files, second.missing,
    )  # fmt: skip
    evaluate = []
    points = 1 + tuning.epochs // max(1, tuning.epochs // 20)
    once, often = (params.evaluate.validation_images + second.test, points * params.evaluate.validation_images)
    for what, planned, looked_at in (("fine-tuning", fine_tunings, once), ("learning curves", followed, often)):
        runs = {
            (one.weights.method == "scratch", _content(one.weights, params, trained), one.lr, one.head_scale, draw)
            for one, draw in planned(params, [SCRATCH, *starts])
        }
        epochs_of = {True: tuning.epochs, False: tuning.head_epochs + tuning.epochs}  # from scratch or not
        images = sum(draw.labels * epochs_of[scratch] for scratch, *_, draw in runs)
        evaluate.append(Work(what, len(runs), images, network, looked_at=len(runs) * looked_at))
    return {"forget": forget, "meta_train": list(_meta(params)), "predict": predict, "evaluate": evaluate}


@dataclass(frozen=True)
class Images:
    """Of a task: how many there are to train and to test on, their side in pixels, the task, if they stay in files,
    and the data set's name, if it is not here."""

    train: int
    test: int
    side: int
    files: Task | None = None
    missing: str = ""


def _images(spec: DatasetSpec, task: Callable[[Downsize], Task], options: Downsize) -> Images:
    """Of the source or the downstream task. Where the data set cannot be had: as many as D_0, the headroom and validation need, and
    none to test on."""
    try:
        own = task(options)
        train, test = own.opened("train"), own.opened("test")
    except DataError:
        needed = max(options.source_images, *options.headroom_images, 0) + options.validation_images
        return Images(
            needed, 0, options.side or (spec.size if isinstance(spec.fetch, Published) else 32), missing=spec.name
        )
    return Images(len(train), len(test), train.shape[-1], own if isinstance(train, FileSet) and train.stays else None)


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


def seconds_an_image(network: Network) -> tuple[float, float]:
    """Of training it and of looking at one, where this runs: of as many images as take a second or so."""
    net, recipe = network.net().to(here()), Recipe(1, network.batch_size, 0.001, augment=network.augment)

    def an_image(work: Callable[[ImageSet], object]) -> float:
        def timed(count: int) -> float:
            data = network.images(count)
            began = time.perf_counter()
            work(data)
            return time.perf_counter() - began

        timed(count := FEW)  # a process's first step takes seconds: it loads PyTorch's compiler, or starts a GPU
        while (seconds := timed(count)) < PROBE:
            count = max(4 * count, network.batch_size)
        return seconds / count

    return an_image(lambda data: fit(net, data, recipe, seed=0)), an_image(lambda data: measure(net, data))


def lines(params: Params, stages: Collection[str]) -> Iterator[str]:
    """Of each of the stages that does such work, and of its parts: how much there is, and about how long it takes."""
    compute = params.compute.alone  # of a run that several processes share, it says what one would take
    jobs = jobs_of(compute)
    where = f"in {jobs} process{'es' if jobs > 1 else ''} on {device_of(compute)}"
    hours, size = 0.0, 0.0
    seconds: dict[Network, tuple[float, ...]] = {}
    for stage, every in works(params).items():
        parts = [part for part in every if part.runs and stage in stages]
        if not parts:
            continue
        for network in {part.network for part in parts} - seconds.keys():
            measured = map_all(seconds_an_image, [network] * jobs, compute, "probe")
            seconds[network] = tuple(map(mean, zip(*measured, strict=True)))
        spent = [
            sum(map(mul, (part.images, part.looked_at), seconds[part.network])) / min(jobs, part.runs) / 3600
            for part in parts
        ]
        disk = sum(part.kept * part.network.bytes for part in parts)
        hours, size = hours + sum(spent), size + disk
        yield f"{stage}: about {sum(spent):.1f} h {where}, {disk / 1e9:.1f} GB"
        for part, own in zip(parts, spent, strict=True):
            yield f"  {part.what}: {part.runs} runs, {part.seen / 1e6:.1f} M images of {part.network.architecture}, {own:.1f} h"
        for name in sorted({part.network.missing for part in parts} - {""}):
            yield f"  {name} is not here: without its test images, and without the time to read its files"
    if len(stages) > 1:
        yield f"in all: about {hours:.1f} h, {size / 1e9:.1f} GB"


def announced(params: Params, stage: str) -> list[str]:
    """The lines of a stage that will train for long, and of no other."""
    parts = works(params).get(stage, [])
    return list(lines(params, [stage])) if sum(part.seen for part in parts) > LONG else []
