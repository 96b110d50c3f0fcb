"""Where the work runs: the section ``compute``."""

from typing import Annotated, Literal

from pydantic import Field

from know.options import Count, Section


class Compute(Section):
    """Where the work runs. No result depends on ``jobs`` or ``backend``."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    jobs: Literal["auto"] | Count
    backend: Literal["loky", "dask", "ray"]
