"""The files around the code say the same as the code."""

import ast
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
from ruamel.yaml import YAML

from know import paths
from know.params import Params

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
STAGES = YAML(typ="safe").load((paths.ROOT / "dvc.yaml").read_text())["stages"]
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


def test_there_is_a_notebook_a_stage_and_one_for_the_ablations():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_downsize", "02_forget", "03_meta_train", "04_predict", "05_evaluate", "06_report",
        "07_ablations",
    ]  # fmt: skip
    assert list(STAGES) == ["downsize", "forget", "meta_train", "predict", "evaluate", "report"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_take_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("name", STAGES)
def test_injected_sections_are_the_declared_ones(name):
    stage = STAGES[name]
    commands = [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]
    assert re.findall(r"-p (\w+)", commands[0]) == stage["params"]
    assert set(stage["params"]) <= set(Params.model_fields)
    assert all(set(re.findall(r"-p (\w+)", command)) <= set(stage["params"]) for command in commands)
    run = [found[1] for command in commands if (found := re.search(r"know\.notebook (\S+)", command))]
    assert run[0].endswith(f"_{name}.ipynb")
    assert run == [dependency for dependency in stage["deps"] if dependency.startswith("notebooks/")]


# What changes no result: paths, parameters (which stages declare), progress, and what only draws or words a notebook's page.
PLUMBING = {"know", "know.paths", "know.params", "know.run.progress", "know.run.executor", "know.stages"}
PAGES = {"know.report.figures", "know.report.tables"}


def file_of(module: str) -> str:
    """The file of a module, or the folder of a package whose modules are one; "" if it is neither."""
    place = module.replace(".", "/")
    if (paths.ROOT / place / "__init__.py").exists():
        return place
    return f"{place}.py" if (paths.ROOT / f"{place}.py").exists() else ""


def imported(module: str) -> set[str]:
    """The package's modules that ``module`` imports, at any depth of its code but for type checkers."""
    place, found = paths.ROOT / file_of(module), set()
    for file in [place] if place.is_file() else place.glob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "know":
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name for name in names if file_of(name)} or {node.module}
    return {"know.report.figures" if name.startswith("know.report.figures.") else name for name in found}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs(name):
    todo, seen = [f"know.stages.{'tell' if name == 'report' else name}"], set()
    while todo:
        module = todo.pop()
        seen.add(module)
        todo += imported(module) - seen - PLUMBING - (set() if name == "report" else PAGES)
    files = {file_of(module) for module in seen}
    if name == "report":
        files |= {"know/render.py", "know/templates"}
    declared = {dependency for dependency in STAGES[name]["deps"] if dependency.startswith("know/")}
    assert declared == files


def test_environment_yml_says_the_same_as_pyproject():
    conda = YAML(typ="safe").load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    plain = {item for item in conda if isinstance(item, str)}
    wanted = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]}
    renamed = {re.sub(r"^torch>=", "pytorch>=", item) for item in wanted}
    assert plain == renamed | {f"python{PROJECT['requires-python']}", "pip"}


def test_profiles_are_valid_and_quick_is_the_default():
    from know.params import load

    profiles = {path.stem: load(path) for path in sorted((paths.ROOT / "profiles").glob("*.yaml"))}
    assert profiles["quick"] == load()


def test_the_recipe_of_the_shipped_hyper_models_is_valid():
    code = (
        "import runpy; from pathlib import Path; from ruamel.yaml import YAML\n"
        "recipe = runpy.run_path('scripts/train_hypermodels.py')['Recipe']\n"
        "given = YAML(typ='safe').load(Path('scripts/hypermodels.yaml').read_text())\n"
        "print(len(recipe.model_validate(given).parts()['training']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "210\n"


def test_every_section_of_the_parameters_is_explained():
    lines = paths.PARAMS.read_text().splitlines()
    for name in Params.model_fields:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1].startswith("#"), name


def test_the_readme_says_what_the_committed_report_says():
    """If this fails after a new run: python scripts/update_readme.py."""
    text = (paths.ROOT / "README.md").read_text()
    parts = re.findall(r"<!-- (\S+\.md) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert {name for name, _ in parts} >= {"findings.md", "tables/main.md"}
    for name, shown in parts:
        assert shown == (paths.REPORTS / name).read_text(), name


def test_dvc_sends_nothing_home():
    config = (paths.ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in config and "check_update = false" in config


def test_the_committed_report_is_of_this_code_and_these_parameters():
    """If this fails: `dvc repro`, then `python scripts/update_readme.py`, and commit both."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"],
        cwd=paths.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Running stage" not in done.stdout + done.stderr
