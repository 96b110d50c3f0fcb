"""The committed pages in a real browser, from the file system and without a network."""

import platform
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from selenium import webdriver

from know import paths
from know.figures.registry import Entry
from know.figures.style import COLUMN, PAGE
from know.report import pages
from know.report.pages import Formulas, render_notebook

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
PAGES = [paths.REPORTS / "index.html", *sorted(paths.REPORTS.glob("**/notebooks/*.html"))]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
        "host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_there_is_a_page_a_notebook():
    names = [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))]
    for folder in pages.profiles(paths.REPORTS):
        assert [page.stem for page in sorted((folder / "notebooks").glob("*.html"))] == names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.REPORTS)))
def test_page_shows_everything_without_a_network(browser, page: Path):
    browser.set_window_size(1100, 900)
    browser.get(page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    drawn = "<img" in page.read_text()  # the page of the ablations has none before one is run
    assert bool(widths) == drawn and all(widths), "an image is missing"
    requested = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(urlparse(name).scheme in ("file", "data") for name in requested)
    heights = browser.execute_script(
        "return [...document.querySelectorAll('math')].filter(m => m.checkVisibility())"
        ".map(m => m.getBoundingClientRect().height)"
    )
    assert all(height > 5 for height in heights)
    text = browser.execute_script("return document.body.innerText")
    assert not re.search(r"\$[^$\n]+\$|\\Theta|⟦|Traceback|\bnan\b", text), "a formula or a number was not rendered"
    links = browser.execute_script("return [...document.links].map(a => a.href)")
    files = [Path(unquote(urlparse(link).path)) for link in links if urlparse(link).scheme == "file"]
    assert len(files) >= 6 and all(file.exists() for file in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.REPORTS)))
def test_page_fits_a_telephone(browser, page: Path):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.get(page.as_uri())
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


class Links(HTMLParser):
    """What a page links to, shows, and names."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.images: list[str] = []
        self.ids: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.targets += [found["href"]] if tag == "a" else []
        self.images += [found["src"]] if tag == "img" else []
        self.ids += [found["id"]] if "id" in found else []


def test_the_committed_index_is_what_the_committed_files_make_and_opens_all_of_them(tmp_path):
    """If this fails: python -m know.report.pages."""
    copy = Path(shutil.copytree(paths.REPORTS, tmp_path / "reports"))
    shutil.copy(paths.ROOT / "requirements.lock", tmp_path)
    committed = (copy / "index.html").read_text()
    page = pages.render_index(copy)
    assert page.read_text() == committed
    opened = {(page.parent / target).resolve() for target in Links(page).targets if "://" not in target}
    for pattern in ("**/notebooks/*.html", "**/figures/*.png", "**/tables/*.csv"):
        assert set(copy.glob(pattern)) <= opened


WIDTHS = {"reports": COLUMN, "other": PAGE}
"""Of the figures of two profiles."""


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reports of two profiles of two figures and two tables, of which one each is only linked."""

    def entry(name: str, shown: bool) -> Entry:
        return Entry(name, f"The caption of {name}", (), lambda results: None, shown)

    monkeypatch.setattr(pages, "FIGURES", {"seen": entry("seen", True), "unseen": entry("unseen", False)})
    monkeypatch.setattr(pages, "TABLES", {"main": entry("main", True), "rest": entry("rest", False)})
    (tmp_path / "requirements.lock").touch()
    nbformat.write(new_notebook(cells=[new_markdown_cell("# One & two")]), tmp_path / "01_one.ipynb")
    for folder in (tmp_path / "reports", tmp_path / "reports" / "other"):
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True)
        for figure in ("seen", "unseen"):
            (folder / "figures" / f"{figure}.pdf").touch()
            Image.new("L", (round(WIDTHS[folder.name] * 100), 80)).save(
                folder / "figures" / f"{figure}.png", dpi=(100, 100)
            )
        for table in ("main", "rest"):
            (folder / "tables" / f"{table}.csv").write_text(f"start,gain\n{table} of {folder.name},+0.1\n")
        (folder / "metrics.json").write_text("{}")
        (folder / "findings.md").write_text(f"- a finding of {folder.name}\n")
        pages.render([tmp_path / "01_one.ipynb"], folder, "cpu", tmp_path / "reports")
    (tmp_path / "reports" / "plots").mkdir()
    return tmp_path / "reports"


def test_the_index_opens_everything_of_every_profile_and_shows_what_is_to_be_shown(reports):
    page = pages.render_index(reports)
    links = Links(page)
    local = [target for target in links.targets if not target.startswith(("https:", "#"))]
    opened = {(reports / target).resolve() for target in local}
    assert all(file.exists() for file in opened)
    assert {file for ending in ("html", "png", "csv") for file in reports.rglob(f"*.{ending}")} - {page} <= opened
    assert links.images == ["figures/seen.png", "other/figures/seen.png"]
    assert links.ids == ["quick", "figure-seen", "table-main", "other", "other-figure-seen", "other-table-main"]
    text = page.read_text()
    assert "main of reports" in text and "main of other" in text and "rest of" not in text
    assert re.findall(r'style="width: (\d+)%"', text) == ["67", "100"]  # of a column, of a page
    assert "a finding of reports" in text and "One &amp; two" in text
    back = [Links(file).targets[0] for file in sorted(reports.rglob("01_one.html"))]
    assert sorted(back) == ["../../index.html", "../index.html"]


def test_the_index_says_of_a_profile_its_first_sentence_and_begins_with_the_result():
    assert pages.headline("cifar10").endswith("all labels, and the released hyper-model beside ours.")
    assert pages.headline("quick").endswith("125 images.") and pages.headline("mine") == "mine"
    assert pages.header("mine") == {} and pages.header("quick")["command"] == "make repro"
    drawn = [entry.name for entry in pages.contents(paths.REPORTS, paths.REPORTS)["figures"]]
    assert drawn[0] == "gains" and drawn[-1] == "ablations" and set(drawn) <= set(pages.ORDER)


def test_the_foot_says_what_the_report_was_made_with(reports):
    foot = pages.render_index(reports).read_text().partition("<footer>")[2]
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%H", "--", *pages.MAKES_RESULTS],
        cwd=paths.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert foot.count(f"commit {commit[:10]}, {platform.system()} {platform.machine()}, CPU; Python 3.") == 2
    assert f"torch {metadata.version('torch')}" in foot


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert pages.about("cuda")["commit"] == "unknown" and pages.about("cuda")["machine"].endswith(", CUDA")


def test_formulas_become_mathml_and_code_is_left_alone():
    formulas = Formulas()
    marked = formulas.take("a $x_0$ b `$HOME` and\n```\n$y$\n```\n$$z$$")
    assert "`$HOME`" in marked and "\n$y$\n" in marked and len(formulas.found) == 2
    page = formulas.put_back(marked)
    assert page.count("<math") == 2 and 'display="block"' in page and "⟦" not in page


def test_page_of_a_notebook_holds_its_outputs_escaped(tmp_path):
    cell = new_code_cell("print('<b>')", outputs=[new_output("stream", name="stdout", text="<b>\x1b[31mred\x1b[0m")])
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A title"), cell]), tmp_path / "n.ipynb")
    assert render_notebook(tmp_path / "n.ipynb", tmp_path / "n.html", [("n.html", "A title")]) == "A title"
    page = (tmp_path / "n.html").read_text()
    assert "<pre>&lt;b&gt;red</pre>" in page and "\x1b" not in page
