"""The experiment's parameters: ``params.yaml``, validated once, as typed and frozen objects.

A stage's notebook is given only the sections that it declares; asking for another one is an error, so no stage can
depend on a parameter that DVC does not know of.
"""

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML, YAMLError

from know import paths
from know.prediction.controls import CONTROLS, AnyControl, ShrinkPerturb
from know.prediction.predictors import PREDICTORS, AnyPredictor, Known

T = TypeVar("T")
N = TypeVar("N", int, float)

# Names are listed here, not where they are implemented, so that a wrong one is reported before torch is imported.
Dataset = Literal["fashion-mnist-embedded", "mnist-embedded", "fashion-mnist", "mnist", "cifar10", "cifar100"]
Architecture = Literal["cnn", "cnn-bn", "resnet", "mobilenet", "shufflenet", "densenet", "resnet18"]


class ParamError(ValueError):
    """A parameter is wrong. The message is one line: the key, what was given and what is allowed."""


def subset_sizes(total: int, rate: float, length: int) -> list[int]:
    """|D_k| = r^k |D_0|, rounded, for k = 0 … length-1."""
    return [round(rate**k * total) for k in range(length)]


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("the entries must differ")
    return values


def _ascending(values: tuple[N, N]) -> tuple[N, N]:
    if values[0] > values[1]:
        raise ValueError("the first must not exceed the second")
    return values


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=1000)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]
Classes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2), AfterValidator(_distinct)]
RateRange = Annotated[tuple[Rate, Rate], AfterValidator(_ascending)]
LearningRateRange = Annotated[tuple[LearningRate, LearningRate], AfterValidator(_ascending)]
CountRange = Annotated[tuple[Count, Count], AfterValidator(_ascending)]


class Section(BaseModel):
    """A group of parameters. Unknown keys are errors; values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Compute(Section):
    """Where the work runs. No result depends on ``jobs`` or ``backend``."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    jobs: Literal["auto"] | Count
    backend: Literal["loky", "dask", "ray"]


class Downsize(Section):
    """The source task, the downstream task, and the draws of D_0."""

    dataset: Dataset
    source_classes: Classes
    downstream_dataset: Dataset
    downstream_classes: Classes
    source_images: Count
    validation_images: Count
    headroom_images: Annotated[tuple[Count, ...], AfterValidator(_distinct)]
    source_seeds: Seeds

    @model_validator(mode="after")
    def _classes(self) -> Self:
        tasks = {"source_classes": self.dataset, "downstream_classes": self.downstream_dataset}
        for key, dataset in tasks.items():
            last = 99 if dataset == "cifar100" else 9
            if wrong := [c for c in getattr(self, key) if c > last]:
                raise ValueError(f"{key}: got {wrong}; allowed: classes 0 to {last} of {dataset}")
        plain, plain_downstream = (name.removesuffix("-embedded") for name in tasks.values())
        if plain == plain_downstream and (both := set(self.source_classes) & set(self.downstream_classes)):
            raise ValueError(f"downstream_classes: got {sorted(both)}, which source_classes holds too; allowed: others")
        if ("cifar" in plain) != ("cifar" in plain_downstream):
            raise ValueError(
                f"downstream_dataset: got {self.downstream_dataset}; allowed: one with as many colour channels as"
                f" dataset = {self.dataset}"
            )
        return self


class SourceTraining(Section):
    """Training Θ_0 until the validation loss has not improved for ``patience`` epochs."""

    max_epochs: Count
    patience: Count
    batch_size: Count
    lr: LearningRate
    augment: bool


class Forget(Section):
    """The forgetting runs: Θ_0 →D_1→ Θ_1 →D_2→ …"""

    architecture: Architecture
    mode: Literal["sequential", "restart"]
    source: SourceTraining
    epochs: Count
    batch_size: Count
    lr: LearningRate
    augment: bool


class MetaRuns(Section):
    """The ranges from which each run of the meta-dataset draws its hyper-parameters, uniformly.

    ``augment``: the share of runs that train on augmented images.
    """

    count: Annotated[int, Field(ge=2)]
    held_out: Count
    subsets: Annotated[int, Field(ge=3)]
    images: Annotated[tuple[Annotated[int, Field(ge=32)], Count], AfterValidator(_ascending)]
    source_epochs: CountRange
    epochs: CountRange
    rate: RateRange
    lr: LearningRateRange
    batch_size: CountRange
    augment: Share

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        if self.held_out >= self.count:
            raise ValueError(f"held_out: got {self.held_out}; allowed: less than count = {self.count}")
        return self


class KnownTraining(Section):
    """Meta-training of one KNOWN: Adam at ``lr`` for ``steps`` batches of ``batch_size`` windows."""

    steps: Count
    batch_size: Count
    lr: LearningRate


class MetaTrain(Section):
    """The meta-dataset and what is learned from it.

    ``variants``: hyper-models trained beside KNOWN on the same windows, scaled as ``know.prediction.known.Scale`` says.
    """

    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1), AfterValidator(_distinct)]
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1), AfterValidator(_distinct)]
    runs: MetaRuns
    known: KnownTraining
    variants: Annotated[tuple[Literal["path", "wnn"], ...], AfterValidator(_distinct)]
    seed: Seed


def _combinations(given: object) -> object:
    """An entry with lists among its options as one entry for each combination; another entry as the only one."""
    if isinstance(given, list | tuple):  # done before
        return given
    if not isinstance(given, Mapping):
        return (given,)
    lists = {key: value for key, value in given.items() if isinstance(value, list)}
    return tuple(dict(given) | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


def candidate_names(candidates: Sequence[AnyPredictor | AnyControl]) -> list[str]:
    """What the candidates' starts are called: the start's name, and a number behind a dot if there are several."""
    name = candidates[0].start
    return [name] if len(candidates) == 1 else [f"{name}.{i}" for i in range(len(candidates))]


RESERVED = {"naive", "scratch", "more_data"}
"""Starts that there are without asking."""


class Predict(Section):
    """Retrodiction past Θ_0.

    Each method and control is a tuple of candidates: just one, unless an option was given as a list. Of several one is
    chosen on downstream validation images.
    """

    methods: tuple[Annotated[tuple[AnyPredictor, ...], Field(min_length=1), BeforeValidator(_combinations)], ...]
    controls: tuple[Annotated[tuple[AnyControl, ...], Field(min_length=1), BeforeValidator(_combinations)], ...]
    steps: Annotated[int, Field(ge=1, le=10)]
    batchnorm: Literal["copy", "predict", "reset", "re-estimate"]

    @property
    def starts(self) -> dict[str, tuple[AnyPredictor | AnyControl, ...]]:
        """The candidates of each start, by its name."""
        return {candidates[0].start: candidates for candidates in (*self.methods, *self.controls)}

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        single = {candidates[0].start for candidates in self.methods if len(candidates) == 1}
        names = [candidates[0].start for candidates in (*self.methods, *self.controls)]
        if "known" not in single:
            raise ValueError(
                f"methods: got {names}; allowed: known among them, without candidates: the controls are held to its steps"
            )
        if taken := [name for name in names if name in RESERVED or names.count(name) > 1]:
            raise ValueError(
                f"methods: got {taken[0]!r}; allowed: each name once (name: gives another one), none of"
                f" {', '.join(sorted(RESERVED))}"
            )
        for candidates in (*self.methods, *self.controls):
            if len({one.start for one in candidates}) > 1:
                raise ValueError(f"methods: got {candidates[0].start!r} among others; allowed: candidates of one name")
            for one in candidates:
                if isinstance(one, ShrinkPerturb) and one.of not in single | {"naive"}:
                    raise ValueError(
                        f"controls: got {one.start} of {one.of!r}; allowed: of naive, or a method without candidates:"
                        f" {', '.join(sorted(single))}"
                    )
        return self


class FineTuning(Section):
    """The paper's two phases: the head alone at ``head_lr``, then everything, by cosine from ``lr`` to 0."""

    head_epochs: Annotated[int, Field(ge=0)]
    head_lr: LearningRate
    epochs: Count
    lr: LearningRate
    batch_size: Count
    augment: bool


class Evaluate(Section):
    """Downstream fine-tuning from each set of weights."""

    labels: Count
    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1), AfterValidator(_distinct)
    ]
    validation_images: Count
    downstream_seeds: Seeds
    fine_tuning: FineTuning


class Report(Section):
    confidence: Rate


class Params(Section):
    """All of ``params.yaml``."""

    rate: Rate
    history_length: Annotated[int, Field(ge=2, le=20)]
    compute: Compute
    downsize: Downsize
    forget: Forget
    meta_train: MetaTrain
    predict: Predict
    evaluate: Evaluate
    report: Report

    def __getattr__(self, name: str) -> Any:
        if name in type(self).model_fields:
            raise ParamError(f"{name}: this stage was not given it; add it to the stage's -p and params: in dvc.yaml")
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
        for start, candidates in self.predict.starts.items():
            for one in candidates:
                missing = isinstance(one, Known) and not one.hypermodel and one.variant
                if missing and missing not in self.meta_train.variants:
                    raise ValueError(
                        f"predict.methods: got {start}, of the variant {missing!r}; allowed: those in meta_train.variants ="
                        f" {list(self.meta_train.variants)}"
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


def _line(error: ErrorDetails) -> str:
    """One of pydantic's errors as one line: key, given, allowed."""
    # An entry of methods or controls holds candidates, which the file does not number.
    loc = [part for i, part in enumerate(error["loc"]) if not (i == 3 and isinstance(part, int))]
    key = ".".join(str(part) for part in loc)
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        section: Any = Params
        for parent in parents:
            if parent in getattr(section, "model_fields", {}):
                section = section.model_fields[parent].annotation
            else:  # the place in a list of choices, then the name of the choice
                section = {**PREDICTORS, **CONTROLS}.get(str(parent), section)
        close = difflib.get_close_matches(str(name), section.model_fields, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"{key}: unknown key; allowed: {', '.join(section.model_fields)}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing; it must be given"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):
        return f"{key}.{reason}".removeprefix(".")  # from a section's own check, which names its key
    return f"{key}: got {error['input']!r}; {reason[0].lower() + reason[1:]}"


def load(path: Path = paths.PARAMS) -> Params:
    """Read and validate a parameter file.

    Raises:
        ParamError: one line that names the file, the key, what was given and what is allowed.
    """
    try:
        given = YAML(typ="safe").load(path.read_text())
    except OSError as error:
        raise ParamError(f"{path}: {error.strerror}") from None
    except YAMLError as error:
        raise ParamError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, Mapping):
        raise ParamError(f"{path}: expected sections such as downsize:, got {type(given).__name__}")
    try:
        return Params.model_validate(given)
    except ValidationError as error:
        # A misspelt key is both unknown and missing; the first says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise ParamError(f"{path.name}: {_line(first)}") from None


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
    """The parameters that a notebook was given: the injected sections, or all of ``params.yaml`` if run by hand."""
    if not injected:
        return load()
    fields = Params.model_fields
    values: dict[str, Any] = {
        name: TypeAdapter(cast(Any, fields[name].annotation)).validate_python(value) for name, value in injected.items()
    }
    return Params.model_construct(_fields_set=set(values), **values)
