"""Prediction from checkpoint files to a file, in memory that does not grow with the model."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from know.paths import atomic
from know.prediction.engine import PIECE, Predictor, extrapolate, narrowed, pointwise_of
from know.weights.files import ALL, STORABLE, UNFOLD, Checkpoint, CheckpointError, Choice, Writer, check_names
from know.weights.kinds import TensorKind, kinds_of


def predict_files(
    files: Sequence[Path],
    out: Path,
    predictor: Predictor,
    steps: int = 1,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    overrides: Sequence[tuple[str, TensorKind]] = (),
    progress: bool = False,
    choice: Choice = ALL,
    unfold: float = UNFOLD,
) -> None:
    """Write Θ̂_{-steps}, predicted from checkpoints, as safetensors; the memory it takes does not grow with the model.

    Equal to ``retrodict`` on the same weights. The file appears when it is complete; on failure, whatever was there stays.

    Args:
        files: S checkpoints, most forgotten first, Θ_0 last.
        out: gets Θ_0's keys and shapes; buffers are Θ_0's. Its folder must exist.
        device: where to compute; the CPU by default.
        dtype: of all floating-point tensors in ``out``; by default each one's in Θ_0.
        overrides: of the kinds of tensors; see ``kinds_of``.
        progress: show a bar on the terminal.
        choice: which tensors of the files are the weights, if they are training states.
        unfold: how many times its size a file's tensors may take.

    Raises:
        CheckpointError: a file cannot be used or written.
        ValueError: see ``engine.extrapolate``.
    """
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: its folder does not exist")
    if out.exists() and not out.is_file():
        raise CheckpointError(f"{out}: exists and is not a file")
    with ExitStack() as stack:
        trajectory = [stack.enter_context(Checkpoint(path, choice, unfold)) for path in files]
        theta_0 = trajectory[-1]
        check_names(theta_0.path, list(theta_0.tensors))
        kinds = kinds_of(theta_0.tensors, overrides, pointwise_of(predictor))
        dtypes = {
            name: dtype if dtype and tensor.is_floating_point() else tensor.dtype
            for name, tensor in theta_0.tensors.items()
        }
        for name, of in dtypes.items():
            if of not in STORABLE:
                raise CheckpointError(f"{theta_0.label}: {name}: safetensors cannot hold {of}; choose another --dtype")
        try:
            with atomic(out) as temporary, Writer(temporary, theta_0.tensors, dtypes, theta_0.metadata) as writer:
                for name in (name for name, kind in kinds.items() if kind == "buffer"):
                    for start in range(0, count := theta_0.tensors[name].numel(), PIECE):
                        values = theta_0.read(name, start, min(start + PIECE, count))
                        writer.write(name, start, narrowed(name, values, dtypes[name]))
                extrapolate(
                    trajectory, {name: kind for name, kind in kinds.items() if kind != "buffer"}, predictor, steps,
                    lambda name, start, predicted: writer.write(name, start, predicted[-1]),
                    device=device or torch.device("cpu"), dtype=dtype, progress=out.name if progress else None,
                )  # fmt: skip
        except OSError as error:
            raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from None
