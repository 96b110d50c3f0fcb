"""Make params.yaml a profile's: what the commit has, with the differences that profiles/NAME.yaml names.

    python scripts/use_profile.py cifar10     # `make PROFILE=cifar10 repro` does it, and then runs it
    python scripts/use_profile.py quick           # back to the commit's

Changes of params.yaml that are neither committed nor a profile's are never overwritten.
"""

import argparse
import copy
import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from ruamel.yaml import YAML

from know import paths
from know.data.catalogue import DATASETS, dataset
from know.params import ParamError, load

T = TypeVar("T", bound=dict)
SHRINK = Path(__file__).parent / "shrink.yaml"
YAML_KEEPING_COMMENTS = YAML()
YAML_KEEPING_COMMENTS.width = 1 << 16  # no line is wrapped


def merge(base: T, changes: Mapping[str, object]) -> T:
    """``base`` with ``changes`` in their places: mappings are merged, everything else, lists too, is replaced."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def merged_text(base: str, profile: Path) -> str:
    """params.yaml with a profile's differences, as text.

    Raises:
        ParamError: there is no such profile.
    """
    if not profile.exists():
        names = ", ".join(sorted(path.stem for path in profile.parent.glob("*.yaml")))
        raise ParamError(f"profile: got {profile.stem!r}; allowed: {names}")
    changes = _changes(profile)
    if not changes:
        return base
    stream = io.StringIO(f"# profiles/{profile.name} in its place; what it changes still has the default's comments.\n")
    stream.seek(0, io.SEEK_END)
    YAML_KEEPING_COMMENTS.dump(merge(YAML_KEEPING_COMMENTS.load(base), changes), stream)
    return stream.getvalue()


def _changes(profile: Path) -> dict[str, object]:
    """What a profile changes, and the one that it names as its ``base`` before it."""
    own = YAML(typ="safe").load(profile.read_text()) or {}
    base = own.pop("base", None)
    return own if base is None else merge(_changes(profile.with_name(f"{base}.yaml")), own)


def shrunk_text(text: str) -> str:
    """A params.yaml as small as it can be: ``scripts/shrink.yaml`` says how, and of each task's classes the first two are left."""
    stream, yaml = io.StringIO("# A profile, shrunk by scripts/shrink.yaml.\n"), YAML(typ="safe")
    stream.seek(0, io.SEEK_END)
    yaml.default_flow_style = False
    given = merge(yaml.load(text), yaml.load(SHRINK.read_text()))
    task = given["downsize"]
    for key, name in (("source_classes", "dataset"), ("downstream_classes", "downstream_dataset")):
        if task[key] == "all" and task[name] in DATASETS:
            task[key] = [*range(len(dataset(task[name]).classes))]
        if isinstance(task[key], list):  # else it is refused when it is loaded
            task[key] = task[key][:2]
    yaml.dump(given, stream)
    return stream.getvalue()


def use(name: str, root: Path = paths.ROOT, shrink: bool = False) -> None:
    """Write params.yaml as the profile wants it, shrunk or not.

    Raises:
        ParamError: there is no such profile, a parameter of it is wrong, or params.yaml has changes of one's own.
    """
    file, profiles = root / "params.yaml", root / "profiles"
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=root, capture_output=True, text=True)
    base = committed.stdout if committed.returncode == 0 else file.read_text()
    texts = {path.stem: merged_text(base, path) for path in profiles.glob("*.yaml")}
    wanted = texts[name] if name in texts else merged_text(base, profiles / f"{name}.yaml")
    wanted = shrunk_text(wanted) if shrink else wanted
    if file.read_text() not in {base, *texts.values(), *map(shrunk_text, texts.values())}:
        raise ParamError(f"{file.name}: has changes that profile {name} would overwrite; commit or stash them")
    with paths.atomic(file) as temporary:
        temporary.write_text(wanted)
        load(temporary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a file of profiles/, without .yaml")
    parser.add_argument(
        "--shrink", action="store_true", help="as scripts/shrink.yaml says: a minute, through every stage"
    )
    options = parser.parse_args()
    try:
        use(options.name, shrink=options.shrink)
    except ParamError as error:
        sys.exit(str(error))
