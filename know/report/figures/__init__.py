"""The figures, in one style: each function takes a tidy table and returns a matplotlib figure."""

from know.report.figures.results import ablations, gains, headroom, learning_curves, oracle, transfer
from know.report.figures.stages import downsizing, forgetting, learning, meta_validation, samples, schematic
from know.report.figures.style import (
    FAMILIES,
    METHOD_STYLE,
    REFERENCES,
    families,
    label,
    math_label,
    ordered,
    save,
    style_of,
    use_style,
    virtual,
)
from know.report.figures.weights import landscape, predictions, response, steps

__all__ = [
    "FAMILIES",
    "METHOD_STYLE",
    "REFERENCES",
    "ablations",
    "downsizing",
    "families",
    "forgetting",
    "gains",
    "headroom",
    "label",
    "landscape",
    "learning",
    "learning_curves",
    "math_label",
    "meta_validation",
    "oracle",
    "ordered",
    "predictions",
    "response",
    "samples",
    "save",
    "schematic",
    "steps",
    "style_of",
    "transfer",
    "use_style",
    "virtual",
]
