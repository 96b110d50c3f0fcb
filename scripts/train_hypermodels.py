"""Make the hyper-models shipped in know/prediction/hypermodels, from nothing: the meta-dataset, the training, the model card.

    python scripts/train_hypermodels.py             # all of it: hours, of which collecting is nearly all
    python scripts/train_hypermodels.py collect     # continues where it was stopped, a run at a time
    python scripts/train_hypermodels.py train       # every variant; the validation runs choose which is `default`
    python scripts/train_hypermodels.py card [--compare DIR]

Everything that can be set is in scripts/hypermodels.yaml. No number of the card is typed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from ruamel.yaml import YAML

from know import paths
from know.meta.hypermodels import errors, train_hypermodels
from know.meta.layout import ARRAYS, RunFile
from know.meta.options import KnownTraining, MetaTrain
from know.meta.runs import FileJob, RunSpec, draw_runs, split_runs, write_run
from know.options import Count, Section
from know.prediction.engine import Predictor
from know.prediction.known import HyperModel, Scale, load_hypermodel, save_hypermodel
from know.prediction.predictors import linear, no_change
from know.run.device import here
from know.run.executor import map_all
from know.run.options import Compute
from know.weights.kinds import KINDS

RECIPE = Path(__file__).with_name("hypermodels.yaml")
SHIPPED = Path(__file__).parent.parent / "know" / "prediction" / "hypermodels"
CARD = Path(__file__).parent.parent / "docs" / "model-card.md"
BASELINES: dict[str, Predictor] = {"no change": no_change, "linear": linear}


class Variant(Section):
    """One way to train KNOWN."""

    scale: Scale
    description: str


class Recipe(Section):
    """scripts/hypermodels.yaml."""

    compute: Compute
    history_length: Count
    validation: Count
    variants: dict[str, Variant] = Field(min_length=1)
    collect: MetaTrain

    @property
    def known(self) -> KnownTraining:
        return self.collect.known

    def parts(self) -> dict[str, list[RunSpec]]:
        """Which runs are to learn from, to choose with, and held out for the card."""
        rest, held_out = split_runs(draw_runs(self.collect), self.collect.runs.held_out)
        training, validation = split_runs(rest, self.validation)
        return {"training": training, "validation": validation, "held-out": held_out}


# --- measuring ------------------------------------------------------------------------------------------------------


def _measure(job: tuple[Path, RunSpec, int, dict[str, Path]]) -> list[dict[str, object]]:
    """Every model's and baseline's error on one run, by kind, one step ahead and two."""
    file, spec, length, models = job
    predictors = BASELINES | {name: _on(load_hypermodel(folder), here()) for name, folder in models.items()}
    run, rows = RunFile.open(file), []
    for kind in run.sizes:
        for steps in (1, run.length - length):
            found = errors(run, kind, length, predictors, steps)
            same = {"run": spec.number, "dataset": spec.dataset, "architecture": spec.architecture, "kind": kind}
            rows += [same | {"steps": steps, "predictor": name, "mae": mae} for name, mae in found.items()]
    return rows


def _on(model: HyperModel, device: torch.device) -> Predictor:
    model = model.to(device)
    return lambda window, kind: model(window.to(device), kind).cpu()


def measure(specs: Sequence[RunSpec], data: Path, recipe: Recipe, models: Mapping[str, Path]) -> pd.DataFrame:
    """Rows of run, dataset, architecture, kind, steps, predictor, mae."""
    jobs = [(data / spec.file_name, spec, recipe.history_length, dict(models)) for spec in specs]
    found = map_all(_measure, jobs, recipe.compute, "errors")
    return pd.DataFrame([row for rows in found for row in rows])


def ratios(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Each model's error over a baseline's, run by run; below 1 the model is better."""
    wide = table.pivot_table(
        index=["run", "dataset", "architecture", "kind", "steps"], columns="predictor", values="mae"
    )
    models = [name for name in wide if name not in BASELINES]
    return wide[models].div(wide[baseline], axis=0).stack().rename("ratio").reset_index()  # noqa: PD013


# --- training -------------------------------------------------------------------------------------------------------


def train(recipe: Recipe, data: Path, work: Path) -> None:
    """Train each variant that is not there yet; ship the one that the validation runs prefer as ``default``, and the
    others under their own names.

    The validation runs' verdict is the geometric mean, over runs and kinds, of the error over that of no change.
    """
    parts = recipe.parts()
    runs = {name: [RunFile.open(data / spec.file_name) for spec in specs] for name, specs in parts.items()}
    for name, variant in recipe.variants.items():
        if (work / name).exists():
            continue
        models, curves = train_hypermodels(
            runs["training"], runs["validation"], recipe.history_length, recipe.known, recipe.collect.seed,
            recipe.compute, [variant.scale],
        )  # fmt: skip
        model = models[variant.scale]
        model.description = f"{variant.description}; {model.description}"
        save_hypermodel(model, work / name)
        for kind, curve in curves[variant.scale].items():
            print(f"{name}: {kind}: validation error {curve.errors[0]:.3e} to {curve.errors[-1]:.3e}")
    models = {name: work / name for name in recipe.variants}
    table = ratios(measure(parts["validation"], data, recipe, models), "no change")
    verdict = np.log(table[table.steps == 1].set_index("predictor").ratio).groupby("predictor").mean().pipe(np.exp)
    chosen = str(verdict.idxmin())
    print(verdict.to_string(), f"\ndefault: {chosen}")
    with paths.atomic(work / "verdict.json") as temporary:
        temporary.write_text(json.dumps({"chosen": chosen, "verdict": verdict.to_dict()}, indent=2) + "\n")
    for name in recipe.variants:
        save_hypermodel(load_hypermodel(work / name), SHIPPED / ("default" if name == chosen else name))


# --- the model card -------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], seed: int = 0) -> str:
    """The median of runs with its 95 % bootstrap interval."""
    given = np.asarray(values, float)
    drawn = np.random.default_rng(seed).choice(given, (4000, len(given)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return f"{np.median(given):.3f} [{low:.3f}, {high:.3f}]"


def _cells(found: pd.DataFrame) -> dict[str, str]:
    return {
        "median ratio": interval(found.ratio),
        "worst run": f"{found.ratio.max():.2f}",
        "better in": f"{(found.ratio < 1).sum()} of {len(found)}",
    }


def compared(table: pd.DataFrame, by: Sequence[str], order: Sequence[str]) -> pd.DataFrame:
    """For every group, each model's error over each baseline's: median and interval over runs, runs won."""
    rows = []
    for baseline in BASELINES:
        for group, found in ratios(table, baseline).groupby(list(by), sort=False):
            rows.append(dict(zip(by, group, strict=True)) | {"baseline": baseline} | _cells(found))
    wide = pd.DataFrame(rows).pivot_table(index=list(by), columns="baseline", aggfunc="first")
    wide.columns = [f"{what}, over {baseline}" for what, baseline in wide.columns]
    ordered = [f"{what}, over {b}" for b in BASELINES for what in ("median ratio", "better in", "worst run")]
    rank = {name: i for i, name in enumerate([*KINDS, *order])}
    return wide[ordered].reset_index().sort_values(list(by), key=lambda column: column.map(lambda v: rank.get(v, 0)))


def markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)


def worse(table: pd.DataFrame, model: str) -> list[str]:
    """Where the model's median error is above a baseline's, one step ahead."""
    lines = []
    for baseline in BASELINES:
        found = ratios(table, baseline)
        found = found[(found.predictor == model) & (found.steps == 1)]
        for by in ("kind", "architecture", "dataset"):
            keys = ["kind"] if by == "kind" else ["kind", by]
            medians = found.groupby(keys, sort=False).ratio.median()
            lines += [
                f"- {', '.join(np.atleast_1d(key))}: {value:.3f} times the error of {baseline}"
                for key, value in medians.items()
                if value > 1
            ]
    return lines or ["- nowhere, as far as these groups of runs go; single runs: see the worst run of each row above"]


@torch.no_grad()
def constant_history(models: Mapping[str, Path]) -> pd.DataFrame:
    """Change of |w| in percent that each model makes of a weight that never moved, the mean of w and -w."""
    sizes = (0.001, 0.01, 0.03, 0.1, 0.3, 0.5)
    window = torch.tensor([sign * size for size in sizes for sign in (1, -1)])[:, None].expand(-1, 5)
    rows = []
    for name, folder in models.items():
        model = load_hypermodel(folder)
        for kind in KINDS:
            change = (model(window, kind) / window[:, -1] - 1).reshape(-1, 2).mean(1)
            rows.append(
                {"model": name, "kind": kind}
                | {f"{s}": f"{100 * c:+.1f}" for s, c in zip(sizes, change.tolist(), strict=True)}
            )
    return pd.DataFrame(rows)


def card(recipe: Recipe, data: Path, work: Path, compare: Mapping[str, Path]) -> None:
    """Measure the shipped hyper-models on the held-out runs and write docs/model-card.md."""
    parts, verdict = recipe.parts(), json.loads((work / "verdict.json").read_text())
    others = [name for name in recipe.variants if name != verdict["chosen"]]
    shipped = {name: SHIPPED / name for name in ("default", *others)}
    models = shipped | dict(compare)
    table = measure(parts["held-out"], data, recipe, models)
    runs = [RunFile.open(data / spec.file_name) for specs in parts.values() for spec in specs]
    drawn = pd.DataFrame([asdict(spec) for specs in parts.values() for spec in specs])
    scalars = {array: sum(run.arrays.get(array, 0) for run in runs) for array in ARRAYS}
    ranges, known = recipe.collect.runs, recipe.known
    last = f"{runs[0].length - recipe.history_length} steps"
    one, two = table[table.steps == 1], table[table.steps != 1]
    default = one[one.predictor.isin([*BASELINES, "default"])]
    order = [*models, *recipe.collect.architectures, *recipe.collect.datasets]
    text = CARD_TEMPLATE.format(
        shipped="\n".join(f"- `{name}`: {load_hypermodel(folder).description}." for name, folder in shipped.items()),
        chosen=verdict["chosen"],
        verdict=", ".join(f"`{name}` {value:.3f}" for name, value in verdict["verdict"].items()),
        counts=", ".join(f"{len(specs)} {name}" for name, specs in parts.items()),
        total=len(runs),
        scalars=", ".join(f"{count:,} {array}" for array, count in scalars.items() if count),
        pointwise=runs[0].pointwise,
        datasets=", ".join(recipe.collect.datasets),
        architectures=", ".join(recipe.collect.architectures),
        images=f"{drawn.images.min()} to {drawn.images.max()}",
        rate=f"{drawn.rate.min():.2f} to {drawn.rate.max():.2f}",
        lr=f"{drawn.lr.min():.1e} to {drawn.lr.max():.1e}",
        batch=f"{drawn.batch_size.min()} to {drawn.batch_size.max()}",
        source_epochs=f"{drawn.source_epochs.min()} to {drawn.source_epochs.max()}",
        epochs=f"{drawn.epochs.min()} to {drawn.epochs.max()}",
        augmented=f"{int(drawn.augment.sum())} of {len(drawn)}",
        subsets=ranges.subsets,
        steps=known.steps,
        batch_size=known.batch_size,
        adam=known.lr,
        history_length=recipe.history_length,
        held_out=len(parts["held-out"]),
        by_kind=markdown(compared(one, ["predictor", "kind"], order)),
        absolute=markdown(absolute(one, order)),
        by_architecture=markdown(compared(default, ["architecture", "kind"], order)),
        by_dataset=markdown(compared(default, ["dataset", "kind"], order)),
        last=last,
        two_steps=markdown(compared(two, ["predictor", "kind"], order)),
        worse="\n\n".join("\n".join([f"`{name}`:", "", *worse(one, name)]) for name in shipped),
        constant=markdown(constant_history(models)),
        compared=" ".join(f"`{name}` is not part of the package." for name in compare),
    )
    with paths.atomic(CARD) as temporary:
        temporary.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    print(CARD)


def absolute(table: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Mean absolute error by kind, the mean over runs."""
    means = table.groupby(["kind", "predictor"]).mae.mean().unstack()
    names = [*BASELINES, *(name for name in order if name in means)]
    return means.loc[list(KINDS), names].map(lambda value: f"{value:.3e}").reset_index()


CARD_TEMPLATE = """\
# Model card of the shipped hyper-models

This page is written by `scripts/train_hypermodels.py`; every number in it is measured.

{shipped}

Each is three KNOWN networks of history length {history_length}, one each for conv, fc and bias weights, trained on the
same runs for as many steps. `default` is the variant `{chosen}`. It was chosen on the validation runs, by the geometric
mean, over runs and kinds, of the error over that of no change: {verdict}. The held-out runs below took no part in that.

## What they are for

One call takes five checkpoints of a forgetting run, most forgotten first, and predicts the weights one step past the
last. They are trained on nets of less than 0.1 M parameters and on small images; on others they are an extrapolation.
A small error in weights is not a gain in a downstream task: that is measured elsewhere, with controls.

## Data

{total} forgetting runs ({counts}), with paths of {subsets} weights: {scalars}.
Networks: {architectures}. Data sets: {datasets}, their training parts alone; so an experiment whose source or downstream task
draws on these training parts shares images with the hyper-models, and only their test parts are new to them. (The pipeline's
own hyper-model, which the committed results rest on, learns from what `params.yaml` says.) Each run draws its own D_0 of {images} images, its
rate r ({rate}), learning rate ({lr}), batch size ({batch}, at most |D_0| r^6 as in the paper), epochs on D_0
({source_epochs}) and epochs on each smaller subset ({epochs}); {augmented} runs augment their images. Adam throughout,
started anew on each subset. The paper's rates start at 0.3; here D_0 is so small that the smallest subset would then hold
no batch, so that lower rates are not covered. Θ_0 is trained for a fixed number of epochs, so it is not converged in every
run. The files are in the published meta-dataset's layout, in which 1×1 convolutions are {pointwise}. So they are at prediction
with these hyper-models, whose `config.json` says `"pointwise": "{pointwise}"`; in the authors' released code they are learned as fc and
predicted as conv.

## Training

{steps} steps of {batch_size} windows, Adam from {adam} by a cosine to 0, mean absolute error plus the paper's L1 penalties, history
{history_length}, every run with the same share of the windows and every weight of a run with the same chance. The variant `paper` sees weights as
they are; `path` sees each path from its newest weight and in units of its span, and predicts in them.

## Error on held-out runs, one step ahead

Each ratio is a model's mean absolute error on a run over a baseline's on the same run: below 1 the model is better. The
median of {held_out} runs with its 95 % bootstrap interval, the runs in which the model is better, and the worst one. No change
predicts Θ_0; linear is the least-squares line. {compared}

{by_kind}

The errors themselves, as means over runs:

{absolute}

### `default` by architecture

{by_architecture}

### `default` by data set

{by_dataset}

## {last} ahead, recursively

{two_steps}

## Where it is worse

By the median of a group of runs, one step ahead.

{worse}

## On weights that never moved

Change of |w| in percent when all five checkpoints are the same, by the size of w. Nothing was forgotten, so nothing
should be remembered; whatever is not 0 here is shrinkage or growth that a prediction brings to every weight.

{constant}
"""


# --- the command ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=["all", "collect", "train", "card"], default="all")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--data", type=Path, default=paths.DATA / "meta-runs", help="where the meta-dataset is kept")
    parser.add_argument("--work", type=Path, default=paths.BUILD / "hypermodels", help="where the variants are kept")
    parser.add_argument(
        "--compare", type=Path, action="append", default=[], metavar="DIR", help="one more hyper-model for the card"
    )
    options = parser.parse_args()
    recipe = Recipe.model_validate(YAML(typ="safe").load(options.recipe.read_text()))
    if options.step in ("all", "collect"):
        specs = draw_runs(recipe.collect)
        jobs = [FileJob(s, options.data / s.file_name) for s in specs if not (options.data / s.file_name).exists()]
        map_all(write_run, jobs, recipe.compute, "meta-dataset")
    if options.step in ("all", "train"):
        train(recipe, options.data, options.work)
    if options.step in ("all", "card"):
        card(recipe, options.data, options.work, {folder.name: folder for folder in options.compare})


if __name__ == "__main__":
    main()
