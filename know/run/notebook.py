"""Run a notebook as a stage: inject the named sections of ``params.yaml``, execute, keep a reproducible copy."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

import know.run.arithmetic  # noqa: F401 - for the kernel to inherit
from know import paths
from know.run.progress import NOTES

if TYPE_CHECKING:
    from nbformat import NotebookNode

ANSI = re.compile(r"\x1b\[[0-9;]*m")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
CELL_FILE = re.compile(r"\S*/ipykernel_\d+/\d+\.py")  # what warnings call a cell


class NotebookError(RuntimeError):
    """A cell failed. The message holds its traceback and says where the partial notebook is."""


class OwnKernel(AsyncKernelManager):
    """The kernel of this interpreter, whatever kernels are installed, on encrypted sockets where it knows them."""

    @default("kernel_spec_manager")
    def _look_nowhere(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    @default("transport_encryption")
    def _encrypt(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"


def run(notebook: Path, out: Path, sections: Mapping[str, object]) -> None:
    """Execute ``notebook`` with ``params = {…sections…}`` injected, and write the executed copy to ``out``.

    It runs in the repository's root, in this interpreter. Two runs of a deterministic notebook write the same bytes:
    times and random ids are removed. On failure ``out`` is untouched.

    Raises:
        NotebookError: a cell failed, or the kernel died; the partial notebook is in ``logs/``.
    """
    # Imported late, for they take seconds: a wrong parameter is reported before. jsonschema would compile a grammar of URLs, which
    # takes longer than all else and no notebook needs; it goes without if that cannot be imported.
    sys.modules.setdefault("rfc3987_syntax", cast(ModuleType, None))
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    _environment()
    with paths.atomic(out) as temporary:
        executed = temporary.with_name(f"{temporary.name}.ipynb")
        try:
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                {"params": dict(sections)},
                kernel_name="python3",
                language="python",
                kernel_manager_class=OwnKernel,
                cwd=str(paths.ROOT),
                progress_bar=False,
                log_output=False,
            )
            nbformat.write(reproducible(nbformat.read(executed, as_version=4)), temporary)
        except (PapermillExecutionError, DeadKernelError) as error:
            log = paths.LOGS / out.name
            log.parent.mkdir(parents=True, exist_ok=True)
            executed.replace(log)
            if isinstance(error, PapermillExecutionError):
                what, reason = "a cell failed", "\n".join(error.traceback) + "\n"
            else:
                what, reason = "the kernel died (out of memory?)", ""
            raise NotebookError(f"{reason}{notebook}: {what}; the partial notebook is {log}") from None
        finally:
            executed.unlink(missing_ok=True)


def _environment() -> None:
    """What the kernel inherits, besides ``arithmetic``: reproducible bytes, figures in the notebook, and bars out of it."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ.setdefault(NOTES, "")
    os.environ.pop("MPLBACKEND", None)  # another back end than the notebook's would swallow the figures


def reproducible(notebook: NotebookNode) -> NotebookNode:
    """Remove what differs between runs and places: papermill's and the kernel's metadata, times, random cell ids, addresses,
    where the environment and the repository are."""
    for key in ("papermill", "kernelspec", "language_info", "widgets"):
        notebook.metadata.pop(key, None)
    for i, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = f"injected-{i}"
        if "outputs" in cell:
            cell.outputs = _coalesced(cell.outputs)
        for output in cell.get("outputs", []):
            texts = [output] if "text" in output else [output["data"]] if "text/plain" in output.get("data", {}) else []
            for holder in texts:
                key = "text" if "text" in holder else "text/plain"
                text = ADDRESS.sub("", CELL_FILE.sub("cell", holder[key]))
                holder[key] = text.replace(sys.prefix, "…").replace(str(paths.ROOT), ".")
    return notebook


def _coalesced(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """With what was printed in one piece: how it was cut up is a matter of time."""
    found: list[NotebookNode] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream" and output.name == found[-1].name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found
