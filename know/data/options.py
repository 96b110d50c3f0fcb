"""Data sets, tasks and subsets: the section ``downsize``."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from know.options import Classes, Count, Section, Seeds, distinct

Dataset = Literal["fashion-mnist-embedded", "mnist-embedded", "fashion-mnist", "mnist", "cifar10", "cifar100"]


def subset_sizes(total: int, rate: float, length: int) -> list[int]:
    """|D_k| = r^k |D_0|, rounded, for k = 0 … length-1."""
    return [round(rate**k * total) for k in range(length)]


class Downsize(Section):
    """The source task, the downstream task, and the draws of D_0."""

    dataset: Dataset
    source_classes: Classes
    downstream_dataset: Dataset
    downstream_classes: Classes
    source_images: Count
    validation_images: Count
    headroom_images: Annotated[tuple[Count, ...], AfterValidator(distinct)]
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
