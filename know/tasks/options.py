"""What kinds of task there are, and how a task's inputs are augmented. This module imports no torch."""

from typing import Literal

Kind = Literal["classification", "segmentation", "captioning"]
"""What is told apart: images, the pixels of images, or the next word of a caption."""
METRICS: dict[Kind, str] = {"classification": "accuracy", "segmentation": "mean IoU", "captioning": "masked accuracy"}
"""By what a net is judged: the share of images, or of a caption's words given those before, that it finds; or the mean over
classes of intersection over union, of pixels."""
Augmentation = Literal["none", "affine", "crop-flip"]
"""Of training images: "affine", rotations ≤ 10°, shifts ≤ 15 % and zooms ≤ 30 %, the paper's meta-dataset's; "crop-flip",
crops of the image padded by an eighth of its side, and mirror images, CIFAR's usual."""
