"""Training Θ_0, forgetting and fine-tuning: the section ``forget`` and ``evaluate.fine_tuning``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from know.models.names import LIBRARY, Architecture, library_of
from know.options import Count, LearningRate, Section, Share
from know.tasks.options import Augmentation

Mode = Literal["sequential", "restart"]
WeightDecay = Annotated[float, Field(ge=0, le=1)]
"""AdamW's (Loshchilov & Hutter, 2019); 0 is Adam."""


class SourceTraining(Section):
    """Training Θ_0 until the validation loss has not improved for ``patience`` epochs; with 0 ``max_epochs`` it is what was pretrained."""

    max_epochs: Annotated[int, Field(ge=0)]
    patience: Count
    batch_size: Count
    lr: LearningRate
    weight_decay: WeightDecay = 0.0
    augment: Augmentation


class Forget(Section):
    """The forgetting runs: Θ_0 →D_1→ Θ_1 →D_2→ …

    ``must_fall``: the gate: mean source test accuracy must fall along the whole path, by this share or more in all, or nothing
    that follows is run; None: it is only reported. ``oracle``: whether a second path is made, that starts at the real Θ_{-1}.
    ``pretrained``: what training Θ_0 starts from: "library", the weights that the network's library has for it, or the path of a
    checkpoint, which may lack the head; None: fresh weights.
    """

    architecture: Architecture
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    mode: Mode
    must_fall: Share | None
    oracle: bool
    source: SourceTraining
    epochs: Count
    batch_size: Count
    lr: LearningRate
    weight_decay: WeightDecay = 0.0
    augment: Augmentation

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pretrained == LIBRARY and library_of(self.architecture) is None:
            raise ValueError(
                f"pretrained: got {LIBRARY}, but {self.architecture} is of none; allowed: null, the path of a checkpoint, or a"
                " network of timm's, torchvision's or smp's"
            )
        if not self.source.max_epochs and self.pretrained is None:
            raise ValueError("source.max_epochs: got 0; allowed: 1 or more, or 0 with what forget.pretrained names")
        return self


class FineTuning(Section):
    """The paper's two phases: what is new, the head, alone at ``head_lr``, then everything, by cosine from ``lr`` to 0."""

    head_epochs: Annotated[int, Field(ge=0)]
    head_lr: LearningRate
    epochs: Count
    lr: LearningRate
    batch_size: Count
    weight_decay: WeightDecay = 0.0
    augment: Augmentation
