"""The ``know`` command: predict weights from checkpoints, and run the experiment's stages outside DVC."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from know import paths
from know.cli.prediction import Variadic, predict
from know.cli.scoring import bench
from know.cli.selection import Numbers, select
from know.doctor import doctor
from know.options import ParamError
from know.params import Params, load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from know.run.version import version

        typer.echo(f"know {version()}")
        raise typer.Exit


@app.callback()
def know(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and leave.")
    ] = False,
) -> None:
    """Knowledge-overflowed weights by retrodiction of forgetting."""


hypermodel_app = typer.Typer(help="Hyper-models: what there is, and import.", no_args_is_help=True)
app.add_typer(hypermodel_app, name="hypermodel")
app.command()(doctor)
app.command()(bench)

Scale = Literal["none", "path", "wnn"]
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.", dir_okay=False)]


def _run(stage: Callable[[Params], Any], file: Path) -> None:
    given = load(file)
    from know.stages.checks import check

    check(given)
    stage(given)
    typer.echo(f"results: {paths.RESULTS}")


@app.command()
def downsize(params: ParamsFile = paths.PARAMS) -> None:
    """Draw the nested subsets of the source data."""
    from know.stages import downsize

    _run(downsize.run, params)


OWN = "Your own model"


@app.command()
def forget(
    context: typer.Context,
    params: ParamsFile = paths.PARAMS,
    model: Annotated[
        str | None,
        typer.Option(help="Factory of an nn.Module, package.module:function.", rich_help_panel=OWN),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Θ_0: its state dict, a training state or a folder.", rich_help_panel=OWN)
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Of a training state with several: its state dict's.", rich_help_panel=OWN)
    ] = None,
    images: Annotated[Path | None, typer.Option(help="D_0 as FOLDER/CLASS/image.jpg.", rich_help_panel=OWN)] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="D_0 from a factory of a Dataset of (input, class index).", rich_help_panel=OWN),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the S checkpoints.", rich_help_panel=OWN)] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Side of the images, in pixels.", rich_help_panel=OWN)] = 224,
    normalisation: Annotated[
        Literal["imagenet", "half", "none"],
        typer.Option(help="Of the images: ImageNet's mean and deviation, to [-1, 1], or [0, 1].", rich_help_panel=OWN),
    ] = "imagenet",
    rate: Annotated[float, typer.Option(help="Sampling rate r: |D_k| = r^k |D_0|.", rich_help_panel=OWN)] = 0.5,
    length: Annotated[int, typer.Option(help="History length S: how many checkpoints.", rich_help_panel=OWN)] = 5,
    epochs: Annotated[int, typer.Option(help="On each subset.", rich_help_panel=OWN)] = 3,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.", rich_help_panel=OWN)] = 1e-3,
    loss: Annotated[
        str | None,
        typer.Option(
            help="package.module:function of the model and a batch, in place of cross-entropy.", rich_help_panel=OWN
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="package.module:function of the model and the number of steps: an optimiser, or one and its schedule.",
            rich_help_panel=OWN,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.", rich_help_panel=OWN)] = 32,
    seed: Annotated[int, typer.Option(help="Of subsets, order and dropout.", rich_help_panel=OWN)] = 0,
    mode: Annotated[
        Literal["sequential", "restart"],
        typer.Option(help="Θ_k from Θ_{k-1} (the paper's), or each from the factory's weights.", rich_help_panel=OWN),
    ] = "sequential",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=OWN)] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.", rich_help_panel=OWN)] = 0,
) -> None:
    """Fine-tune Θ_0 on ever smaller subsets: of the experiment, or (--model …) of your own model.

    With --model, a run that was stopped continues after its last finished checkpoint, and the last line printed is the
    `know predict` to run next.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    if model is None:
        if alien := sorted(given - {"params"}):
            raise typer.BadParameter(f"--{alien[0].replace('_', '-')} needs --model")
        from know.stages import forget

        return _run(forget.run, params)
    if "params" in given:
        raise typer.BadParameter("--params is for the experiment's networks, not for --model")
    if checkpoint is None or out is None or (images is None) == (dataset is None):
        raise typer.BadParameter("--model needs --checkpoint, --out, and one of --images and --dataset")
    if dataset is not None and (alien := sorted(given & {"image_size", "normalisation"})):
        raise typer.BadParameter(f"--{alien[0].replace('_', '-')} is for --images; a data set prepares its own inputs")
    if optimizer is not None and "lr" in given:
        raise typer.BadParameter("--lr is Adam's; an --optimizer has its own")
    from know.run.device import device_named
    from know.training import own

    try:
        settings = own.Settings(
            rate=rate, length=length, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, mode=mode
        )
    except ValidationError as error:
        first = error.errors()[0]
        option, allowed = str(first["loc"][0]).replace("_", "-"), first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"--{option}: got {first['input']}; {allowed}") from None
    command = own.forget_own(
        model, checkpoint, dataset or (images or Path(), image_size, normalisation), out, settings,
        device_named(device), workers, key, loss, optimizer, say=typer.echo, warn=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    typer.echo(f"next:\n{command}")


@app.command("meta-train")
def meta_train(
    params: ParamsFile = paths.PARAMS,
    data: Annotated[
        Path | None, typer.Option(help="Learn from this folder of weight paths (.mat, .h5) instead of collecting them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --data: the hyper-model's folder to write.")] = None,
    scale: Annotated[
        Scale | None,
        typer.Option(
            help="With --data: none, the weights as they are (paper), the default; path, in each path's frame; wnn."
        ),
    ] = None,
) -> None:
    """Collect the meta-dataset and train KNOWN on it; or, with --data, train on files of the published layout."""
    if (data is None) != (out is None):
        raise typer.BadParameter("--data and --out go together")
    if data is None and scale is not None:
        raise typer.BadParameter("--scale goes with --data; the experiment's is meta_train.variants in params.yaml")
    if data is None or out is None:
        from know.stages import meta_train

        return _run(meta_train.run, params)
    from know.meta.hypermodels import from_folder
    from know.prediction.known import save_hypermodel

    own = load(params)
    model, table = from_folder(data, own.meta_train, own.history_length, own.compute, scale or "none")
    save_hypermodel(model, out)
    typer.echo(table.to_string(float_format="%.3e"))
    typer.echo(out)


@app.command()
def evaluate(params: ParamsFile = paths.PARAMS) -> None:
    """Fine-tune every predicted start on the downstream task."""
    from know.stages import evaluate, predict

    def both(given: Params) -> None:
        predict.run(given)
        evaluate.run(given)

    _run(both, params)


app.command(cls=Variadic)(predict)
app.command(cls=Numbers)(select)


@hypermodel_app.command("list")
def list_hypermodels() -> None:
    """The hyper-models shipped with the package."""
    from know.prediction.known import load_hypermodel, shipped

    for name in shipped():
        typer.echo(f"{name}\t{load_hypermodel(name).description}")


@hypermodel_app.command("import-keras")
def import_keras(
    folder: Annotated[Path, typer.Argument(help="Where KNOWN_Conv.h5, KNOWN_FC.h5 and KNOWN_Bias.h5 are.")],
    out: Annotated[Path, typer.Option("--out", help="The hyper-model's folder to write.")],
) -> None:
    """Import the hyper-model that the paper's authors released."""
    from know.prediction.keras import import_keras as read
    from know.prediction.known import save_hypermodel

    save_hypermodel(read(folder), out)
    typer.echo(out)


def main() -> None:
    """Exit 0 on success, 1 with one line on stderr for bad input, 2 for wrong usage."""
    try:
        app()
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "know":
            raise
        extra = (
            "hub" if package == "huggingface_hub" else "dask" if package in ("dask", "distributed") else "experiment"
        )
        print(f"know: this needs {package}, which is not installed: pip install 'know[{extra}]'", file=sys.stderr)
        sys.exit(1)
    except (ParamError, ValueError, RuntimeError, OSError) as error:
        print(f"know: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
