"""``know predict``: what is asked for, checked; the work is ``know.prediction``'s."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from know.params import document
from know.prediction.choices import OWN, class_named, option_named
from know.prediction.controls import CONTROLS, Control
from know.prediction.predictors import PREDICTORS, Known, PathPredictor, Wnn
from know.weights.limits import shown

if TYPE_CHECKING:
    from know.prediction.files import Target
    from know.weights.files import Checkpoint

OTHER_FORMATS = {".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".npz", ".h5", ".onnx", ".gguf"}
NOT_IN_RECIPES = {"recipe", "print_recipe", "dry_run", "force", "device"}
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Variadic(TyperCommand):
    """A command some of whose options take one number or more: ``--steps 1 2 3``."""

    spreads: tuple[str, ...] = ("--steps",)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args, self.spreads))


def spread(arguments: Iterable[str], options: Sequence[str] = ("--steps",)) -> list[str]:
    """``--steps 1 2`` as ``--steps 1 --steps 2``."""
    words: list[str] = []
    option = ""
    for word in arguments:
        if option and re.fullmatch(r"\d+(\.\d+)?", word):
            words += [word] if words[-1] == option else [option, word]
        else:
            option = word if word in options else ""
            words.append(word)
    return words


def from_recipe(context: typer.Context, file: Path | None) -> Path | None:
    """Take from a recipe what the command line does not say."""
    if file is not None:
        recipe = document(file)
        allowed = {parameter.name for parameter in context.command.params} - NOT_IN_RECIPES
        if alien := [key for key in recipe if key not in allowed]:
            raise ValueError(f"{file}: unknown key {shown(alien[0])}; allowed: {', '.join(sorted(map(str, allowed)))}")
        context.default_map = dict(recipe)
    return file


def recipe_of(context: typer.Context) -> dict[str, Any]:
    """The whole call, as ``--recipe`` takes it: what differs from the defaults, and the method."""

    def plain(value: Any) -> Any:
        return (
            [plain(part) for part in value]
            if isinstance(value, list | tuple)
            else str(value)
            if isinstance(value, Path)
            else value
        )

    given = {
        name: plain(value)
        for name, value in context.params.items()
        if name not in NOT_IN_RECIPES and value not in (None, [], ())
        and (name == "method" or getattr(context.get_parameter_source(name), "name", "") != "DEFAULT")
    }  # fmt: skip
    return given


def options_in(texts: Sequence[str], hint: str = "--option") -> dict[str, object]:
    """``NAME=VALUE``, each."""
    options: dict[str, object] = {}
    for text in texts:
        name, equals, options[name] = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r}; allowed: NAME=VALUE", param_hint=hint)
    return options


def predictor_class(method: str) -> type[PathPredictor]:
    """The class of predictors that the command line names."""
    try:
        return class_named(PathPredictor, method)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--method") from None


def takes_hypermodel(method: str) -> bool:
    """Whether a hyper-model is among the method's options."""
    return "hypermodel" in predictor_class(method).model_fields


def chosen_predictor(method: str, hypermodel: str | None, options: Mapping[str, object]) -> PathPredictor:
    """The predictor that the command line names; with its hyper-model, if it has one and its options name no other."""
    cls = predictor_class(method)
    if hypermodel is not None and not takes_hypermodel(method):
        raise typer.BadParameter(f"{method} has no hyper-model; leave it out", param_hint="--hypermodel")
    if issubclass(cls, Wnn) and hypermodel is None and "hypermodel" not in options:
        raise typer.BadParameter(
            f"{method} needs one of scale wnn, and none is shipped; know meta-train --data DIR --scale wnn --out makes one",
            param_hint="--hypermodel",
        )
    given = hypermodel or ("default" if issubclass(cls, Known) else None)
    predictor = option_named(PathPredictor, method, {**({"hypermodel": given} if given else {}), **options})
    if isinstance(predictor, Known):
        predictor.check()
    return predictor


def chosen_control(name: str, options: Mapping[str, object]) -> Control:
    """The control that the command line names."""
    try:
        class_named(Control, name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--control") from None
    return option_named(Control, name, options)


def scales_in(texts: Sequence[str]) -> list[tuple[str, float]]:
    """``C``, for all tensors, or ``PATTERN=C``, each."""
    found = []
    for text in texts:
        pattern, _, factor = text.rpartition("=")
        try:
            found.append((pattern or "*", float(factor)))
        except ValueError:
            raise typer.BadParameter(f"{text!r}; allowed: a number, or PATTERN=NUMBER", param_hint="--scale") from None
    return found


def bytes_in(text: str) -> int:
    """``5GB`` as bytes."""
    unit = next((unit for unit in ("GB", "MB", "KB", "B") if text.upper().endswith(unit)), "")
    try:
        count = int(float(text.upper().removesuffix(unit)) * UNITS[unit or "B"])
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise typer.BadParameter(f"{text!r}; allowed: as 500MB or 5GB", param_hint="--shard-size")
    return count


def targets_of(
    out: Path, steps: Sequence[int], inputs: Sequence[Path], shard_size: str | None, force: bool
) -> dict[int, Target]:
    """Where each step goes, none of it over an input, nor over what exists unless that is forced."""
    from know.prediction.files import Target

    if out.suffix in OTHER_FORMATS:
        raise typer.BadParameter(f"{out}: only safetensors are written; call it .safetensors", param_hint="--out")
    folder = out.suffix != ".safetensors" and (shard_size is not None or inputs[-1].is_dir())
    if shard_size is not None and not folder:
        raise typer.BadParameter(f"{out} is a file; name a folder to write shards", param_hint="--shard-size")
    if out.is_dir() and not folder:
        raise typer.BadParameter(f"{out} is a folder", param_hint="--out")
    size = bytes_in(shard_size or "5GB") if folder else None
    found: dict[int, Target] = {}
    for step in steps:
        path = out if len(steps) == 1 else out.with_name(f"{out.stem}-{step}{out.suffix}")
        found[step] = Target(path, size)
        found[step].check()
        if not path.exists():
            continue
        if over := [given for given in inputs if given.samefile(path) or path.resolve() in given.resolve().parents]:
            raise ValueError(f"{path}: would be written over the checkpoint {over[0]}; choose another --out")
        if not force:
            raise ValueError(f"{path}: exists; --force replaces it")
        if folder and any(path.iterdir()) and not any(path.glob("*.safetensors")):
            raise ValueError(f"{path}: a folder of something else than weights is not replaced; choose another --out")
    return found


def ordered(
    stack: ExitStack, checkpoints: Sequence[Path], predictor: PathPredictor, method: str, open_: Any
) -> tuple[list[Checkpoint], bool]:
    """The checkpoints, opened, oldest first, as many as the predictor reads; and whether their order is by their marks."""
    from know.prediction.hub import located
    from know.prediction.order import in_order, run_files
    from know.weights.marks import mark_in

    checkpoints = [located(path) for path in checkpoints]
    if len(checkpoints) == 1 and checkpoints[0].is_dir() and (files := run_files(checkpoints[0])):
        checkpoints = files
    given = [stack.enter_context(open_(path)) for path in checkpoints]
    reads = predictor.model.history_length if isinstance(predictor, Known) else None
    needed = reads or predictor.needs
    if len(given) < needed:
        raise ValueError(f"{method} needs {needed} checkpoints, most forgotten first and Θ_0 last; got {len(given)}")
    marked = all(mark_in(theta.metadata) for theta in given)
    trajectory = in_order(given) if marked else given
    if trajectory != given:
        typer.echo("put in order, most forgotten first: " + " ".join(theta.path.name for theta in trajectory), err=True)
    if reads and len(trajectory) > reads:
        typer.echo(f"{method} reads the last {reads} of {len(trajectory)} checkpoints", err=True)
        trajectory = trajectory[-reads:]
    return in_order(trajectory), marked


FILES, CHOICE = "Files", "What is computed"


def predict(
    context: typer.Context,
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Most forgotten first, Θ_0 last; or the folder that know forget wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The safetensors file, or the folder, to write.")],
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(PREDICTORS)}, or {OWN}.", rich_help_panel=CHOICE)
    ] = "known",
    hypermodel: Annotated[
        str | None,
        typer.Option(help="Of known and wnn: a shipped hyper-model's name, or a folder.", rich_help_panel=CHOICE),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, of the method, as scale=0.5.", rich_help_panel=CHOICE)
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="How many steps past Θ_0; several at once: 1 2 3.")
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(help="C or PATTERN=C: write Θ_0 + C·(Θ̂ - Θ_0); the last that matches holds.", rich_help_panel=CHOICE),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(help=f"Write a control instead: {', '.join(CONTROLS)}, or {OWN}.", rich_help_panel=CHOICE),
    ] = None,
    control_option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, of the control, as shrink=0.8.", rich_help_panel=CHOICE)
    ] = None,
    shrink: Annotated[
        float | None, typer.Option(help="Of the controls shrink and shrink_perturb: λ.", rich_help_panel=CHOICE)
    ] = None,
    perturb: Annotated[
        float | None, typer.Option(help="Of the control shrink_perturb: σ.", rich_help_panel=CHOICE)
    ] = None,
    fresh: Annotated[
        Path | None,
        typer.Option(help="For the control shrink_perturb: freshly initialised weights.", rich_help_panel=CHOICE),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN=KIND: treat tensors of these names as conv, fc, bias or buffer; the last holds.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Of training states: their state dict's, as model_ema.", rich_help_panel=FILES)
    ] = None,
    strip_prefix: Annotated[
        str, typer.Option(help="Taken off the tensors' names, as model.", rich_help_panel=FILES)
    ] = "",
    unfold: Annotated[
        float, typer.Option(min=1, help="How many times a file's size its tensors may take.", rich_help_panel=FILES)
    ] = 16,
    shard_size: Annotated[
        str | None, typer.Option(help="Write a folder of files of at most this size, as 5GB.", rich_help_panel=FILES)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what --out names.", rich_help_panel=FILES)] = False,
    card: Annotated[bool, typer.Option("--card", help="Write a model card too.", rich_help_panel=FILES)] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file of options; those on the command line hold.", callback=from_recipe, is_eager=True,
            rich_help_panel=FILES,
        ),
    ] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the call as a recipe; write nothing.", rich_help_panel=FILES)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done to each tensor; write nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[
        Literal["keep", "float64", "float32", "float16", "bfloat16"],
        typer.Option(help="Of all floating-point tensors written; keep: Θ_0's. The arithmetic is in float32 or wider."),
    ] = "keep",
) -> None:  # fmt: skip
    """Predict knowledge-overflowed weights from a trajectory of checkpoints.

    CHECKPOINTS are files of safetensors or of torch.save, which hold a state dict or a training state, or folders with one of
    them or with shards, or names on the hub, org/name@revision. Those that know forget wrote are put in order. Of more than the hyper-model reads, the last count. The
    memory needed does not grow with the model, but for a control's.
    """
    if print_recipe:
        typer.echo(json.dumps(recipe_of(context), indent=2, ensure_ascii=False))
        return
    predictor = chosen_predictor(method, hypermodel, options_in(option or ()))
    asked = sorted(set(steps or [1]))
    scales = scales_in(scale or ())
    own = options_in(control_option or (), "--control-option")
    own |= {name: value for name, value in (("shrink", shrink), ("perturb", perturb)) if value is not None}
    if control is None and (own or fresh):
        raise typer.BadParameter("--shrink, --perturb, --fresh and --control-option need --control")
    if control is not None and (scales or kind):
        raise typer.BadParameter("--scale and --kind are not for --control")
    start = None if control is None else chosen_control(control, own)

    import torch

    from know.prediction import plan, provenance
    from know.prediction.engine import pointwise_of
    from know.prediction.files import predict_files, save_states
    from know.prediction.order import distances, judged
    from know.run.device import device_named
    from know.weights.batchnorm import batchnorm_note
    from know.weights.files import Checkpoint, Choice, load_state
    from know.weights.kinds import kinds_of, parse_overrides

    choice, overrides = Choice(key, strip_prefix), parse_overrides(kind or ())
    with ExitStack() as stack:
        trajectory, marked = ordered(
            stack, checkpoints, predictor, method, lambda path: Checkpoint(path, choice, unfold)
        )
        theta_0, files = trajectory[-1], [theta.path for theta in trajectory]
        if theta_0.key and key is None:
            typer.echo(f"of the training states, the state dict {theta_0.key!r} is read", err=True)
        if dry_run:
            for line in plan.plan(trajectory, predictor, asked[-1], overrides):
                typer.echo(line)
            return
        targets = targets_of(out, asked, files, shard_size, force)
        if not marked and len(trajectory) > 1:
            for line in judged(trajectory, distances(trajectory, predictor, overrides)):
                typer.echo(line, err=True)
        kinds = kinds_of(theta_0.tensors, overrides, pointwise_of(predictor))
        model = (str(predictor.hypermodel), predictor.model) if isinstance(predictor, Known) else None
        call = recipe_of(context) | {"checkpoints": [str(path) for path in files]}
        told = provenance.provenance(files, call, kinds, model)
        cast = None if dtype == "keep" else getattr(torch, dtype)
        if start is None:
            predict_files(
                files, targets, predictor, asked[-1], device=device_named(device), dtype=cast, overrides=overrides,
                progress=True, choice=choice, unfold=unfold, scales=scales, metadata=told,
            )  # fmt: skip
        else:
            states = [load_state(path, choice, unfold) for path in files]
            begun = start(states, predictor, asked[-1], fresh=load_state(fresh, choice, unfold) if fresh else None)
            if len(begun) == 1:  # it knows no steps
                targets = targets_of(out, asked[-1:], files, shard_size, force)
            chosen = {step: begun[min(step, len(begun)) - 1] for step in targets}
            save_states(chosen, targets, theta_0, cast, told)
        if note := batchnorm_note(theta_0.tensors):
            typer.echo(note, err=True)
        for target in targets.values():
            if card:
                _write_card(target.path, told)
            typer.echo(target.path)


def _write_card(out: Path, told: Mapping[str, str]) -> None:
    from know.paths import atomic
    from know.prediction.provenance import card

    with atomic(out / "README.md" if out.is_dir() else out.with_suffix(".md")) as temporary:
        temporary.write_text(card(out.stem, told), encoding="utf-8")
