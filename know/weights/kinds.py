"""What the tensors of a state dict are: which kind of weight, which of them are one, which match another's names.

A state dict has names and shapes but no modules, so its kinds follow from these two alone. Where the rule cannot know
better, overrides by glob pattern can: ``--kind 'PATTERN=KIND'`` on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

from torch import Tensor

State = dict[str, Tensor]
Kind = Literal["conv", "fc", "bias"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TensorKind = Kind | Literal["buffer"]
"""conv, fc and bias are extrapolated, each by its own predictor; a buffer is Θ_0's."""
Pointwise = Literal["conv", "fc"]
"""What a 1×1 convolution is: "conv", as the paper's released code predicts it, or "fc", where its published meta-dataset
files it. A hyper-model must predict what it has learned, so this is one of its properties."""
TENSOR_KINDS: tuple[TensorKind, ...] = (*get_args(Kind), "buffer")

# Floating-point buffers of well-known layers: BatchNorm's statistics, spectral norm's power iteration, rotary frequencies.
FLOAT_BUFFERS = {"running_mean", "running_var", "_u", "_v", "weight_u", "inv_freq"}
# PyTorch's layers call a kernel or matrix ``weight``, ``in_proj_weight``, ``weight_ih_l0``; weight norm splits it into a
# direction, ``weight_v`` or ``original1``, and one gain a channel, ``weight_g`` or ``original0``, which is no kernel.
LAYER_WEIGHT = re.compile(r"(^|[._])weight(_(?!g$)\w+)?$|\.weight\.original1?$")
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def kinds_of(
    state: Mapping[str, Tensor], overrides: Sequence[tuple[str, TensorKind]] = (), pointwise: Pointwise = "conv"
) -> dict[str, TensorKind]:
    """The kind of each tensor: the one place where it is decided.

    Follows the paper's released code (kernels to Conv, matrices to FC, the rest to Bias) where that decides, and
    extends it to what the paper's networks do not have. The first line that applies holds:

    ========================================================================  =======
    integers, booleans, complex numbers; running statistics, spectral norm's  buffer
    vectors and rotary frequencies, by their names
    at most one dimension: biases, gains of normalisation layers, scalars;    bias
    named ``bias``; of the shape of its layer's bias (LayerNorm over several
    dimensions)
    a layer's weight (its name says so) with two dimensions: linear,          fc
    embedding, attention and recurrent matrices
    a layer's weight with more: convolutions of 1, 2 or 3 dimensions,         conv
    depthwise and transposed ones too; if all their sides are 1, what
    ``pointwise`` says
    a parameter of a module's own, by how many dimensions exceed 1: up to     bias
    one (class token (1, 1, D), layer scale (C, 1, 1))
    two or three (position embedding (1, N, D): a table of N vectors, like    fc
    an embedding; stacked matrices (experts, in, out))
    four or more (kernels of home-made convolutions)                          conv
    ========================================================================  =======

    A state dict cannot tell a home-made floating-point buffer from a parameter, nor ``nn.Bilinear`` from a
    convolution: those need an override. With the module at hand, ``[(n, "buffer") for n, _ in net.named_buffers()]``
    names all buffers. Tied tensors have the kind of the first.

    Args:
        overrides: (glob pattern, kind); the last one that matches a name, with or without its wrapper's prefix, holds.

    Raises:
        ValueError: a pattern matches nothing, or a kind does not exist or would extrapolate integers.
    """
    kinds: dict[str, TensorKind] = {}
    tied = ties(state)
    used = [False] * len(overrides)
    for name, tensor in state.items():
        first = tied.get(name, name)
        kinds[name] = kind_of(first, tensor, state.get(re.sub(r"[^.]*$", "bias", first, count=1)), pointwise)
        for i, (pattern, kind) in enumerate(overrides):
            if kind not in TENSOR_KINDS:
                raise ValueError(f"kind of {pattern!r}: got {kind!r}; allowed: {', '.join(TENSOR_KINDS)}")
            if fnmatchcase(name, pattern) or fnmatchcase(bare_name(name), pattern):
                if kind != "buffer" and not tensor.is_floating_point():
                    raise ValueError(f"{name}: {tensor.dtype} cannot be extrapolated as {kind!r} ({pattern}={kind})")
                kinds[name], used[i] = kind, True
    if unused := [pattern for (pattern, _), hit in zip(overrides, used, strict=True) if not hit]:
        raise ValueError(f"kind of {unused[0]!r}: no tensor has a name that matches")
    return kinds


def kind_of(name: str, tensor: Tensor, bias: Tensor | None = None, pointwise: Pointwise = "conv") -> TensorKind:
    """``kinds_of`` for one tensor, whose layer's bias is ``bias``."""
    leaf = name.rpartition(".")[2]
    if not tensor.is_floating_point() or leaf in FLOAT_BUFFERS:
        return "buffer"
    if tensor.ndim <= 1 or leaf == "bias" or (bias is not None and bias.shape == tensor.shape):
        return "bias"
    if LAYER_WEIGHT.search(name):
        if tensor.ndim == 2:
            return "fc"
        return pointwise if all(side == 1 for side in tensor.shape[2:]) else "conv"
    extended = sum(size > 1 for size in tensor.shape)
    return "bias" if extended <= 1 else "fc" if extended <= 3 else "conv"


def parse_overrides(texts: Iterable[str]) -> list[tuple[str, TensorKind]]:
    """``PATTERN=KIND`` from the command line.

    Raises:
        ValueError: one is of another form.
    """
    overrides: list[tuple[str, TensorKind]] = []
    for text in texts:
        pattern, _, given = text.rpartition("=")
        kind = next((kind for kind in TENSOR_KINDS if kind == given), None)
        if not pattern or kind is None:
            raise ValueError(f"--kind: got {text!r}; allowed: PATTERN=KIND with KIND one of {', '.join(TENSOR_KINDS)}")
        overrides.append((pattern, kind))
    return overrides


def bare_name(name: str) -> str:
    """A tensor's name without what ``DataParallel`` (``module.`` in front), ``torch.compile`` (``_orig_mod.``
    anywhere), FSDP and activation checkpointing add to it."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def matched_names(own: Collection[str], other: Collection[str]) -> dict[str, str]:
    """For each name in ``own``, in its order, the same tensor's name in ``other``, which may be wrapped differently.

    Raises:
        ValueError: a name of one has no counterpart in the other; names it.
    """
    there = {bare_name(name): name for name in other}
    here = {bare_name(name): name for name in own}
    if set(own) == set(other) or len(there) < len(other) or len(here) < len(own):  # same, or bare names are ambiguous
        there, here = ({name: name for name in names} for names in (other, own))
    lacking = [here[bare] for bare in here if bare not in there] + [there[bare] for bare in there if bare not in here]
    if lacking:
        raise ValueError(f"the states of a trajectory must have the same tensors; {lacking[0]!r} is not in all")
    return {name: there[bare] for bare, name in here.items()}


def ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors that are another's memory, seen alike (an output matrix tied to the embedding): name → the first's."""
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        if tensor.data_ptr() == 0:  # empty, or on the meta device
            continue
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset())  # on the meta device there is no address
        view = (place, tensor.dtype, tensor.shape, tensor.stride())
        if (earlier := first.setdefault(view, name)) != name:
            tied[name] = earlier
    return tied
