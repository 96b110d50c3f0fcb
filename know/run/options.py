"""Where the work runs: the section ``compute``."""

from typing import Annotated, Literal

from pydantic import Field

from know.options import Count, Section


class Compute(Section):
    """Where the work runs. No result depends on ``jobs``, ``backend`` or ``address``.

    ``address``: of dask's scheduler, as ``tcp://host:8786``; none: a cluster is made on this machine, for the work alone.
    ``deterministic``: CUDA gives the same bits every time, at some cost; the CPU does in any case.
    ``compile``: nets are compiled by ``torch.compile`` before they are trained: minutes once, for large nets on a GPU.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    jobs: Literal["auto"] | Count
    backend: Literal["loky", "dask"]
    address: str | None = None
    deterministic: bool
    compile: bool = False
