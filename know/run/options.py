"""Where the work runs: the section ``compute``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from know.options import Count, Section


class Compute(Section):
    """Where the work runs. No result depends on ``jobs``, ``backend`` or ``address``.

    ``address``: of dask's scheduler, as ``tcp://host:8786``; none: a cluster is made on this machine, for the work alone.
    ``deterministic``: CUDA gives the same bits every time, at some cost, or an error where PyTorch has no kernel that does: of
    masks' loss, and of adaptive pooling as DeepLabV3+ has it. The CPU gives them in any case.
    ``processes``: that share each run of the stages ``forget`` and ``evaluate`` (``know.run.spread``): on CUDA, a GPU each. What
    they come to is one process's but for rounding (and dropout, and BatchNorm on the CPU), and is recorded apart.
    ``compile``: nets are compiled by ``torch.compile`` before they are trained: minutes once, for large nets on a GPU.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    jobs: Literal["auto"] | Count
    backend: Literal["loky", "dask"]
    address: str | None = None
    processes: Count = 1
    deterministic: bool
    compile: bool = False

    @model_validator(mode="after")
    def _a_device_each(self) -> Self:
        if self.processes > 1 and self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"processes: got {self.processes}; allowed: 1 with device = {self.device}, or device: auto, cpu or cuda"
            )
        return self

    @property
    def alone(self) -> Self:
        """The same, but each run is made by one process."""
        return self.model_copy(update={"processes": 1})
