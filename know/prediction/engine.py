"""Prediction at full speed: KNOWN folded into fewer operations, and whole models taken in pieces by a thread a core.

``know.prediction.known.KNOWN`` stays the plain module that this one is tested against; ``know.prediction.kernel``, the same
arithmetic in one compiled function, is used where ``compiled`` asks for it and there is a compiler.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from know.prediction.kernel import Kernel, Unavailable
from know.prediction.known import KNOWN, HyperModel, Stream
from know.prediction.predictors import Extrapolation, PathPredictor
from know.run.progress import track
from know.weights.kinds import Kind, Pointwise, matched_names

Predictor = Callable[..., Tensor]
"""Maps a window (N, S) and its kind to (N,); see ``know.prediction.predictors``."""


def pointwise_of(predictor: Predictor) -> Pointwise:
    """What 1×1 convolutions are to a predictor: its ``pointwise``, if it says; a hyper-model must."""
    found: Pointwise = getattr(predictor, "pointwise", "conv")
    return found


BLOCK = 2112
"""Scalars whose features, 1.8 MB in float32, stay in a core's L2 cache. Not a power of two: rows would meet in its sets."""
PIECE = 124 * BLOCK
"""Scalars that a thread reads, predicts and writes at a time: memory stays at some MB a thread."""


# --- KNOWN, folded ----------------------------------------------------------------------------------------------------


def _affine(linear: nn.Linear) -> Tensor:
    """A layer's matrix, its bias the last column, in float64."""
    return torch.cat([linear.weight.detach().cpu(), linear.bias.detach().cpu()[:, None]], 1).double()


def _fold(stream: Stream) -> list[Tensor]:
    """The matrices of one stream of m inputs, neighbouring linear maps multiplied out, biases as columns.

    Returns:
        XZ (73, m+1): inputs to x, and to z before its ReLU, with a last row that passes the constant 1 on. K and G
        (64, 9): z to rate and gain. O (32, 73): z and gain·exp(rate·x) to the stream's output.
    """

    def after(second: Tensor, first: Tensor) -> Tensor:
        product = second[:, :-1] @ first
        product[:, -1] += second[:, -1]
        return product

    activation, x, outer = stream.activation, _affine(stream.inner), _affine(stream.outer)
    constant = torch.zeros_like(x[:1])
    constant[0, -1] = 1
    xz = torch.cat([x, after(_affine(activation.squeeze), x), constant])
    o = torch.cat([after(outer, _affine(activation.additive)), outer[:, :-1]], 1)
    return [xz, _affine(activation.rate), _affine(activation.gain), o]


class Folded:
    """``KNOWN.residual`` for prediction alone: the same function of a window, without gradients.

    What makes it fast: squeeze ∘ inner and outer ∘ additive are single matrices; biases and the concatenations are rows
    and columns of matrices; and all work happens in buffers, written anew for each block of scalars, that fit in a
    core's L2 cache. Features are rows and scalars columns, as they lie in checkpoints. Views are made once and
    operations are few, since between them threads wait for Python's lock. It has the weights that ``known`` had at the
    time of folding, and its precision.

    ``compiled``: on the CPU and in float32 by the ``Kernel`` instead, if there can be one; it differs in the last bits.
    """

    def __init__(self, known: KNOWN, compiled: bool = False) -> None:
        self.dtype = known.out.weight.dtype
        self._folded = [_fold(known.weights), _fold(known.differences), [_affine(known.out)]]
        self._placed: dict[torch.device, list[list[Tensor]]] = {}
        self._kernel: Kernel | None = None
        if compiled and self.dtype == torch.float32:
            with suppress(Unavailable):
                self._kernel = Kernel(self._folded[:2], self._folded[2][0])

    def _on(self, device: torch.device) -> list[list[Tensor]]:
        if device not in self._placed:
            self._placed[device] = [[matrix.to(self.dtype).to(device) for matrix in part] for part in self._folded]
        return self._placed[device]

    def __call__(self, window: Tensor) -> Tensor:
        """A window (N, S), any strides, to the residuals (N,)."""
        if self._kernel and window.device.type == "cpu":
            return self._kernel(window)
        count, length = window.shape
        w, d = (window.new_ones(rows, count, dtype=self.dtype) for rows in (length + 1, length))
        w[:-1] = window.T
        torch.sub(window.T[1:], window.T[:-1], out=d[:-1])  # before it is rounded to the network's precision
        result = window.new_empty(1, count, dtype=self.dtype)
        # in float64 half as many; a GPU wants work enough for all of its cores
        size = BLOCK * 4 // self.dtype.itemsize if window.device.type == "cpu" else PIECE
        whole = count - count % size
        for part in (slice(whole), slice(whole, count)):
            if part.stop > (part.start or 0):
                self._forward(w[:, part], d[:, part], result[:, part], min(size, count - (part.start or 0)))
        return result[0].tanh_()

    def _forward(self, w: Tensor, d: Tensor, result: Tensor, size: int) -> None:
        """In blocks of ``size`` columns, which divides their number."""
        first, second, (to_step,) = self._on(w.device)
        xze, y = w.new_empty(137, size), w.new_ones(65, size)
        x, z, e, xz, ze = xze[:64], xze[64:73], xze[73:], xze[:73], xze[64:]
        mm, streams = torch.mm, [(*first, y[:32]), (*second, y[32:64])]
        for *both, step in zip(w.split(size, 1), d.split(size, 1), result.split(size, 1), strict=True):
            for inputs, (to_xz, to_rate, to_gain, to_out, out) in zip(both, streams, strict=True):
                mm(to_xz, inputs, out=xz)
                z.relu_()
                mm(to_rate, z, out=e).mul_(x).exp_()
                mm(to_gain, z, out=x)  # x is free again
                e.mul_(x)
                mm(to_out, ze, out=out)
            mm(to_step, leaky_relu(y, 0.3, inplace=True), out=step)


def fast(predictor: Predictor, compiled: bool = False) -> Predictor:
    """A copy of a hyper-model, or of the one that a predictor holds, with its networks ``Folded``; other predictors as is."""
    model = getattr(predictor, "model", predictor)
    if not isinstance(model, HyperModel):
        return predictor
    model = copy.deepcopy(model)
    for network in [module for module in model.modules() if isinstance(module, KNOWN)]:
        vars(network)["residual"] = Folded(network, compiled)
    return model


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


def counterparts(theta: Source, theta_0: Source, predicted: Collection[str]) -> dict[str, str]:
    """For each of Θ_0's tensors the name that it has in ``theta``; those ``predicted`` have the same shape there.

    Raises:
        ValueError: there is none; names the state and the tensor.
    """
    try:
        names = matched_names(theta_0.tensors.keys(), theta.tensors.keys())
    except ValueError as error:
        raise ValueError(f"{theta.label}: {error}") from None
    for name in predicted:
        shape, wanted = theta.tensors[names[name]].shape, theta_0.tensors[name].shape
        if shape != wanted:
            shapes = f"{tuple(shape)} here, {tuple(wanted)} in {theta_0.label}"
            raise ValueError(
                f"{theta.label}: {names[name]}: shapes differ along the trajectory: {shapes}; of kind buffer, it is"
                f" copied from Θ_0: --kind '{name}=buffer'"
            )
    return names


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
    kinds: Mapping[str, Kind],
    predictor: Predictor,
    steps: int,
    write: Callable[[str, int, Tensor], None],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: str | None = None,
    scales: Mapping[str, float] | None = None,
    compiled: bool = False,
) -> None:
    """Predict ``steps`` steps past Θ_0, in pieces, a thread a core.

    Windows are float64 where a state's tensor is (but on MPS, which has none), else float32; a hyper-model computes its
    residuals in its own precision, float32. Predictions are fed back unrounded. As many threads work as torch has
    (``torch.set_num_threads``); the result does not depend on their number.

    Args:
        trajectory: S states, most forgotten first, Θ_0 last. Names may differ by what wrappers add; dtypes may differ.
        kinds: of those of Θ_0's tensors that are to be predicted.
        write: takes a tensor's name, where a piece starts in the flattened tensor, and the piece (steps, n), already in
            the dtype of the result. Called from several threads, in any order.
        device: where to compute; by default where Θ_0's tensor is.
        dtype: of the result; by default that of Θ_0's tensor.
        progress: the progress bar's title; none by default.
        scales: of some tensors, c in Θ_0 + c·(Θ̂ - Θ_0), which is written instead of Θ̂; it is not what is fed back.
        compiled: KNOWN's networks by the compiled kernel, where there can be one, on the CPU; see ``Folded``.

    Raises:
        ValueError: the states do not fit together, a weight or a prediction is NaN or infinite, or a prediction
            exceeds the range of the result's dtype; names the tensor, and the state if it is at fault.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    length, theta_0, predict = len(trajectory), trajectory[-1], fast(predictor, compiled)
    named = [(theta, counterparts(theta, theta_0, kinds)) for theta in trajectory]
    whole = isinstance(predictor, PathPredictor) and predictor.whole_tensors
    direct = isinstance(predictor, Extrapolation) and predictor.direct

    @torch.inference_mode()
    def work(task: tuple[str, int, int]) -> None:
        name, start, stop = task
        tensor = theta_0.tensors[name]
        place = device or tensor.device
        double = any(theta.tensors[names[name]].dtype == torch.float64 for theta, names in named)
        precision = torch.float64 if double and place.type != "mps" else torch.float32
        path = torch.empty(length + steps, *(tensor.shape if whole else [stop - start]), dtype=precision, device=place)
        for point, (theta, names) in zip(path, named, strict=False):
            point.view(-1).copy_(theta.read(names[name], start, stop))
            if not point.isfinite().all():
                raise ValueError(f"{theta.label}: {names[name]}: holds NaN or Inf")
        for step in range(steps):
            window = path[0 if direct else step :][:length].movedim(0, -1)
            ahead = (step + 1,) if direct else ()
            path[length + step] = predict(window, kinds[name], *ahead)
        predicted = path[length:].view(steps, -1)
        if scales and (scale := scales.get(name, 1.0)) != 1:
            predicted = torch.lerp(path[length - 1].view(-1), predicted, scale)
        if not predicted.isfinite().all():
            raise ValueError(f"{name}: the prediction is not finite: weights too large for this method")
        write(name, start, narrowed(name, predicted, dtype or tensor.dtype))

    tasks: list[tuple[str, int, int]] = []
    for name in kinds:
        count = theta_0.tensors[name].numel()
        piece = max(count, 1) if whole else PIECE
        tasks += [(name, start, min(start + piece, count)) for start in range(0, count, piece)]
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
