"""Prediction from checkpoint files to files, in memory that does not grow with the model."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from know.paths import atomic
from know.prediction.engine import PIECE, Predictor, extrapolate, narrowed, pointwise_of
from know.weights.files import ALL, STORABLE, UNFOLD, Checkpoint, CheckpointError, Choice, Writer, check_names
from know.weights.folders import FolderWriter, copy_companions
from know.weights.kinds import TensorKind, bare_name, kinds_of
from know.weights.marks import unmarked


@dataclass(frozen=True)
class Target:
    """Where a prediction goes: a safetensors file, or with ``shard_size``, in bytes, a folder of such files."""

    path: Path
    shard_size: int | None = None

    def check(self) -> None:
        """That it can be written. Raises CheckpointError."""
        if not self.path.parent.is_dir():
            raise CheckpointError(f"{self.path}: its folder does not exist")
        if self.shard_size is None and self.path.exists() and not self.path.is_file():
            raise CheckpointError(f"{self.path}: exists and is not a file")
        if self.shard_size is not None and self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path}: exists and is not a folder")


def scales_of(names: Sequence[str], scales: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The factor of each tensor's step: the last pattern holds that matches a name, with or without its wrapper's prefix.

    Raises:
        ValueError: a pattern matches nothing.
    """
    found: dict[str, float] = {}
    for pattern, scale in scales:
        matching = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(bare_name(name), pattern)]
        if not matching:
            raise ValueError(f"scale of {pattern!r}: no tensor has a name that matches")
        found |= dict.fromkeys(matching, scale)
    return found


def predict_files(
    files: Sequence[Path],
    out: Path | Mapping[int, Target],
    predictor: Predictor,
    steps: int = 1,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    overrides: Sequence[tuple[str, TensorKind]] = (),
    progress: bool = False,
    choice: Choice = ALL,
    unfold: float = UNFOLD,
    scales: Sequence[tuple[str, float]] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write Θ̂_{-steps}, predicted from checkpoints, as safetensors; the memory it takes does not grow with the model.

    Equal to ``retrodict`` with ``compiled`` on the same weights. What is written appears when it is complete; on failure, whatever was
    there stays.

    Args:
        files: S checkpoints, most forgotten first, Θ_0 last.
        out: gets Θ_0's keys and shapes; buffers are Θ_0's. Its folder must exist. Or a target for each of several steps, of
            which the largest is then ``steps``.
        device: where to compute; the CPU by default.
        dtype: of all floating-point tensors in ``out``; by default each one's in Θ_0.
        overrides: of the kinds of tensors; see ``kinds_of``.
        progress: show a bar on the terminal.
        choice: which tensors of the files are the weights, if they are training states.
        unfold: how many times its size a file's tensors may take.
        scales: (glob pattern, c): of these tensors, Θ_0 + c·(Θ̂ - Θ_0) is written.
        metadata: of what is written, beside Θ_0's own.

    Raises:
        CheckpointError: a file cannot be used or written.
        ValueError: see ``engine.extrapolate``, ``scales_of``.
    """
    targets = out if isinstance(out, Mapping) else {steps: Target(out)}
    place = device or torch.device("cpu")
    for target in targets.values():
        target.check()
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
        described = unmarked(theta_0.metadata) | dict(metadata or {})
        try:
            writers: dict[int, Writer | FolderWriter] = {}
            for step, target in targets.items():
                temporary = stack.enter_context(atomic(target.path))
                writers[step] = _writer(temporary, target, theta_0, dtypes, described)
                stack.push(writers[step])
            for name in (name for name, kind in kinds.items() if kind == "buffer"):
                for start in range(0, count := theta_0.tensors[name].numel(), PIECE):
                    values = theta_0.read(name, start, min(start + PIECE, count))
                    for writer in writers.values():
                        writer.write(name, start, narrowed(name, values, dtypes[name]))

            def write(name: str, start: int, predicted: torch.Tensor) -> None:
                for step, writer in writers.items():
                    writer.write(name, start, predicted[step - 1])

            title = next(iter(targets.values())).path.name if progress else None
            extrapolate(
                trajectory, {name: kind for name, kind in kinds.items() if kind != "buffer"}, predictor, max(targets),
                write, device=place, dtype=dtype, progress=title, scales=scales_of(list(kinds), scales),
                compiled=place.type == "cpu",
            )  # fmt: skip
            stack.close()  # the renames are part of writing
        except OSError as error:
            first = next(iter(targets.values())).path
            raise CheckpointError(f"{first}: cannot be written: {error.strerror or error}") from None


def _writer(
    temporary: Path, target: Target, theta_0: Checkpoint, dtypes: Mapping[str, torch.dtype], metadata: Mapping[str, str]
) -> Writer | FolderWriter:
    if target.shard_size is None:
        return Writer(temporary, theta_0.tensors, dtypes, metadata)
    writer = FolderWriter(temporary, theta_0.tensors, dtypes, metadata, target.shard_size)
    if theta_0.path.is_dir():
        copy_companions(theta_0.path, temporary)
    return writer


def save_states(
    states: Mapping[int, Mapping[str, torch.Tensor]],
    targets: Mapping[int, Target],
    theta_0: Checkpoint,
    dtype: torch.dtype | None,
    metadata: Mapping[str, str],
) -> None:
    """Write whole states like Θ_0 to the targets of their steps. Arguments and errors as for ``predict_files``."""
    check_names(theta_0.path, list(theta_0.tensors))
    for step, target in targets.items():
        dtypes = {n: dtype if dtype and t.is_floating_point() else t.dtype for n, t in theta_0.tensors.items()}
        described = unmarked(theta_0.metadata) | dict(metadata)
        try:
            with atomic(target.path) as temporary, _writer(temporary, target, theta_0, dtypes, described) as writer:
                for name, tensor in states[step].items():
                    writer.write(name, 0, narrowed(name, tensor.reshape(-1), dtypes[name]))
        except OSError as error:
            raise CheckpointError(f"{target.path}: cannot be written: {error.strerror or error}") from None
