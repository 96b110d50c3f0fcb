"""A plain install, from a wheel, predicts; what needs more says which extra brings it."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file, save_file
from setuptools import find_packages

from know import paths
from know.weights.files import save_state

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
COMMANDS = """
import contextlib, io, json, sys, traceback

site, *hidden = json.loads(sys.argv[1])
calls = json.loads(sys.argv[2])

sys.modules.update(dict.fromkeys(hidden))  # which cannot be imported then, nor found
sys.path.insert(0, site)
from know.__main__ import main

ended = []
for call in calls:
    sys.argv, code, out, err = ["know", *call], 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code
        except BaseException:
            code = traceback.format_exc()
    ended.append([code or 0, out.getvalue(), err.getvalue()])
import know
print(json.dumps([know.__file__, ended]))
"""
SCORE = "def score(state):\n    return -float(state['w'].abs().sum())\n"
CALLS = {
    "predict": "predict 4.safetensors 3.safetensors 2.safetensors 1.safetensors 0.safetensors --out files.safetensors --card",
    "recipe": "predict --recipe recipe.yaml",
    "folders": "predict checkpoint-4 checkpoint-3 checkpoint-2 checkpoint-1 checkpoint-0 --out folders --shard-size 100B",
    "timm": "predict 4.pth.tar 3.pth.tar 2.pth.tar 1.pth.tar 0.pth.tar --out timm.safetensors --method log --steps 1 3",
    "control": "predict 1.safetensors 0.safetensors --method linear --control flipped --out flipped.safetensors",
    "select": "select 4.safetensors 3.safetensors 2.safetensors 1.safetensors 0.safetensors --score scores:score"
    " --out best.safetensors --method known --method tsv,rank_share=0.5 --control shrink,shrink=0.8",
    "hyper-models": "hypermodel list",
    "version": "--version",
    "help": "forget --help",
}  # fmt: skip
EXTRAS = {
    "hypermodel import-keras . --out keras": "experiment",
    "forget --model scores:score --checkpoint 0.safetensors --images photos --out run": "experiment",
    "predict org/name org/name@2 --out hub.safetensors --method linear": "hub",
    "meta-train --data . --out own": "experiment",
    **dict.fromkeys(("downsize", "forget", "meta-train", "evaluate"), "experiment"),
}
IN_A_CLONE = ("bench", "bench linear")


@dataclass(frozen=True)
class Ended:
    code: int | str
    out: str
    err: str


def plain() -> set[str]:
    """The distributions that a plain install brings, with those that they need."""
    todo, seen = [Requirement(text) for text in PROJECT["project"]["dependencies"]], set()
    while todo:
        requirement = todo.pop()
        if (key := (canonicalize_name(requirement.name), frozenset(requirement.extras))) not in seen:
            seen.add(key)
            for one in map(Requirement, metadata.requires(requirement.name) or []):
                if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in requirement.extras or {""}):
                    todo.append(one)
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of these files holds, unpacked."""
    root = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "know", "pyproject.toml", "README.md", "LICENSE"],
        cwd=paths.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.split("\0")[:-1]:
        if (paths.ROOT / name).is_file():
            (root / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "source" / name).write_bytes((paths.ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=root / "source", check=True, capture_output=True)
    (built,) = root.glob("*.whl")
    zipfile.ZipFile(built).extractall(root / "site")
    return root / "site"


@pytest.fixture(scope="module")
def ended(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Ended]]:
    """Every call, in a folder that is no clone and where only what a plain install brings can be imported."""
    here = tmp_path_factory.mktemp("here")
    for k in range(5):
        state = {"w": torch.full((6, 6), 1.0 - k / 10), "b": torch.arange(6) / (k + 1)}
        save_state(state, here / f"{k}.safetensors")
        torch.save({"arch": "resnet50", "epoch": k, "state_dict": state, "optimizer": {}}, here / f"{k}.pth.tar")
        folder = here / f"checkpoint-{k}"
        folder.mkdir()
        for number, name in enumerate(state, start=1):
            save_file({name: state[name]}, folder / f"model-{number:05}-of-00002.safetensors", {"format": "pt"})
        places = {name: f"model-{number:05}-of-00002.safetensors" for number, name in enumerate(state, start=1)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        (folder / "config.json").write_text("{}")
    (here / "scores.py").write_text(SCORE)
    (here / "recipe.yaml").write_text(
        "checkpoints: [1.safetensors, 0.safetensors]\nmethod: linear\nout: recipe.safetensors\n"
    )
    allowed = plain()
    homes = metadata.packages_distributions()
    hidden = [
        module for module, names in homes.items()
        if module != "know" and not {canonicalize_name(name) for name in names} & allowed
    ]  # fmt: skip
    assert {"pandas", "scipy", "h5py", "PIL", "torchvision", "matplotlib", "dvc"} <= set(hidden)
    calls = [*CALLS.values(), *EXTRAS, *IN_A_CLONE, "doctor"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", COMMANDS, json.dumps([str(wheel), *hidden]), json.dumps([c.split() for c in calls])],
        cwd=here, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file, found = json.loads(done.stdout)
    assert Path(file) == wheel / "know" / "__init__.py"
    return here, {call: Ended(*one) for call, one in zip([*CALLS, *EXTRAS, *IN_A_CLONE, "doctor"], found, strict=True)}


@pytest.mark.parametrize("name", CALLS)
def test_a_plain_install_needs_no_extra_for(name, ended):
    here, found = ended
    assert found[name].code == 0, found[name]
    if name == "hyper-models":
        assert found[name].out.startswith("default\t")
    if name == "version":
        assert found[name].out == f"know {PROJECT['project']['version']}\n"
    for written in re.findall(r"--out (\S+\.safetensors)", CALLS[name] if name != "timm" else ""):
        assert load_file(here / written)["w"].shape == (6, 6)


@pytest.mark.parametrize("call", EXTRAS)
def test_what_needs_more_names_the_extra(call, ended):
    found = ended[1][call]
    assert found.code == 1 and found.err.startswith("know: ") and found.err.count("\n") == 1, found
    assert f"pip install 'know[{EXTRAS[call]}]'" in found.err


@pytest.mark.parametrize("call", IN_A_CLONE)
def test_the_experiment_is_for_a_clone(call, ended):
    found = ended[1][call]
    assert found.code == 1 and found.err.count("\n") == 1, found
    assert "params.yaml: no such file: run this in a clone of the repository" in found.err


def test_the_doctor_looks_at_what_prediction_needs(ended):
    found = ended[1]["doctor"]
    assert found.err == "" and "not the repository, but the installed package" in found.out and "PyTorch" in found.out
    assert "dvc" not in found.out


def test_a_wheel_has_every_room(wheel):
    listed = find_packages(str(paths.ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    folders = {path.parent.relative_to(paths.ROOT) for path in (paths.ROOT / "know").rglob("*.py")}
    assert set(listed) == {".".join(folder.parts) for folder in folders}
    held = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*")}
    assert {
        "know/py.typed",
        "know/prediction/hypermodels/default/conv.safetensors",
        "know/prediction/kernel.cpp",
    } <= held
    assert not {path for path in held if path.startswith(("tests", "notebooks"))}
