"""Downsizing: nested, stratified subsets D_0 ⊃ D_1 ⊃ … ⊃ D_{S-1} (paper, Sec. 3)."""

import torch
from torch import Tensor

from know.data.options import subset_sizes


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random order of the indices of ``labels`` (N,) whose every prefix is class-balanced.

    The j-th of the n_c samples of class c, in random order, gets the key (j + ½)/n_c; sorting by that key makes each
    class's share of any prefix its share of the whole, to within one sample. Nested subsets are then just prefixes.
    """
    labels = labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    keys = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = labels[shuffled] == label
        count = int(members.sum())
        keys[members] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return shuffled[keys.argsort(stable=True)]


def nested_subsets(order: Tensor, rate: float, length: int) -> list[Tensor]:
    """D_0 ⊃ … ⊃ D_{length-1}: prefixes of ``order`` (N,), which is D_0, of r^k N indices each."""
    return [order[:size] for size in subset_sizes(len(order), rate, length)]
