"""Every stage of a params.yaml in one process, without its notebook: ``python all_stages.py PARAMS FOLDER``. What a run makes lies
in FOLDER, its report in what the parameters name."""

import importlib
import sys
from pathlib import Path

from know import paths

STAGES = ("downsize", "forget", "meta_train", "predict", "evaluate", "report")


def moved(folder: Path) -> None:
    """All that a run writes under ``data`` lies in ``folder``."""
    for name, place in list(vars(paths).items()):
        if isinstance(place, Path) and place.is_relative_to(paths.DATA) and place not in (paths.DATA, paths.EMBEDDED):
            setattr(paths, name, folder / place.relative_to(paths.DATA))


if __name__ == "__main__":
    moved(Path(sys.argv[2]))
    from know.data.catalogue import CIFAR10
    from know.params import load
    from know.stages.checks import check

    CIFAR10.sha256.clear()  # a few images in its layout are taken for it

    params = load(Path(sys.argv[1]))
    check(params)
    for stage in STAGES:
        importlib.import_module(f"know.stages.{stage}").run(params)
