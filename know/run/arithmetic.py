"""The same numbers from every x86-64 processor with AVX2, Intel's or AMD's: libraries choose their code by the processor, code of
other vectors adds in another order, and a forgetting run makes tenths of a point of a last bit.

Each library reads its variable when it first computes (NumPy and its BLAS: when they are loaded), so this module comes with all
that computes a run, and with what starts a process for it. Who sets a variable keeps it: ``ATEN_CPU_CAPABILITY=avx512
ONEDNN_MAX_CPU_ISA=DEFAULT`` is a quarter faster where there is AVX-512, and gives numbers of its own.
"""

import os
import platform

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # which its AVX2 is not, between vendors
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR",
}

if platform.machine() in ("x86_64", "AMD64"):
    for name, value in AVX2.items():
        os.environ.setdefault(name, value)
