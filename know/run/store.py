"""A store of runs: what a run computes is kept under a digest of what it is, and is never computed twice.

A run is a function of one *job*, a frozen dataclass of plain values. Its record, ``record.json`` and the tensors beside it,
lies under a digest of the job, of the code that it runs (the function's module and every module of its package that this
imports, as they were when this process began, without comments and docstrings), and of what else numbers depend on. So a killed stage, a figure's edit and the
cells of a sweep find what is there. No record is a pickle; one that is damaged is computed again.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from know import paths
from know.run.unfinished import unfinished

J = TypeVar("J")
R = TypeVar("R")

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON holds."""


@dataclass(frozen=True)
class FileInput:
    """A file that a job reads; what counts is its content, not its place."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileInput:
        return cls(path, file_digest(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- what a run is ----------------------------------------------------------------------------------------------


def canonical(value: object) -> Plain:
    """A job as JSON holds it. Raises TypeError: it holds something else than plain values, dataclasses and parameters."""
    if isinstance(value, FileInput):
        return value.sha256
    if isinstance(value, pydantic.BaseModel):
        return canonical(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a job")


PACKAGE = Path(__file__).parent.parent
_BEGAN = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
"""The package's code when this process began, which is what it runs, whatever is edited meanwhile."""
NO_MATTER = (
    "know.run",
    "know.paths",
    "know.data.catalogue",
    "know.data.sources",
    "know.data.embedded",
    "know.data.layouts",
)
"""How runs are run, and how images are had: a job holds the images' own digest."""


@cache
def code_digest(module: str) -> str:
    """Of a module and of all of its package that it imports, at any depth; comments and docstrings do not count."""
    seen: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen or name.startswith(NO_MATTER) or (text := _source(name)) is None:
            continue
        tree = _bare(ast.parse(text))
        seen[name] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        todo += [found for found in _imports(tree, name) if found.split(".")[0] == module.split(".")[0]]
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


def _source(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name in a module, not a module
        return None
    if not spec or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    return _BEGAN[path] if path in _BEGAN else path.read_text()


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings, and without what only type checkers import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return tree


def _imports(tree: ast.Module, module: str) -> set[str]:
    package = module.rpartition(".")[0]
    found = {package} if "." in package else set[str]()  # the root package only names what it offers
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@cache
def _versions() -> tuple[str, ...]:
    """Of the libraries that compute."""
    versions = []
    for name in ("torch", "torchvision", "timm", "segmentation_models_pytorch", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return tuple(versions)


def key_of(function: Callable[[J], R], job: J, numerics: str) -> str:
    """The digest of a run. ``numerics``: the device and whatever else the numbers depend on."""
    what = {
        "run": f"{function.__module__}:{function.__qualname__}",
        "code": code_digest(function.__module__),
        "job": canonical(job),
        "numerics": [numerics, *_versions()],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


# --- records ----------------------------------------------------------------------------------------------------


def _packed(value: object, tensors: dict[str, Tensor], place: str) -> Plain:
    """A result as JSON holds it, with its tensors put aside under their places."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": place}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _packed(item, tensors, f"{place}/{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_packed(item, tensors, f"{place}/{i}") for i, item in enumerate(value)]
    return canonical(value)


@cache
def _fields(kind: type) -> dict[str, object]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind)


def _unpacked(plain: object, hint: object, tensors: Mapping[str, Tensor]) -> object:
    """What ``_packed`` was given, by the result's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # X | None
        if plain is None:
            return None
        return _unpacked(plain, next(one for one in arguments if one is not type(None)), tensors)
    if hint is Tensor:
        return tensors[plain["tensor"]]  # type: ignore[index]
    if dataclasses.is_dataclass(hint):
        hints = _fields(hint)  # type: ignore[arg-type]
        return hint(**{name: _unpacked(item, hints[name], tensors) for name, item in plain.items()})  # type: ignore
    if origin is dict:
        return {key: _unpacked(item, arguments[1], tensors) for key, item in plain.items()}  # type: ignore[attr-defined]
    if origin is list:
        return [_unpacked(item, arguments[0], tensors) for item in plain]  # type: ignore[attr-defined]
    if origin is tuple:
        kinds = arguments[:1] * len(plain) if arguments[-1] is ... else arguments  # type: ignore[arg-type]
        return tuple(_unpacked(item, one, tensors) for item, one in zip(plain, kinds, strict=True))  # type: ignore
    return plain


def once(function: Callable[[J], R], job: J, numerics: str) -> R:
    """``function(job)``, from its record if there is one; else it is computed and recorded."""
    key = key_of(function, job, numerics)
    if (recorded := found(function, key)) is not None:
        return recorded
    folder = record_path(key)
    with unfinished(folder.with_name(f"{folder.name}.unfinished")):
        result = function(job)
        _write(folder, f"{function.__module__}:{function.__qualname__}", job, result)
    return result


def found(function: Callable[[J], R], key: str) -> R | None:
    """The result of the run of this key, from its record; None: it has none, or a damaged one, which is removed."""
    return _read(record_path(key), _returned(function))  # type: ignore[return-value]


@cache
def _returned(function: Callable[..., object]) -> object:
    return typing.get_type_hints(function)["return"]


def record_path(key: str) -> Path:
    """The folder of a run's record."""
    return paths.RUNS / key[:2] / key


def _write(folder: Path, run: str, job: object, result: object) -> None:
    tensors: dict[str, Tensor] = {}
    plain = _packed(result, tensors, "result")
    with paths.atomic(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / "tensors.safetensors")
        text = json.dumps(plain)
        record = {
            "run": run,
            "job": canonical(job),
            "digests": [hashlib.sha256(text.encode()).hexdigest(), file_digest(temporary / "tensors.safetensors")],
            "result": plain,
        }
        (temporary / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def _read(folder: Path, hint: object) -> object | None:
    """A record's result; None if there is none, or it is not what was written, in which case it is removed."""
    if not folder.exists():
        return None
    try:
        record = json.loads((folder / "record.json").read_text())
        tensors = folder / "tensors.safetensors"
        whole = [hashlib.sha256(json.dumps(record["result"]).encode()).hexdigest(), file_digest(tensors)]
        if whole == record["digests"]:
            return _unpacked(record["result"], hint, load_file(tensors))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return None
