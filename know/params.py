"""The experiment's parameters: ``params.yaml``, validated once, as typed and frozen objects.

A stage's notebook is given only the sections that it declares; asking for another one is an error, so no stage can
depend on a parameter that DVC does not know of.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args, get_origin

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML, YAMLError

from know import paths
from know.data.catalogue import dataset
from know.data.options import Downsize, subset_sizes
from know.meta.options import MetaTrain
from know.models.names import LIBRARY, Architecture, adapted, kind_of
from know.options import Count, LearningRate, ParamError, Rate, Section, Seeds, Share, distinct
from know.prediction.controls import CONTROLS
from know.prediction.options import Predict
from know.prediction.predictors import PREDICTORS, Known, LinearMap
from know.run.options import Compute
from know.tasks.options import Augmentation
from know.training.options import FineTuning, Forget, SourceTraining
from know.weights.limits import SizeError, check_document, cut, shown

DEPTH = 20  # sections in sections; a file of brackets would keep the parser busy for hours


class Evaluate(Section):
    """Downstream fine-tuning from each set of weights.

    ``fractions``: shares of the labels; the largest is the one that is judged. ``full_draws``: of the downstream seeds, how
    many are run at that share, if there are others at which all are; None: all. ``steps``: "chosen", every start at the step
    that is best on validation images, or "last": at its last, and all but the candidate only there. ``tuned`` starts are run,
    at the largest share, at each of the ``learning_rates`` beside ``fine_tuning.lr`` as well, and judged at the best on
    validation images.
    ``held_out``: of the downstream task's domains: each is left out of what is learned from once, and then is what is tested on;
    none, and all images are learned from and tested on.
    ``head_zero``: whether naïve transfer is run with its new head at 0 as well. ``followed``: starts whose fine-tuning is
    followed epoch by epoch.
    """

    labels: Count
    fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1), AfterValidator(distinct)]
    validation_images: Count
    downstream_seeds: Seeds
    held_out: Annotated[tuple[str, ...], AfterValidator(distinct)]
    full_draws: Count | None
    steps: Literal["chosen", "last"]
    tuned: Annotated[tuple[str, ...], AfterValidator(distinct)]
    learning_rates: Annotated[tuple[LearningRate, ...], AfterValidator(distinct)]
    head_zero: bool
    followed: Annotated[tuple[str, ...], AfterValidator(distinct)]
    fine_tuning: FineTuning

    @model_validator(mode="after")
    def _every_seed_is_run(self) -> Self:
        if len(self.fractions) == 1 and self.full_draws and self.full_draws < len(self.downstream_seeds):
            raise ValueError(
                f"full_draws: got {self.full_draws}, with {len(self.downstream_seeds)} downstream_seeds and one share of the labels, so that"
                " the others would never be run; allowed: null, or no more downstream_seeds than that"
            )
        return self

    @model_validator(mode="after")
    def _followed_beside_naive(self) -> Self:
        if self.followed and not ("naive" in self.followed and set(self.followed) - {"naive", "scratch"}):
            raise ValueError(
                f"followed: got {list(self.followed)}; allowed: none, or naive and starts that are held to it"
            )
        return self


class Report(Section):
    """How the results are judged: what is compared is named here, before any test image is seen.

    ``margin``: the smallest gain over naïve transfer that would count as the paper's effect, as a share of naïve transfer's
    error; a comparison excludes the paper's effect if two one-sided tests show the difference to be within ± that much.
    ``contrasts``: pairs of starts, each at the candidate chosen on validation images; one family, corrected together.
    """

    confidence: Rate
    margin: Share
    contrasts: Annotated[tuple[tuple[str, str], ...], Field(min_length=1), AfterValidator(distinct)]


class Forgetting(Section):
    """Fine-tuning on each of D_0, D_1, …"""

    epochs: Count
    batch_size: Count
    lr: LearningRate
    augment: Augmentation


class Bench(Section):
    """A fixed set of trajectories whose next point is known, and how a prediction of it is scored.

    A trajectory for each of the ``architectures``, on each of the ``tasks``, for each of a task's source seeds, which stand for
    a D_0, initial weights, orders and labels of the trajectory's own. ``draws``: of downstream labels, for each trajectory.
    ``predict``: the methods and controls that are scored beside any other, one step past Θ_0.
    """

    tasks: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], Downsize], Field(min_length=1)]
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1), AfterValidator(distinct)]
    rate: Rate
    history_length: Annotated[int, Field(ge=2, le=20)]
    source: SourceTraining
    forgetting: Forgetting
    labels: Count
    validation_images: Count
    draws: Count
    fine_tuning: FineTuning
    predict: Predict

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, task in self.tasks.items():
            if task.image_size == LIBRARY:
                raise ValueError(
                    f"tasks.{name}.image_size: got {LIBRARY}; allowed: pixels, or null, for its networks may differ in it"
                )
            smallest = subset_sizes(task.source_images, self.rate, self.history_length)[-1]
            if smallest < len(task.source_classes):
                raise ValueError(
                    f"tasks.{name}.source_images: got {task.source_images}, of which the smallest subset has {smallest};"
                    f" allowed: so many that it has {len(task.source_classes)} or more (one a class)"
                )
        if not self.source.max_epochs:
            raise ValueError("source.max_epochs: got 0; allowed: 1 or more, for nothing is pretrained here")
        if self.predict.steps != 1 or self.predict.crossed:
            raise ValueError("predict.steps: got other starts than Θ_{-1}; allowed: steps: 1 and crossed: []")
        for start, candidates in self.predict.methods_by_name.items():
            for one in candidates:
                if (isinstance(one, Known) and not one.hypermodel) or (
                    isinstance(one, LinearMap) and not one.coefficients
                ):
                    raise ValueError(
                        f"predict.methods: got {start} as the pipeline trains it; allowed: with hypermodel: or coefficients:, for"
                        " the bench depends on no other stage"
                    )
        return self


class Params(Section):
    """All of ``params.yaml``.

    ``shown_epochs``: the most epochs of each training that notebooks 02 and 05 show in the open; None: as many as the stage's.
    """

    rate: Rate
    history_length: Annotated[int, Field(ge=2, le=20)]
    reports: Annotated[str, Field(min_length=1)]
    compute: Compute
    downsize: Downsize
    forget: Forget
    meta_train: MetaTrain
    predict: Predict
    evaluate: Evaluate
    report: Report
    shown_epochs: Count | None
    bench: Bench

    def __getattr__(self, name: str) -> Any:
        if name in type(self).model_fields:
            raise ParamError(f"{name}: this stage was not given it; add it to the stage's params: in dvc.yaml")
        return super().__getattr__(name)  # type: ignore[misc]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        length, classes = self.history_length, len(self.downsize.source_classes)
        smallest = subset_sizes(self.downsize.source_images, self.rate, length)[-1]
        if smallest < classes:
            raise ValueError(
                f"history_length: got {length}, which at rate = {self.rate} leaves {smallest} of downsize.source_images"
                f" = {self.downsize.source_images} in the smallest subset; allowed: one that leaves {classes} or more"
                f" (one a class)"
            )
        if self.downsize.headroom_images and not self.forget.source.max_epochs:
            raise ValueError(
                f"downsize.headroom_images: got {list(self.downsize.headroom_images)}; allowed: [] with forget.source.max_epochs = 0,"
                " for what is pretrained is the same for all sizes"
            )
        for start, candidates in self.predict.starts.items():
            for one in candidates:
                missing = isinstance(one, Known) and not one.hypermodel and one.variant
                if missing and missing not in self.meta_train.variants:
                    raise ValueError(
                        f"predict.methods: got {start}, of the variant {missing!r}; allowed: those in meta_train.variants ="
                        f" {list(self.meta_train.variants)}"
                    )
        for start, methods in self.predict.methods_by_name.items():
            if wrong := [one.needs for one in methods if one.needs > length]:
                raise ValueError(
                    f"predict.methods: got {start}, which needs a history of {wrong[0]} weights; allowed: those that do with"
                    f" history_length = {length}"
                )
        if self.compute.processes > 1 and self.shown_epochs is None:
            raise ValueError(
                f"compute.processes: got {self.compute.processes}; allowed: 1 with shown_epochs = null, for what notebook 02 trains"
                " in one process must then equal the stage's bit for bit; or shown_epochs: 1"
            )
        source, downstream = dataset(self.downsize.dataset), dataset(self.downsize.downstream_dataset)
        if unknown := [name for name in self.evaluate.held_out if name not in downstream.domains]:
            raise ValueError(
                f"evaluate.held_out: got {unknown[0]!r}; allowed: domains of {downstream.name}:"
                f" {', '.join(downstream.domains) or 'it has none'}"
            )
        if (kind := kind_of(self.forget.architecture)) != source.kind:
            raise ValueError(
                f"forget.architecture: got {self.forget.architecture}, for {kind}; allowed: one for {source.kind}, as"
                f" downsize.dataset = {source.name}"
            )
        try:
            adapted(self.forget.architecture, downstream.kind)
        except ValueError as error:
            raise ValueError(
                f"downsize.downstream_dataset: got {downstream.name}, for {downstream.kind}; {error}"
            ) from None
        starts = {*self.predict.starts, *PREDICTORS, *CONTROLS, "more_data"}  # one that is not run is left out
        for key, names in (("evaluate.tuned", self.evaluate.tuned), ("predict.crossed", self.predict.crossed)):
            if unknown := [name for name in names if name not in starts]:
                raise ValueError(f"{key}: got {unknown[0]!r}; allowed: naive, more_data, or a method or control")
        named = {*starts, *(f"{name}_tuned" for name in self.evaluate.tuned), "scratch", "head_zero"}
        pairs = [frozenset(pair) for pair in self.report.contrasts]
        for pair in pairs:
            if not pair <= named or len(pair) < 2 or pairs.count(pair) > 1:
                raise ValueError(
                    f"report.contrasts: got {sorted(pair)}; allowed: two different starts, each pair once, among"
                    f" {', '.join(sorted(named))}"
                )
        if self.predict.kept == "last" and self.evaluate.steps != "last":
            raise ValueError(
                f"predict.kept: got last; allowed: all, for evaluate.steps = {self.evaluate.steps} fine-tunes every step"
            )
        own = {self.downsize.dataset, self.downsize.downstream_dataset}
        for name in self.meta_train.datasets if self.downsize.meta_share else ():
            twins = {other for other in own if dataset(other).images == dataset(name).images}
            if twins and name not in twins:
                raise ValueError(
                    f"downsize.meta_share: got {self.downsize.meta_share}, which cannot tell the images of {name}"
                    f" (meta_train.datasets) from those of {', '.join(sorted(twins))}; allowed: 0, or the same data set in both"
                )
        if length >= self.meta_train.runs.subsets:
            raise ValueError(
                f"history_length: got {length}; allowed: less than meta_train.runs.subsets ="
                f" {self.meta_train.runs.subsets}, for a window needs a next weight to predict"
            )
        smallest_labels = round(min(self.evaluate.fractions) * self.evaluate.labels)
        if smallest_labels < len(self.downsize.downstream_classes):
            raise ValueError(
                f"evaluate.fractions: got {min(self.evaluate.fractions)}, which leaves {smallest_labels} of"
                f" {self.evaluate.labels} labels; allowed: one that leaves"
                f" {len(self.downsize.downstream_classes)} or more (one a class)"
            )
        return self


def shared_images(params: Params) -> str:
    """A sentence that says which images meta-training shares with the experiment."""
    experiment = {dataset(name).images for name in (params.downsize.dataset, params.downsize.downstream_dataset)}
    both = sorted(experiment & {dataset(name).images for name in params.meta_train.datasets})
    if not both:
        return "Meta-training sees no image of the experiment: its data sets are others."
    share = params.downsize.meta_share
    if share:
        return f"Of {', '.join(both)}, {share:.0%} of the training images are set aside for meta-training; the experiment sees none of them."
    return (
        f"Meta-training draws from the training images of {', '.join(both)}, among which the experiment's are, source and"
        " downstream, training and validation. No test image is seen (downsize.meta_share sets images aside)."
    )


UNION = re.compile(r".*[\[(]|constrained-")
"""What pydantic calls the members of a union, which the user did not write."""


def _key(error: ErrorDetails) -> str:
    """The key that the user wrote. An entry of methods or controls holds candidates, which the file does not number."""
    loc = [part for i, part in enumerate(error["loc"]) if not (i == 3 and isinstance(part, int))]
    return ".".join(str(part) for part in loc if not UNION.match(str(part)))


def _line(error: ErrorDetails, *others: ErrorDetails) -> str:
    """One of pydantic's errors as one line: key, given, allowed; ``others`` are what else would have been allowed there."""
    key, reasons = _key(error), [one["msg"].removeprefix("Value error, ") for one in (error, *others)]
    reason = " or ".join([reasons[0], *(again.removeprefix("Input should be ") for again in reasons[1:])])
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        section: Any = Params
        for parent in parents:
            if parent in getattr(section, "model_fields", {}):
                section = section.model_fields[parent].annotation
            elif get_origin(section) is dict:  # the name of a section
                section = get_args(section)[1]
            else:  # the place in a list of choices, then the name of the choice
                section = {**PREDICTORS, **CONTROLS}.get(str(parent), section)
        close = difflib.get_close_matches(str(name), section.model_fields, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{key}: unknown key; allowed: {', '.join(section.model_fields)}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing; it must be given"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):
        return f"{key}.{reason}".removeprefix(".")  # from a section's own check, which names its key
    return f"{key}: got {shown(error['input'])}; {reason[0].lower() + reason[1:]}"


def document(path: Path) -> Mapping[str, object]:
    """What a YAML file's keys hold, whoever wrote it: neither depth nor aliases make it larger than it is.

    Raises:
        ParamError: one line that names the file: it cannot be read, repeats a key, or has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        yaml = YAML(typ="safe")
        yaml.max_depth = DEPTH
        given = yaml.load(text)
        check_document(str(path), given, len(text))
    except OSError as error:
        raise ParamError(f"{path}: {error.strerror}") from None
    except SizeError as error:
        raise ParamError(str(error)) from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ParamError(f"{path}: not YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(given, Mapping):
        raise ParamError(f"{path}: expected keys with values, KEY: VALUE, got {type(given).__name__}")
    return given


def load(path: Path = paths.PARAMS) -> Params:
    """Read and validate a parameter file.

    Raises:
        ParamError: one line that names the file, the key, what was given and what is allowed.
    """
    if path == paths.PARAMS and not path.exists():
        raise ParamError(f"{path}: no such file: run this in a clone of the repository, or name one with --params")
    given = document(path)
    try:
        return _sized(Params.model_validate(given), path)
    except ValidationError as error:
        # A misspelt key is both unknown and missing; the first says more.
        errors = error.errors()
        first = min(errors, key=lambda one: one["type"] != "extra_forbidden")
        union = any(UNION.match(str(part)) for part in first["loc"])
        others = [one for one in errors if union and _key(one) == _key(first) and one is not first]
        raise ParamError(cut(f"{path.name}: {_line(first, *others)}", 900)) from None


def _sized(params: Params, path: Path) -> Params:
    """With the library's own size of images, if a file asks for that."""
    if params.downsize.image_size != LIBRARY:
        return params
    from know.models.build import input_size  # here, for that loads the library

    architecture = params.forget.architecture
    asked = f"{path.name}: downsize.image_size: got {LIBRARY}, with forget.architecture = {architecture}"
    try:
        side = input_size(architecture)
    except (ParamError, RuntimeError) as error:  # of the library's own
        raise ParamError(f"{asked}, which cannot be asked: {' '.join(str(error).split())[:300]}") from None
    if side is None:
        raise ParamError(f"{asked}, which has no size of its own; allowed: pixels, or null")
    return params.model_copy(update={"downsize": params.downsize.model_copy(update={"image_size": side})})


def sections(params: Params, names: Iterable[str]) -> dict[str, object]:
    """Just these top-level keys of ``params``, as plain values that a notebook can be given.

    Raises:
        ParamError: there is no such section.
    """
    plain = params.model_dump(mode="json")
    if unknown := [name for name in names if name not in plain]:
        raise ParamError(f"{unknown[0]}: unknown section; allowed: {', '.join(plain)}")
    return {name: plain[name] for name in names}


def given(injected: Mapping[str, object]) -> Params:
    """The parameters that a notebook was given: the injected sections, or all of ``params.yaml`` if run by hand.

    Where the work runs is no matter of the results, so ``compute`` is the file's in any case.
    """
    everything = load()
    if not injected:
        return everything
    fields = Params.model_fields
    values: dict[str, Any] = {
        name: TypeAdapter(cast(Any, fields[name].annotation)).validate_python(value) for name, value in injected.items()
    }
    values["compute"] = everything.compute
    return Params.model_construct(_fields_set=set(values), **values)
