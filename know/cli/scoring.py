"""``know bench``: a predictor beside all of the package's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from know import paths
from know.cli.prediction import chosen_predictor, options_in
from know.params import load
from know.prediction.choices import OWN as OWN_CLASS
from know.prediction.predictors import PREDICTORS, Known


def bench(
    method: Annotated[
        str | None,
        typer.Argument(help=f"One of {', '.join(PREDICTORS)}, or {OWN_CLASS}. Without it: the committed scores."),
    ] = None,
    hypermodel: Annotated[
        str | None, typer.Option(help="Of known and wnn: a shipped hyper-model's name (known: default), or a folder.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, of the method, as scale=0.5.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A csv file to write: its scores on each trajectory.", dir_okay=False)
    ] = None,
    params: Annotated[Path, typer.Option("--params", help="The parameter file.", dir_okay=False)] = paths.PARAMS,
) -> None:
    """Score a predictor on the bench, beside the package's predictors and controls.

    Its step is held to the real one, and its prediction is measured on the source task and fine-tuned on another one;
    docs/bench.md says how.
    """
    own = load(params)
    predictor = None if method is None else chosen_predictor(method, hypermodel, options_in(option or []))
    if predictor is not None and predictor.missing:
        raise ValueError(predictor.missing)
    if isinstance(predictor, Known):
        predictor.check(own.bench.history_length)
    import pandas as pd

    from know.bench.scoring import score
    from know.bench.table import OWN, findings, shown, summary
    from know.bench.trajectories import check_made
    from know.stages.results import write_csv

    committed, tables = paths.REPORTS / "bench" / "trajectories.csv", []
    if committed.exists():
        scores = pd.read_csv(committed, dtype={"options": str}).fillna({"options": ""})
        tables.append(summary(scores, own.report))
    if predictor is not None:
        check_made(own.bench)
        alone = own.bench.predict.model_copy(
            update={"methods": ((predictor,),), "controls": (), "candidate": predictor.start}
        )
        scores = score(own, alone)
        scores.loc[scores.role == "method", "role"] = OWN
        if out is not None:
            write_csv(scores, out.name, out.parent)
        found = summary(scores, own.report)
        for sentence in findings(found):
            typer.echo(sentence)
        tables.insert(0, found[found.role == OWN])
    if not tables:
        raise ValueError(f"there are no scores in {committed.parent}: name a method, or run python -m know.bench")
    typer.echo(shown(pd.concat(tables)).to_string(index=False))
