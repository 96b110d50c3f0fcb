"""The ``know`` command: predict weights from checkpoints, and run the experiment's stages outside DVC."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from know import paths
from know.params import ParamError, Params, load

app = typer.Typer(
    help="Knowledge-overflowed weights by retrodiction of forgetting.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
hypermodel_app = typer.Typer(help="Hyper-models: what there is, and import.", no_args_is_help=True)
app.add_typer(hypermodel_app, name="hypermodel")

Scale = Literal["none", "path"]
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.", dir_okay=False)]


def _run(stage: Callable[[Params], Any], file: Path) -> None:
    stage(load(file))
    typer.echo(f"results: {paths.RESULTS}")


@app.command()
def downsize(params: ParamsFile = paths.PARAMS) -> None:
    """Draw the nested subsets of the source data."""
    from know import experiment

    _run(experiment.downsize, params)


@app.command()
def forget(params: ParamsFile = paths.PARAMS) -> None:
    """Train Θ_0 and fine-tune it on ever smaller subsets."""
    from know import experiment

    _run(experiment.forget, params)


@app.command("meta-train")
def meta_train(
    params: ParamsFile = paths.PARAMS,
    data: Annotated[
        Path | None, typer.Option(help="Learn from this folder of weight paths (.mat, .h5) instead of collecting them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --data: the hyper-model's folder to write.")] = None,
    scale: Annotated[
        Scale, typer.Option(help="With --data: none, the weights as they are (paper); path, in each path's frame.")
    ] = "none",
) -> None:
    """Collect the meta-dataset and train KNOWN on it; or, with --data, train on files of the published layout."""
    if (data is None) != (out is None):
        raise typer.BadParameter("--data and --out go together")
    if data is None or out is None:
        from know import experiment

        return _run(experiment.meta_train, params)
    from know.hypermodel import save_hypermodel
    from know.metatrain import from_folder

    model, table = from_folder(data, load(params), scale)
    save_hypermodel(model, out)
    typer.echo(table.to_string(float_format="%.3e"))
    typer.echo(out)


@app.command()
def evaluate(params: ParamsFile = paths.PARAMS) -> None:
    """Fine-tune every predicted start on the downstream task."""
    from know import experiment

    def both(given: Params) -> None:
        experiment.predict(given)
        experiment.evaluate(given)

    _run(both, params)


@app.command()
def predict(
    checkpoints: Annotated[list[Path], typer.Argument(help="State dicts, most forgotten first, Θ_0 last.")],
    out: Annotated[Path, typer.Option("--out", help="The safetensors file to write.")],
    method: Annotated[str, typer.Option(help="known, linear or task_vector.")] = "known",
    hypermodel: Annotated[str, typer.Option(help="A shipped hyper-model's name, or a folder.")] = str(paths.HYPERMODEL),
    steps: Annotated[int, typer.Option(min=1, help="How many steps past Θ_0; the last is written.")] = 1,
) -> None:
    """Predict knowledge-overflowed weights from a trajectory of checkpoints."""
    from know.checkpoints import load_state, save_state
    from know.hypermodel import load_hypermodel
    from know.prediction import Predictor, linear, retrodict, task_vector

    if len(checkpoints) < 2:
        raise ValueError(f"a trajectory needs at least two checkpoints, got {len(checkpoints)}")
    predictor: Predictor
    if method == "known":
        known = load_hypermodel(hypermodel)
        if len(checkpoints) != known.history_length:
            raise ValueError(
                f"hyper-model {hypermodel} reads {known.history_length} checkpoints, got {len(checkpoints)}"
            )
        predictor = known
    else:
        simple: dict[str, Predictor] = {"linear": linear, "task_vector": task_vector(1.0)}
        if method not in simple:
            raise ValueError(f"--method: got {method!r}; allowed: known, {', '.join(simple)}")
        predictor = simple[method]
    save_state(retrodict([load_state(path) for path in checkpoints], predictor, steps)[-1], out)
    typer.echo(out)


@hypermodel_app.command("list")
def list_hypermodels() -> None:
    """The hyper-models shipped with the package."""
    from know.hypermodel import load_hypermodel, shipped

    for name in shipped():
        typer.echo(f"{name}\t{load_hypermodel(name).description}")


@hypermodel_app.command("import-keras")
def import_keras(
    folder: Annotated[Path, typer.Argument(help="Where KNOWN_Conv.h5, KNOWN_FC.h5 and KNOWN_Bias.h5 are.")],
    out: Annotated[Path, typer.Option("--out", help="The hyper-model's folder to write.")],
) -> None:
    """Import the hyper-model that the paper's authors released."""
    from know.hypermodel import save_hypermodel
    from know.keras import import_keras as read

    save_hypermodel(read(folder), out)
    typer.echo(out)


def main() -> None:
    """Exit 0 on success, 1 with one line on stderr for bad input, 2 for wrong usage."""
    try:
        app()
    except (ParamError, ValueError, RuntimeError, OSError) as error:
        print(f"know: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
