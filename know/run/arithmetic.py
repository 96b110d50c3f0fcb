"""The same numbers from every x86-64 processor with AVX2, Intel's or AMD's: libraries choose their code by the processor, code of
other vectors adds in another order, and a forgetting run makes tenths of a point of a last bit.

PyTorch, oneDNN and MKL read their variables when they first compute, NumPy and its BLAS when they are loaded. Whoever starts
processes that compute imports this, and they inherit the variables. Who sets one keeps it: ``ATEN_CPU_CAPABILITY=avx512
ONEDNN_MAX_CPU_ISA=DEFAULT`` is a quarter faster where there is AVX-512, and gives numbers of its own. On Linux; elsewhere
libraries are left alone.
"""

import os
import platform
from pathlib import Path

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # which its AVX2 is not, between vendors
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR",
}


def _there() -> bool:
    """Whether the processor has AVX2: PyTorch would not ask again."""
    told = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and told.exists() and " avx2 " in told.read_text()


ASKED = AVX2 if _there() else {}
for name, value in ASKED.items():
    os.environ.setdefault(name, value)


def changed() -> list[str]:
    """The variables that are not as they were asked for here, in words."""
    return [f" {name}={os.environ.get(name)}" for name, value in ASKED.items() if os.environ.get(name) != value]
