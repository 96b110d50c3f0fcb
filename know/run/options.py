"""Where the work runs: the section ``compute``."""

from typing import Annotated, Literal

from pydantic import Field

from know.options import Count, Section


class Compute(Section):
    """Where the work runs. No result depends on ``jobs`` or ``backend``.

    ``deterministic``: CUDA gives the same bits every time, at some cost; the CPU does in any case.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    jobs: Literal["auto"] | Count
    backend: Literal["loky", "dask", "ray"]
    deterministic: bool
