"""Run a stage of dvc.yaml: ``python -m know.stages forget``. What all would take: ``python -m know.stages --estimate``.

Its notebook is executed with the parameters that the stage declares, and no others. The pipeline's lock links what a
stage made to the dependencies as they are when it ends; so a stage whose dependencies changed while it ran fails.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from know import params, paths
from know.data.decoding import ImageError
from know.data.sources import DataError
from know.run.notebook import ANSI, NotebookError, run
from know.run.process import INTERRUPTED, behave
from know.run.progress import Watch
from know.stages.dependencies import changed, digests

TRAINING = ("forget", "meta_train", "predict", "evaluate")
"""The stages that may take hours."""


def run_stage(name: str, root: Path = paths.ROOT) -> None:
    """Run the stage of this name.

    Raises:
        ParamError: there is no such stage, or a parameter is wrong.
        NotebookError: a cell failed, or a dependency changed meanwhile.
    """
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"]
    if name not in stages:
        raise params.ParamError(f"stage: got {name!r}; allowed: {', '.join(stages)}")
    stage = stages[name]
    given = params.load()
    from know.stages.checks import check  # torch is loaded only once the parameters are right

    check(given)
    sections = params.sections(given, stage["params"])
    if name in TRAINING:
        _print(_estimate().announced(given, name))
    before = digests(root, stage["deps"])
    (notebook,) = (root / path for path in stage["deps"] if path.startswith("notebooks/"))
    with Watch(name):
        run(notebook, paths.BUILD / "notebooks" / notebook.name, sections)
    if name == "report":
        importlib.import_module("know.report.pages").render_all(given)  # late, for no other stage depends on it
    if different := changed(before, digests(root, stage["deps"])):
        raise NotebookError(
            f"{different[0]} changed while {name} ran, so its results are of neither state: run it again"
        )


def _estimate() -> Any:
    """The module that estimates: not imported above, for nothing that a stage makes depends on what that imports."""
    return importlib.import_module("know.stages.estimate")


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def main() -> int:
    behave()
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m know.stages")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("stage", nargs="?")
    what.add_argument("--estimate", action="store_true", help="print what all stages would take, and run none")
    arguments = parser.parse_args()
    try:
        if arguments.estimate:
            _print(_estimate().lines(params.load(), TRAINING))
        else:
            run_stage(arguments.stage)
    except (params.ParamError, NotebookError, DataError, ImageError, OSError) as error:
        message = str(error)
        print(message if sys.stderr.isatty() else ANSI.sub("", message), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the runs that are missing", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
