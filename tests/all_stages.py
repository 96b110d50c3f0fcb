"""Every stage of several experiments in one process, without the notebooks: ``python all_stages.py FOLDER``, in which FOLDER/NAME/
params.yaml are the experiments. What one makes lies beside its parameters, its report in what they name, and why it failed in
``error.txt``."""

import importlib
import sys
import traceback
from pathlib import Path

from know import paths

STAGES = ("downsize", "forget", "meta_train", "predict", "evaluate", "report")
UNDER_DATA = {
    name: place.relative_to(paths.DATA)
    for name, place in vars(paths).items()
    if isinstance(place, Path) and place.is_relative_to(paths.DATA) and place not in (paths.DATA, paths.EMBEDDED)
}

if __name__ == "__main__":
    from know.data.catalogue import CIFAR10
    from know.params import load
    from know.stages.checks import check

    CIFAR10.sha256.clear()  # a few images in its layout are taken for it
    for file in sorted(Path(sys.argv[1]).glob("*/params.yaml")):
        for name, place in UNDER_DATA.items():
            setattr(paths, name, file.parent / "data" / place)
        try:
            check(params := load(file))
            for stage in STAGES:
                importlib.import_module(f"know.stages.{stage}").run(params)
        except Exception:
            file.with_name("error.txt").write_text(traceback.format_exc())
