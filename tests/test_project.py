"""The files around the code say the same as the code."""

import ast
import functools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import grimp
import nbformat
import pytest
from dvc.utils.hydra import apply_overrides
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from know import figures, paths
from know.figures.registry import FIGURES
from know.params import ParamError, Params, load, sections

sys.path.insert(0, str(paths.ROOT / "scripts"))
import use_profile

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
STAGES = YAML(typ="safe").load((paths.ROOT / "dvc.yaml").read_text())["stages"]
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


def test_there_is_a_notebook_a_stage():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_downsize", "02_forget", "03_meta_train", "04_predict", "05_evaluate", "06_report",
        "07_ablations",
    ]  # fmt: skip
    assert list(STAGES) == ["downsize", "forget", "meta_train", "predict", "evaluate", "ablations", "report"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_take_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert notebook.metadata.kernelspec.name == "python3", "papermill and Jupyter find a kernel by it"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_its_notebook_with_parameters_that_there_are(name):
    stage = STAGES[name]
    assert stage["cmd"] == f"python -m know.stages {name}"
    assert set(stage["params"]) <= set(Params.model_fields)
    (notebook,) = (dependency for dependency in stage["deps"] if dependency.startswith("notebooks/"))
    assert notebook.endswith(f"_{name}.ipynb") and f"build/{notebook}" in stage["outs"]
    assert "requirements.lock" in stage["deps"]


@functools.cache
def graph() -> grimp.ImportGraph:
    """The package's imports, but for those of ``know.params``: it reads every room's options, and stages declare theirs."""
    made = grimp.build_graph("know", exclude_type_checking_imports=True, cache_dir=None)
    for imported in made.find_modules_directly_imported_by("know.params"):
        made.remove_import(importer="know.params", imported=imported)
    return made


def imported_by(notebook: Path) -> set[str]:
    """The package's modules that a notebook's cells import."""
    cells = (cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code")
    found = set()
    for node in (node for cell in cells for node in ast.walk(ast.parse(cell))):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & graph().modules - {"know"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_rooms_that_it_uses(name):
    (notebook,) = (path for path in STAGES[name]["deps"] if path.startswith("notebooks/"))
    used = {"know.stages.__main__"} | imported_by(paths.ROOT / notebook)
    used = used.union(*(graph().find_upstream_modules(module) for module in used)) - {"know"}
    rooms = {module.split(".")[1] for module in used} - {"figures"}
    declared = {
        Path(path).stem for path in STAGES[name]["deps"] if path.startswith("know/") and "/figures/" not in path
    }
    # The report says which commit made it, so all of know/ is its dependency.
    assert declared == rooms or (name == "report" and "know" in STAGES[name]["deps"])


@pytest.mark.parametrize("name", [name for name in STAGES if name != "report"])
def test_a_stage_depends_on_the_figures_that_it_draws(name):
    (notebook,) = (path for path in STAGES[name]["deps"] if path.startswith("notebooks/"))
    cells = "".join(cell.source for cell in nbformat.read(paths.ROOT / notebook, as_version=4).cells)
    drawn = {FIGURES[figure].make.__module__ for figure in re.findall(r'results\.figure\("(\w+)"\)', cells)}
    drawn |= {getattr(figures, function).__module__ for function in re.findall(r"figures\.(\w+)", cells)}
    used = drawn.union(*(graph().find_upstream_modules(module) for module in drawn))
    expected = {
        Path(*module.split(".")).with_suffix(".py").as_posix() for module in used if module.startswith("know.figures.")
    }
    assert {path for path in STAGES[name]["deps"] if "/figures/" in path} == expected


@pytest.mark.parametrize(("name", "module"), [("bench", "know.bench.__main__"), ("beyond", "know.bench.beyond")])
def test_the_bench_depends_on_the_rooms_that_it_uses(name, module):
    stage = YAML(typ="safe").load((paths.ROOT / "bench" / "dvc.yaml").read_text())["stages"][name]
    used = graph().find_upstream_modules(module) | {module}
    declared = {Path(path).parts[1].removesuffix(".py") for path in stage["deps"] if path.startswith("know/")}
    assert declared == {module.split(".")[1] for module in used - {"know"}}


# --- the environment ------------------------------------------------------------------------------------------------

EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    Requirement(text)
    for text in (*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra))
    if not text.startswith("know[")  # itself: dev brings all the others
]
LOCK = {
    canonicalize_name(name): version
    for line in (paths.ROOT / "requirements.lock").read_text().splitlines()
    if not line.startswith("#")
    for name, version in [line.split("==")]
}


def test_environment_yml_says_the_same_as_pyproject():
    python, pip, packages = YAML(typ="safe").load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    assert (python, pip) == (f"python{PROJECT['requires-python']}", "pip")
    assert packages == {"pip": ["--constraint=requirements.lock", "--editable=.[dev]"]}


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_the_lock_has_an_allowed_version_of_what_the_project_asks_for(requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_the_lock_holds_all_that_is_installed_for_the_project():
    """If this fails: `make lock` after a change of pyproject.toml, or `make install` after one of requirements.lock."""
    todo, seen = list(DIRECT), set()
    while todo:
        requirement = todo.pop()
        if (key := (canonicalize_name(requirement.name), frozenset(requirement.extras))) in seen:
            continue
        seen.add(key)
        for needed in map(Requirement, metadata.requires(requirement.name) or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in requirement.extras or {""}):
                todo.append(needed)
    assert {name: metadata.version(name) for name, _ in seen} == {name: LOCK[name] for name, _ in seen}


@pytest.mark.parametrize("name", sorted(LOCK))
def test_a_locked_version_allows_every_python_that_the_project_does(name):
    """`make lock` takes the newest that its own Python may have: a Debian's older patch of the same release would refuse it."""
    try:
        needs = metadata.metadata(name).get("Requires-Python")
    except metadata.PackageNotFoundError:
        pytest.skip("of another platform")
    least = PROJECT["requires-python"].removeprefix(">=")
    assert SpecifierSet(needs or "").contains(f"{least}.0")


# --- profiles -------------------------------------------------------------------------------------------------------

PROFILES = sorted((paths.ROOT / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_valid_says_what_to_expect_and_names_only_differences(path, tmp_path):
    header = re.findall(r"^# (\w+): +\S", path.read_text(), re.MULTILINE)
    assert header[:5] == ["result", "hardware", "time", "disk", "command"]
    merged = tmp_path / "params.yaml"
    merged.write_text(use_profile.merged_text(paths.PARAMS.read_text(), path))
    if path.stem == "quick":
        assert merged.read_text() == paths.PARAMS.read_text()
        return
    assert load(merged).reports == f"reports/{path.stem}"

    def same(changes: dict, base: dict, key: str = "") -> list[str]:
        inner = [(name, value, base[name]) for name, value in changes.items()]
        return [
            found
            for name, value, default in inner
            for found in (same(value, default, f"{key}{name}.") if isinstance(value, dict) else [f"{key}{name}"] * (value == default))
        ]  # fmt: skip

    yaml = YAML(typ="safe")
    changes = yaml.load(path.read_text())
    text = paths.PARAMS.read_text()
    if base := changes.pop("base", None):
        text = use_profile.merged_text(text, path.with_name(f"{base}.yaml"))
    assert same(changes, yaml.load(text)) == []


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_valid_shrunk_too(path, tmp_path):
    merged = use_profile.merged_text(paths.PARAMS.read_text(), path)
    for name, text in (("params.yaml", merged), ("shrunk.yaml", use_profile.shrunk_text(merged))):
        (tmp_path / name).write_text(text)
    whole, shrunk = (load(tmp_path / name).downsize for name in ("params.yaml", "shrunk.yaml"))
    assert shrunk.source_classes == whole.source_classes[:2]
    assert shrunk.downstream_classes == whole.downstream_classes[:2]


def test_a_library_s_size_of_images_is_known_once_params_are_loaded(tmp_path):
    pytest.importorskip("timm")
    merged = tmp_path / "params.yaml"
    merged.write_text(
        use_profile.merged_text(paths.PARAMS.read_text(), paths.ROOT / "profiles" / "paper-pvtv2-cars.yaml")
    )
    params = load(merged)
    assert params.downsize.side == 224 and sections(params, ["downsize"])["downsize"]["image_size"] == 224


def test_the_papers_profile_asks_for_no_more_labels_than_there_are(tmp_path):
    merged = tmp_path / "params.yaml"
    merged.write_text(
        use_profile.merged_text(paths.PARAMS.read_text(), paths.ROOT / "profiles" / "paper-resnet18.yaml")
    )
    evaluate = load(merged).evaluate
    assert evaluate.labels + evaluate.validation_images <= 50_000  # CIFAR-10's training part


def test_merging_replaces_leaves_and_lists_and_leaves_its_arguments_alone():
    base, changes = {"a": {"b": 1, "c": [1, 2]}, "d": 2}, {"a": {"c": [3]}, "e": {"f": 1}}
    assert use_profile.merge(base, changes) == {"a": {"b": 1, "c": [3]}, "d": 2, "e": {"f": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 2} and changes == {"a": {"c": [3]}, "e": {"f": 1}}


def test_a_profile_replaces_another_but_no_change_of_ones_own(tmp_path):
    shutil.copytree(paths.ROOT / "profiles", tmp_path / "profiles")
    file = Path(shutil.copy(paths.PARAMS, tmp_path))
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t.org", "commit", "-qm", "state"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    for name in ("cifar10", "paper-resnet18", "paper-resnet18"):
        use_profile.use(name, tmp_path)
        assert load(file).reports == f"reports/{name}"
    assert "# Stage 5, 05_evaluate" in file.read_text(), "comments are kept"
    use_profile.use("quick", tmp_path)
    assert file.read_bytes() == paths.PARAMS.read_bytes()
    file.write_text(file.read_text().replace("rate: 0.5", "rate: 0.6", 1))
    with pytest.raises(ParamError, match="profile quick would overwrite; commit or stash"):
        use_profile.use("quick", tmp_path)
    assert "rate: 0.6" in file.read_text()
    with pytest.raises(ParamError, match="got 'nowhere'; allowed: cifar10, cifar10-released, "):
        use_profile.use("nowhere", tmp_path)


# --- everything else ------------------------------------------------------------------------------------------------


def test_the_rooms_import_only_what_lies_below_them():
    """If this fails: `lint-imports` says which import breaks which contract of pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


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


PARTS = ("summary", "tables/main")


@pytest.mark.parametrize(
    ("page", "needs"),
    [
        (
            "README.md",
            {f"{name}/{part}.md" for name in ("cifar10", "cifar10-released") for part in PARTS} | {"summary.md"},
        ),
        ("docs/bench.md", {"bench/bench.md"}),
        ("docs/beyond.md", {"bench/beyond.md", "bench/beyond_directions.md"}),
        (
            "docs/emoji.md",
            {f"emoji-{name}/{part}.md" for name in ("domains", "segmentation", "captioning") for part in PARTS},
        ),
    ],
)
def test_pages_say_what_the_committed_report_says(page, needs):
    """If this fails after a new run: python scripts/update_readme.py."""
    text = (paths.ROOT / page).read_text()
    parts = re.findall(r"<!-- (\S+\.md) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert {name for name, _ in parts} >= needs
    for name, shown in parts:
        assert shown == (paths.REPORTS / name).read_text(), name


README = (paths.ROOT / "README.md").read_text()
EXPERIMENTS = re.findall(r"^dvc exp run --temp -S.*$", README, re.MULTILINE)


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_the_readmes_experiments_are_valid(command, tmp_path):
    words = shlex.split(command, comments=True)[4:]
    changed = Path(shutil.copy(paths.PARAMS, tmp_path))
    apply_overrides(changed, [word for word in words if word != "-S"])
    assert load(changed) != load()


def test_the_readmes_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", README):
        assert (paths.ROOT / link).exists(), link


def test_the_readme_names_every_room():
    rooms = {
        path.name + "/" * path.is_dir() for path in (paths.ROOT / "know").glob("[a-z]*") if path.name != "py.typed"
    }
    assert rooms <= set(re.findall(r"`([\w.]+/?)`", README))


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
