"""A plain install predicts; what needs more says which extra brings it."""

import subprocess
import sys
import tomllib

import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file
from setuptools import find_packages

from know import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
MODULES = {"pillow": "PIL"}
# torch brings jinja2
EXPERIMENT = {Requirement(text).name for text in PROJECT["project"]["optional-dependencies"]["experiment"]} - {"jinja2"}
PLAIN = """
import sys

class Missing:
    names = set(sys.argv[1].split(","))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
del sys.argv[1]
from know.cli import main
main()
"""


def without_extras(*arguments: object) -> subprocess.CompletedProcess:
    """``know`` where nothing of the experiment's extra can be imported."""
    missing = ",".join(MODULES.get(name, name) for name in sorted(EXPERIMENT))
    command = [sys.executable, "-c", PLAIN, missing, *map(str, arguments)]
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)


def test_a_plain_install_predicts(tmp_path):
    for k in range(5):
        save_file({"w": torch.full((3, 3), 1.0 - k / 10)}, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in reversed(range(5))]
    done = without_extras("predict", *files, "--out", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "out.safetensors")["w"].shape == (3, 3)
    done = without_extras("hypermodel", "list")
    assert done.returncode == 0 and done.stdout.startswith("default\t")


def test_what_needs_more_names_the_extra(tmp_path):
    for arguments in (["evaluate"], ["hypermodel", "import-keras", tmp_path, "--out", tmp_path / "out"]):
        done = without_extras(*arguments)
        assert done.returncode == 1, done.stdout
        assert done.stderr.startswith("know: this needs ") and "pip install 'know[experiment]'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_wheel_has_every_room():
    found = set(find_packages(str(paths.ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]))
    folders = {path.parent.relative_to(paths.ROOT) for path in (paths.ROOT / "know").rglob("*.py")}
    assert found == {".".join(folder.parts) for folder in folders}
