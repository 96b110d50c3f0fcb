"""Every command that the README and docs/ show is one that there is, with options that there are; what they do is tested elsewhere."""

import re
import shlex
from collections.abc import Iterator

import pytest
import typer

from know import paths
from know.cli import app

DOCUMENTS = [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Of each line of a shell block: where it stands, and its words."""
    for document in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                for part in line.split(" && "):
                    if words := shlex.split(part, comments=True):
                        yield document.name, words


ALL = list(commands())


@pytest.mark.parametrize("words", [words[1:] for _, words in ALL if words[0] == "know"], ids=" ".join)
def test_a_command_of_know_is_understood(words):
    group = typer.main.get_command(app)
    name, found, rest = group.resolve_command(group.make_context("know", [], resilient_parsing=True), words)
    try:
        found.make_context(name, rest, resilient_parsing=False).close()
    except Exception as error:  # files that are not there are known only to who has understood the options
        assert not re.search(
            "no such option|unexpected extra|missing|requires an argument", str(error), re.IGNORECASE
        ), error


@pytest.mark.parametrize("words", [words[1:] for _, words in ALL if words[0] == "python"], ids=" ".join)
def test_a_script_is_there_and_has_the_options(words):
    file = paths.ROOT / (words[1].replace(".", "/") if words[0] == "-m" else words[0])
    file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
    text = file.read_text()
    for option in (word for word in words[1:] if word.startswith("--")):
        assert f'"{option}"' in text


@pytest.mark.parametrize("words", [words[1:] for _, words in ALL if words[0] == "make"], ids=" ".join)
def test_a_target_is_there(words):
    makefile = (paths.ROOT / "Makefile").read_text()
    for word in words:
        name, given, value = word.partition("=")
        assert name in makefile if given else re.search(rf"^{word}:", makefile, re.MULTILINE)
        assert name != "PROFILE" or (paths.ROOT / "profiles" / f"{value}.yaml").exists()


def test_nothing_else_is_shown_but_dvc_git_dask_and_what_the_shell_has():
    assert {words[0] for _, words in ALL} <= {"know", "python", "make", "dvc", "git", "dask", "export", "pip"}
