"""KNOWN for prediction as one compiled function, ``kernel.cpp``: built on first use, where there is a C++ compiler.

For Linux on x86-64 with AVX2. ``KNOW_KERNEL=0`` turns it off, ``CXX`` names the compiler. What was built lies in
``$XDG_CACHE_HOME/know``, by default ``~/.cache/know``, and may be removed at any time.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from know.paths import atomic

VARIABLE = "KNOW_KERNEL"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c++", "-")
COMPILERS = ("g++", "clang++", "c++")
PATIENCE = 120  # seconds; a compiler takes two


class Unavailable(Exception):
    """Why there is no kernel, in a line."""


class Kernel:
    """The residual of one KNOWN: a window (N, S) of the CPU, any strides, float32 or float64, to (N,) in float32.

    Args:
        streams: of each stream the matrices XZ, K, G and O of ``engine.Folded``, in float64.
        to_step: (1, 65), from both streams' outputs, its last column the bias.

    Raises:
        Unavailable: see ``library``.
    """

    def __init__(self, streams: Sequence[Sequence[Tensor]], to_step: Tensor) -> None:
        compiled = library()
        self._functions = {torch.float32: compiled.known_float, torch.float64: compiled.known_double}
        parts = []
        for xz, k, g, o in streams:  # without the row of ones; the base of the exponential is 2; the bias comes last
            parts += [xz[:-1], k / math.log(2), g, o[:, :8], o[:, 9:], o[:, 8:9]]
            parts[-3:] = [torch.cat(parts[-3:], 1)]
        self._matrices, self._to_step = torch.cat([part.flatten() for part in parts]).float(), to_step.flatten().float()

    def __call__(self, window: Tensor) -> Tensor:
        count, length = window.shape
        rows = window.T if window.stride(0) == 1 or count == 1 else window.T.contiguous()
        result = torch.empty(count)
        start, *others = (tensor.data_ptr() for tensor in (rows, self._matrices, self._to_step, result))
        self._functions[window.dtype](start, rows.stride(0), count, length, *others)  # without Python's lock
        return result.tanh_()


@cache
def library() -> ctypes.CDLL:
    """The compiled functions, from the cache or built now.

    Raises:
        Unavailable: there are none, so PyTorch's operations have to do.
    """
    if os.environ.get(VARIABLE) == "0":
        raise Unavailable(f"{VARIABLE}=0")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(f"not written for {sys.platform} on {platform.machine()}")
    try:
        path = _built()
        found = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        raise Unavailable(" ".join(str(error).split())[:200]) from None
    pointer, long = ctypes.c_void_p, ctypes.c_long
    for function in (found.known_float, found.known_double):
        function.argtypes, function.restype = [pointer, long, long, ctypes.c_int, pointer, pointer, pointer], None
    return found


def _built() -> Path:
    """The shared library of this source, compiler and processor; a file that is damaged, or of another, is built anew."""
    named, *options = shlex.split(os.environ.get("CXX", "")) or [""]
    compiler = next((found for name in ([named] if named else COMPILERS) if (found := shutil.which(name))), None)
    if compiler is None:
        raise Unavailable(f"no C++ compiler on the path: {named or ', '.join(COMPILERS)}")
    options += FLAGS
    source = (resources.files("know") / "prediction" / "kernel.cpp").read_bytes()
    is_now = Path(compiler).stat()  # not its version: to ask takes longer than a million predictions save
    described = (compiler, *options, is_now.st_size, is_now.st_mtime_ns)
    made_by = [source, _processor(), *(str(part).encode() for part in described)]
    key = hashlib.sha256(b"\0".join(made_by)).digest()
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "know" / f"kernel-{key.hex()[:16]}.so"
    if not _sound(path, key):
        with atomic(path) as temporary:
            _run([compiler, *options, "-o", str(temporary)], source)
            content = temporary.read_bytes()
            temporary.write_bytes(content + _seal(content, key))  # no loader reads beyond a file's sections
            temporary.chmod(0o700)
    return path


def _seal(content: bytes, key: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()


def _sound(path: Path, key: bytes) -> bool:
    """Whether a file is whole, was built for ``key``, and none but this user can have written it."""
    if not path.is_file() or (status := path.stat()).st_uid != os.getuid() or status.st_mode & 0o022:
        return False
    content = path.read_bytes()
    return content[-32:] == _seal(content[:-32], key)


def _processor() -> bytes:
    """What ``-march=native`` depends on: a home may be shared by machines."""
    lines = Path("/proc/cpuinfo").read_bytes().split(b"\n\n")[0].splitlines()
    told = (b"vendor", b"cpu family", b"model", b"stepping", b"flags")
    return b"\n".join(line for line in lines if line.startswith(told))


def _run(command: Sequence[str], given: bytes) -> None:
    """Run a compiler. Raises RuntimeError: it failed, and what it said."""
    done = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE)
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise RuntimeError(f"{command[0]}: {(said.partition('error: ')[2] or said).partition(chr(10))[0]}")
