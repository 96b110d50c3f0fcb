"""What a start is worth on the source task, measured once however often it is made."""

from __future__ import annotations

from dataclasses import dataclass

from safetensors.torch import load_file

from know.run.device import here
from know.run.store import FileInput
from know.tasks.measures import Outcome, outcome
from know.training.runs import SourceJob


@dataclass(frozen=True)
class SourceTest:
    """Measuring the network of ``source`` with these ``weights`` on the source task's test images."""

    source: SourceJob
    weights: FileInput


def source_test(job: SourceTest) -> Outcome:
    """Accuracy, loss and calibration before any fine-tuning."""
    return outcome(job.source.net(load_file(job.weights.path)), job.source.task.test(here()))
