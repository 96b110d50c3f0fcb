"""The meta-dataset and meta-training: the section ``meta_train``."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from know.data.catalogue import Dataset, dataset
from know.models.names import Architecture, kind_of
from know.options import (
    Count,
    CountRange,
    LearningRate,
    LearningRateRange,
    RateRange,
    Section,
    Seed,
    Share,
    ascending,
    distinct,
)


class MetaRuns(Section):
    """The ranges from which each run of the meta-dataset draws its hyper-parameters, uniformly.

    ``augment``: the share of runs that train on augmented images.
    """

    count: Annotated[int, Field(ge=2)]
    held_out: Count
    subsets: Annotated[int, Field(ge=3)]
    images: Annotated[tuple[Annotated[int, Field(ge=32)], Count], AfterValidator(ascending)]
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
    ``pointwise``: what 1×1 convolutions are to them, in learning and in prediction: "fc", as in the published
    meta-dataset, or "conv", as all other convolutions.
    """

    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1), AfterValidator(distinct)]
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1), AfterValidator(distinct)]
    runs: MetaRuns
    known: KnownTraining
    variants: Annotated[tuple[Literal["path", "wnn"], ...], AfterValidator(distinct)]
    pointwise: Literal["fc", "conv"] = "fc"
    seed: Seed

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        for name in self.architectures:  # each meets each data set
            if other := [one for one in self.datasets if dataset(one).kind != kind_of(name)]:
                raise ValueError(
                    f"architectures: got {name}, for {kind_of(name)}; allowed: one for {dataset(other[0]).kind}, as {other[0]}"
                )
        return self
