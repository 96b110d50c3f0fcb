"""The numbers that targets are written in. This module imports no torch."""

VOID = 255
"""A pixel of a mask, uint8, of which nothing is asked."""
IGNORED = -100
"""The same in a batch's targets, int64: what PyTorch's losses leave out by default."""

PAD, START, END, UNKNOWN = range(4)
"""The first tokens of every vocabulary; what follows ``END`` is ``PAD``."""
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
