"""The committed pages in a real browser, from the file system and without a network."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from selenium import webdriver

from know import paths
from know.report.pages import Formulas, render_notebook

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
PAGES = [paths.REPORTS / "index.html", *sorted((paths.REPORTS / "notebooks").glob("*.html"))]


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
    assert [page.stem for page in PAGES[1:]] == [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_shows_everything_without_a_network(browser, page: Path):
    browser.set_window_size(1100, 900)
    browser.get(page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert widths and all(widths), "an image is missing"
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_fits_a_telephone(browser, page: Path):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.get(page.as_uri())
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


def test_index_shows_every_figure_and_table(browser):
    browser.get(PAGES[0].as_uri())
    shown = set(browser.execute_script("return [...document.querySelectorAll('figure')].map(f => f.id)"))
    figures = {f"figure-{path.stem}" for path in (paths.REPORTS / "figures").glob("*.png")}
    tables = {f"table-{path.stem}" for path in (paths.REPORTS / "tables").glob("*.csv")}
    assert shown == figures | tables
    captions = browser.execute_script("return [...document.querySelectorAll('figcaption')].map(f => f.innerText)")
    assert len(set(captions)) == len(captions) == len(figures) + len(tables)


def test_formulas_become_mathml_and_code_is_left_alone():
    formulas = Formulas()
    marked = formulas.take("a $x_0$ b `$HOME` and\n```\n$y$\n```\n$$z$$")
    assert "`$HOME`" in marked and "\n$y$\n" in marked and len(formulas.found) == 2
    page = formulas.put_back(marked)
    assert page.count("<math") == 2 and 'display="block"' in page and "⟦" not in page


def test_page_of_a_notebook_holds_its_outputs_escaped(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    cell = new_code_cell("print('<b>')", outputs=[new_output("stream", name="stdout", text="<b>\x1b[31mred\x1b[0m")])
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A title"), cell]), tmp_path / "n.ipynb")
    assert render_notebook(tmp_path / "n.ipynb", tmp_path / "n.html", [("n.html", "A title")]) == "A title"
    page = (tmp_path / "n.html").read_text()
    assert "<pre>&lt;b&gt;red</pre>" in page and "\x1b" not in page
