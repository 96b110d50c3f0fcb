"""From executed notebooks, figures and tables to pages that open from the file system with no network.

The stage ``report`` renders them; ``python -m know.report.pages`` renders the index alone, of all profiles' reports.
"""

from __future__ import annotations

import html
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image

from know.figures.registry import Entry
from know.figures.style import PAGE
from know.params import Params
from know.paths import BUILD, NOTEBOOKS, REPORTS, ROOT, atomic
from know.report.results import FIGURES, TABLES  # not from registry, for results knows the modules that register
from know.run.executor import device_of
from know.run.notebook import ANSI

TEMPLATES = Path(str(resources.files("know"))) / "report" / "templates"
PROFILES, LOCK = ROOT / "profiles", ROOT / "requirements.lock"
MAKES_RESULTS = ("know", "notebooks", "requirements.lock")
COMPUTES = ("torch", "torchvision", "numpy", "pandas", "scipy", "statsmodels", "seaborn", "matplotlib")
ORDER = (
    "gains", "learning_rates", "forgetting", "headroom", "predictions", "oracle", "steps", "landscape", "schematic", "meta_validation",
    "response", "learning_curves", "ablations",
)  # fmt: skip
"""Of the figures: the result, what it rests on, how it was made; then others."""
T = TypeVar("T")
MATH = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


class Formulas:
    """LaTeX between dollars, taken out of Markdown before it is converted and put back as MathML, which browsers draw
    without a script. Code is left alone."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def take(self, markdown: str) -> str:
        """Markdown with a mark in place of each formula."""

        def convert(match: re.Match[str]) -> str:
            if match[1]:
                return match[1]
            latex, display = (match[2], "block") if match[2] else (match[3], "inline")
            self.found.append(latex2mathml.converter.convert(latex, display=display))
            return f"⟦{len(self.found) - 1}⟧"

        return MATH.sub(convert, markdown)

    def put_back(self, page: str) -> str:
        """The page with its formulas."""
        return re.sub(r"⟦(\d+)⟧", lambda match: self.found[int(match[1])], page)


def title_of(notebook: nbformat.NotebookNode, fallback: str) -> str:
    """The first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^# (.+)$", cell.source, re.MULTILINE)):
            return found[1]
    return fallback


def render_notebook(
    path: Path, out: Path, others: Sequence[tuple[str, str]], index: Path = REPORTS / "index.html"
) -> str:
    """Write an executed notebook as one self-contained page; return its title.

    Args:
        others: file name and title of every page, for the navigation.
        index: the page that the navigation leads back to.
    """
    notebook = nbformat.read(path, as_version=4)
    title, formulas = title_of(notebook, path.stem), Formulas()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas.take(cell.source)
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = ANSI.sub("", output["text"])
    exporter = HTMLExporter(template_name="know", extra_template_basedirs=[str(TEMPLATES)])
    resources_ = {
        "metadata": {"name": title},
        "know": {
            "pages": others,
            "own": out.name,
            "index": os.path.relpath(index, out.parent),
            "style": (TEMPLATES / "page.css").read_text(),
        },
    }
    body, _ = exporter.from_notebook_node(notebook, resources_)
    with atomic(out) as temporary:
        temporary.write_text(formulas.put_back(body))
    return title


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def about(device: str) -> dict[str, str]:
    """What a report was made with: the commit that last changed code or parameters (committing the report changes nothing),
    the kind of machine, and the versions of what computes.

    Nothing here differs between two machines of a kind, so that neither do the bytes.
    """
    lock = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    return {
        "commit": _git("log", "-1", "--format=%H", "--", *MAKES_RESULTS)[:10] or "unknown",
        "machine": f"{platform.system()} {platform.machine()}, {device.upper()}",
        "versions": ", ".join(
            [f"Python {'.'.join(platform.python_version_tuple()[:2])}", *(f"{name} {lock[name]}" for name in COMPUTES)]
        ),
    }


def _html(path: Path) -> str:
    """A table to be read, its long text wrapped and its words aligned left."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    words = [f"words{i}" for i, column in enumerate(table, start=1) if table[column].str.contains("[^\\W\\d]{3}").any()]
    wraps = ["wrap"] if any(table[column].str.len().max() > 34 for column in table) else []
    return table.to_html(index=False, border=0, classes=[*words, *wraps])


def profiles(reports: Path) -> list[Path]:
    """The folder of every profile's report: the default's, which is ``reports`` itself, first."""
    return [folder for folder in (reports, *sorted(reports.iterdir())) if (folder / "metrics.json").exists()]


def headline(name: str) -> str:
    """The first sentence of a profile."""
    file = PROFILES / f"{name}.yaml"
    if not file.exists():
        return name
    lines = takewhile(lambda line: line.startswith("# "), file.read_text().splitlines())
    return " ".join(line.removeprefix("# ") for line in lines).partition(". ")[0].removesuffix(".") + "."


def header(name: str) -> dict[str, str]:
    """What a profile says to expect: ``# time:   an hour``, by its key."""
    file = PROFILES / f"{name}.yaml"
    return dict(re.findall(r"^# (\w+): +(.+)$", file.read_text(), re.MULTILINE)) if file.exists() else {}


def _shares(figures: Path) -> dict[str, str]:
    """How much of the page's width each figure takes: a column's more than half, for letters of about one size."""
    found = {}
    for file in figures.glob("*.png"):
        with Image.open(file) as image:
            inches = image.width / image.info["dpi"][0]
        found[file.stem] = f"{min(1, 1.4 * inches / PAGE):.0%}"
    return found


def contents(folder: Path, reports: Path) -> dict[str, Any]:
    """What the index shows of a profile's report."""
    name = "quick" if folder == reports else folder.name
    figures, tables = folder / "figures", folder / "tables"
    place = {name: number for number, name in enumerate(ORDER)}
    ordered = sorted(_captioned(FIGURES, figures), key=lambda entry: place.get(entry.name, len(place)))
    drawn = [entry for entry in ordered if (figures / f"{entry.name}.png").exists()]
    shown = [entry for entry in _captioned(TABLES, tables) if (tables / f"{entry.name}.csv").exists()]
    seen = {*(figures / f"{entry.name}.png" for entry in drawn), *(tables / f"{entry.name}.csv" for entry in shown)}
    about_file, findings = folder / "about.json", folder / "findings.md"
    return {
        "name": name,
        "headline": headline(name),
        "header": header(name),
        "path": "" if folder == reports else f"{folder.name}/",
        "notebooks": [(path.name, _heading(path)) for path in sorted((folder / "notebooks").glob("*.html"))],
        "findings": markdown2html(findings.read_text()) if findings.exists() else "",
        "figures": drawn,
        "shares": _shares(figures),
        "tables": [
            {
                "entry": entry,
                "html": _html(tables / f"{entry.name}.csv"),
                "files": sorted(path.name for path in tables.glob(f"{entry.name}.*")),
            }
            for entry in shown
        ],
        "others": [
            (path.name, str(path.relative_to(reports)))
            for path in (*sorted(figures.glob("*.png")), *sorted(tables.glob("*.csv")))
            if path not in seen
        ],
        "metrics": (folder / "metrics.json").read_text(),
        "about": json.loads(about_file.read_text()) if about_file.exists() else {},
    }


def _captioned(registry: Mapping[str, Entry[T]], folder: Path) -> list[Entry[T]]:
    """What is shown, in order, with the captions that its run gave it."""
    file = folder / "captions.json"
    captions = json.loads(file.read_text()) if file.exists() else {}
    return [replace(one, caption=captions.get(one.name, one.caption)) for one in registry.values() if one.shown]


def _heading(page: Path) -> str:
    """The title that ``render_notebook`` gave a page."""
    found = re.search(r"<title>(.+?) · know</title>", page.read_text())
    return html.unescape(found[1]) if found else page.stem


def render_index(reports: Path = REPORTS) -> Path:
    """Write ``index.html``, which opens every notebook, figure and table of every profile in ``reports``; return its path."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    text = environment.get_template("index.html.j2").render(
        profiles=[contents(folder, reports) for folder in profiles(reports)],
        style=(TEMPLATES / "page.css").read_text(),
    )
    with atomic(reports / "index.html") as temporary:
        temporary.write_text(text)
    return reports / "index.html"


def render(executed: Sequence[Path], folder: Path, device: str, reports: Path = REPORTS) -> None:
    """Render the notebooks of a profile to ``folder/notebooks``, and what it was made with to ``folder/about.json``."""
    pages = [(f"{path.stem}.html", title_of(nbformat.read(path, as_version=4), path.stem)) for path in executed]
    for path, (name, _) in zip(executed, pages, strict=True):
        render_notebook(path, folder / "notebooks" / name, pages, reports / "index.html")
    with atomic(folder / "about.json") as temporary:
        temporary.write_text(json.dumps(about(device), indent=2) + "\n")


def render_all(params: Params) -> Path:
    """Render what the stages executed under ``build/notebooks``, and the index; return the index's path."""
    executed = [BUILD / "notebooks" / path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    render(executed, ROOT / params.reports, device_of(params.compute).type)
    return render_index()


if __name__ == "__main__":
    print(render_index())
