"""Training Θ_0, forgetting and fine-tuning: the section ``forget`` and ``evaluate.fine_tuning``."""

from typing import Annotated, Literal

from pydantic import Field

from know.models.names import Architecture
from know.options import Count, LearningRate, Section, Share
from know.tasks.options import Augmentation

Mode = Literal["sequential", "restart"]


class SourceTraining(Section):
    """Training Θ_0 until the validation loss has not improved for ``patience`` epochs."""

    max_epochs: Count
    patience: Count
    batch_size: Count
    lr: LearningRate
    augment: Augmentation


class Forget(Section):
    """The forgetting runs: Θ_0 →D_1→ Θ_1 →D_2→ …

    ``must_fall``: the gate: mean source test accuracy must fall along the whole path, by this share or more in all, or nothing
    that follows is run; None: it is only reported. ``oracle``: whether a second path is made, that starts at the real Θ_{-1}.
    """

    architecture: Architecture
    mode: Mode
    must_fall: Share | None
    oracle: bool
    source: SourceTraining
    epochs: Count
    batch_size: Count
    lr: LearningRate
    augment: Augmentation


class FineTuning(Section):
    """The paper's two phases: the head alone at ``head_lr``, then everything, by cosine from ``lr`` to 0."""

    head_epochs: Annotated[int, Field(ge=0)]
    head_lr: LearningRate
    epochs: Count
    lr: LearningRate
    batch_size: Count
    augment: Augmentation
