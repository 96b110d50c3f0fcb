"""Tasks and subsets: the section ``downsize``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from know.data.catalogue import DATASETS, Dataset, dataset
from know.options import Classes, Count, Section, Seeds, distinct


def subset_sizes(total: int, rate: float, length: int) -> list[int]:
    """|D_k| = r^k |D_0|, rounded, for k = 0 … length-1."""
    return [round(rate**k * total) for k in range(length)]


class Downsize(Section):
    """The source task, the downstream task, and the draws of D_0.

    ``source_classes``, ``downstream_classes``: numbers, or ``all``. ``image_size``: the side in pixels to which images are
    reduced, by averaging blocks; None leaves them as they are; "library": what the network's library trained its weights on,
    which ``know.params.load`` puts in its place.
    ``meta_share``: of the training images of each data set, set aside for meta-training: the experiment sees none of them,
    and meta-training no others.
    """

    dataset: Dataset
    image_size: Count | Literal["library"] | None
    source_classes: Classes
    downstream_dataset: Dataset
    downstream_classes: Classes
    meta_share: Annotated[float, Field(ge=0, lt=1)]
    source_images: Count
    validation_images: Count
    headroom_images: Annotated[tuple[Count, ...], AfterValidator(distinct)]
    source_seeds: Seeds

    @property
    def side(self) -> int | None:
        """``image_size``, once ``know.params.load`` knows it."""
        assert not isinstance(self.image_size, str), self.image_size
        return self.image_size

    @model_validator(mode="before")
    @classmethod
    def _all(cls, given: Any) -> Any:
        """``all`` is every class of a data set that there is; anything else is judged as it is given."""
        if not isinstance(given, Mapping):
            return given
        named = {"source_classes": given.get("dataset"), "downstream_classes": given.get("downstream_dataset")}
        every = {
            key: tuple(range(len(DATASETS[name].classes)))
            for key, name in named.items()
            if given.get(key) == "all" and name in DATASETS
        }
        return {**given, **every}

    @model_validator(mode="after")
    def _classes(self) -> Self:
        source, downstream = dataset(self.dataset), dataset(self.downstream_dataset)
        for key, spec in (("source_classes", source), ("downstream_classes", downstream)):
            if spec.kind == "classification" and len(getattr(self, key)) < 2:
                raise ValueError(f"{key}: got {list(getattr(self, key))}; allowed: two classes of {spec.name} or more")
            if wrong := [c for c in getattr(self, key) if c >= len(spec.classes)]:
                raise ValueError(f"{key}: got {wrong}; allowed: classes 0 to {len(spec.classes) - 1} of {spec.name}")
        if source.images == downstream.images and (both := set(self.source_classes) & set(self.downstream_classes)):
            raise ValueError(f"downstream_classes: got {sorted(both)}, which source_classes holds too; allowed: others")
        if source.channels != downstream.channels:
            raise ValueError(
                f"downstream_dataset: got {self.downstream_dataset}; allowed: one with as many colour channels as"
                f" dataset = {self.dataset}"
            )
        return self
