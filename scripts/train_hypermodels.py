"""Make the hyper-models shipped in know/hypermodels, from nothing: the meta-dataset, the training, the model card.

    python scripts/train_hypermodels.py collect     # hours; continues where it was stopped, a run at a time
    python scripts/train_hypermodels.py train
    python scripts/train_hypermodels.py card [--compare DIR]

Everything is in scripts/hypermodels.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import BaseModel
from ruamel.yaml import YAML

from know import paths
from know.metatrain import collect, draw_runs
from know.params import Compute, MetaTrain

RECIPE = Path(__file__).with_name("hypermodels.yaml")


class RecipeFile(BaseModel):
    compute: Compute
    collect: MetaTrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["collect"])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--data", type=Path, default=paths.DATA / "hypermodels", help="where the meta-dataset is kept")
    options = parser.parse_args()
    recipe = RecipeFile.model_validate(YAML(typ="safe").load(options.recipe.read_text()))
    collect(draw_runs(recipe.collect), options.data, recipe.compute)


if __name__ == "__main__":
    main()
