"""From executed notebooks, figures and tables to pages that open from the file system with no network."""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from know.paths import NOTEBOOKS, REPORTS, atomic
from know.run.notebook import ANSI

TEMPLATES = Path(str(resources.files("know"))) / "report" / "templates"
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


def render_notebook(path: Path, out: Path, others: Sequence[tuple[str, str]]) -> str:
    """Write an executed notebook as one self-contained page; return its title.

    Args:
        others: file name and title of every page, for the navigation.
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
        "know": {"pages": others, "own": out.name, "style": (TEMPLATES / "page.css").read_text()},
    }
    body, _ = exporter.from_notebook_node(notebook, resources_)
    with atomic(out) as temporary:
        temporary.write_text(formulas.put_back(body))
    return title


def _captions(folder: Path) -> dict[str, str]:
    path = folder / "captions.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _in_order(folder: Path, suffix: str, captions: dict[str, str]) -> list[Path]:
    """The folder's files in the order of their captions; those without one last."""
    rank = {name: i for i, name in enumerate(captions)}
    return sorted(folder.glob(f"*{suffix}"), key=lambda path: (rank.get(path.stem, len(rank)), path.stem))


def _html(path: Path) -> str:
    """A table that is meant to be read, its long text wrapped and its words aligned left; others are only linked."""
    if not path.with_suffix(".md").exists():
        return ""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    words = [f"words{i}" for i, column in enumerate(table, start=1) if table[column].str.contains("[^\\W\\d]{3}").any()]
    wraps = ["wrap"] if any(table[column].str.len().max() > 34 for column in table) else []
    return table.to_html(index=False, border=0, classes=[*words, *wraps])


def render(executed: Sequence[Path], reports: Path) -> None:
    """Render the notebooks to ``reports/notebooks``, and an index of them, the figures and the tables."""
    pages = [(f"{path.stem}.html", title_of(nbformat.read(path, as_version=4), path.stem)) for path in executed]
    for path, (name, _) in zip(executed, pages, strict=True):
        render_notebook(path, reports / "notebooks" / name, pages)
    figures, tables = reports / "figures", reports / "tables"
    figure_captions, table_captions = _captions(figures), _captions(tables)
    shown = [
        {
            "name": path.stem,
            "caption": table_captions.get(path.stem, path.stem.replace("_", " ")),
            "html": _html(path),
            "files": [p.name for p in sorted(tables.glob(f"{path.stem}.*"))],
        }
        for path in _in_order(tables, ".csv", table_captions)
    ]
    findings = reports / "findings.md"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    text = environment.get_template("index.html.j2").render(
        pages=pages,
        figures=[
            {"name": p.stem, "caption": figure_captions.get(p.stem, p.stem)}
            for p in _in_order(figures, ".png", figure_captions)
        ],
        tables=shown,
        findings=markdown2html(findings.read_text()) if findings.exists() else "",
        style=(TEMPLATES / "page.css").read_text(),
        metrics=html.escape((reports / "metrics.json").read_text()) if (reports / "metrics.json").exists() else "",
    )
    with atomic(reports / "index.html") as temporary:
        temporary.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m know.report.pages")
    parser.add_argument("build", type=Path, help="folder of the executed notebooks")
    parser.add_argument("--reports", type=Path, default=REPORTS)
    options = parser.parse_args()
    render([options.build / path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))], options.reports)


if __name__ == "__main__":
    main()
