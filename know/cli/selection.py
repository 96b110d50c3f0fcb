"""``know select``: predictions and controls against Θ_0, on the user's own validation data."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from know.cli.prediction import (
    Variadic,
    chosen_control,
    chosen_predictor,
    options_in,
    ordered,
    takes_hypermodel,
    targets_of,
)
from know.options import imported, made_by, reason
from know.prediction.predictors import Known


class Numbers(Variadic):
    """``--scale`` too takes several numbers."""

    spreads = ("--steps", "--scale")


def named(text: str, hint: str) -> tuple[str, dict[str, object]]:
    """``NAME,OPTION=VALUE,…`` as a name and its options."""
    name, *options = text.split(",")
    return name, options_in(options, hint)


def scorer(score: str, model: str | None) -> Callable[[Any], object]:
    """The user's function of a state dict, or with ``model`` of the module that has it."""
    function = imported(score, "--score")
    if not callable(function):
        raise ValueError(f"--score {score}: a {type(function).__name__}, not a function")
    net = None if model is None else made_by(model, "--model")

    def scored(state: Any) -> object:
        from know.weights.modules import load_weights

        given = state
        if net is not None:
            load_weights(net, state, "the candidate")
            given = net.eval()
        try:
            return function(given)
        except Exception as error:
            raise ValueError(f"--score {score}: the call failed: {reason(error)}") from error

    return scored


def select(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Most forgotten first, Θ_0 last; or the folder that know forget wrote.")
    ],
    score: Annotated[
        str, typer.Option(help="package.module:function of a state dict: a number, or one a sample; higher is better.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The safetensors file, or the folder, to write.")],
    model: Annotated[
        str | None, typer.Option(help="package.module:function that returns the module: the score gets it instead.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME,OPTION=VALUE: known, task_vector,scale=0.5. By default, known."),
    ] = None,
    hypermodel: Annotated[
        str | None, typer.Option(help="Of the methods that have one: a shipped one's name, or a folder.")
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(min=1, help="Steps past Θ_0: 1 2 3.")] = None,
    scale: Annotated[list[float] | None, typer.Option(help="C in Θ_0 + C·(Θ̂ - Θ_0): 0.5 1.")] = None,
    control: Annotated[list[str] | None, typer.Option(help="As --method: shrink,shrink=0.8.")] = None,
    fresh: Annotated[Path | None, typer.Option(help="For shrink_perturb: freshly initialised weights.")] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="What a gain must exceed, beside its interval if there is one.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Of training states: their state dict's.")] = None,
    strip_prefix: Annotated[str, typer.Option(help="Taken off the tensors' names, as model.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.")] = False,
) -> None:
    """Score predictions, controls and Θ_0 on your own validation data, and write the best, or Θ_0 if none beats it clearly.

    Most predictions will not. With a score for each sample there are intervals, made wide enough for the number of candidates;
    a single number is believed only beyond --margin. States are held in memory.
    """
    from know.prediction.files import save_states
    from know.prediction.selection import THETA_0, Scored, candidates
    from know.prediction.selection import select as selected
    from know.run.version import version
    from know.weights.files import Checkpoint, Choice, load_state
    from know.weights.marks import PREFIX

    function = scorer(score, model)
    texts = method or ["known"]
    methods = {text: named(text, "--method") for text in texts}
    having = [name for name, _ in methods.values() if takes_hypermodel(name)]
    if hypermodel is not None and not having:
        raise typer.BadParameter("none of the methods has one", param_hint="--hypermodel")
    predictors = {
        text: chosen_predictor(name, hypermodel if name in having else None, options)
        for text, (name, options) in methods.items()
    }
    controls = {text: chosen_control(*named(text, "--control")) for text in control or ()}
    asked, factors = sorted(set(steps or [1])), list(dict.fromkeys(scale or [1.0]))
    choice = Choice(key, strip_prefix)
    with ExitStack() as stack:
        most = max(
            predictors.values(), key=lambda one: one.model.history_length if isinstance(one, Known) else one.needs
        )
        trajectory, _ = ordered(stack, checkpoints, most, str(most.method), lambda path: Checkpoint(path, choice))
        files = [theta.path for theta in trajectory]
        targets = targets_of(out, asked[-1:], files, None, force)
        states = [load_state(path, choice) for path in files]
        first = load_state(fresh, choice) if fresh else None

        def say(scored: Scored) -> None:
            interval = "" if scored.half is None else f" ± {scored.half:.4g}"
            held = (
                "" if scored.name == THETA_0 else f"  {scored.gain:+.4g}{interval}{'  better' if scored.clear else ''}"
            )
            typer.echo(f"{scored.name:40} {scored.score:.6g}{held}")

        given = candidates(states, predictors, asked, factors, controls, first)
        # a control that knows no steps is one candidate: then the intervals are a little wider than they need be
        count = 1 + len(predictors) * len(asked) * len(factors) + len(controls) * len(asked)
        found = selected(given, count, function, margin, say)
        if found.chosen.name == THETA_0:
            typer.echo("Nothing beats Θ_0 clearly on this data: Θ_0 is written.", err=True)
        told = {
            PREFIX + "version": version(),
            PREFIX + "selected": found.chosen.name,
            PREFIX + "scores": json.dumps(
                {scored.name: [scored.score, scored.gain, scored.half] for scored in found.table}
            ),
            PREFIX + "inputs": json.dumps([{"file": str(path)} for path in files]),
        }
        save_states(dict.fromkeys(targets, found.state), targets, trajectory[-1], None, told)
    typer.echo(out)
