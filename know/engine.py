"""Prediction at full speed: KNOWN folded into fewer operations, and whole models taken in pieces by a thread a core.

``know.hypermodel.KNOWN`` stays the plain module that this one is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from know.hypermodel import KNOWN, HyperModel, Kind, Stream
from know.progress import track

Predictor = Callable[[Tensor, Kind], Tensor]

PIECE = 1 << 18
"""Scalars that a thread reads, predicts and writes at a time: memory stays at some MB a thread."""


# --- KNOWN, folded ----------------------------------------------------------------------------------------------------


def _fold(stream: Stream, inputs: Tensor) -> tuple[Tensor, ...]:
    """The matrices of one stream, every bias a last column, neighbouring linear maps multiplied out.

    Args:
        inputs: (m, S), the linear map from the window to what the stream reads.

    Returns:
        X (64, S+1) and Z (9, S+1), window to x and to z before its ReLU; K and G (64, 9), z to rate and gain;
        O (32, 73), (gain·exp(rate·x), z) to the stream's output, with the additive term's way through z.
    """

    def affine(linear: torch.nn.Linear) -> Tensor:
        return torch.cat([linear.weight.detach().cpu(), linear.bias.detach().cpu()[:, None]], 1).double()

    def then(second: Tensor, first: Tensor) -> Tensor:
        product = second[:, :-1] @ first
        product[:, -1] += second[:, -1]
        return product

    activation, inner = stream.activation, affine(stream.inner)
    x = torch.cat([inner[:, :-1] @ inputs, inner[:, -1:]], 1)
    one = torch.zeros(1, x.shape[1], dtype=torch.float64)
    one[0, -1] = 1  # Z's last row passes the constant 1 on, which ReLU leaves alone
    z = torch.cat([then(affine(activation.squeeze), x), one])
    outer = affine(stream.outer)
    o = torch.cat([outer[:, :-1], then(outer, affine(activation.additive))], 1)
    return x, z, affine(activation.rate), affine(activation.gain), o


class Folded:
    """One KNOWN for prediction alone: the same function of a window (N, S), without gradients.

    What makes it fast: the differences are a linear map of the window, so that every stream starts from the window
    itself; squeeze ∘ input and outer ∘ additive are single matrices; the concatenation is a matrix of two halves; and
    all work happens in buffers, written anew for each block, that fit in a core's L2 cache. Features are rows and
    scalars columns, as they lie in checkpoints. The weights are those of ``known`` at the time of folding.
    """

    def __init__(self, known: KNOWN, device: torch.device, dtype: torch.dtype) -> None:
        def here(matrix: Tensor) -> Tensor:
            return matrix.to(dtype).to(device)

        self.history_length = known.history_length
        identity = torch.eye(known.history_length, dtype=torch.float64)
        self.streams = [
            [here(matrix) for matrix in _fold(stream, inputs)]
            for stream, inputs in ((known.weights, identity), (known.differences, identity.diff(dim=0)))
        ]
        self.out, self.bias = here(known.out.weight.detach()), known.out.bias.item()
        # 2,048 float32 columns are 1.4 MB of buffers; a GPU wants work enough for all of its cores
        self.block = (1 << 13) // dtype.itemsize if device.type == "cpu" else PIECE

    def __call__(self, window: Tensor) -> Tensor:
        """Windows (N, S), any strides, to the predicted weights (N,)."""
        count, length = window.shape
        if length != self.history_length:
            raise ValueError(f"expected a window of shape (N, {self.history_length}), got {tuple(window.shape)}")
        result, size = window.new_empty(count), min(self.block, count)
        w, x, u, y, r = (window.new_empty(rows * size) for rows in (length + 1, 64, 73, 64, 1))
        for start in range(0, count, self.block):
            columns = min(self.block, count - start)
            block = [buffer[: buffer.numel() // size * columns].view(-1, columns) for buffer in (w, x, u, y, r)]
            self._forward(window[start : start + columns].T, result[start : start + columns], *block)
        return result

    def _forward(self, window: Tensor, result: Tensor, w: Tensor, x: Tensor, u: Tensor, y: Tensor, r: Tensor) -> None:
        w[:-1], w[-1] = window, 1
        e, z = u[:64], u[64:]
        for (to_x, to_z, to_rate, to_gain, to_out), out in zip(self.streams, y.split(32), strict=True):
            torch.mm(to_z, w, out=z).relu_()
            torch.mm(to_x, w, out=x)
            torch.mm(to_rate, z, out=e).mul_(x).exp_()
            e.mul_(torch.mm(to_gain, z, out=x))  # x is free again
            torch.mm(to_out, u, out=out)
        torch.mm(self.out, torch.nn.functional.leaky_relu_(y, 0.3), out=r)
        torch.add(r.add_(self.bias).tanh_()[0], w[-2], out=result)


def fast(predictor: Predictor) -> Predictor:
    """A hyper-model's networks folded, for the device and the precision of the windows it is given; others as is."""
    if not isinstance(predictor, HyperModel):
        return predictor

    @cache
    def network(kind: Kind, device: torch.device, dtype: torch.dtype) -> Folded:
        return Folded(predictor.of(kind), device, dtype)

    return lambda window, kind: network(kind, window.device, window.dtype)(window)


# --- whole models -----------------------------------------------------------------------------------------------------


class Source(Protocol):
    """One state of a trajectory, read in pieces."""

    @property
    def label(self) -> str:
        """What errors call it."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Shapes and dtypes by name; the data may be elsewhere (``meta`` tensors)."""

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The flattened tensor's elements ``start`` to ``stop``."""


def check_alike(trajectory: Sequence[Source]) -> None:
    """All states have Θ_0's tensors, in Θ_0's shapes. Dtypes may differ.

    Raises:
        ValueError: they do not; names the state and the tensor.
    """
    theta_0 = trajectory[-1]
    for theta in trajectory[:-1]:
        for name in theta_0.tensors.keys() ^ theta.tensors.keys():
            has, lacks = (theta_0, theta) if name in theta_0.tensors else (theta, theta_0)
            raise ValueError(f"{lacks.label}: {name}: missing, but {has.label} has it")
        for name, tensor in theta_0.tensors.items():
            if theta.tensors[name].shape != tensor.shape:
                shapes = f"{tuple(theta.tensors[name].shape)} here, {tuple(tensor.shape)} in {theta_0.label}"
                raise ValueError(f"{theta.label}: {name}: shapes differ along the trajectory: {shapes}")


def narrowed(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in another dtype.

    Raises:
        ValueError: what was finite no longer is; names the tensor.
    """
    if dtype == values.dtype:
        return values
    result, wide = values.to(dtype), values if values.dtype == torch.float64 else values.float()
    if (result.to(wide.dtype).isfinite() < wide.isfinite()).any():
        raise ValueError(f"{name}: exceeds the range of {dtype}; choose a wider dtype")
    return result


def extrapolate(
    trajectory: Sequence[Source],
    kinds: Mapping[str, Kind | Literal["buffer"]],
    predictor: Predictor,
    steps: int,
    write: Callable[[str, int, Tensor], None],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> None:
    """Predict ``steps`` steps past Θ_0 for every tensor whose kind is not "buffer", in chunks, a thread a core.

    The arithmetic is in float32, and in float64 where Θ_0's tensor is (but not on MPS, which has none). Each step's
    prediction is fed back unrounded. As many threads work as torch has (``torch.set_num_threads``); the result does
    not depend on their number.

    Args:
        trajectory: S states, most forgotten first, Θ_0 last.
        kinds: for every tensor of Θ_0.
        write: takes a tensor's name, where a chunk starts in the flattened tensor, and the chunk (steps, n), already
            in the dtype of the result. Called from several threads, in any order.
        device: where to compute; by default where Θ_0's tensor is.
        dtype: of the result; by default that of Θ_0's tensor.
        progress: the progress bar's title; none by default.

    Raises:
        ValueError: the states do not fit together, a weight or a prediction is NaN or infinite, or a prediction
            exceeds the range of the result's dtype; names the tensor, and the state if it is at fault.
    """
    check_alike(trajectory)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    length, theta_0, predict = len(trajectory), trajectory[-1], fast(predictor)

    @torch.inference_mode()
    def work(task: tuple[str, int, int]) -> None:
        name, start, stop = task
        tensor = theta_0.tensors[name]
        place = device or tensor.device
        double = tensor.dtype == torch.float64 and place.type != "mps"
        path = torch.empty(length + steps, stop - start, dtype=torch.float64 if double else torch.float32, device=place)
        for row, theta in zip(path, trajectory, strict=False):
            row.copy_(theta.read(name, start, stop))
        if not path[:length].isfinite().all():
            bad = next(theta for row, theta in zip(path, trajectory, strict=False) if not row.isfinite().all())
            raise ValueError(f"{bad.label}: {name}: holds NaN or Inf")
        for step in range(steps):
            path[length + step] = predict(path[step : length + step].T, kinds[name])  # type: ignore[arg-type]
        predicted = path[length:]
        if not predicted.isfinite().all():
            raise ValueError(f"{name}: the prediction is not finite: weights too large for this method")
        write(name, start, narrowed(name, predicted, dtype or tensor.dtype))

    tasks = [
        (name, start, min(start + PIECE, tensor.numel()))
        for name, tensor in theta_0.tensors.items()
        if kinds[name] != "buffer"
        for start in range(0, tensor.numel(), PIECE)
    ]
    with _single_threaded_workers(None if device is None or device.type == "cpu" else 2) as pool:
        done = pool.map(work, tasks)
        for _ in done if progress is None else track(done, len(tasks), progress):
            pass


@contextmanager
def _single_threaded_workers(most: int | None) -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has (at most ``most``), in each of which torch has one.

    A new thread takes over the setting of whichever thread made it last, and MKL's is global: so it is put back.
    """
    threads = torch.get_num_threads()
    try:
        count = min(threads, most or threads)
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
