"""State dicts as vectors, so that a formula of weights reads like one: ``2 * theta_0 - predicted``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from know.weights.kinds import Kind, State, TensorKind, kinds_of, ties


class Weights:
    """The weights of a state dict, all but its buffers, as a vector: sums, multiples, inner products.

    Arithmetic is in float64 where a tensor is, else in float32, so that half precision rounds once, at the end. ``state()``
    gives a state dict again; its buffers, dtypes and ties are those of the first operand: Θ_0's in ``theta_0 + noise``.
    """

    __array_ufunc__ = None  # so that NumPy's numbers leave products to this class

    def __init__(self, state: Mapping[str, Tensor], kinds: Mapping[str, TensorKind] | None = None) -> None:
        """``kinds``: of each tensor, if not ``kinds_of(state)``."""
        self.like = state
        found = kinds if kinds is not None else kinds_of(state)
        self.kinds: dict[str, Kind] = {name: kind for name, kind in found.items() if kind != "buffer"}
        self.values = {name: _wide(state[name].detach()) for name in self.kinds}

    def _with(self, values: dict[str, Tensor]) -> Weights:
        new = object.__new__(Weights)
        new.like, new.values, new.kinds = self.like, values, {name: self.kinds[name] for name in values}
        return new

    def _map(self, function: Callable[..., Tensor], *others: Weights) -> Weights:
        return self._with({n: function(value, *(o.values[n] for o in others)) for n, value in self.values.items()})

    def __add__(self, other: Weights) -> Weights:
        return self._map(torch.add, other)

    def __sub__(self, other: Weights) -> Weights:
        return self._map(torch.sub, other)

    def __neg__(self) -> Weights:
        return -1 * self

    def __mul__(self, factor: float) -> Weights:
        return self._map(lambda value: factor * value)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Weights:
        return self * (1 / divisor)

    def dot(self, other: Weights) -> float:
        """The inner product; what is tied counts once."""
        names = self._once()
        return torch.dot(self._flat(names), other._flat(names)).item()

    def norm(self) -> float:
        """The Euclidean norm."""
        return self.flat().norm().item()

    def cosine(self, other: Weights) -> float:
        """Of the angle to ``other``; NaN if either is 0."""
        product = self.norm() * other.norm()
        return self.dot(other) / product if product > 0 else float("nan")

    def flat(self) -> Tensor:
        """All weights in one, float64 (n,), on the CPU, in the order of their names; what is tied only once."""
        return self._flat(self._once())

    def _flat(self, names: Sequence[str]) -> Tensor:
        parts = [self.values[name].to("cpu", torch.float64).flatten() for name in names]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def _once(self) -> list[str]:
        tied = ties(self.like)
        return [name for name in self.kinds if tied.get(name) not in self.kinds]

    def unflat(self, vector: Tensor) -> Weights:
        """The weights that ``flat()`` makes this vector (n,) of."""
        names, tied = self._once(), ties(self.like)
        parts = dict(zip(names, vector.split([self.values[name].numel() for name in names]), strict=True))
        return self._with({n: parts[n if n in parts else tied[n]].view_as(v).to(v) for n, v in self.values.items()})

    def of(self, names: Collection[str]) -> Weights:
        """The weights of these tensors alone."""
        return self._with({n: value for n, value in self.values.items() if n in names})

    def by_kind(self) -> dict[Kind, Weights]:
        """The weights of each kind alone."""
        kinds = dict.fromkeys(self.kinds.values())
        return {kind: self.of({name for name, own in self.kinds.items() if own == kind}) for kind in kinds}

    def scaled_to(self, other: Weights) -> Weights:
        """Its direction in each kind, with the norm that ``other`` has there: (‖other‖/‖self‖) · self."""
        factors = {kind: part.norm() for kind, part in other.by_kind().items()}
        factors = {kind: factors[kind] / (part.norm() or 1.0) for kind, part in self.by_kind().items()}
        return self._with({name: factors[kind] * self.values[name] for name, kind in self.kinds.items()})

    def scaled_each_to(self, other: Weights, by_filter: bool = False) -> Weights:
        """Each tensor's direction with the norm that it has in ``other``; ``by_filter``: each filter's, a row of a matrix or
        an output channel of a convolution (vectors are scaled as a whole in any case)."""

        def scaled(own: Tensor, wanted: Tensor) -> Tensor:
            dims = tuple(range(1, own.ndim)) if by_filter and own.ndim > 1 else tuple(range(own.ndim))
            norms = [torch.linalg.vector_norm(one, dim=dims, keepdim=True) for one in (own, wanted)]
            return own * (norms[1] / norms[0].where(norms[0] > 0, 1.0))

        return self._map(scaled, other)

    def noise(self, seed: int) -> Weights:
        """Standard normal numbers in its place, the same on every device."""
        return self.unflat(torch.randn(len(self.flat()), generator=torch.Generator().manual_seed(seed)))

    def state(self) -> State:
        """A state dict like the one that it came from: the weights in its dtypes, and copies of its buffers."""
        tied, state = ties(self.like), State()
        for name, tensor in self.like.items():
            fresh = self.values[name].to(tensor.dtype, copy=True) if name in self.values else tensor.detach().clone()
            state[name] = state[tied[name]] if name in tied else fresh
        return state


def mean(every: Sequence[Weights]) -> Weights:
    """The mean of weights, of which there is at least one."""
    return reduce(add, every) / len(every)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
